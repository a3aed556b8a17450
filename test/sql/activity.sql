-- Activities under any order: pages come again, overlap, are cut elsewhere, show somebody twice or under another address; rows and statuses
-- equal a plain reference all the same (R39-R44, D4, D17). What is stored of single pages is in report.sql.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
DO $$ BEGIN PERFORM mc_grant('regress_mc_rita', 'reader'); END $$;
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate SELECT i, 'p' || i || '@example.org' FROM generate_series(1, 30) i;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
END $$;
SET timezone = 'UTC';
RESET client_min_messages;

INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, marker, created_at, created_by,
	mailchimp_id, web_id, sent_at, emails_sent)
SELECT i, 'mc_main', audience_id, 'l1', 'Spring', 'sent', 'm' || i, '2026-03-01Z', 'x', 'c' || i, 77, '2026-03-01Z', 30
FROM mailchimp_sync.audience, generate_series(1, 2) i;
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, added_at, added_by)
SELECT c, source_id, i::text, 'p' || i || '@example.org', md5('p' || i || '@example.org'), 'sent', now(), 'x'
FROM mailchimp_sync.source, generate_series(1, 30) i, generate_series(1, 2) c;

-- What happened: up to 12 events of each of 29 of 30 persons, many of them in the same second, machines' among them
SELECT setseed(0.4);
CREATE TABLE happened AS
SELECT n, 'p' || p || '@example.org' AS email, k.action, '2026-03-01 10:00Z'::timestamptz + floor(random() * 6) * interval '1 minute' AS at,
	CASE k.action WHEN 'click' THEN 'https://example.org/' || floor(random() * 3) END AS url,
	CASE k.action WHEN 'bounce' THEN (ARRAY['hard', 'soft'])[1 + floor(random() * 2)::int] END AS type,
	k.action IN ('open', 'click') AND random() < 0.3 AS machine
FROM generate_series(1, 29) p
CROSS JOIN LATERAL (SELECT n, (ARRAY['open', 'open', 'open', 'click', 'click', 'bounce', 'unsubscribe'])
	[1 + floor(random() * 7)::int] AS action FROM generate_series(1, 12) n WHERE random() * 30 < p) k;
SELECT action, count(*) > 5 AS enough, bool_or(machine) AS machines FROM happened GROUP BY 1 ORDER BY 1;
SELECT count(*) > 10 AS "in one second" FROM (SELECT FROM happened WHERE action IN ('open', 'click') GROUP BY email, action, at, url HAVING count(*) > 1) s;

-- the reference: what must be there in the end, in plain words
CREATE VIEW reference AS
SELECT email, CASE action WHEN 'open' THEN 'opened' WHEN 'click' THEN 'clicked' WHEN 'bounce' THEN 'bounced' ELSE 'unsubscribed' END AS type,
	at, url, type AS bounce_type, machine, count(*) AS times FROM happened WHERE action <> 'unsubscribe' GROUP BY 1, 2, 3, 4, 5, 6
UNION ALL
SELECT DISTINCT email, 'unsubscribed', at, NULL, NULL, false, 1 FROM happened WHERE action = 'unsubscribe';
CREATE VIEW stored AS
SELECT a.email, a.type, a.occurred_at AS at, a.url, a.bounce_type, a.machine, count(*) AS times FROM mc_activity a
WHERE a.campaign_id = 1 GROUP BY 1, 2, 3, 4, 5, 6;
CREATE FUNCTION status_of(_actions text[]) RETURNS text LANGUAGE sql AS $$
	SELECT CASE WHEN 'unsubscribe' = ANY (_actions) THEN 'unsubscribed' WHEN 'click' = ANY (_actions) THEN 'clicked'
		WHEN 'open' = ANY (_actions) THEN 'opened' WHEN 'bounce' = ANY (_actions) THEN 'bounced' ELSE 'sent' END
$$;

-- a page about these persons with what happened after an instant, up to another, in any order
CREATE FUNCTION page(_emails text[], _after timestamptz, _until timestamptz) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.activities_seen(1, array_agg(md5(p.email)), array_agg(p.email), array_agg(p.activity))
	FROM (SELECT u.email, coalesce((SELECT json_agg(json_strip_nulls(json_build_object('action', h.action, 'timestamp', h.at, 'url', h.url,
			'type', h.type)) ORDER BY random()) FROM happened h
			WHERE h.email = u.email AND h.action <> 'unsubscribe' AND h.at > _after AND h.at <= _until), '[]')::text AS activity
		FROM unnest(_emails) u(email)) p
