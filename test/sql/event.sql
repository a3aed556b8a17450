-- Triggers on the tables of the CRM: what makes an event, and that nothing of it fails a write (N1, N5, N17).
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP SCHEMA IF EXISTS crm CASCADE;
DROP ROLE IF EXISTS regress_event_admin, regress_event_clerk;
CREATE ROLE regress_event_admin;
CREATE ROLE regress_event_clerk;
CREATE SERVER regress_event FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
SELECT mc_grant('regress_event_admin', 'admin', 'regress_event');
CREATE SCHEMA crm;
GRANT USAGE ON SCHEMA crm TO regress_event_admin, regress_event_clerk;
CREATE DOMAIN crm.filled AS text NOT NULL CHECK (VALUE <> '');
CREATE TABLE crm.owner (id integer PRIMARY KEY, name text, email text, kind crm.filled DEFAULT 'o');
CREATE TABLE crm.candidate (
	id integer PRIMARY KEY, junk integer, first_name text, email text, note text,
	owner_id integer REFERENCES crm.owner ON UPDATE CASCADE ON DELETE SET NULL, "odd ""'\ name" text, kind crm.filled DEFAULT 'c');
ALTER TABLE crm.candidate DROP COLUMN junk;
GRANT SELECT ON ALL TABLES IN SCHEMA crm TO regress_event_admin;
GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA crm TO regress_event_clerk;
SET ROLE regress_event_admin;
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{"FNAME": "first_name", "ODD": "\"odd \"\"''\\ name\"",
	"OWNERNAME": "(SELECT o.name FROM crm.owner o WHERE o.id = owner_id)"}');
SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id');
RESET ROLE;

-- shows the events since the last time, and the contacts that they mean
CREATE FUNCTION crm.events() RETURNS TABLE (relation text, old_row text, new_row text)
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
	WITH gone AS (DELETE FROM mailchimp_sync.event RETURNING *)
	SELECT w.relation::text, g.old_row::text, g.new_row::text
	FROM gone g LEFT JOIN mailchimp_sync.watch w USING (relation_id) ORDER BY g.event_id
$$;
CREATE FUNCTION crm.keys() RETURNS TABLE (contact_key text) LANGUAGE plpgsql AS $$
DECLARE
	_query	text;
	_rows	text[];
BEGIN
	FOR _query, _rows IN
		SELECT CASE WHEN w.keys_query IS NULL THEN mailchimp_sync.own_keys_query(w.source_id)
			ELSE mailchimp_sync.event_keys_query(w.relation_id) END,
			(SELECT array_agg(r.r::text) FROM mailchimp_sync.event e, unnest(ARRAY[e.old_row, e.new_row]) r(r)
				WHERE e.relation_id = w.relation_id AND r.r IS NOT NULL)
		FROM mailchimp_sync.watch w ORDER BY w.relation_id
	LOOP
		RETURN QUERY EXECUTE format('SELECT q.contact_key FROM (%s) q ORDER BY 1', _query) USING _rows;
	END LOOP;
	TRUNCATE mailchimp_sync.event;
END
$$;
SELECT count(*) FROM crm.events();
RESET client_min_messages;
SELECT tgrelid::regclass, tgname, regexp_replace(pg_get_triggerdef(oid), '^.*mailchimp_sync\.note_change', '') AS call
FROM pg_trigger WHERE tgname LIKE 'mailchimp%' ORDER BY 1, 2;

