-- What is stored of results: rows once, statuses by precedence, opt-outs by the audience's policy (R39-R45, R100-R106,
-- D4, D11, D17). Pages are given here as Mailchimp would answer them; the way there is in test/t/040_poll.pl and 041_report.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
DO $$ BEGIN PERFORM mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_rita', 'reader'); END $$;
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate SELECT i, 'p' || i || '@example.org' FROM generate_series(1, 9) i;
ALTER TABLE candidate OWNER TO regress_mc_ada;
SET ROLE regress_mc_ada;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
END $$;
RESET ROLE;
SET timezone = 'UTC';
RESET client_min_messages;

-- a campaign that was sent to 1 to 6; 7 was skipped for having the address of 1, Mailchimp also mailed a stranger
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, marker, created_at, created_by,
	mailchimp_id, web_id, sent_at, emails_sent)
SELECT 1, 'mc_main', audience_id, 'l1', 'Spring', 'sent', 'm1', '2026-03-01Z', 'x', 'c1', 77, '2026-03-01Z', 7 FROM mailchimp_sync.audience;
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, skip_reason, added_at, added_by)
SELECT 1, source_id, i::text, 'p' || i || '@example.org', md5('p' || CASE i WHEN 7 THEN 1 ELSE i END || '@example.org'),
	CASE i WHEN 7 THEN 'skipped' ELSE 'sent' END, CASE i WHEN 7 THEN 'duplicate' END, now(), 'x'
FROM mailchimp_sync.source, generate_series(1, 7) i;
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours)
SELECT audience_id, md5('p' || i || '@example.org'), 'p' || i || '@example.org', 'subscribed', true
FROM mailchimp_sync.audience, generate_series(1, 7) i;

CREATE FUNCTION page(VARIADIC _rows text[]) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.activities_seen(1, array_agg(md5(r.row ->> 'who')), array_agg(r.row ->> 'who'), array_agg(r.row ->> 'activity'))
	FROM (SELECT u::json AS row FROM unnest(_rows) u) r
$$;
CREATE FUNCTION event(_who text, VARIADIC _events text[] DEFAULT '{}') RETURNS text LANGUAGE sql AS $$
	SELECT json_build_object('who', _who || '@example.org', 'activity', (SELECT coalesce(json_agg(json_strip_nulls(json_build_object(
		'action', split_part(e, ' ', 1), 'timestamp', '2026-03-01T' || split_part(e, ' ', 2) || '+00:00',
		'url', nullif(split_part(e, ' ', 3), ''), 'type', nullif(split_part(e, ' ', 4), ''), 'ip', nullif(split_part(e, ' ', 5), '')))), '[]')
		FROM unnest(_events) e))::text
$$;
CREATE FUNCTION leaves(_complained boolean, _who text, _at text, _reason text) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.unsubscribes_seen(1, ARRAY[md5(_who || '@example.org')], ARRAY[_who || '@example.org'],
		ARRAY['2026-03-01T' || _at || '+00:00'], ARRAY[_reason], _complained)
$$;

-- two opens in one second are two rows, two links in one second too; the same page again changes nothing (R39-R42)
SELECT page(event('p1', 'open 10:00:00', 'open 10:00:00', 'click 10:00:05 https://a.example/?x=1', 'click 10:00:05 https://b.example/',
	'click 10:00:05 https://a.example/?x=1'), event('p2'), event('p3', 'bounce 09:00:00  hard'), event('p4', 'bounce 09:00:01  soft'));
SELECT source, contact_key, email, type, bounce_type, url, ip, occurred_at FROM mc_activity ORDER BY occurred_at, email, url;
SELECT page(event('p4', 'bounce 09:00:01  soft'), event('p3', 'bounce 09:00:00  hard'), event('p2'),
	event('p1', 'click 10:00:05 https://b.example/', 'open 10:00:00', 'click 10:00:05 https://a.example/?x=1', 'open 10:00:00',
	'click 10:00:05 https://a.example/?x=1'));
