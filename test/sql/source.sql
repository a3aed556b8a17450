-- Defining sources: what expressions are taken, as whom, and what becomes of them (R1, R33, R57, R67-R69, N9).
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP SCHEMA IF EXISTS crm, other CASCADE;
DROP ROLE IF EXISTS regress_source_admin, regress_source_colleague, regress_source_reader, regress_source_nobody;
CREATE ROLE regress_source_admin;
CREATE ROLE regress_source_colleague;
CREATE ROLE regress_source_reader;
CREATE ROLE regress_source_nobody;
CREATE SERVER regress_source FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
SELECT mc_grant('regress_source_admin', 'admin', 'regress_source');
SELECT mc_grant('regress_source_colleague', 'admin', 'regress_source');
SELECT mc_grant('regress_source_reader', 'reader', 'regress_source');
RESET client_min_messages;

CREATE SCHEMA crm;
CREATE SCHEMA other;
GRANT USAGE ON SCHEMA crm TO regress_source_admin, regress_source_colleague, regress_source_nobody;
GRANT CREATE ON SCHEMA crm TO regress_source_admin;
CREATE TABLE crm.owner (id integer PRIMARY KEY, name text, email text, data json);
CREATE TABLE crm.candidate (
	id integer PRIMARY KEY, first_name text, initials text, "Last name" varchar(40), email text, owner_id integer,
	receives_mailings boolean, linked boolean, groups text[], age integer, born date, extra jsonb, raw json, code character(3));
CREATE TABLE crm.secret (id integer, word text);
CREATE TABLE other.candidate (id integer, email text);
GRANT SELECT ON crm.owner, crm.candidate TO regress_source_admin;
GRANT SELECT (id, email) ON crm.candidate TO regress_source_colleague;
CREATE FUNCTION crm.shout(text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT upper($1)';
CREATE FUNCTION crm.closed(text) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN $1; END';
REVOKE EXECUTE ON FUNCTION crm.closed FROM PUBLIC;

-- levels: an admin of any connection may define sources; a reader sees them (D19)
SET ROLE regress_source_nobody;
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email');
SELECT count(*) FROM mc_source;
SET ROLE regress_source_reader;
SELECT mc_add_source('candidate', 'pg_class', 'oid', 'relname');
SELECT count(*) FROM mc_source;

SET ROLE regress_source_admin;
SET search_path = crm, public;
SELECT mc_add_source('candidate', 'candidate', key => 'id', email => 'email',
	merge_fields => '{
		"FNAME": "coalesce(first_name, initials)",
		"LNAME": "\"Last name\"",
		"OWNERNAME": "(SELECT o.name FROM owner o WHERE o.id = candidate.owner_id)",
		"AGE": "age", "BORN": "born", "LOUD": "shout(first_name)", "EXTRA": "extra", "RAW": "raw", "YES": "linked",
		"CONST": "''x''", "ROW": "candidate"}',
	tags => 'groups',
	tag_rules => '{"Mailingen-ontvangen-nee": "not receives_mailings"}',
	linked => 'linked', opt_out => '''f''');
RESET ROLE;
SELECT s.owner, s.relation, key_expr, key_type, email_expr, tags_expr, tag_exprs, linked_expr, opt_out_expr, state
FROM mailchimp_sync.source s;
SELECT f.key, f.value FROM mailchimp_sync.source, jsonb_each_text(field_exprs) f ORDER BY f.key COLLATE "C";
SELECT stored_columns, mapped_columns FROM mailchimp_sync.watch;
-- everything of a new source has to be compared
SELECT source_id, relation_id, contact_key FROM mailchimp_sync.event;
-- what is kept means the same wherever it runs
SET search_path = pg_catalog;
INSERT INTO crm.owner VALUES (7, 'Olga');
INSERT INTO crm.candidate VALUES (1, NULL, 'J.', 'Jansen', 'j@example.com', 7, false, true, '{a,b}', 30, '2000-02-01', '{"a": 1}', '[1]');
INSERT INTO crm.candidate VALUES (2);
SELECT format('SELECT %s FROM crm.candidate AS candidate ORDER BY id',
	(SELECT string_agg(format('%s AS %I', f.value, f.key), ', ' ORDER BY f.key) FROM jsonb_each_text(field_exprs) f
		WHERE f.key <> 'ROW')) AS query
