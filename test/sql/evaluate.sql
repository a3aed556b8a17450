-- evaluate(): the expressions of a source run as its owner, read only, without a trace (N4, N9; design.md rule 3).
-- A superuser installs and calls internal functions here; eval_owner is the ordinary role that registers
-- expressions, eval_caller another one that runs them.
CREATE EXTENSION IF NOT EXISTS mailchimp_sync;
CREATE ROLE eval_owner;
CREATE ROLE eval_caller;
CREATE SCHEMA eval AUTHORIZATION eval_owner;
GRANT USAGE ON SCHEMA mailchimp_sync, eval TO eval_caller;
GRANT EXECUTE ON FUNCTION mailchimp_sync.evaluate(regrole, text, text[]) TO eval_caller;
CREATE TABLE eval.secret (what text);
INSERT INTO eval.secret VALUES ('nobody but a superuser reads this');

-- ---------------------------------------------------------------------------------------------------------
-- What comes back
-- ---------------------------------------------------------------------------------------------------------

CREATE FUNCTION eval.run(_query text, _keys text[] DEFAULT '{a}')
RETURNS TABLE (contact_key text, value jsonb, error_state text, error_message text)
LANGUAGE sql AS $$ SELECT * FROM mailchimp_sync.evaluate('eval_owner', _query, _keys) $$;
GRANT EXECUTE ON FUNCTION eval.run TO eval_caller;