SELECT count(*) FROM mc_activity;
-- a third one in that second comes late
SELECT page(event('p1', 'open 10:00:00', 'open 10:00:00', 'open 10:00:00'));
SELECT count(*) FROM mc_activity WHERE type = 'opened';
-- R40: the campaign's id at Mailchimp and a title with each
SELECT DISTINCT campaign_id, mailchimp_campaign_id, title FROM mc_activity;
-- a stranger has no contact; other actions, and bounces of an unknown type
SELECT page(event('stranger', 'open 11:00:00'), event('p5', 'sent 08:00:00', 'bounce 09:00:02  ooo', 'open 11:00:01'));
SELECT source, contact_key, email, type, bounce_type FROM mc_activity WHERE occurred_at >= '2026-03-01 11:00Z' OR email ~ 'p5' ORDER BY occurred_at;
-- ip addresses are kept only where the site says so
SET mailchimp_sync.store_ip = on;
SELECT page(event('p6', 'open 11:00:00   192.0.2.1', 'open 11:00:01   elsewhere'));
RESET mailchimp_sync.store_ip;
SELECT ip FROM mc_activity WHERE email ~ 'p6' ORDER BY occurred_at;
SELECT page('{"who": "p1@example.org", "activity": [{"action": "open", "timestamp": "yesterday-ish"}]}');	-- fails as a whole

-- R43, R44, D4: one status, the highest, in whatever order things come; skipped stays skipped
SELECT contact_key, status, skip_reason FROM mailchimp_sync.recipient ORDER BY contact_key;
CREATE FUNCTION arrive(_what text) RETURNS void LANGUAGE sql AS $$
	SELECT CASE WHEN _what IN ('open', 'click') THEN page(event('p2', _what || ' 12:00:00 https://a.example/'))
		WHEN _what = 'bounce' THEN page(event('p2', 'bounce 12:00:00  soft'))
		WHEN _what = 'unsubscribe' THEN leaves(false, 'p2', '12:00:00', 'too much')
		WHEN _what = 'complaint' THEN leaves(true, 'p2', '12:00:00', NULL) END
$$;
CREATE FUNCTION orders() RETURNS TABLE (arrived text[], statuses text) LANGUAGE plpgsql AS $$
DECLARE
	_order	text[];
	_what	text;
BEGIN
	FOR _order IN
		WITH RECURSIVE o(a) AS (SELECT '{}'::text[] UNION ALL SELECT a || w FROM o,
			unnest('{bounce,open,click,unsubscribe,complaint}'::text[]) w WHERE w <> ALL (a))
		SELECT a FROM o WHERE a <> '{}'
	LOOP
		DELETE FROM mailchimp_sync.activity WHERE email ~ 'p2';
		UPDATE mailchimp_sync.recipient SET status = 'sent' WHERE contact_key = '2';
		arrived := _order;
		statuses := '';
		FOREACH _what IN ARRAY _order LOOP
			PERFORM arrive(_what);
			statuses := statuses || ' ' || (SELECT r.status FROM mailchimp_sync.recipient r WHERE r.contact_key = '2');
		END LOOP;
		RETURN NEXT;
	END LOOP;
END
$$;
CREATE TABLE ordered AS SELECT * FROM orders();
SELECT count(*) FROM ordered;
-- after each arrival the status is the highest of what has arrived
SELECT * FROM ordered o WHERE o.statuses <> (SELECT string_agg(' ' || h.highest, '' ORDER BY n) FROM generate_subscripts(o.arrived, 1) n,
	LATERAL (SELECT CASE WHEN o.arrived[:n] && '{unsubscribe,complaint}' THEN 'unsubscribed' WHEN 'click' = ANY (o.arrived[:n]) THEN 'clicked'
		WHEN 'open' = ANY (o.arrived[:n]) THEN 'opened' ELSE 'bounced' END AS highest) h);
SELECT statuses FROM ordered WHERE arrived = '{click,open}';

