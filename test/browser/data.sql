-- Campaigns for the pages: an ordinary one, a hostile one and its twin, a large one, empty ones, a draft, and a hundred more
-- for the overview. ron reads all, nell a connection without campaigns.
\set ON_ERROR_STOP on
SET client_min_messages = warning;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE ron LOGIN;
CREATE ROLE nell LOGIN;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
SELECT mc_grant('ron', 'reader'), mc_grant('nell', 'reader', 'mc_other');

/*
 * What people and programs send: words that try to be more than words, and a harmless one in the place of each. A campaign
 * with the first and one with the second have the same elements and attributes, or the first did something.
 */
CREATE TABLE word (n int PRIMARY KEY, hostile text NOT NULL, harmless text NOT NULL);
INSERT INTO word SELECT n, hostile, 'word ' || n FROM unnest(ARRAY[
	'<script>window.pwned = 1; alert(1)</script>',
	'"><img src=x onerror="window.pwned = 2; alert(2)">',
	''' onmouseover=''window.pwned = 3'' autofocus onfocus=''alert(3)'' x=''',
	'</title></style></script><script>window.pwned = 4</script>',
	'<svg/onload=window.pwned=5><animate onbegin=alert(5) attributeName=x dur=1s>',
	'--><!--<iframe src=//evil.example/6 srcdoc="<script>top.pwned = 6</script>">',
	'<base href=//evil.example/><meta http-equiv=refresh content=0;url=//evil.example/7>',
	'<style>@import ''//evil.example/8''; * { background: url(//evil.example/8) }</style><link rel=stylesheet href=//evil.example/8>',
	'&lt;script&gt;alert(9)&lt;/script&gt;&#60;b&#62;&amp;&nbsp;&quot;',
	'</bdi></td></tr></table></main><form action=//evil.example/10><input autofocus onfocus=alert(10)>',
	U&'\202Egpj.exe \2066 \200F',
	E'\x01\x08\x0b\x1b[31m\x7f a tab\t a line\n and more',
	'#%s %1$s %% {{7*7}} ${7*7} \1 \\',
	'<details open ontoggle="window.pwned = 14"><summary>x</summary></details>',
	repeat('W', 190),
	repeat(U&'e\0301\0489', 60),
	'<!DOCTYPE html><![CDATA[ <x:script xmlns:x="http://www.w3.org/1999/xhtml">alert(17)</x:script> ]]>',
	U&'\+01F680 \+01F469\200D\+01F4BB \05E9\05DC\05D5\05DD \0645\0631\062D\0628\0627 \7BC7'
]) WITH ORDINALITY AS w(hostile, n);
INSERT INTO word VALUES (0, 'Hostile ', 'Harmless ');

-- links: those of the second column may be followed, the first ones never
CREATE TABLE link (n int PRIMARY KEY, hostile text NOT NULL, is_link boolean NOT NULL);
INSERT INTO link VALUES
	(1, 'javascript:alert(1)', false),
	(2, 'JaVaScRiPt:window.pwned=2', false),
	(3, E' javascript:alert(3)', false),
	(4, E'java\tscript:alert(4)', false),
	(5, E'\x01javascript:alert(5)', false),
	(6, 'data:text/html,<script>alert(6)</script>', false),
	(7, 'vbscript:msgbox(7)', false),
	(8, 'javascript://ok.example/%0aalert(8)', false),
	(9, '//evil.example/9', false),
	(10, 'https://ok.example/"onmouseover="window.pwned=10', false),
	(11, 'https://ok.example/''onmouseover=''window.pwned=11', true),
	(12, 'https://ok.example/?a=1&b=2&lt;script&gt;alert(12)', true),
	(13, 'https://ok.example/<script>alert(13)</script>', false),
	(14, E'https://ok.example/\njavascript:alert(14)', false),
	(15, 'https://ok.example/' || repeat('x', 2000), false),
	(16, 'HTTPS://OK.example/?' || repeat('y', 200), true),
	(17, 'file:///etc/passwd', false),
	(18, 'https://', false);

CREATE TABLE shape (campaign_id bigint PRIMARY KEY, hostile boolean);
CREATE FUNCTION words(_campaign bigint, VARIADIC _n int[]) RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(CASE WHEN s.hostile THEN w.hostile ELSE w.harmless END, '' ORDER BY u.position)
	FROM unnest(_n) WITH ORDINALITY AS u(n, position) JOIN word w USING (n) JOIN shape s ON s.campaign_id = _campaign
$$;

INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.audience (audience, connection, list_id, direction, conflict, on_leave, on_unsubscribe, recipients, double_opt_in, every,
	read_every, created_at)
SELECT a.name, 'mc_main', a.list, 'push', 'crm_wins', 'archive', 'opt_out', 'join', false, '1 day', '10 minutes', now()
FROM (VALUES ('Job seekers', 'l1'), ((SELECT string_agg(hostile, '' ORDER BY n) FROM word WHERE n IN (3, 10)), 'l2'), ('word 3word 10', 'l3')) a(name, list);