$$;
CREATE FUNCTION marks(_emails text[], _after timestamptz) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset, since) VALUES (1, 'human_clicks', 0, _after);
	PERFORM mailchimp_sync.opens_seen(1, array_agg(md5(p.email)), array_agg(p.opens)) FROM (
		SELECT u.email, (SELECT json_agg(json_build_object('timestamp', h.at, 'is_proxy_open', h.machine) ORDER BY random())
			FROM happened h WHERE h.email = u.email AND h.action = 'open' AND h.at > _after)::text AS opens FROM unnest(_emails) u(email)) p
	WHERE p.opens IS NOT NULL;
	PERFORM mailchimp_sync.human_clicks_seen(1, 0, array_agg(md5(p.email)), array_agg(p.activity)) FROM (
		SELECT u.email, coalesce((SELECT json_agg(json_strip_nulls(json_build_object('action', h.action, 'timestamp', h.at, 'url', h.url)))
			FROM happened h WHERE h.email = u.email AND h.action IN ('open', 'click') AND NOT h.machine AND h.at > _after), '[]')::text AS activity
		FROM unnest(_emails) u(email)) p;
	DELETE FROM mailchimp_sync.poll_page;
END
$$;
CREATE FUNCTION leaves(_emails text[]) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.unsubscribes_seen(1, array_agg(md5(h.email)), array_agg(h.email), array_agg(h.at::text), array_agg(''::text), false)
	FROM happened h WHERE h.action = 'unsubscribe' AND h.email = ANY (_emails) HAVING count(*) > 0
$$;

-- R44, D4: ten times from the beginning, each in an order of its own: after each page every status is the highest of what came so far, in the end
-- everything is there once, and at no time a person's own act is taken for a machine's. A page has some of the persons, since or until some instant; all of it comes in the end, and some of it again.
CREATE FUNCTION in_any_order(_round int) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	_seen	int[] := '{}';
	_some	text[];
	_after	timestamptz;
	_until	timestamptz;
BEGIN
	DELETE FROM mailchimp_sync.activity;
	UPDATE mailchimp_sync.recipient SET status = 'sent' WHERE campaign_id = 1;
	FOR _page IN 1 .. 10 LOOP
		_some := ARRAY(SELECT DISTINCT h.email FROM happened h WHERE _page > 8 OR random() < 0.3);
		_after := CASE WHEN _page > 8 THEN '-infinity' ELSE '2026-03-01 10:00Z'::timestamptz + (floor(random() * 6) - 1) * interval '1 minute' END;
		_until := CASE WHEN _page > 8 THEN 'infinity' ELSE _after + floor(random() * 4) * interval '1 minute' END;
		IF _page > 8 OR random() < 0.3 THEN
			PERFORM leaves(_some);
			_seen := _seen || ARRAY(SELECT h.n * 100 + substring(h.email, '\d+')::int FROM happened h WHERE h.action = 'unsubscribe' AND h.email = ANY (_some));
		END IF;
		PERFORM page(_some, _after, _until);
		_seen := _seen || ARRAY(SELECT h.n * 100 + substring(h.email, '\d+')::int FROM happened h WHERE h.action <> 'unsubscribe'
			AND h.email = ANY (_some) AND h.at > _after AND h.at <= _until);
		PERFORM marks(_some, _after);
		RETURN QUERY
		SELECT format('round %s page %s: %s is %s', _round, _page, r.email, r.status)
		FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = 1 AND r.status <> status_of(ARRAY(SELECT h.action FROM happened h
			WHERE h.email = r.email AND h.n * 100 + substring(h.email, '\d+')::int = ANY (_seen)));
		RETURN QUERY
		SELECT format('round %s page %s: no machine %s', _round, _page, s) FROM stored s
		WHERE s.machine AND NOT EXISTS (SELECT FROM reference r WHERE r.machine AND r.times >= s.times
			AND (r.email, r.type, r.at) = (s.email, s.type, s.at) AND r.url IS NOT DISTINCT FROM s.url);
	END LOOP;
	RETURN QUERY SELECT format('round %s: too many %s', _round, s) FROM (SELECT * FROM stored EXCEPT SELECT * FROM reference) s;
	RETURN QUERY SELECT format('round %s: missing %s', _round, s) FROM (SELECT * FROM reference EXCEPT SELECT * FROM stored) s;
END
$$;
SELECT o.* FROM generate_series(1, 10) i, in_any_order(i) o;
SELECT status, count(*) > 0 FROM mailchimp_sync.recipient WHERE campaign_id = 1 GROUP BY 1 ORDER BY 1;