-- who leaves by a mail joins the group (R45), who complains too; a stranger by the address
SELECT source, contact_key, email, origin, reason, added_by FROM mc_group_member;
SELECT status FROM mailchimp_sync.member WHERE email = 'p2@example.org';
SELECT leaves(true, 'p6', '13:00:00', NULL), leaves(false, 'p5', '13:00:00', ''), leaves(false, 'stranger', '13:00:00', 'who?');
SELECT source, contact_key, email, origin, reason, added_by FROM mc_group_member WHERE email !~ 'p2' ORDER BY email;
SELECT email, type, reason FROM mc_activity WHERE type = 'unsubscribed' AND email !~ 'p2' ORDER BY email;
SELECT email, status FROM mailchimp_sync.member WHERE status <> 'subscribed' ORDER BY email;
-- an old line of the report does not put out again who was let in since
SELECT mc_opt_in('candidate', 5);
SELECT leaves(false, 'p5', '13:00:00', '');
SELECT mc_is_opted_out('candidate', 5);
-- nor does a member count as gone that came back at Mailchimp after that
UPDATE mailchimp_sync.member SET last_changed = '2026-03-01 14:00Z' WHERE email = 'p4@example.org';
SELECT leaves(false, 'p4', '13:30:00', '');
SELECT m.status, mc_is_opted_out('candidate', 4) FROM mailchimp_sync.member m WHERE email = 'p4@example.org';

-- D11: the other policies keep them out of the group, and Mailchimp's own fact is kept all the same
UPDATE mailchimp_sync.audience SET on_unsubscribe = 'inactive';
SELECT leaves(false, 'p1', '15:00:00', '');
UPDATE mailchimp_sync.audience SET on_unsubscribe = 'ignore';
SELECT leaves(false, 'p3', '15:00:00', '');
SELECT r.contact_key, r.status, m.status AS member, mc_is_opted_out('candidate', r.contact_key) FROM mailchimp_sync.recipient r
JOIN mailchimp_sync.member m USING (email) WHERE r.contact_key IN ('1', '3') ORDER BY 1;

-- the report: Mailchimp's figures, ours beside them (R37, R99-R108, D17)
SET ROLE regress_mc_rita;
SELECT name, status, recipients, skipped, emails_sent, total_opened, open_rate, recorded_opened, recorded_clicked,
	report_url, polled_at FROM mc_report;
RESET ROLE;
INSERT INTO mailchimp_sync.report VALUES (1, 8, 12, 3, 5, 2, 1, 2, 1, 4, 1, '2026-03-02Z');
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by, sent_at)
VALUES (2, 'mc_main', 'l1', 'nobody', 'sent', 'm2', '2026-03-01Z', 'x', '2026-03-01Z'), (3, 'mc_main', 'l1', 'draft', 'draft', 'm3', '2026-03-01Z', 'x', NULL);
INSERT INTO mailchimp_sync.report VALUES (2, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, '2026-03-02Z');
UPDATE mailchimp_sync.report SET human_opens = 9, human_openers = 2 WHERE campaign_id = 1;
SELECT mailchimp_sync.links_seen(1, '{b,a}', '{https://b.example/,https://a.example/?x=1}', '{1,2}', '{1,1}', '{2026-03-01T10:00:05+00:00,""}');
SELECT mailchimp_sync.links_seen(1, '{a}', '{https://a.example/?x=1}', '{3}', '{2}', '{2026-03-01T10:00:09+00:00}');
SET ROLE regress_mc_rita;
\x on
SELECT * FROM mc_report ORDER BY campaign_id;
\x off
-- our own rows are not counted anew when somebody looks
EXPLAIN (COSTS off) SELECT * FROM mc_report \g | grep -c 'on activity '
EXPLAIN (COSTS off) SELECT * FROM mc_report \g | grep -c 'on activity_count '
SELECT * FROM mc_report_openers(1);
SELECT * FROM mc_report_clickers(1);
SELECT * FROM mc_report_links(1);
SELECT * FROM mc_report_bounces(1);
SELECT contact_key FROM mc_report_bounces(1, 'hard');
SELECT contact_key FROM mc_report_bounces(1, bounce_type => 'soft');
SELECT mc_report_bounces(1, 'firm');	-- fails
SELECT mc_report_openers(99);			-- fails
SELECT mc_report_links(NULL);			-- fails
RESET ROLE;
-- D17: a note where what is recorded differs, and why
CREATE FUNCTION noted(_opens bigint, _clicks bigint, _read jsonb) RETURNS TABLE (recorded_opened bigint, recorded_clicked bigint, note text)
LANGUAGE sql VOLATILE AS $$
	UPDATE mailchimp_sync.report SET opens_total = _opens, clicks_total = _clicks, read_figures = _read WHERE campaign_id = 1;
	SELECT r.recorded_opened, r.recorded_clicked, r.note FROM mc_report r WHERE r.campaign_id = 1;
