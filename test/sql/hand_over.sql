-- Before the extension goes, everything is handed over to ordinary tables (R97, R98, R113, D18): who may, what is refused, what
-- is said, and what is left when the extension is gone. Uninstalling with everything used: test/t/068_uninstall.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
DROP ROLE IF EXISTS regress_hand_boss, regress_hand_ann, regress_hand_one, regress_hand_pry;
CREATE ROLE regress_hand_boss SUPERUSER;
SET ROLE regress_hand_boss;
CREATE EXTENSION mailchimp_sync;
RESET ROLE;
CREATE ROLE regress_hand_ann;
CREATE ROLE regress_hand_one;
CREATE ROLE regress_hand_pry;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SCHEMA kept AUTHORIZATION regress_hand_ann;
CREATE SCHEMA "Others'";
CREATE TABLE person (id bigint PRIMARY KEY, email text);
INSERT INTO person VALUES (7, 'Ann@crm.test');
DO $$ BEGIN
	PERFORM mc_grant('regress_hand_ann', 'admin'), mc_grant('regress_hand_one', 'admin', 'mc_main');
	PERFORM mc_add_source('person', 'person', 'id', 'email');
END $$;
RESET client_min_messages;

-- ---- who may, and where ----
SET ROLE regress_hand_one;
SELECT mc_hand_over('kept');	-- fails: takes all connections
SET ROLE regress_hand_ann;
SELECT mc_hand_over('Others''');	-- fails
SELECT mc_hand_over('kpet');	-- fails
SELECT mc_hand_over(NULL);	-- fails
SELECT mc_hand_over('pg_catalog');	-- fails
SELECT mc_hand_over('mailchimp_sync');	-- fails
-- what is there is not overwritten
CREATE TABLE kept.mailchimp_report (mine text);
SELECT mc_hand_over('kept');	-- fails
DROP TABLE kept.mailchimp_report;
RESET ROLE;
-- nor is anything left out without a word, where the extension's owner does not see it
BEGIN;
ALTER ROLE regress_hand_boss NOSUPERUSER;
SET LOCAL ROLE regress_hand_ann;
SELECT mc_hand_over('kept');	-- fails
ROLLBACK;

-- ---- everything, whatever there is ----
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fill :tests '/sql/lib/fill.sql'
\set ECHO none
\i :fill
\set ECHO all
SELECT source_id AS source_id FROM mailchimp_sync.source \gset
SET LOCAL client_min_messages = warning;
SELECT pg_temp.fill(jsonb_build_object('source_id', :source_id, 'source', 'person', 'owner', current_user, 'role', current_user, 'relation', 'person',
	'audience_id', 9001, 'audience', 'people', 'connection', 'mc_main', 'list_id', 'l1', 'campaign_id', 9002, 'erasure_id', 9003, 'contact_key', '7',
	'email', 'ann@crm.test', 'email_hash', md5('ann@crm.test'), 'text', 'word', 'campaign.status', 'scheduled', 'campaign.scheduled_for', '2030-01-01 UTC',
	'contact.action', 'update', 'member.status', 'subscribed', 'member.inbound_at', '2026-01-01 UTC', 'signal.kind', 'unsubscribed', 'signal_switch.kind', 'unsubscribed'));
RESET client_min_messages;
-- what default privileges would give is taken back
ALTER DEFAULT PRIVILEGES FOR ROLE regress_hand_boss GRANT SELECT ON TABLES TO regress_hand_pry;
SET LOCAL ROLE regress_hand_ann;
SET LOCAL timezone = 'UTC';
-- R113: what is not synced is told; R98: so is that removal cannot be undone
SELECT * FROM mc_hand_over('kept');
RESET ROLE;
ALTER DEFAULT PRIVILEGES FOR ROLE regress_hand_boss REVOKE SELECT ON TABLES FROM regress_hand_pry;
-- a column of a view is a column of its table
SELECT k.name, a.attname FROM mailchimp_sync.kept_relations() k JOIN pg_attribute a ON a.attrelid = k.view AND a.attnum > 0
WHERE NOT EXISTS (SELECT FROM pg_attribute b WHERE b.attrelid = ('kept.' || k.name)::regclass AND b.attname = a.attname);
-- of the public views that show what was made or happened, none is forgotten
SELECT c.relname AS not_kept FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
JOIN pg_class c ON d.classid = 'pg_class'::regclass AND c.oid = d.objid
WHERE d.deptype = 'e' AND e.extname = 'mailchimp_sync' AND c.relkind = 'v' AND c.relname LIKE 'mc\_%'
	AND c.oid NOT IN (SELECT k.view FROM mailchimp_sync.kept_relations() k) ORDER BY 1;
-- D18, R97, R98: the extension goes, these stay, and nothing of it is needed to read them
SET LOCAL client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
RESET client_min_messages;
SET LOCAL ROLE regress_hand_ann;
SELECT c.relname, r.rolname AS owner, has_table_privilege('regress_hand_pry', c.oid, 'SELECT') AS pried, obj_description(c.oid, 'pg_class') ~ ' \(mailchimp_sync, .* UTC\)$' AS explained
FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.relnamespace = 'kept'::regnamespace AND c.relkind = 'r' ORDER BY 1;
SELECT col_description('kept.mailchimp_report'::regclass, attnum) FROM pg_attribute WHERE attrelid = 'kept.mailchimp_report'::regclass AND attname = 'open_rate';
SELECT audience, connection, list_name, sources, state FROM kept.mailchimp_audience;
SELECT audience, source, contact_key, email, state FROM kept.mailchimp_contact;
SELECT audience, email, source, contact_key, status FROM kept.mailchimp_member;
SELECT campaign_id, name, audience, status FROM kept.mailchimp_campaign;
SELECT campaign_id, source, contact_key, email, status FROM kept.mailchimp_recipient;
SELECT campaign_id, title, email, type FROM kept.mailchimp_activity;
SELECT source, contact_key, email, email_hash, origin FROM kept.mailchimp_opt_out;
SELECT owner = session_user AS owner, relation FROM kept.mailchimp_source;
RESET ROLE;
SELECT * FROM person;
-- and the extension can come back
CREATE EXTENSION mailchimp_sync;
SELECT count(*) FROM mc_campaign;
ROLLBACK;

DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE person;
DROP SCHEMA kept, "Others'";
DROP ROLE regress_hand_boss, regress_hand_ann, regress_hand_one, regress_hand_pry;