/* ---- 1: an ordinary campaign; 4: a large one, in which every list is cut ---- */

CREATE PROCEDURE campaign(_id bigint, _name text, _persons int, _links int, _domains int, _left int)
LANGUAGE sql
BEGIN ATOMIC
	INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, subject, from_name, from_email, status, marker,
		created_at, created_by, mailchimp_id, web_id, sent_at, emails_sent)
	VALUES (_id, 'mc_main', 1, 'l1', _name, _name || ': new vacancies for you', 'Bureau Recruitment', 'news@example.org', 'sent', 'm' || _id,
		'2026-03-01Z', 'x', 'c' || _id, 70 + _id, '2026-03-02 08:00Z', _persons);
	INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, added_at, added_by)
	SELECT _id, 1, i::text, 'person' || i || '@example.org', md5('person' || i || '@example.org'), 'sent', '2026-03-01Z', 'x'
	FROM generate_series(1, _persons) i;
	INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, status, skip_reason, added_at, added_by)
	SELECT _id, 1, 'skipped' || i, 'skipped', (ARRAY['opted_out', 'no_email', 'invalid_email', 'duplicate', 'refused', 'not_linked', 'not_member',
		'unsubscribed'])[floor(sqrt(i % 64)) + 1], '2026-03-01Z', 'x'
	FROM generate_series(1, 40 + _persons / 10) i;
	-- who opens does so soon, some again later; a third of those click
	INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, source_id, contact_key, email, recorded_at)
	SELECT _id, md5('person' || i || '@example.org'), 'opened', timestamptz '2026-03-02 08:01Z' + (i * i % 9973) * k * interval '8 s', '', 1, 1, i::text,
		'person' || i || '@example.org', now()
	FROM generate_series(1, _persons, 2) i, generate_series(1, 3) k WHERE k = 1 OR i % (7 * k) = 0;
	INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, source_id, contact_key, email, url, recorded_at)
	SELECT _id, md5('person' || i || '@example.org'), 'clicked', timestamptz '2026-03-02 08:03Z' + (i * i % 9973) * interval '9 s', md5(l::text), 1, 1,
		i::text, 'person' || i || '@example.org', 'https://jobs.example.org/vacancies/' || l, now()
	FROM generate_series(1, _persons, 6) i, LATERAL (SELECT 1 + i % _links) x(l);
	INSERT INTO mailchimp_sync.report_link (campaign_id, link_id, url, clicks, unique_clicks, last_click)
	SELECT _id, 'k' || l, 'https://jobs.example.org/vacancies/' || l || CASE WHEN l % 4 = 0
		THEN '?utm_source=newsletter&utm_medium=email&utm_campaign=' || repeat('spring-offers-', 8) ELSE '' END,
		greatest(600 / l, 2), greatest(400 / l, 1), '2026-03-03Z'
	FROM generate_series(1, _links) l;
	INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, bounce_type, recorded_at)
	SELECT _id, md5('b' || i), 'bounced', timestamptz '2026-03-02 08:00Z' + i * interval '1 s', '', 1,
		'b' || i || '@mail' || (i * i) % _domains || '.a-rather-long-name-of-a-provider.example', CASE WHEN i % 3 = 0 THEN 'soft' ELSE 'hard' END, now()
	FROM generate_series(1, 5 * _domains) i;
	INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, reason, recorded_at)
	SELECT _id, md5('u' || i), 'unsubscribed', timestamptz '2026-03-02 09:00Z' + i * interval '7 min', '', 1,
		CASE WHEN i % 9 <> 4 THEN 'somebody.with.a.long.name' || i || '@example.org' END,
		CASE i % 3 WHEN 0 THEN 'no longer looking for a job' WHEN 1 THEN repeat('You write to me far too often. ', 12) END, now()
	FROM generate_series(1, _left) i;
	INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
		syntax_errors, unsubscribed, complaints, polled_at)
	SELECT _id, _persons, count(*) FILTER (WHERE type = 'opened'), _persons / 2, count(*) FILTER (WHERE type = 'clicked'), _persons / 6,
		count(*) FILTER (WHERE bounce_type = 'hard'), count(*) FILTER (WHERE bounce_type = 'soft'), 0, _left, 1, '2026-03-09Z'
	FROM mailchimp_sync.activity WHERE campaign_id = _id;
END;
CALL campaign(1, 'Spring', 400, 6, 4, 7);
CALL campaign(4, 'Everybody', 20000, 300, 200, 900);

/* ---- 2: hostile; 3: its twin ---- */

INSERT INTO shape VALUES (2, true), (3, false);
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, subject, from_name, from_email, status, marker,
	created_at, created_by, mailchimp_id, web_id, sent_at, emails_sent)
