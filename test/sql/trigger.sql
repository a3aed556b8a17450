-- Which triggers a source has: mc_alter_source, partitions, inheritance, what somebody did to them (N17).
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP SCHEMA IF EXISTS crm CASCADE;
DROP ROLE IF EXISTS regress_trigger_admin, regress_trigger_other, regress_trigger_marketer;
CREATE ROLE regress_trigger_admin;
CREATE ROLE regress_trigger_other;
CREATE ROLE regress_trigger_marketer;
CREATE SERVER regress_trigger FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
SELECT mc_grant('regress_trigger_' || g, replace(g, 'other', 'admin'), 'regress_trigger') FROM unnest('{admin,other,marketer}'::text[]) g;
CREATE SCHEMA crm;
GRANT USAGE ON SCHEMA crm TO regress_trigger_admin;
CREATE TABLE crm.owner (id integer PRIMARY KEY, name text);
CREATE TABLE crm.candidate (id integer PRIMARY KEY, email text, owner_id integer, note text);
CREATE VIEW crm.triggers AS
SELECT t.tgrelid::regclass::text AS relation, t.tgname, CASE WHEN t.tgtype & 1 = 1 THEN 'row' ELSE 'statement' END AS level,
	t.tgparentid <> 0 AS clone, t.tgenabled AS enabled,
	EXISTS (SELECT FROM pg_depend d WHERE d.objid = t.oid AND d.deptype = 'x') AS depends
FROM pg_trigger t WHERE t.tgname LIKE 'mailchimp%';
CREATE VIEW crm.summary AS
SELECT relation, level, clone, enabled, string_agg(right(tgname, 3), ' ' ORDER BY tgname) AS triggers
FROM crm.triggers GROUP BY relation, level, clone, enabled ORDER BY relation COLLATE "C", level, enabled;
GRANT SELECT ON ALL TABLES IN SCHEMA crm TO regress_trigger_admin;

SET ROLE regress_trigger_admin;
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email');
SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id');
RESET client_min_messages;
SELECT triggers, replica, state, detail FROM mc_source;
SELECT * FROM crm.summary;

-- what it takes, and from whom
SELECT mc_alter_source('candidat', '{}');
SELECT mc_alter_source('candidate', '[]');
SELECT mc_alter_source('candidate', NULL);
SELECT mc_alter_source('candidate', '{"trigger": "row"}');
SELECT mc_alter_source('candidate', '{"triggers": "rows"}');
SELECT mc_alter_source('candidate', '{"triggers": ["row"]}');
SELECT mc_alter_source('candidate', '{"replica": "yes"}');
SELECT mc_alter_source('candidate', '{"triggers": "statement", "replica": true}');
RESET ROLE;
SET ROLE regress_trigger_other;
SELECT mc_alter_source('candidate', '{"triggers": "row"}');
RESET ROLE;
SET ROLE regress_trigger_marketer;
SELECT mc_alter_source('candidate', '{"triggers": "row"}');
RESET ROLE;
SELECT triggers, replica FROM mc_source;

-- for rows and back: of all relations, replaced where they stand, so that readers need not wait
TRUNCATE mailchimp_sync.event;
BEGIN;
SET ROLE regress_trigger_admin;
SELECT mc_alter_source('candidate', '{"triggers": "row"}');
RESET ROLE;
SELECT * FROM crm.summary;
SELECT bool_and(depends) FROM crm.triggers;
SELECT DISTINCT mode FROM pg_locks WHERE relation IN ('crm.candidate'::regclass, 'crm.owner'::regclass) AND pid = pg_backend_pid()
	AND mode NOT LIKE 'Access%Share%' AND mode <> 'RowShareLock' ORDER BY 1;
SELECT mc_alter_source('candidate', '{"triggers": "statement"}');
SELECT * FROM crm.summary;
SELECT count(*) FROM pg_locks WHERE relation IN ('crm.candidate'::regclass, 'crm.owner'::regclass) AND mode = 'AccessExclusiveLock';
COMMIT;
-- what happened meanwhile may not have been noted
SELECT source_id, relation_id, contact_key FROM mailchimp_sync.event;
SELECT mc_alter_source('candidate', '{"replica": true}');
SELECT mc_alter_source('candidate', '{"triggers": null, "replica": true}');
SELECT triggers, replica FROM mc_source;
SELECT * FROM crm.summary;
SELECT mc_alter_source('candidate', '{"triggers": "statement"}');
-- defining it anew keeps the settings
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', '{"NOTE": "note"}');
SELECT triggers, replica FROM mc_source;
SELECT * FROM crm.summary;
-- nothing is made anew that is as it should be
SELECT array_agg(t.oid || ':' || t.xmin ORDER BY oid) AS before FROM pg_trigger t WHERE tgname LIKE 'mailchimp%' \gset
SELECT mc_alter_source('candidate', '{"replica": true}');
SELECT array_agg(t.oid || ':' || t.xmin ORDER BY oid) = :'before'::text[] AS untouched FROM pg_trigger t WHERE tgname LIKE 'mailchimp%';