SELECT * FROM eval.run('SELECT k, to_jsonb(length(k)) FROM unnest($1) k', '{a,bb,ccc}');
-- no keys and null keys are passed on as they are
SELECT * FROM eval.run('SELECT k, NULL::jsonb FROM unnest($1) k', '{}');
SELECT * FROM eval.run('SELECT NULL::text, to_jsonb($1 IS NULL)', NULL);
SELECT * FROM eval.run('SELECT $1[2], to_jsonb($1[1] IS NULL)', '{NULL,7}');
-- more than work_mem holds
SET work_mem = 64;
SELECT count(*), sum(length(value #>> '{}')) FROM eval.run('SELECT k, to_jsonb(repeat(k, 1000)) FROM generate_series(1, 1000) i, unnest($1) k');
RESET work_mem;

-- one bad contact does not stop the others; each is found by itself
SELECT * FROM eval.run('SELECT k, to_jsonb(12 / k::int) FROM unnest($1) k', '{1,2,0,3,x,4,0,6,12}');
SELECT count(*) FILTER (WHERE value IS NOT NULL), count(*) FILTER (WHERE error_state = '22012'),
	min(contact_key) FILTER (WHERE error_state IS NOT NULL)
FROM eval.run('SELECT k, to_jsonb(1 / (k::int - 321)) FROM unnest($1) k', ARRAY(SELECT i::text FROM generate_series(1, 500) i));
SELECT count(*), count(DISTINCT contact_key), min(error_state), max(error_state)
FROM eval.run('SELECT k, to_jsonb(1 / (k::int - k::int)) FROM unnest($1) k', ARRAY(SELECT i::text FROM generate_series(1, 500) i));

-- errors of the classes that a contact can cause; only the primary message comes out, and not without end
SET ROLE eval_owner;
CREATE FUNCTION eval.fail(_key text, _state text, _message text DEFAULT 'no good') RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF _key = 'b' THEN
		RAISE EXCEPTION USING ERRCODE = _state, MESSAGE = _message, DETAIL = 'row of somebody else', HINT = 'hint';
	END IF;
	RAISE NOTICE 'a notice is for nobody';
	RETURN to_jsonb(_key);
END $$;
RESET ROLE;
SELECT s.state, e.* FROM unnest('{22023,23514,P0001,AB123,XX000,54001,39000}'::text[]) s(state),
	eval.run(format('SELECT k, eval.fail(k, %L) FROM unnest($1) k', s.state), '{a,b}') e;
SELECT length(error_message) FROM eval.run('SELECT k, eval.fail(k, ''P0001'', repeat(''é'', 100000)) FROM unnest($1) k', '{a,b}') WHERE error_state IS NOT NULL;
-- those of the source: one row, no half results
SELECT s.state, e.*, mailchimp_sync.error_is_lasting(s.state) AS lasting
FROM unnest('{42501,42P01,25006,0A000,2D000,3F000,57014,57P01,53200,55P03,40001,40P01,08001,HV00N,58030,72000}'::text[]) s(state),
	eval.run(format('SELECT k, eval.fail(k, %L) FROM unnest($1) k', s.state), '{a,b}') e;
-- an error that none of the keys shows alone belongs to all of them
SELECT * FROM eval.run('SELECT k, to_jsonb(1 / (2 - cardinality($1))) FROM unnest($1) k', '{a,b}');
-- not our query, no such role, no such thing
SELECT * FROM eval.run('SELECT 1');
SELECT * FROM eval.run('SELECT k, NULL::jsonb FROM eval.nothing, unnest($1) k');
SELECT error_state, error_message FROM mailchimp_sync.evaluate(4294967290::oid, 'SELECT NULL::text, NULL::jsonb', '{}');
SELECT * FROM mailchimp_sync.evaluate('eval_owner', NULL, '{}');

-- settings are pinned, whatever the caller has set
CREATE FUNCTION eval.shown() RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_array(timestamptz '2026-07-01 12:00+00', date '2026-07-01'::text, '02/01/2026'::date::text, interval '1 day 2 hours'::text,
		(0.1::float8 + 0.2::float8)::text, '\x00ff'::bytea::text, to_char(1234.5, 'L9G999D9'), to_char(date '2026-07-01', 'TMMonth'), quote_ident('a'),
		current_setting('search_path'), current_setting('row_security'), current_setting('transaction_read_only'))
$$;
SELECT value FROM eval.run('SELECT ''a'', eval.shown()');
SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET intervalstyle = 'iso_8601'; SET extra_float_digits = -5; SET bytea_output = 'escape';
SET quote_all_identifiers = on; SET search_path = eval, public; SET row_security = off;
SELECT value FROM eval.run('SELECT ''a'', eval.shown()');
SELECT current_setting('timezone'), current_setting('search_path'), current_setting('transaction_read_only');
RESET ALL;

-- row level security applies as for the owner of the source
CREATE TABLE eval.tenant (id int, tenant text);
INSERT INTO eval.tenant VALUES (1, 'eval_owner'), (2, 'eval_caller');
ALTER TABLE eval.tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON eval.tenant USING (tenant = current_user);
GRANT SELECT ON eval.tenant TO eval_owner, eval_caller;
SELECT contact_key FROM eval.run('SELECT id::text, NULL::jsonb FROM eval.tenant');

-- the snapshot is that of the calling statement: what the caller's transaction wrote before is seen
BEGIN;
CREATE TABLE eval.fresh AS SELECT 'new'::text AS k;
GRANT SELECT ON eval.fresh TO eval_owner;
SELECT contact_key FROM eval.run('SELECT k, NULL::jsonb FROM eval.fresh');
ROLLBACK;

-- ---------------------------------------------------------------------------------------------------------
-- What an expression of an ordinary role may not do, whoever runs it
-- ---------------------------------------------------------------------------------------------------------

SET ROLE eval_owner;
CREATE TABLE eval.own (id int);
CREATE SEQUENCE eval.own_seq;
CREATE TABLE eval.trick (number int GENERATED ALWAYS AS IDENTITY, sql text);
INSERT INTO eval.trick (sql) VALUES
	('SELECT what FROM eval.secret'),
	('SET ROLE postgres'),
	('RESET ROLE'),
	('SET SESSION AUTHORIZATION DEFAULT'),
	('RESET SESSION AUTHORIZATION'),
	('SELECT set_config(''role'', ''none'', true)'),
	('SELECT set_config(''role'', NULL, true)'),
	('SELECT set_config(''session_authorization'', ''postgres'', false)'),
	('INSERT INTO eval.own VALUES (1)'),
	('UPDATE eval.own SET id = 2'),
	('DELETE FROM eval.own'),
	('WITH w AS (INSERT INTO eval.own VALUES (1) RETURNING 1) SELECT * FROM w'),
	('SELECT * FROM eval.own FOR UPDATE'),
	('TRUNCATE eval.own'),
	('CREATE TABLE eval.made (id int)'),
	('CREATE TEMP TABLE made (id int)'),
	('ALTER TABLE eval.own ADD COLUMN x int'),
	('GRANT SELECT ON eval.own TO PUBLIC'),
	('COPY eval.own TO PROGRAM ''true'''),
	('COPY eval.own TO ''/tmp/made'''),
	('SELECT lo_create(12345)'),
	('SELECT nextval(''eval.own_seq'')'),
	('SELECT setval(''eval.own_seq'', 7)'),
	('SET transaction_read_only = off'),
	('SET TRANSACTION READ WRITE'),
	('RESET transaction_read_only'),
	('SELECT set_config(''transaction_read_only'', ''off'', true)'),
	('SELECT set_config(''transaction_read_only'', NULL, true)'),
	('PREPARE made AS SELECT 1'),
	('DEALLOCATE ALL'),
	('DISCARD ALL'),
	('DECLARE made CURSOR WITH HOLD FOR SELECT 1'),
	('CLOSE ALL'),
	('LISTEN made'),
	('UNLISTEN *'),
	('NOTIFY made'),
	('SELECT pg_notify(''made'', ''x'')'),
	('COMMIT'),
	('ROLLBACK'),
	('SAVEPOINT made'),
	('SELECT count(*) FROM mailchimp_sync.source'),
	('SELECT * FROM mailchimp_sync.evaluate(''postgres'', ''SELECT NULL::text, NULL::jsonb'', NULL)'),
	('DO $do$ BEGIN INSERT INTO eval.own VALUES (3); EXCEPTION WHEN OTHERS THEN RAISE EXCEPTION ''%'', SQLERRM; END $do$'),
	('DO $do$ BEGIN RESET transaction_read_only; PERFORM nextval(''eval.own_seq''); END $do$'),
	('SELECT pg_cancel_backend(pg_backend_pid())'),
	('SELECT pg_terminate_backend(pg_backend_pid())'),
	('SELECT set_config(''datestyle'', ''German'', false)'),
	('SELECT set_config(''search_path'', ''eval'', false)'),
	('SELECT pg_advisory_lock(4711)'),
	('SELECT pg_advisory_lock(8, 15), pg_advisory_lock(8, 15), pg_advisory_lock_shared(9)'),
	('SELECT pg_advisory_unlock_all()');
-- dynamic SQL, with and without a subtransaction of its own around it
CREATE FUNCTION eval.try(_sql text, _catch boolean) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	IF _catch THEN
		BEGIN
			EXECUTE _sql;
		EXCEPTION WHEN OTHERS THEN
			RETURN to_jsonb('caught ' || SQLSTATE);
		END;
	ELSE
		EXECUTE _sql;
	END IF;
	RETURN to_jsonb(format('done as %s, read only %s', current_user, current_setting('transaction_read_only')));
END $$;
RESET ROLE;
GRANT SELECT ON eval.trick TO eval_caller;

LISTEN before;
PREPARE before AS SELECT 'still prepared';
SELECT pg_advisory_lock(42), pg_advisory_lock_shared(43);
CREATE TEMP TABLE as_superuser AS SELECT number, plain, caught FROM eval.trick t
	CROSS JOIN LATERAL (SELECT coalesce(a.value #>> '{}', a.error_state) AS plain
		FROM eval.run(format('SELECT ''a'', eval.try(%L, false)', t.sql)) a) a
	CROSS JOIN LATERAL (SELECT coalesce(c.value #>> '{}', c.error_state) AS caught
		FROM eval.run(format('SELECT ''a'', eval.try(%L, true)', t.sql)) c) c;
\pset format unaligned
-- what had no effect up to 15 is refused from 16 on
SELECT t.sql, CASE WHEN v.varies THEN 'no effect' ELSE s.plain END AS plain,
	CASE WHEN v.varies THEN 'same' ELSE replace(s.caught, s.plain, 'same') END AS caught
FROM as_superuser s
JOIN eval.trick t USING (number)
CROSS JOIN LATERAL (SELECT t.sql ~ 'lo_create|RESET transaction_read_only|read_only'', NULL'
	AND s.plain IN ('done as eval_owner, read only on', '25006', '0A000') AS varies) v
ORDER BY number;
\pset format aligned
-- nothing changed, in the database or in the session
SELECT current_user = session_user AS same_user, current_setting('datestyle') AS datestyle, current_setting('search_path') AS search_path;
SELECT setting, reset_val FROM pg_settings WHERE name = 'transaction_read_only';
SELECT (SELECT count(*) FROM eval.own) AS rows, (SELECT is_called FROM eval.own_seq) AS sequence,
	(SELECT count(*) FROM pg_largeobject_metadata) AS large_objects, to_regclass('eval.made') AS made, to_regclass('pg_temp.made') AS made_temp,
	(SELECT array_agg(c) FROM pg_listening_channels() c) AS listening, (SELECT array_agg(name) FROM pg_prepared_statements) AS prepared,
	(SELECT count(*) FROM pg_cursors WHERE is_holdable) AS held_cursors;
SELECT classid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3;

-- the same when another role calls, and in that role's own session
SET SESSION AUTHORIZATION eval_caller;
CREATE TEMP TABLE as_caller AS SELECT number, plain, caught FROM eval.trick t
	CROSS JOIN LATERAL (SELECT coalesce(a.value #>> '{}', a.error_state) AS plain
		FROM eval.run(format('SELECT ''a'', eval.try(%L, false)', t.sql)) a) a
	CROSS JOIN LATERAL (SELECT coalesce(c.value #>> '{}', c.error_state) AS caught
		FROM eval.run(format('SELECT ''a'', eval.try(%L, true)', t.sql)) c) c;
RESET SESSION AUTHORIZATION;
SELECT t.sql, c.plain, s.plain AS by_superuser FROM as_superuser s JOIN as_caller c USING (number) JOIN eval.trick t USING (number)
WHERE (s.plain, s.caught) IS DISTINCT FROM (c.plain, c.caught) ORDER BY number;
SELECT current_user = session_user AS same_user, (SELECT count(*) FROM eval.own) AS rows, (SELECT is_called FROM eval.own_seq) AS sequence,
	(SELECT count(*) FROM pg_largeobject_metadata) AS large_objects, to_regclass('eval.made') AS made;
SELECT classid, objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2, 3;
SELECT pg_advisory_unlock(42), pg_advisory_unlock_shared(43);
-- transaction-level locks of the caller stay, those of the expression go; what the expression releases comes back
BEGIN;
SELECT pg_advisory_xact_lock(44);
SELECT pg_advisory_lock(46);
SELECT value FROM eval.run('SELECT ''a'', to_jsonb(pg_advisory_unlock(46)) FROM pg_advisory_xact_lock(45), pg_advisory_lock(47)');
SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2;
COMMIT;
SELECT objid, mode FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() ORDER BY 1, 2;
SELECT pg_advisory_unlock(46);

-- the caller's transaction stays writable and goes on after any failure
BEGIN;
CREATE TABLE eval.before (id int);
SELECT error_state FROM eval.run('SELECT k, to_jsonb(1 / 0) FROM unnest($1) k');
INSERT INTO eval.before VALUES (1);
COMMIT;
SELECT * FROM eval.before;
-- of a superuser, too, expressions are read only and cannot nest
SELECT error_state, error_message FROM mailchimp_sync.evaluate(current_user::regrole, 'SELECT ''a'', eval.try(''INSERT INTO eval.own VALUES (1)'', false)', NULL);
SELECT error_state, error_message FROM mailchimp_sync.evaluate(current_user::regrole,
	'SELECT contact_key, value FROM mailchimp_sync.evaluate(''eval_owner'', ''SELECT NULL::text, NULL::jsonb'', NULL)', NULL);
SELECT contact_key FROM eval.run('SELECT k, NULL::jsonb FROM unnest($1) k');

-- ---------------------------------------------------------------------------------------------------------
-- The timer
-- ---------------------------------------------------------------------------------------------------------

SET mailchimp_sync.expression_timeout = '300 ms';
SELECT * FROM eval.run('SELECT k, to_jsonb(1) FROM unnest($1) k, pg_sleep(100)', '{a,b}');
SELECT * FROM eval.run('SELECT k, to_jsonb(count(*)) FROM unnest($1) k, generate_series(1, 1000000000000) GROUP BY 1');
-- no later statement is cancelled
SELECT pg_sleep(0.5);
-- catching it once does not help, nor does an error of another kind or an answer
SET ROLE eval_owner;
CREATE FUNCTION eval.catch(_how text) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		PERFORM pg_sleep(100);
	EXCEPTION WHEN query_canceled THEN
		IF _how = 'raise' THEN
			RAISE EXCEPTION 'something else';
		ELSIF _how = 'sleep' THEN
			PERFORM pg_sleep(100);
		END IF;
	END;
	RETURN to_jsonb(1);
END $$;
RESET ROLE;
SELECT h.how, e.* FROM unnest('{raise,sleep,return}'::text[]) h(how), eval.run(format('SELECT k, eval.catch(%L) FROM unnest($1) k', h.how)) e;
-- the time is for all keys together, however often they are halved
SELECT count(*), min(contact_key), min(error_state) FROM eval.run('SELECT k, to_jsonb(1 / (length(k) - length(k))) FROM unnest($1) k, pg_sleep(0.02)', ARRAY(SELECT i::text FROM generate_series(1, 100) i));
SET mailchimp_sync.expression_timeout = '1 min';
-- what is asked of the session itself is not swallowed (cancel requests and locks: test/t)
SET statement_timeout = '300 ms';
SELECT * FROM eval.run('SELECT k, to_jsonb(1) FROM unnest($1) k, pg_sleep(100)');
SELECT * FROM eval.run('SELECT k, eval.catch(''return'') FROM unnest($1) k');
RESET statement_timeout;
RESET mailchimp_sync.expression_timeout;

-- ---------------------------------------------------------------------------------------------------------
-- The queries
-- ---------------------------------------------------------------------------------------------------------

SET ROLE eval_owner;
CREATE TABLE eval."Person's" (id integer PRIMARY KEY, name text, email text, groups varchar[], mails boolean, linked boolean, gone boolean);
INSERT INTO eval."Person's" VALUES
	(1, 'Ann', 'ann@example.com', '{b,a,b,"",NULL}', true, true, NULL),
	(2, NULL, NULL, NULL, false, NULL, true),
	(10, 'Bob', 'bob@example.com', '{}', NULL, false, false);
RESET ROLE;
-- written here by hand: what mc_add_source stores is tested with it
INSERT INTO mailchimp_sync.source (source_id, source, owner, relation, definition, key_expr, key_type, email_expr, field_exprs, tags_expr, tag_exprs, linked_expr, opt_out_expr) VALUES
	(901, 'the "p"', 'eval_owner', 'eval."Person''s"', '{}', '"the ""p""".id', 'integer', '"the ""p""".email',
		jsonb_build_object('FNAME', 'to_jsonb("the ""p""".name)', 'O''N', 'to_jsonb("the ""p""".id * 2)') ||
			(SELECT jsonb_object_agg('F' || i, format('to_jsonb(%s)', i)) FROM generate_series(1, 80) i),
		'"the ""p""".groups', '{"no mails": "not \"the \"\"p\"\"\".mails", "a": "true"}', '"the ""p""".linked', '"the ""p""".gone'),
	(902, 'bare', 'eval_owner', 'eval."Person''s"', '{}', 'bare.id', 'integer', 'bare.email', '{}', NULL, '{}', NULL, NULL);
INSERT INTO mailchimp_sync.audience_source (audience_id, source_id, position, rule_expr) VALUES
	(901, 901, 1, '"the ""p""".mails'), (902, 901, 1, NULL), (903, 901, 1, 'true');
CREATE FUNCTION eval.values(_source_id int, _keys text[], _audiences int[] DEFAULT NULL) RETURNS TABLE (contact_key text, value jsonb, error_state text, error_message text)
LANGUAGE sql AS $$
	SELECT e.contact_key, e.value #- '{fields}' || jsonb_build_object('fields', (SELECT coalesce(jsonb_object_agg(key, f.value), '{}') FROM jsonb_each(e.value -> 'fields') f WHERE key !~ '^F[0-9]')),
		e.error_state, e.error_message
	FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.source_query(_source_id, _audiences), _keys) e $$;
SELECT * FROM eval.values(901, '{2,1,10,3,1}', '{901,902,904}');
SELECT * FROM eval.values(901, '{1,x}', '{}');
SELECT * FROM eval.values(902, '{1,2}');
SELECT count(*) FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.source_query(901, NULL), '{1}') e, jsonb_object_keys(e.value -> 'fields');
-- the index of the key serves, for rows by key and for a walk
SET ROLE eval_owner;
INSERT INTO eval."Person's" (id) SELECT i FROM generate_series(100, 5000) i;
ANALYZE eval."Person's";
CREATE FUNCTION eval.plan(_query text, _keys text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
	_line text;
BEGIN
	FOR _line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || replace(_query, '$1', quote_literal(_keys) || '::text[]') LOOP
		IF _line ~ 'Scan' THEN
			RETURN NEXT btrim(_line);
		END IF;
	END LOOP;
END $$;
RESET ROLE;
SELECT eval.plan(mailchimp_sync.source_query(902, NULL), '{1,2}');
SELECT eval.plan(mailchimp_sync.walk_query(902), '{7,2}');
SELECT eval.plan(mailchimp_sync.walk_query(902), '{NULL,2}');
DELETE FROM eval."Person's" WHERE id >= 100;

-- a walk: pages in the order of the key's type, nobody twice, no nulls
SELECT contact_key, value FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(902), '{NULL,2}');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(902), '{2,2}');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(902), '{10,2}');
CREATE VIEW eval.twice AS SELECT nullif(id, 2) AS id, e FROM eval."Person's", (VALUES ('x@example.com'), ('a@example.com')) v(e);
GRANT SELECT ON eval.twice TO eval_owner;
INSERT INTO mailchimp_sync.source (source_id, source, owner, relation, definition, key_expr, key_type, email_expr) VALUES
	(903, 'twice', 'eval_owner', 'eval.twice', '{}', 'twice.id', 'integer', 'twice.e'),
	(904, 'bad', 'eval_owner', 'eval.twice', '{}', '(1 / (bad.id - 10))', 'integer', 'bad.e');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(903), '{NULL,10}');
-- of rows with one key always the same one
SELECT contact_key, value ->> 'email' FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.source_query(903, NULL), '{1,10,2}');
-- a key that cannot be computed stops a walk instead of ending it
SELECT * FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(904), '{NULL,10}');

