-- With very many campaigns the engine finds what is due of them by an index, and whatever else it asks each turn reads
-- none of those that need nothing (N10). How long it takes is in test/bench/poll.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_paused FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE USER MAPPING FOR CURRENT_USER SERVER mc_main OPTIONS (api_key 'k-us6');
CREATE USER MAPPING FOR CURRENT_USER SERVER mc_paused OPTIONS (api_key 'k-us6');
INSERT INTO mailchimp_sync.connection (connection, state) VALUES ('mc_main', 'ok'), ('mc_paused', 'ok')
ON CONFLICT (connection) DO UPDATE SET state = excluded.state;
DO $$ BEGIN PERFORM mc_pause('mc_paused'); END $$;
RESET client_min_messages;
SELECT * FROM mailchimp_sync.usable_connection;

-- 20,000, none due for hours but three; all of the other connection, which is paused, have been for long
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by, mailchimp_id, sent_at,
	last_polled_at, next_poll_at)
SELECT n, CASE n % 10 WHEN 0 THEN 'mc_paused' ELSE 'mc_main' END, 'l1', 'Campaign ' || n, 'sent', 'm' || n, t.at, 'x', 'c' || n, t.at,
	now() - interval '1 day', now() + CASE WHEN n % 10 = 0 OR n IN (1, 2, 3) THEN -n ELSE 10 + n % 1000 END * interval '1 minute'
FROM generate_series(1, 20000) n
CROSS JOIN LATERAL (SELECT now() - interval '2 years' + n * interval '1 minute' AS at) t;
ANALYZE mailchimp_sync.campaign;