-- a clerk who has no rights in the extension works as before
SET ROLE regress_event_clerk;
INSERT INTO crm.owner VALUES (1, 'Olga'), (2, 'Otto');
INSERT INTO crm.candidate (id, first_name, email, owner_id) VALUES (1, 'Ann', 'a@x.nl', 1), (2, 'Ben', 'b@x.nl', 1), (3, 'Cas', 'c@x.nl', 2);
SELECT * FROM crm.events();
-- only what is mapped makes an event, and only for the rows that differ
UPDATE crm.candidate SET note = 'x';
UPDATE crm.candidate SET first_name = first_name, email = email || '';
SELECT * FROM crm.events();
UPDATE crm.candidate SET first_name = 'Bea' WHERE id >= 2 AND first_name <> 'Cas' OR id = 1 AND false;
UPDATE crm.candidate SET first_name = CASE WHEN id = 3 THEN 'Cis' ELSE first_name END;
UPDATE crm.candidate SET "odd ""'\ name" = 'o' WHERE id = 1;
UPDATE crm.candidate SET first_name = NULL WHERE id = 1;
UPDATE crm.candidate SET first_name = NULL WHERE id = 1;
SELECT * FROM crm.events();
-- a key that changes means both contacts
UPDATE crm.candidate SET id = id + 10;
DELETE FROM crm.candidate WHERE id = 13;
SELECT * FROM crm.events();
-- no rows, no event
UPDATE crm.candidate SET first_name = 'x' WHERE false;
DELETE FROM crm.candidate WHERE false;
INSERT INTO crm.candidate SELECT * FROM crm.candidate WHERE false;
SELECT * FROM crm.events();
-- a watched table: any column counts; a changed owner reaches all the candidates (R33)
UPDATE crm.owner SET name = 'Olga' WHERE id = 1;
UPDATE crm.owner SET name = 'Olga B.' WHERE id = 1;
UPDATE crm.candidate SET email = 'x' WHERE id = 12;
RESET ROLE;
SELECT * FROM crm.keys();
-- foreign keys that act
UPDATE crm.owner SET id = 5 WHERE id = 1;
DELETE FROM crm.owner WHERE id = 5;
SELECT * FROM crm.events();
-- other ways to write
INSERT INTO crm.candidate (id, first_name) VALUES (11, 'Eva'), (20, 'Fay')
	ON CONFLICT (id) DO UPDATE SET first_name = excluded.first_name;
MERGE INTO crm.candidate c USING (VALUES (11, 'Eve'), (12, NULL), (21, 'Gus')) AS n(id, name) ON n.id = c.id
	WHEN MATCHED AND n.name IS NULL THEN DELETE
	WHEN MATCHED THEN UPDATE SET first_name = n.name
	WHEN NOT MATCHED THEN INSERT (id, first_name) VALUES (n.id, n.name);
COPY crm.candidate (id, first_name) FROM STDIN;
30	Hal
31	Ida
\.
WITH gone AS (DELETE FROM crm.candidate WHERE id = 30 RETURNING *)
	INSERT INTO crm.candidate SELECT (gone).id + 100, (gone).first_name FROM gone;
