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

DROP FUNCTION way, campaigns_read, ask;
DROP TABLE question;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