-- types whose operators are not in pg_catalog, domains, and texts
CREATE EXTENSION citext;
CREATE DOMAIN eval.code AS citext CHECK (VALUE <> 'bad');
CREATE TABLE eval.coded (code eval.code PRIMARY KEY, label text COLLATE "C");
INSERT INTO eval.coded VALUES ('aa', 'x'), ('Bb', 'Y'), ('CC', 'x y');
GRANT SELECT ON eval.coded TO eval_owner;
INSERT INTO mailchimp_sync.source (source_id, source, owner, relation, definition, key_expr, key_type, email_expr) VALUES
	(905, 'coded', 'eval_owner', 'eval.coded', '{}', 'coded.code', 'eval.code', 'coded.label'),
	(906, 'label', 'eval_owner', 'eval.coded', '{}', 'label.label', 'text', 'label.label');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.source_query(905, NULL), '{AA,bB}');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(905), '{Aa,5}');
SELECT contact_key FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.walk_query(906), '{Y,5}');

-- keys as people give them
SELECT mailchimp_sync.normal_keys(902, '{" 7",+1,NULL,007,3}'), mailchimp_sync.normal_keys(902, '{}'), mailchimp_sync.normal_keys(902, NULL);
SELECT mailchimp_sync.normal_keys(902, '{1,2,seven}');
SELECT mailchimp_sync.normal_keys(905, '{Aa,bad}');
SELECT mailchimp_sync.normal_keys(906, '{" x",x}');
-- the functions of the key's type run as the source's owner
SET ROLE eval_owner;
CREATE FUNCTION eval.trap(_value text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION 'trap runs as %', current_user;
END $$;
CREATE DOMAIN eval.trapped AS text CHECK (eval.trap(VALUE));
RESET ROLE;
UPDATE mailchimp_sync.source SET key_type = 'eval.trapped' WHERE source_id = 906;
SELECT mailchimp_sync.normal_keys(906, '{a}');

-- what is gone
DROP TABLE eval.coded;
SELECT contact_key, error_state, error_message ~ '^relation "pg_catalog.\d+" does not exist$' AS named FROM mailchimp_sync.evaluate('eval_owner', mailchimp_sync.source_query(905, NULL), '{AA}');
DELETE FROM mailchimp_sync.audience_source WHERE source_id BETWEEN 901 AND 906;
DELETE FROM mailchimp_sync.source WHERE source_id BETWEEN 901 AND 906;
SELECT mailchimp_sync.source_query(901, NULL) IS NULL AS no_query;

DROP TABLE as_superuser, as_caller;
SET client_min_messages = warning;
DROP SCHEMA eval CASCADE;
DROP EXTENSION citext;
REVOKE ALL ON FUNCTION mailchimp_sync.evaluate(regrole, text, text[]) FROM eval_caller;
REVOKE ALL ON SCHEMA mailchimp_sync FROM eval_caller;
DROP ROLE eval_owner, eval_caller;