SELECT * FROM crm.events();
-- the session's settings do not show in what is stored, nor does its path matter
SET search_path = crm, pg_temp;
SET datestyle = 'SQL, DMY';
SET extra_float_digits = -5;
SET bytea_output = escape;
SET intervalstyle = iso_8601;
CREATE FUNCTION crm.edit() RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = crm AS 'UPDATE candidate SET email = ''new'' WHERE id = 11';
CREATE TABLE crm.odd (f float8, d date, b bytea, i interval, j jsonb, n numeric[], c "char", PRIMARY KEY (f, d, b, i, j, n, c));
SET client_min_messages = warning;
SELECT public.mc_add_source('odd', 'odd', key => 'ROW(f, d, b, i, j, n, c)::text', email => '''x''');
RESET client_min_messages;
SELECT count(*) FROM crm.events();
INSERT INTO crm.odd VALUES (0.1::float8 + 0.2, '31-12-2020', '\x00ff', '1 day 02:00', '{"a": [1, "\""]}', '{1.50,NULL}', 'x');
SELECT crm.edit();
SELECT f, d, b, i FROM crm.odd;
SHOW datestyle;
SELECT old_row, new_row FROM mailchimp_sync.event;
RESET search_path; RESET datestyle; RESET extra_float_digits; RESET bytea_output; RESET intervalstyle;
SELECT * FROM crm.keys();
SELECT ROW(o.*)::text FROM crm.odd o;
SELECT mc_drop_source('odd');
-- ROLLBACK leaves nothing (N1), a savepoint neither
BEGIN;
INSERT INTO crm.candidate (id) VALUES (40);
ROLLBACK;
BEGIN;
SAVEPOINT s;
INSERT INTO crm.candidate (id) VALUES (40);
ROLLBACK TO s;
INSERT INTO crm.candidate (id) VALUES (41);
COMMIT;
SELECT * FROM crm.events();
-- TRUNCATE: nobody can say who
TRUNCATE crm.candidate;
SELECT * FROM crm.events();
-- long values that were not touched are not looked at, touched ones are
ALTER TABLE crm.candidate ALTER first_name SET STORAGE EXTERNAL;
INSERT INTO crm.candidate (id, first_name) VALUES (1, repeat('long', 5000));
UPDATE crm.candidate SET note = 'y';
UPDATE crm.candidate SET first_name = repeat('long', 5000);
SELECT * FROM crm.events();
UPDATE crm.candidate SET first_name = repeat('lang', 5000);
SELECT * FROM crm.events();
-- more rows than one insertion takes; a value that is too long to be stored
INSERT INTO crm.candidate (id, first_name) SELECT i, i FROM generate_series(2, 2501) i;
UPDATE crm.candidate SET first_name = 'x' WHERE id % 2 = 0;
SELECT count(*), min(new_row), max(new_row), count(old_row) FROM crm.events();
TRUNCATE crm.candidate;
SELECT count(*) FROM crm.events();
CREATE TABLE crm.wide (word text, email text);
SET client_min_messages = warning;
SELECT mc_add_source('wide', 'crm.wide', 'word', 'email');
RESET client_min_messages;
SELECT count(*) FROM crm.events();
INSERT INTO crm.wide SELECT repeat('x', n) FROM unnest('{500000,2000000}'::int[]) n;
SELECT relation, length(new_row) FROM crm.events();
SELECT mc_drop_source('wide');
-- a key made from the row as a whole, and one that is the same for all
CREATE FUNCTION crm.label(crm.owner) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT $1.id || $1.name';
SET client_min_messages = warning;
SELECT mc_add_source('whole', 'crm.owner', 'crm.label(whole)', 'email');
SELECT mc_add_source('one', 'crm.wide', '''the one''', 'email');
RESET client_min_messages;
SELECT count(*) FROM crm.events();
SELECT mc_watch('whole', 'crm.wide', 'SELECT w.b FROM changed AS w (a, b) JOIN changed ON changed.email = w.b');
SELECT count(*) FROM crm.events();
INSERT INTO crm.owner VALUES (8, 'Quin');
INSERT INTO crm.wide VALUES ('y', 'z');
SELECT * FROM crm.keys();
SELECT mc_drop_source('whole');
SELECT mc_drop_source('one');

-- a mapped column that is renamed or dropped, then the key: the write works, and every row counts
INSERT INTO crm.candidate (id, first_name) VALUES (1, 'Ann'), (2, 'Ben');
SELECT count(*) FROM crm.events();
ALTER TABLE crm.candidate RENAME first_name TO given_name;
UPDATE crm.candidate SET note = 'z';
SELECT * FROM crm.events();
ALTER TABLE crm.candidate DROP given_name;
UPDATE crm.candidate SET note = 'z' WHERE id = 1;
INSERT INTO crm.candidate (id) VALUES (3);
DELETE FROM crm.candidate WHERE id = 2;
SELECT * FROM crm.events();
ALTER TABLE crm.candidate RENAME id TO nr;
UPDATE crm.candidate SET note = 'zz';
INSERT INTO crm.candidate (nr) VALUES (4);
SELECT * FROM crm.events();
ALTER TABLE crm.candidate DROP nr;
UPDATE crm.candidate SET note = 'zzz';
DELETE FROM crm.candidate;
SELECT * FROM crm.events();
-- a type that changes: the column counts as before
ALTER TABLE crm.owner ALTER name TYPE varchar(20), ALTER id TYPE bigint;
INSERT INTO crm.owner VALUES (7, 'Pia');
UPDATE crm.owner SET name = 'Pim';
SELECT * FROM crm.events();
SELECT mc_drop_source('candidate');