FROM mailchimp_sync.source \gset
\pset expanded on
:query;
\pset expanded off
SET search_path = crm, public;
SET ROLE regress_source_reader;
\pset expanded on
SELECT * FROM public.mc_source;
\pset expanded off

-- exactly one expression, of the right type, with nothing around it
SET ROLE regress_source_admin;
CREATE FUNCTION crm.try(what text, expr text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.mc_add_source('try', 'crm.candidate',
		key => CASE what WHEN 'key' THEN expr ELSE 'id' END,
		email => CASE what WHEN 'email' THEN expr ELSE 'email' END,
		merge_fields => CASE what WHEN 'field' THEN jsonb_build_object('FNAME', expr) ELSE '{}' END,
		tags => CASE what WHEN 'tags' THEN expr END,
		tag_rules => CASE what WHEN 'tag' THEN jsonb_build_object('t', expr) ELSE '{}' END,
		linked => CASE what WHEN 'linked' THEN expr END,
		opt_out => CASE what WHEN 'opt_out' THEN expr END);
	RAISE NOTICE 'taken';
END
$$;
SELECT crm.try('field', 'frist_name');
SELECT crm.try('field', 'first_name, email');
SELECT crm.try('field', 'first_name AS x');
SELECT crm.try('field', 'first_name FROM crm.secret');
SELECT crm.try('field', 'first_name WHERE true');
SELECT crm.try('field', 'first_name LIMIT 1');
SELECT crm.try('field', 'DISTINCT first_name');
SELECT crm.try('field', 'first_name; DROP TABLE crm.candidate');
SELECT crm.try('field', 'first_name) FROM crm.candidate; --');
SELECT crm.try('field', '');
SELECT crm.try('field', '*');
SELECT crm.try('field', '$1');
SELECT crm.try('field', 'first_name /*');
SELECT crm.try('field', 'first_name -- and the rest');
SELECT crm.try('field', 'count(*)');
SELECT crm.try('field', 'row_number() OVER ()');
SELECT crm.try('field', 'unnest(groups)');
SELECT crm.try('field', '(SELECT first_name, email)');
SELECT crm.try('field', 'owner.name');
SELECT crm.try('field', 'no_such_function(first_name)');
SELECT crm.try('email', 'age');
SELECT crm.try('tags', 'first_name');
SELECT crm.try('tags', 'ARRAY[age]');
SELECT crm.try('tag', 'age');
SELECT crm.try('linked', 'first_name');
SELECT crm.try('key', 'raw');
SELECT crm.try('key', 'extra ->> ''id''');
SELECT crm.try('key', 'raw ->> ''id''');
SELECT crm.try('key', 'ctid');
SELECT crm.try('key', 'row(id, email)');
SELECT crm.try('key', 'code');
RESET ROLE;
-- not character, which as a cast means one character
SELECT key_type FROM mailchimp_sync.source WHERE source = 'try';
SET ROLE regress_source_admin;
SELECT public.mc_drop_source('try');
-- names
SELECT mc_add_source('try', 'candidate', 'id', 'email', '{"Fname": "first_name"}');
SELECT mc_add_source('try', 'candidate', 'id', 'email', '{"EMAIL": "first_name"}');
SELECT mc_add_source('try', 'candidate', 'id', 'email', '{"FNAME": 1}');
SELECT mc_add_source('try', 'candidate', 'id', 'email', '[]');
SELECT mc_add_source('try', 'candidate', 'id', 'email', tag_rules => '{"": "true"}');
SELECT mc_add_source(repeat('x', 64), 'candidate', 'id', 'email');
SELECT mc_add_source('try', 'candidate', NULL, 'email');

-- rights of the owner, not of who owns the extension
SELECT crm.try('field', '(SELECT word FROM secret LIMIT 1)');
SELECT crm.try('field', 'closed(first_name)');
SET ROLE regress_source_colleague;
SELECT mc_add_source('mine', 'candidate', 'id', 'email', '{"FNAME": "first_name"}');
SELECT mc_add_source('mine', 'candidate', 'id', 'email');
-- only members of the owner's role may replace or drop
SELECT mc_add_source('candidate', 'candidate', 'id', 'email');
SELECT mc_drop_source('candidate');
SELECT mc_watch('candidate', 'owner', 'SELECT 1');
SELECT mc_drop_source('mine');
-- temporary relations are gone tomorrow
SET ROLE regress_source_admin;
CREATE TEMP TABLE passing (id integer, email text);
SELECT mc_add_source('try', 'passing', 'id', 'email');
SELECT crm.try('field', '(SELECT email FROM passing LIMIT 1)');
DROP TABLE passing;
-- unknown names
SELECT mc_drop_source('candidat');
SELECT mc_add_source('try', 'pg_catalog.pg_class', 'oid', 'relname');

-- a source over a view: what is not watched, and keys without an index
CREATE VIEW crm.person AS SELECT c.id, c.email, o.name FROM crm.candidate c JOIN crm.owner o ON o.id = c.owner_id;
CREATE VIEW crm.person2 AS SELECT * FROM crm.person;
SELECT mc_add_source('person', 'person2', 'id', 'email');
SELECT mc_watch('person', 'person', 'SELECT id FROM changed');
SELECT mc_watch('person', 'candidate', 'SELECT id FROM changed');
SELECT mc_add_source('person', 'person2', 'id', 'email');
SELECT mc_drop_source('person');
SELECT mc_add_source('try', 'candidate', 'lower(email)', 'email');
RESET ROLE;
CREATE INDEX ON crm.candidate (lower(email));
SET ROLE regress_source_admin;
SELECT mc_add_source('try', 'candidate', 'lower(email)', 'email');
SELECT mc_drop_source('try');

-- watching: the query of the keys (R33: a changed owner reaches all candidates)
SELECT mc_watch('candidate', 'owner', 'SELECT c.id FROM candidate c JOIN changed o ON c.owner_id = o.id');
SELECT mc_watch('candidate', 'owner', 'SELECT c.id, c.email FROM candidate c');
SELECT mc_watch('candidate', 'owner', 'SELECT c.nmae FROM candidate c');
SELECT mc_watch('candidate', 'owner', 'SELECT name FROM changed');
SELECT mc_watch('candidate', 'owner', 'SELECT id INTO x FROM changed');
SELECT mc_watch('candidate', 'owner', 'SELECT id FROM candidate FOR UPDATE');
SELECT mc_watch('candidate', 'owner', 'WITH x AS (DELETE FROM candidate RETURNING id) SELECT id FROM x');
SELECT mc_watch('candidate', 'owner', 'SELECT id FROM changed; SELECT 1');
SELECT mc_watch('candidate', 'owner', 'DELETE FROM changed');
SELECT mc_watch('candidate', 'owner', 'SELECT id FROM changed WHERE data IS NOT NULL');
SELECT mc_watch('candidate', 'owner', 'SELECT $1::integer');
SELECT mc_watch('candidate', 'secret', 'SELECT id FROM changed');
SELECT mc_watch('candidate', 'owner', 'SELECT id FROM secret');
SELECT mc_watch('candidate', 'owner', NULL);
SELECT watched FROM mc_source WHERE source = 'candidate';
RESET ROLE;
SELECT relation, keys_query, stored_columns, mapped_columns FROM mailchimp_sync.watch ORDER BY relation_id;
-- which columns of "changed" it reads, through joins, sub-selects, other names and whole rows
CREATE FUNCTION crm.columns(keys text) RETURNS text[] LANGUAGE sql AS $$
	SELECT ARRAY(SELECT unnest(columns) ORDER BY 1)
	FROM mailchimp_sync.analyse_keys('regress_source_admin', 'crm.owner', keys, 'integer', 'keys')
$$;
SELECT crm.columns('SELECT 1');
SELECT crm.columns('SELECT nr FROM changed o (nr, called)');
SELECT crm.columns('SELECT id FROM candidate WHERE owner_id IN (SELECT id FROM changed WHERE name <> '''')');
SELECT crm.columns('SELECT j.id FROM (candidate c JOIN changed USING (id)) j');
SELECT crm.columns('WITH x AS (SELECT * FROM changed) SELECT x.id FROM x WHERE name IS NULL');
SELECT crm.columns('SELECT length(to_jsonb(changed)::text) FROM changed');
SELECT crm.columns('WITH changed2 AS (SELECT 1 AS id) SELECT id FROM changed2 UNION SELECT length(name) FROM changed');
SELECT crm.columns('SELECT x.id FROM (WITH changed AS (SELECT 1 AS id) SELECT * FROM changed) x');

-- the owner may no longer read the watched relation: found when the query runs, too
SELECT mailchimp_sync.event_keys_query(relation_id) AS query FROM mailchimp_sync.watch WHERE relation = 'crm.owner'::regclass \gset
PREPARE keys(text[]) AS :query;
SET ROLE regress_source_admin;
EXECUTE keys('{"{\"id\": \"7\"}"}');
RESET ROLE;
REVOKE SELECT ON crm.owner FROM regress_source_admin;
SET ROLE regress_source_admin;
EXECUTE keys('{"{\"id\": \"7\"}"}');
RESET ROLE;
GRANT SELECT ON crm.owner TO regress_source_admin;
DEALLOCATE keys;

-- again = replace: the state is kept, the rest is as if new; rules of audiences are read again
TRUNCATE mailchimp_sync.event;
SELECT a.expr, a.columns FROM mailchimp_sync.source s, mailchimp_sync.analyse_rule(s.source_id, 'born < ''2010-01-01'' AND candidate.linked') a;
INSERT INTO mailchimp_sync.audience_source (audience_id, source_id, position, rule) SELECT 1, source_id, 1, 'born < ''2010-01-01''' FROM mailchimp_sync.source;
UPDATE mailchimp_sync.source SET state = 'stopped', detail = 'an expression fails', failures = 3;
SET ROLE regress_source_admin;
SELECT mc_add_source('candidate', 'candidate', 'id', 'email', '{"FNAME": "first_name"}');
RESET ROLE;
SELECT state, detail, failures, field_exprs, tags_expr FROM mailchimp_sync.source;
SELECT rule_expr FROM mailchimp_sync.audience_source;
SELECT relation, stored_columns, mapped_columns FROM mailchimp_sync.watch ORDER BY relation_id;
SELECT source_id, relation_id, contact_key FROM mailchimp_sync.event;
SET ROLE regress_source_admin;
SELECT mc_add_source('candidate', 'owner', 'id', 'email');
-- an owner or a relation that is gone
RESET ROLE;
BEGIN;
DROP TABLE crm.candidate CASCADE;
SELECT source, state, detail FROM mc_source;
ROLLBACK;

-- unwatch, drop: the triggers go too
SET ROLE regress_source_admin;
SELECT mc_unwatch('candidate', 'owner');
SELECT mc_unwatch('candidate', 'owner');
SELECT mc_unwatch('candidate', 'candidate');
RESET ROLE;
SELECT tgrelid::regclass, tgname FROM pg_trigger WHERE tgname LIKE 'mailchimp%' ORDER BY 1, 2;
SET ROLE regress_source_admin;
SELECT mc_drop_source('candidate');
RESET ROLE;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'mailchimp%';
SELECT (SELECT count(*) FROM mailchimp_sync.source), (SELECT count(*) FROM mailchimp_sync.watch),
	(SELECT count(*) FROM mailchimp_sync.event), (SELECT count(*) FROM mailchimp_sync.audience_source);

SET client_min_messages = warning;
DROP SCHEMA crm, other CASCADE;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_source_admin, regress_source_colleague, regress_source_reader, regress_source_nobody;