$$;
SELECT * FROM noted(8, 4, '{"activity": {"opens": 8, "clicks": 4}}');
SELECT * FROM noted(9, 4, NULL);
SELECT * FROM noted(9, 4, '{"activity": {"opens": 8, "clicks": 4}}');
SELECT * FROM noted(9, 4, '{"activity": {"opens": 9, "clicks": 4}}');
SELECT * FROM noted(8, 5, '{"activity": {"opens": 8, "clicks": 5}}');
SELECT * FROM noted(8, 3, '{"activity": {"opens": 8, "clicks": 3}}');
SELECT * FROM noted(7, 5, '{"activity": {"opens": 7, "clicks": 5}}');
SET mailchimp_sync.activity_retention = '1d';
SELECT * FROM noted(8, 5, '{"activity": {"opens": 8, "clicks": 5}}');
RESET mailchimp_sync.activity_retention;
-- R108: the rates beside the mean of the connection's earlier campaigns; of 2 nothing was delivered, 8 was another connection's
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by, sent_at)
SELECT i, CASE i WHEN 8 THEN 'mc_other' ELSE 'mc_main' END, 'l1', 'no ' || i, 'sent', 'm' || i, '2026-03-01Z', 'x',
	'2026-04-01Z'::timestamptz - i / 6 * interval '1 hour' FROM generate_series(4, 9) i;
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces,
	soft_bounces, syntax_errors, unsubscribed, complaints, polled_at, human_opens, human_openers)
VALUES (4, 100, 50, 40, 10, 8, 10, 10, 0, 2, 0, '2026-04-02Z', 30, 20), (5, 200, 90, 80, 10, 8, 0, 0, 0, 4, 0, '2026-04-02Z', NULL, NULL),
	(6, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-04-02Z', 0, 0), (8, 1000, 999, 999, 999, 999, 0, 0, 0, 999, 0, '2026-04-02Z', 999, 999);
SET ROLE regress_mc_rita;
SELECT * FROM mc_report_comparison ORDER BY sent_at, campaign_id;
RESET ROLE;
-- R42, N7: activities join with the CRM's own tables
SELECT c.id, count(*) FROM candidate c JOIN mc_activity a ON a.source = 'candidate' AND a.contact_key = c.id::text
GROUP BY 1 ORDER BY 1;
SELECT mc_revoke('regress_mc_rita');
SET ROLE regress_mc_rita;
SELECT count(*) FROM mc_activity;
SELECT count(*) FROM mc_report_comparison;
SELECT mc_report_openers(1);
RESET ROLE;

-- a page of a large campaign costs what the page costs, also while nobody has looked at the tables (rule 12)
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, marker, created_at, created_by, sent_at)
SELECT 20, 'mc_main', audience_id, 'l1', 'Large', 'sent', 'm20', '2026-03-01Z', 'x', '2026-03-01Z' FROM mailchimp_sync.audience;
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, added_at, added_by)
SELECT 20, source_id, i::text, i || '@crm.test', md5(i || '@crm.test'), 'sent', now(), 'x'
FROM mailchimp_sync.source, generate_series(1, 20000) i;
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours)
SELECT audience_id, md5(i || '@crm.test'), i || '@crm.test', 'subscribed', true
FROM mailchimp_sync.audience, generate_series(1, 20000) i;
CREATE FUNCTION rows_read(_relation text) RETURNS bigint LANGUAGE sql AS $$
	SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = _relation::regclass