-- how a query gets at campaigns
CREATE FUNCTION way(_query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	_line	text;
BEGIN
	FOR _line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || _query LOOP
		RETURN QUERY SELECT (regexp_match(_line, '[[:alpha:] ]*Scan.* on campaign'))[1] WHERE _line ~ 'Scan.* on campaign';
	END LOOP;
END
$$;
SELECT regexp_replace(btrim(w), 'Index Only', 'Index') AS way
FROM way('SELECT r.at FROM mailchimp_sync.poll_to_begin r WHERE r.connection = ''mc_main'' ORDER BY r.at, r.campaign_id LIMIT 1') w;
SELECT regexp_replace(btrim(w), 'Index Only', 'Index') AS way FROM way('SELECT min(f.at) FROM mailchimp_sync.poll_first f') w;
BEGIN;
SELECT mailchimp_sync.poll_due() = (SELECT next_poll_at FROM mc_poll_schedule WHERE campaign_id = 3) AS the_first;
SELECT campaign_id, method, path, phase FROM mailchimp_sync.poll_next('mc_main');
COMMIT;

-- every question of the engine: KIND_due(), KIND_next(connection), STEP(), STEP_due(); how many campaigns it reads
CREATE FUNCTION campaigns_read() RETURNS bigint LANGUAGE sql AS $$
	SELECT coalesce(sum(s.seq_tup_read + s.idx_tup_fetch), 0) FROM pg_stat_xact_user_tables s WHERE s.relid = 'mailchimp_sync.campaign'::regclass
$$;
CREATE FUNCTION ask(_question text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	_before	bigint := campaigns_read();
BEGIN
	EXECUTE 'SELECT count(*) FROM ' || _question;
	RETURN campaigns_read() - _before;
END
$$;
CREATE TEMP TABLE question AS
WITH due AS (
	SELECT left(p.proname, -4) AS name FROM pg_proc p
	WHERE p.pronamespace = 'mailchimp_sync'::regnamespace AND p.proname LIKE '%\_due' AND p.pronargs = 0
		AND p.prorettype = 'timestamptz'::regtype)
SELECT format('mailchimp_sync.%I()', d.name || '_due') AS question FROM due d
UNION ALL
SELECT format('mailchimp_sync.%I(%s)', p.proname, CASE p.pronargs WHEN 1 THEN '''mc_main''' END) FROM due d
JOIN pg_proc p ON p.pronamespace = 'mailchimp_sync'::regnamespace
	AND (p.proname = d.name AND p.pronargs = 0 OR p.proname = d.name || '_next' AND p.pronargs = 1);
BEGIN;
SELECT count(*) > 30 AS many, count(*) FILTER (WHERE question ~ '_next') > 10 AS kinds FROM question;
SELECT q.question, a.read FROM question q CROSS JOIN LATERAL ask(q.question) AS a(read) WHERE a.read > 10;
ROLLBACK;

-- old ones are asked for together where at least ten of them are due that were sent near to each other (poll_bulk.sql)
DELETE FROM mailchimp_sync.campaign;
CREATE FUNCTION due(_from integer, _count integer, _sent_at timestamptz, _apart interval) RETURNS void LANGUAGE sql AS $$
	INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by, mailchimp_id, sent_at,
		last_polled_at, next_poll_at)
	SELECT n, 'mc_main', 'l1', 'Campaign ' || n, 'sent', 'm' || n, _sent_at, 'x', 'c' || n, _sent_at + (n - _from) * _apart,
		mailchimp_sync.clock() - interval '1 day', mailchimp_sync.clock() - interval '1 minute' - n * interval '0.1 seconds'
	FROM generate_series(_from, _from + _count - 1) n
$$;
CREATE FUNCTION asked() RETURNS TABLE (what text, campaigns integer, first bigint, last bigint, path text) LANGUAGE sql AS $$
	SELECT n.phase, CASE WHEN n.phase = 'reports' THEN cardinality(n.versions) END,
		coalesce(n.campaign_id, (SELECT min(v) FROM unnest(n.versions) v)), coalesce(n.campaign_id, (SELECT max(v) FROM unnest(n.versions) v)),
		regexp_replace(n.path, '&fields.*', '')
	FROM mailchimp_sync.poll_next('mc_main') n
$$;
BEGIN;
SET LOCAL mailchimp_sync.clock_offset = 0;
SELECT set_config('mailchimp_sync.clock_offset', ('2026-06-01 00:00:00Z' - now())::text, true) IS NOT NULL AS at;
SELECT due(1, 9, '2026-03-01 10:00:00Z', '1 minute');
SELECT * FROM asked();						-- nine are not many
SELECT due(10, 1, '2026-03-01 10:09:00Z', '1 minute');
SELECT * FROM asked();						-- ten are
UPDATE mailchimp_sync.campaign SET sent_at = '2026-05-25 00:00:01Z' WHERE campaign_id = 10;
SELECT * FROM asked();						-- one of them is younger than a week
UPDATE mailchimp_sync.campaign SET sent_at = '2026-05-25 00:00:00Z' WHERE campaign_id = 10;
SELECT * FROM asked();						-- or just not
-- 890 between them that are not due fit the page, 891 do not
SELECT due(1001, 890, '2026-03-02 00:00:00Z', '1 minute');
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() + interval '1 minute' WHERE campaign_id > 1000;
SELECT * FROM asked();
SELECT due(2001, 1, '2026-03-05 00:00:00Z', '1 minute');
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() + interval '1 minute' WHERE campaign_id > 1000;
SELECT * FROM asked();
-- all due: a page of them, then (that one is under way) what is not old, then the rest
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id > 1000;
SELECT * FROM asked();
INSERT INTO mailchimp_sync.inflight (kind, sent_at, connection, method, path, body, writes, audience_id, campaign_id, phase, source_ids, contact_keys,
	email_hashes, versions, hashes)
SELECT 'poll', mailchimp_sync.clock(), n.* FROM mailchimp_sync.poll_next('mc_main') n;
SELECT * FROM asked();
SELECT mailchimp_sync.poll_due() IS NULL AS nothing_due;
UPDATE mailchimp_sync.campaign SET sent_at = '2026-05-26 00:00:00Z' WHERE campaign_id = 10;
SELECT what, first FROM asked();
-- the answer shows all but one, and of one that something happened: the others are done, and as far apart as they were
SET LOCAL mailchimp_sync.poll_spread = '30 s';
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() - (campaign_id % 10) * interval '1 second';
UPDATE mailchimp_sync.campaign SET spread_poll_at = next_poll_at WHERE campaign_id % 100 > 0;
SELECT mailchimp_sync.reports_seen(f.inflight_id, mailchimp_sync.clock(), s.ids, s.numbers, s.zeros, s.zeros, s.objects, s.opens, s.objects)
FROM mailchimp_sync.inflight f CROSS JOIN LATERAL (SELECT array_agg('c' || v) AS ids, array_agg('7'::text) AS numbers, array_agg('0'::text) AS zeros,
	array_agg('{}'::text) AS objects, array_agg(CASE v WHEN 1003 THEN '{"opens_total": 1}' ELSE '{}' END) AS opens FROM unnest(f.versions) v WHERE v <> 1002) s;
SELECT p.campaign_id, array_agg(g.walk) AS pages FROM mailchimp_sync.poll p JOIN mailchimp_sync.poll_page g USING (campaign_id) GROUP BY 1 ORDER BY 1;
SELECT campaign_id, phase, done, total FROM mc_progress WHERE work = 'poll';
SELECT count(*) AS polled, count(*) FILTER (WHERE campaign_id % 100 > 0) AS in_turn,
	bool_and(next_poll_at - last_polled_at = interval '24 hours' + (9 - campaign_id % 10) * interval '1 second') FILTER (WHERE campaign_id % 100 > 0 AND campaign_id > 10) AS apart,
	bool_and(next_poll_at - last_polled_at BETWEEN interval '24 hours' AND interval '24 hours 30 seconds') FILTER (WHERE campaign_id % 100 = 0) AS spread,
	(SELECT count(*) FROM mailchimp_sync.report WHERE emails_sent = 7) AS reports
FROM mailchimp_sync.campaign WHERE last_polled_at = mailchimp_sync.clock();
-- the connection belongs to another account from now on: it is not asked for the other pages of these polls
SELECT mailchimp_sync.forget_remote('mc_main');
SELECT (SELECT count(*) FROM mailchimp_sync.poll) AS polls, (SELECT count(*) FROM mailchimp_sync.poll_page) AS pages,
	mailchimp_sync.poll_due() IS NULL AS nothing_due;
-- nor by what the former account still answers: totals are stored, and that is all
SELECT mailchimp_sync.report_seen(1002, mailchimp_sync.clock(), 8, 0, 0, '{}', '{"opens_total": 3}', '{}');
SELECT mailchimp_sync.report_seen(1004, mailchimp_sync.clock(), 8, 0, 0, '{}', '{}', '{}');
SELECT mailchimp_sync.poll_refused(1003, 'activity', mailchimp_sync.clock(), 404, 'Resource Not Found', '');
SELECT mailchimp_sync.poll_rests(1005, 'no answer', NULL, NULL);
SELECT (SELECT count(*) FROM mailchimp_sync.poll) AS polls, (SELECT count(*) FROM mailchimp_sync.poll_page) AS pages,
	mailchimp_sync.poll_due() IS NULL AS nothing_due, (SELECT count(*) FROM mailchimp_sync.report WHERE emails_sent = 8) AS reports,
	(SELECT count(*) FROM mailchimp_sync.campaign WHERE next_poll_at IS NOT NULL) AS polled;
ROLLBACK;
-- a copy whose list cannot be read sends its contacts nothing, so no poll waits for contacts of a campaign that it has on its way
CREATE TABLE person (id integer PRIMARY KEY, email text);
INSERT INTO person VALUES (1, 'a@crm.test');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'List', now());
SELECT mc_add_source('person', 'person', 'id', 'email'), mc_create_audience('persons', 'mc_main', 'l1', 'person'), mc_sync_audience('persons');
SELECT count(*) > 0 AS folded FROM mailchimp_sync.fold_contacts((SELECT source_id FROM mailchimp_sync.source), '{1}');
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, goal, step, begun_at, marker, created_at, created_by)
SELECT 1, 'mc_main', audience_id, 'l1', 'Urgent', 'preparing', 'send', 'settle', now(), 'm1', now(), 'x' FROM mailchimp_sync.audience;
UPDATE mailchimp_sync.audience SET read_at = now();
SELECT mailchimp_sync.poll_gives_way('mc_main');
UPDATE mailchimp_sync.audience SET read_at = NULL;
SELECT mailchimp_sync.poll_gives_way('mc_main');
DROP FUNCTION way, campaigns_read, ask, due, asked;
DROP TABLE question;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE person;