-- partitions and inheritance: through the parent or directly, columns in another order too
CREATE TABLE crm.person (id integer, region text, email text) PARTITION BY LIST (region);
CREATE TABLE crm.person_nl PARTITION OF crm.person FOR VALUES IN ('nl');
CREATE TABLE crm.person_be (email text, region text, junk text, id integer);
ALTER TABLE crm.person_be DROP junk;
ALTER TABLE crm.person ATTACH PARTITION crm.person_be FOR VALUES IN ('be');
CREATE TABLE crm.animal (id integer, email text, kind text);
CREATE TABLE crm.dog (breed text) INHERITS (crm.animal);
SET client_min_messages = warning;
SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"REGION": "region"}');
SELECT mc_add_source('animal', 'crm.animal', 'id', 'email');
RESET client_min_messages;
SELECT count(*) FROM crm.events();
INSERT INTO crm.person VALUES (1, 'nl', 'a'), (2, 'be', 'b');
INSERT INTO crm.person_be (id, region, email) VALUES (3, 'be', 'c');
UPDATE crm.person_be SET email = 'd' WHERE id = 3;
SELECT * FROM crm.events();
UPDATE crm.person SET region = 'nl' WHERE id = 2;
SELECT * FROM crm.events();
INSERT INTO crm.dog VALUES (1, 'x', NULL, 'poodle');
UPDATE crm.animal SET email = 'y';
UPDATE crm.dog SET breed = 'pug', kind = 'dog';
TRUNCATE crm.person_nl;
SELECT * FROM crm.events();
-- a partition that was made later has them at once
CREATE TABLE crm.person_de PARTITION OF crm.person FOR VALUES IN ('de');
INSERT INTO crm.person_de VALUES (9, 'de', 'e');
SELECT * FROM crm.events();
-- nothing is made anew that is as it should be
SELECT mailchimp_sync.install_triggers(source_id) FROM mailchimp_sync.source WHERE source = 'person';
SELECT array_agg(oid || ':' || xmin ORDER BY oid) AS before FROM pg_trigger WHERE tgname LIKE 'mailchimp%' \gset
SELECT mailchimp_sync.install_triggers(source_id) FROM mailchimp_sync.source;
SELECT array_agg(oid || ':' || xmin ORDER BY oid) = :'before'::text[] AS untouched FROM pg_trigger WHERE tgname LIKE 'mailchimp%';
-- a column more: only these triggers
SELECT mailchimp_sync.map_columns(source_id, '{kind,id}') FROM mailchimp_sync.source WHERE source = 'animal';
SELECT mailchimp_sync.install_triggers(source_id) FROM mailchimp_sync.source WHERE source = 'animal';
SELECT relation, stored_columns, mapped_columns FROM mailchimp_sync.watch ORDER BY relation_id;
UPDATE crm.dog SET kind = 'puppy';
SELECT * FROM crm.events();
-- a source that watches its own table
SELECT mc_watch('animal', 'crm.animal', 'SELECT id + 1 FROM changed');
SELECT count(*) FROM crm.events();
INSERT INTO crm.animal VALUES (5, 'z');
SELECT * FROM crm.keys();

-- nobody else may call it, and it serves nothing else
SET ROLE regress_event_clerk;
SELECT mailchimp_sync.note_change();
CREATE TEMP TABLE mine (i integer);
CREATE TRIGGER mine AFTER INSERT ON mine EXECUTE FUNCTION mailchimp_sync.note_change(1, 1, 0, 0);
RESET ROLE;
CREATE TRIGGER mine BEFORE INSERT ON mine FOR EACH ROW EXECUTE FUNCTION mailchimp_sync.note_change(1, 1, 0, 0);
INSERT INTO mine VALUES (1);
DROP TABLE mine;

-- the triggers go with the extension, without CASCADE
SET client_min_messages = warning;
DROP SERVER regress_event;
DROP EXTENSION mailchimp_sync;
SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'mailchimp%';
INSERT INTO crm.animal VALUES (6, 'zz');
DROP SCHEMA crm CASCADE;
DROP ROLE regress_event_admin, regress_event_clerk;