SELECT s.campaign_id, 'mc_main', s.campaign_id, 'l' || s.campaign_id, words(s.campaign_id, 0, 4, 1), words(s.campaign_id, 0, 1, 2), words(s.campaign_id, 5, 9),
	words(s.campaign_id, 2), 'sent', 'm' || s.campaign_id, '2026-03-01Z', 'x', 'c' || s.campaign_id, 77, '2026-03-12 08:00Z', 100
FROM shape s;
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, reason, recorded_at)
SELECT s.campaign_id, md5('u' || w.n), 'unsubscribed', timestamptz '2026-03-12 09:00Z' + w.n * interval '1 min', '', 1,
	words(s.campaign_id, 1 + (w.n + 3) % 18) || '@example.org', words(s.campaign_id, w.n), now()
FROM shape s, word w;
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, bounce_type, recorded_at)
SELECT s.campaign_id, md5(i || 'b' || w.n), 'bounced', '2026-03-12 08:00Z', '', 1, 'b@' || words(s.campaign_id, w.n), 'hard', now()
FROM shape s, word w, generate_series(1, w.n + 1) i;
INSERT INTO mailchimp_sync.report_link (campaign_id, link_id, url, clicks, unique_clicks)
SELECT s.campaign_id, 'k' || l.n, CASE WHEN s.hostile THEN l.hostile WHEN l.is_link THEN 'https://ok.example/' || l.n ELSE 'link ' || l.n END, 100 - l.n, 1
FROM shape s, link l;
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, url, recorded_at)
SELECT s.campaign_id, md5(l.n::text), 'clicked', timestamptz '2026-03-12 08:00Z' + l.n * interval '1 hour', '', 1, words(s.campaign_id, 1), l.hostile, now()
FROM shape s, link l;
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at)
SELECT s.campaign_id, 100, 0, 0, 18, 18, 90, 0, 0, 19, 0, '2026-03-13Z' FROM shape s;

/* ---- 5: sent, nothing happened; 6: sent, nobody asked yet; 7: a draft; 8: failed, without an audience, nothing else ---- */

INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, subject, from_name, from_email, status, marker,
	created_at, created_by, mailchimp_id, web_id, sent_at, emails_sent, last_error)
VALUES (5, 'mc_main', 1, 'l1', 'Nobody', NULL, 'Bureau', 'news@example.org', 'sent', 'm5', '2026-03-01Z', 'x', 'c5', 75, '2026-03-05Z', 0, NULL),
	(6, 'mc_main', 1, 'l1', 'Just sent', 'Just sent', 'Bureau', 'news@example.org', 'sent', 'm6', '2026-03-01Z', 'x', 'c6', 76, '2026-03-06Z', 12, NULL),
	(7, 'mc_main', 1, 'l1', 'Draft', NULL, NULL, NULL, 'draft', 'm7', '2026-03-01Z', 'x', NULL, NULL, NULL, NULL, NULL),
	(8, 'mc_main', NULL, 'l1', 'Failed', NULL, NULL, NULL, 'failed', 'm8', '2026-03-01Z', 'x', NULL, NULL, NULL, NULL,
		(SELECT hostile FROM word WHERE n = 1));
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at)
VALUES (5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-03-13Z');
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, skip_reason, added_at, added_by)
VALUES (7, 1, '1', 'a@example.org', md5('a@example.org'), 'pending', NULL, now(), 'x'), (7, 1, '2', NULL, NULL, 'skipped', 'no_email', now(), 'x');

/* ---- for the overview ---- */

INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, marker, created_at, created_by, mailchimp_id, web_id,
	sent_at, emails_sent)
SELECT 100 + i, 'mc_main', 1, 'l1', CASE WHEN i % 10 = 3 THEN 'The newsletter of all offices for everybody who was ever looking for work, number ' ELSE 'Newsletter ' END || i,
	'sent', 'm' || 100 + i, '2026-01-01Z', 'x', 'c' || 100 + i, 100 + i, timestamptz '2026-01-01Z' + i * interval '11 hours', 1000 * i
FROM generate_series(1, 110) i;
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces,
	syntax_errors, unsubscribed, complaints, polled_at, human_opens, human_openers)
SELECT 100 + i, 1000 * i, 900 * i, (300 + i) * i, 90 * i, 30 * i, 4 * i, 2 * i, 0, i, 0, '2026-03-13Z', 600 * i, (200 + i) * i FROM generate_series(1, 110, 2) i;

/* ---- for the dashboard ---- */

UPDATE mailchimp_sync.campaign SET last_polled_at = '2026-03-13Z', next_poll_at = '2026-03-14Z' WHERE campaign_id IN (1, 4);
INSERT INTO mailchimp_sync.request (inflight_id, connection, kind, method, path, status, outcome, attempt, contacts, started_at, duration)
SELECT i, 'mc_main', 'poll', 'GET', '/reports/c1', 200, CASE i % 5 WHEN 0 THEN 'refused' ELSE 'answered' END, 1, 0, timestamptz '2026-03-02Z' + i * interval '1 min', '80 ms'
FROM generate_series(1, 30) i;
ANALYZE;