-- R39: Mailchimp lists less than before: nothing goes, and no status falls
CREATE TABLE before AS SELECT * FROM stored;
CREATE TABLE statuses AS SELECT * FROM mailchimp_sync.recipient WHERE campaign_id = 1;
CREATE TABLE everything AS SELECT * FROM happened;
-- the answer to a page of a poll that was given up: nobody knows since when it lacks machines' clicks, so nothing is marked
SELECT mailchimp_sync.human_clicks_seen(1, 0, array_agg(md5(u.email)), array_agg('[]'::text)) FROM (SELECT DISTINCT email FROM everything) u;
SELECT count(*) FROM (SELECT * FROM before EXCEPT SELECT * FROM stored) s;
DELETE FROM happened WHERE n % 2 = 0 OR action IN ('click', 'unsubscribe');
SELECT page(ARRAY(SELECT DISTINCT email FROM everything), '-infinity', 'infinity'), leaves(ARRAY(SELECT DISTINCT email FROM everything));
SELECT count(*) FROM (SELECT * FROM before EXCEPT SELECT * FROM stored) s;
SELECT count(*) FROM (SELECT * FROM statuses EXCEPT SELECT * FROM mailchimp_sync.recipient) s;
-- nor does a link
SELECT mailchimp_sync.links_seen(1, '{a,b}', '{https://a.example/,https://b.example/}', '{3,1}', '{2,1}', '{"",""}');
SELECT mailchimp_sync.links_seen(1, '{a}', '{https://a.example/}', '{4}', '{3}', '{""}');
SELECT url, clicks FROM mc_report_links(1);
-- D17: clicks without machines': 2 of a's 4, and one of b's that the first list did not have yet
SELECT mailchimp_sync.human_links_seen(1, '{a,b,c}', '{2,2,9}');
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at) VALUES (1, 30, 0, 0, 5, 4, 0, 0, 0, 0, 0, now());
SELECT mailchimp_sync.human_links_seen(1, '{a,b,c}', '{2,2,9}');
SELECT machine_clicked FROM mc_report WHERE campaign_id = 1;

-- An address changed since the mail: a report that shows the new one is about the same person, in the same words as before
DELETE FROM mailchimp_sync.activity;
UPDATE mailchimp_sync.recipient SET status = 'sent' WHERE campaign_id = 1;
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, state, member_hash, left_hash, changed_at)
SELECT a.audience_id, s.source_id, v.key, v.email, md5(v.email), 'in_sync', CASE WHEN NOT v.has_left THEN md5(v.email) END,
	CASE WHEN v.has_left THEN md5(v.email) END, now()
FROM mailchimp_sync.audience a, mailchimp_sync.source s, (VALUES ('1', 'new1@example.org', false), ('2', 'new2@example.org', true),
	-- who has the address of somebody who was mailed at it, or was not mailed
	('3', 'p4@example.org', false), ('99', 'new99@example.org', false)) v(key, email, has_left);
CREATE FUNCTION opens(VARIADIC _emails text[]) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.activities_seen(1, array_agg(md5(u.email)), array_agg(u.email),
		array_agg('[{"action": "open", "timestamp": "2026-03-01T11:00:00Z"}, {"action": "open", "timestamp": "2026-03-01T11:00:00Z"}]'::text))
	FROM unnest(_emails) u(email)
$$;
SELECT opens('p1@example.org', 'p2@example.org');
SELECT opens('new1@example.org', 'new2@example.org', 'p4@example.org', 'new99@example.org');
SELECT opens('p1@example.org', 'new1@example.org', 'p1@example.org');
SELECT contact_key, email, count(*) FROM mc_activity GROUP BY 1, 2 ORDER BY 2;
SELECT contact_key, status FROM mailchimp_sync.recipient WHERE campaign_id = 1 AND status <> 'sent' ORDER BY 1;
SELECT mailchimp_sync.opens_seen(1, ARRAY[md5('new1@example.org'), md5('new99@example.org')],
	array_fill('[{"timestamp": "2026-03-01T11:00:00Z", "is_proxy_open": true}, {"timestamp": "2026-03-01T11:00:00Z"}]'::text, '{2}'));
SELECT * FROM mc_report_openers(1) ORDER BY email;
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours)
SELECT audience_id, md5(e), e, 'subscribed', true FROM mailchimp_sync.audience, unnest('{p1@example.org,new1@example.org,p2@example.org}'::text[]) e;
SELECT mailchimp_sync.unsubscribes_seen(1, ARRAY[md5(e)], ARRAY[e], '{2026-03-01T12:00:00Z}', '{bye}', false)
FROM unnest('{new1@example.org,p1@example.org}'::text[]) e;
SELECT contact_key, email, reason FROM mc_activity WHERE type = 'unsubscribed';
SELECT contact_key, email FROM mc_group_member WHERE contact_key = '1';
SELECT contact_key, status FROM mailchimp_sync.recipient WHERE campaign_id = 1 AND status = 'unsubscribed';
SELECT email, status FROM mailchimp_sync.member ORDER BY 1;

-- R42: a person over all campaigns, by the index
SELECT mailchimp_sync.activities_seen(2, ARRAY[md5('p4@example.org')], '{p4@example.org}',
	ARRAY['[{"action": "open", "timestamp": "2026-03-02T11:00:00Z"}]']);
SET ROLE regress_mc_rita;
SELECT campaign_id, mailchimp_campaign_id, title, type, machine, occurred_at FROM mc_activity
WHERE source = 'candidate' AND contact_key = '4' ORDER BY occurred_at, campaign_id;
SET enable_seqscan = off;
EXPLAIN (COSTS off) SELECT * FROM mc_activity WHERE source = 'candidate' AND contact_key = '4' ORDER BY occurred_at \g | grep -c 'activity_contact'
RESET ROLE;

DROP VIEW stored, reference;
DROP TABLE happened, before, statuses, everything;
DROP FUNCTION in_any_order, page, marks, leaves, opens, status_of;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE candidate;
DROP ROLE regress_mc_rita;