-- what somebody did to them shows, and is put right
ALTER TABLE crm.candidate DISABLE TRIGGER ALL;
ALTER TABLE crm.candidate ENABLE TRIGGER ALL;	-- what pg_restore --disable-triggers does; they were ENABLE ALWAYS
SELECT state, detail FROM mc_source;
SELECT item, ok, detail FROM mc_status WHERE item LIKE 'source%';
SELECT mc_alter_source('candidate', '{}');
SELECT state, detail FROM mc_source;
SELECT mc_alter_source('candidate', '{"triggers": null, "replica": null}');
ALTER TABLE crm.owner DISABLE TRIGGER mailchimp_sync_2_upd;
SELECT state, detail FROM mc_source;
SELECT mc_alter_source('candidate', '{}');
DROP TRIGGER mailchimp_sync_2_upd ON crm.owner;
SELECT state, detail FROM mc_source;
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email');
SELECT state, detail FROM mc_source;
-- fired always is fired: that is nobody's fault
ALTER TABLE crm.owner ENABLE ALWAYS TRIGGER mailchimp_sync_2_upd;
SELECT state, detail FROM mc_source;
SELECT mc_drop_source('candidate');
SELECT count(*) FROM crm.triggers;

-- partitions: for rows, so that each that comes has them (of two levels, and one that was a table before)
CREATE TABLE crm.person (id integer, region text, born integer, email text) PARTITION BY LIST (region);
CREATE TABLE crm.person_nl PARTITION OF crm.person FOR VALUES IN ('nl');
CREATE TABLE crm.person_be PARTITION OF crm.person FOR VALUES IN ('be') PARTITION BY RANGE (born);
CREATE TABLE crm.person_be_old PARTITION OF crm.person_be FOR VALUES FROM (MINVALUE) TO (1970);
CREATE TABLE crm.person_de (email text, region text, born integer, id integer);
SET client_min_messages = warning;
SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"BORN": "born"}');
SELECT mc_add_source('german', 'crm.person_de', 'id', 'email');
RESET client_min_messages;
CREATE TABLE crm.person_be_new PARTITION OF crm.person_be FOR VALUES FROM (1970) TO (MAXVALUE);
ALTER TABLE crm.person ATTACH PARTITION crm.person_de FOR VALUES IN ('de');
SELECT * FROM crm.summary;
SELECT source, state, detail FROM mc_source ORDER BY 1;
-- a column more reaches the clones too
SELECT mc_add_source('person', 'crm.person', 'id', 'email', '{"BORN": "born", "REGION": "region"}');
SELECT DISTINCT regexp_replace(pg_get_triggerdef(oid), '^.*mailchimp_sync\.note_change', '') AS call FROM pg_trigger
	WHERE tgname LIKE 'mailchimp%upd' AND tgrelid::regclass::text LIKE 'crm.person%' ORDER BY 1;
SELECT mc_alter_source('person', '{"replica": true}');
SELECT relation, level, clone, enabled, count(*) FROM crm.triggers WHERE tgname NOT LIKE '%tru' GROUP BY 1, 2, 3, 4 ORDER BY 1, 2;
ALTER TABLE crm.person DETACH PARTITION crm.person_de;
SELECT * FROM crm.summary WHERE relation = 'crm.person_de';
-- for statements after all, and back
SELECT mc_alter_source('person', '{"triggers": "statement", "replica": false}');
SELECT * FROM crm.summary WHERE relation <> 'crm.person_de';
CREATE TABLE crm.person_fr PARTITION OF crm.person FOR VALUES IN ('fr');
SELECT source, state, detail FROM mc_source ORDER BY 1;
SELECT mc_alter_source('person', '{"triggers": "auto"}');
SELECT * FROM crm.summary WHERE relation <> 'crm.person_de';
SELECT bool_and(depends <> clone) FROM crm.triggers;
SELECT source, state, detail FROM mc_source ORDER BY 1;

-- inheritance: a child that came later is not noted, and that shows
CREATE TABLE crm.animal (id integer, email text);
SET client_min_messages = warning;
SELECT mc_add_source('animal', 'crm.animal', 'id', 'email');
RESET client_min_messages;
CREATE TABLE crm.dog (breed text) INHERITS (crm.animal);
CREATE TEMPORARY TABLE pet (name text) INHERITS (crm.animal);
SELECT state, detail FROM mc_source WHERE source = 'animal';
SELECT mc_alter_source('animal', '{}');
SELECT state, detail FROM mc_source WHERE source = 'animal';
SELECT * FROM crm.summary WHERE relation IN ('crm.animal', 'crm.dog', 'pet');
DROP TABLE pet;