$$;
CREATE FUNCTION is_cheap(_what text) RETURNS TABLE (relation text, few boolean) LANGUAGE plpgsql AS $$
DECLARE
	_relations	text[] := '{recipient,member,activity}';
	_before		bigint[] := ARRAY(SELECT rows_read('mailchimp_sync.' || r) FROM unnest(_relations) r);
BEGIN
	EXECUTE 'SELECT mailchimp_sync.' || _what;
	RETURN QUERY SELECT u.r, rows_read('mailchimp_sync.' || u.r) - u.before <= 1000 FROM unnest(_relations, _before) AS u(r, before);
END
$$;
SELECT * FROM is_cheap($$activities_seen(20, array_agg(md5(i || '@crm.test')), array_agg(i || '@crm.test'),
	array_agg('[{"action": "open", "timestamp": "2026-03-01T10:00:00+00:00"}]'::text)) FROM generate_series(1, 200) i$$);
SELECT * FROM is_cheap($$unsubscribes_seen(20, array_agg(md5(i || '@crm.test')), array_agg(i || '@crm.test'),
	array_agg('2026-03-01T11:00:00+00:00'::text), array_agg('None given'::text), false) FROM generate_series(101, 300) i$$);
-- the marks of machines, too: each of these persons did three things
SELECT mailchimp_sync.activities_seen(20, array_agg(md5(i || '@crm.test')), array_agg(i || '@crm.test'),
	array_agg('[{"action": "open", "timestamp": "2026-03-01T12:00:00+00:00"}, {"action": "click", "timestamp": "2026-03-01T12:00:00+00:00", "url": "a"},
		{"action": "click", "timestamp": "2026-03-01T12:00:00+00:00", "url": "b"}]'::text)) FROM generate_series(1001, 6000) i;
SELECT * FROM is_cheap($$opens_seen(20, array_agg(md5(i || '@crm.test')),
	array_agg('[{"timestamp": "2026-03-01T12:00:00+00:00", "is_proxy_open": true}]'::text)) FROM generate_series(1001, 1200) i$$);
INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset) VALUES (20, 'human_clicks', 0);
SELECT * FROM is_cheap($$human_clicks_seen(20, 0, array_agg(md5(i || '@crm.test')),
	array_agg('[{"action": "click", "timestamp": "2026-03-01T12:00:00+00:00", "url": "a"}]'::text)) FROM generate_series(1101, 1300) i$$);
SELECT type, coalesce(url, '') AS url, count(*) FROM mc_activity WHERE machine GROUP BY 1, 2 ORDER BY 1, 2;
SELECT status, count(*) FROM mailchimp_sync.recipient WHERE campaign_id = 20 GROUP BY 1 ORDER BY 1;

-- the counts beside the activities are what counting gives, whatever came and went
DELETE FROM mailchimp_sync.activity WHERE campaign_id = 20 AND email_hash < '8';
SELECT campaign_id, opened, clicked, bounced, unsubscribed, complained, machine_opened, machine_clicked
FROM mailchimp_sync.activity_count ORDER BY 1;
SELECT campaign_id, opened, clicked, bounced, unsubscribed, complained, machine_opened, machine_clicked
FROM mailchimp_sync.activity_count
EXCEPT SELECT campaign_id, count(*) FILTER (WHERE type = 'opened'), count(*) FILTER (WHERE type = 'clicked'),
	count(*) FILTER (WHERE type = 'bounced'), count(*) FILTER (WHERE reason IS DISTINCT FROM 'abuse complaint' AND type = 'unsubscribed'),
	count(*) FILTER (WHERE reason = 'abuse complaint'), count(*) FILTER (WHERE machine AND type = 'opened'),
	count(*) FILTER (WHERE machine AND type = 'clicked') FROM mailchimp_sync.activity GROUP BY 1;

DROP FUNCTION is_cheap, rows_read;
DROP TABLE ordered;
DROP FUNCTION noted, orders, arrive, leaves, event, page;
DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE candidate;
DROP ROLE regress_mc_ada, regress_mc_rita;