-- a foreign member has no transition tables, so that triggers for statements would make writes fail
CREATE FOREIGN DATA WRAPPER regress_trigger_far;
CREATE SERVER regress_trigger_far FOREIGN DATA WRAPPER regress_trigger_far;
CREATE FOREIGN TABLE crm.person_far PARTITION OF crm.person FOR VALUES IN ('far') SERVER regress_trigger_far;
CREATE FOREIGN TABLE crm.whale () INHERITS (crm.animal) SERVER regress_trigger_far;
SELECT mc_alter_source('person', '{"triggers": "statement"}');
SELECT mc_alter_source('animal', '{"triggers": "statement"}');
SELECT state, detail FROM mc_source WHERE source = 'animal';
CREATE TABLE crm.fish (id integer, email text);
SET client_min_messages = warning;
SELECT mc_add_source('fish', 'crm.fish', 'id', 'email'), mc_alter_source('fish', '{"triggers": "statement"}');
RESET client_min_messages;
CREATE FOREIGN TABLE crm.shark () INHERITS (crm.fish) SERVER regress_trigger_far;
SELECT state, detail FROM mc_source WHERE source = 'fish';
SELECT mc_alter_source('fish', '{}');
SELECT mc_drop_source('fish');
SELECT mc_alter_source('animal', '{}');
SELECT * FROM crm.summary WHERE relation IN ('crm.animal', 'crm.dog', 'crm.whale', 'crm.person', 'crm.person_far');
SELECT source, state, detail FROM mc_source ORDER BY 1;

DROP FOREIGN TABLE crm.person_far, crm.whale, crm.shark;

-- what cannot be a source or be watched, and a view, of which only the tables can be watched
CREATE TEMPORARY TABLE mine (id integer, email text);
CREATE VIEW crm.everybody AS SELECT id, email FROM crm.person;
SELECT mc_add_source('mine', 'mine', 'id', 'email');
SELECT mc_watch('person', 'mine', 'SELECT id FROM changed');
SELECT mc_watch('person', 'crm.everybody', 'SELECT id FROM changed');
SELECT mc_add_source('view', 'crm.everybody', 'id', 'email');
SELECT mc_watch('view', 'crm.person', 'SELECT id FROM changed');
SELECT mc_add_source('view', 'crm.everybody', 'id', 'email');
SELECT state, detail FROM mc_source WHERE source = 'view';
SELECT mc_drop_source(source) FROM mc_source WHERE source <> 'person';

-- a watched relation that is gone shows, and is forgotten by the next definition
CREATE TABLE crm.region (name text);
SELECT mc_watch('person', 'crm.region', 'SELECT p.id FROM crm.person p JOIN changed c ON c.name = p.region');
DROP TABLE crm.region;
SELECT state, regexp_replace(detail, '[0-9]+', 'N') AS detail FROM mc_source;
SET client_min_messages = warning;
SELECT mc_add_source('person', 'crm.person', 'id', 'email');
SELECT state, detail, watched FROM mc_source;

-- a schema under another name is no reason for a write to fail
BEGIN;
ALTER SCHEMA mailchimp_sync RENAME TO elsewhere;
INSERT INTO crm.person VALUES (1, 'nl', 1970, 'a');
ROLLBACK;
-- nor is another one with its name, whose event is something else
BEGIN;
ALTER SCHEMA mailchimp_sync RENAME TO elsewhere;
CREATE SCHEMA mailchimp_sync
	CREATE VIEW event AS SELECT 1 AS source_id;
INSERT INTO crm.person VALUES (1, 'nl', 1970, 'a');
SELECT new_row FROM elsewhere.event WHERE new_row IS NOT NULL;
ROLLBACK;
-- lastval() is the writer's, whose rights are none of ours
BEGIN;
CREATE SEQUENCE crm.numbers START 42;
GRANT USAGE ON SCHEMA crm TO regress_trigger_other;
GRANT USAGE ON SEQUENCE crm.numbers TO regress_trigger_other;
GRANT INSERT ON crm.person TO regress_trigger_other;
SET LOCAL ROLE regress_trigger_other;
INSERT INTO crm.person VALUES (nextval('crm.numbers'), 'nl', 1970, 'a');
SELECT lastval();
RESET ROLE;
SELECT count(*) FROM mailchimp_sync.event WHERE new_row ->> 'id' = '42';
ROLLBACK;
-- arguments that do not fit together
BEGIN;
CREATE TRIGGER wrong AFTER INSERT ON crm.person FOR EACH ROW
	EXECUTE FUNCTION mailchimp_sync.note_change('1', '1', '3', '-1', 'id');
INSERT INTO crm.person VALUES (1, 'nl', 1970, 'a');
ROLLBACK;

DROP SERVER regress_trigger;
DROP EXTENSION mailchimp_sync;
SELECT count(*) FROM crm.triggers;
DROP SCHEMA crm CASCADE;
DROP FOREIGN DATA WRAPPER regress_trigger_far CASCADE;
DROP ROLE regress_trigger_admin, regress_trigger_other, regress_trigger_marketer;
