-- A person is exported and erased whole (N13): every table that has an address, a hash of one or a contact's key is filled, so
-- that one that is new has to be in both. Who may. With Mailchimp: test/t/038_erase.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP ROLE IF EXISTS regress_export_one, regress_export_max;
CREATE ROLE regress_export_one;
CREATE ROLE regress_export_max;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
CREATE TABLE person (id bigint PRIMARY KEY, email text);
INSERT INTO person VALUES (7, 'Ann@crm.test'), (8, 'ben@crm.test');
DO $$ BEGIN
	PERFORM mc_grant('regress_export_one', 'admin', 'mc_main'), mc_grant('regress_export_max', 'marketer');
	PERFORM mc_add_source('person', 'person', 'id', 'email');
END $$;
RESET client_min_messages;

-- ---- who may, and who is meant ----
SELECT mc_export_contact('nobody@crm.test') - 'exported_at' AS unknown;
SELECT mc_export_contact('person', 8) - 'exported_at', mc_export_contact('person', '8') - 'exported_at', mc_export_contact('person', NULL::int) AS nobody;
SELECT mc_export_contact(' ');	-- fails
SELECT mc_export_contact('persons', 8);	-- fails
SET ROLE regress_export_max;
SELECT mc_export_contact('ann@crm.test');	-- fails: takes an admin
RESET ROLE;

-- ---- everything, whatever there is (N13) ----
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fill :tests '/sql/lib/fill.sql'
\set ECHO none
\i :fill
\set ECHO all
SELECT source_id AS source_id FROM mailchimp_sync.source \gset
CREATE TEMP TABLE given AS SELECT jsonb_build_object('source_id', :source_id, 'source', 'person', 'owner', current_user, 'role', current_user, 'relation', 'person',
	'audience_id', 9001, 'audience', 'people', 'connection', 'mc_main', 'list_id', 'l1', 'campaign_id', 9002, 'erasure_id', 9003,
	'contact_key', '7', 'email', 'Ann@crm.test', 'email_hash', md5('ann@crm.test'), 'text', 'word', 'campaign.status', 'sent', 'campaign.from_email', 'boss@crm.test', 'list.from_email', 'boss@crm.test',
	'signal.kind', 'unsubscribed', 'signal_switch.kind', 'unsubscribed') AS g;
SET LOCAL client_min_messages = warning;
SELECT pg_temp.fill(g) FROM given;
RESET client_min_messages;
-- other people and another connection
SELECT pg_temp.fill(g || jsonb_build_object('contact_key', '8', 'email', 'ben@crm.test', 'email_hash', md5('ben@crm.test'), 'audience_id', 9011,
	'audience', 'others', 'connection', 'mc_other', 'campaign_id', 9012, 'erasure_id', 9013, 'text', 'other')) FROM given;
-- the tables that have anything of a person, by the names of columns
CREATE TEMP VIEW personal AS
SELECT c.oid::regclass AS relation, c.relname::text AS name FROM pg_class c
WHERE c.relnamespace = 'mailchimp_sync'::regnamespace AND c.relkind = 'r' AND EXISTS (SELECT FROM pg_attribute a
	WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.atttypid IN ('text'::regtype, 'text[]'::regtype)
		AND a.attname ~ '(^|_)(e?mails?|address(es)?)$|hash(es)?$|_keys?$' AND a.attname NOT IN ('sub_key', 'into_key'));
CREATE TEMP TABLE shown AS SELECT mc_export_contact('ann@crm.test') - 'exported_at' AS by_address,
	mc_export_contact('person', 7) - 'exported_at' AS by_contact;
SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") AS sections FROM shown, jsonb_object_keys(by_address) AS key;
SELECT by_address - 'email' = by_contact - 'source' - 'contact_key' AS same,
	by_address::text ~ ('ben@|"contact_key": "8"|mc_other|' || md5('ben@crm.test')) AS of_others FROM shown;
SELECT c ->> 'connection' AS connection, c ->> 'list' AS list, c ->> 'audience' AS audience, c ->> 'source' AS source, c ->> 'email' AS email,
	by_address #>> '{campaigns,0,campaign}' AS campaign FROM shown, jsonb_extract_path(by_address, 'contacts', '0') AS c;
SELECT mc_export_contact('boss@crm.test') -> 'sender_of' -> 0 ->> 'from_email' AS sender;
-- a table without which the document would be the same is not in it
CREATE FUNCTION pg_temp.changes_the_export(_table regclass) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	_same	boolean;
BEGIN
	EXECUTE format('DELETE FROM %s', _table);
	_same := (SELECT s.by_address = mc_export_contact('ann@crm.test') - 'exported_at' FROM shown s);
	RAISE division_by_zero USING MESSAGE = _same;
EXCEPTION WHEN division_by_zero THEN
	RETURN NOT SQLERRM::boolean;
END
$$;
SELECT name AS not_exported FROM personal WHERE NOT pg_temp.changes_the_export(relation) ORDER BY 1;

-- a member that came into a row of the CRM, which is no contact and has another address by now: found either way
SAVEPOINT imported;
DELETE FROM mailchimp_sync.contact WHERE contact_key = '7';
UPDATE person SET email = 'new@crm.test' WHERE id = 7;
SELECT mc_export_contact('ann@crm.test') #>> '{by_hand,0,contact_key}' AS its_row, mc_export_contact('person', 7) #>> '{members,0,email}' AS its_member;
ROLLBACK TO imported;

-- who is no admin of a connection does not get its rows, and is told
SET LOCAL ROLE regress_export_one;
SELECT mc_export_contact('ann@crm.test') -> 'complete' AS all_of_mc_main;
SELECT mc_export_contact('boss@crm.test') #>> '{sender_of,0,campaign_id}' AS of_mc_main;
SET LOCAL client_min_messages = error;
SELECT mc_export_contact('ben@crm.test') - 'exported_at' - 'erasures' - 'opt_out_history' - 'opt_outs' - 'unread_changes' AS nothing_of_mc_other;
RESET client_min_messages;
RESET ROLE;

-- ---- erased: the address is nowhere, its hash only where it keeps the person out ----
-- what is under way is waited for (test/t/038_erase.pl)
DELETE FROM mailchimp_sync.inflight;
DELETE FROM mailchimp_sync.batch;
SELECT mc_erase_contact('ann@crm.test');
UPDATE mailchimp_sync.erasure_list SET state = 'erased';
SELECT mailchimp_sync.erase_clean();
SELECT detail, done_at IS NOT NULL AS done FROM mailchimp_sync.erasure WHERE email_hash = md5('ann@crm.test');
SELECT p.name, string_agg(DISTINCT w.what, ', ' ORDER BY w.what) AS has FROM personal p
CROSS JOIN LATERAL query_to_xml(format('SELECT t::text AS line FROM %s t', p.relation), true, false, '') AS x
CROSS JOIN LATERAL (VALUES ('address', 'ann@crm\.test'), ('hash', md5('ann@crm.test')), ('key', '[,{]7[,}]')) AS w(what, pattern)
WHERE x::text ~* w.pattern GROUP BY p.name ORDER BY 1;
SELECT only_addresses FROM mailchimp_sync.connection WHERE connection = 'mc_main';
SELECT string_agg(key, ' ' ORDER BY key COLLATE "C") AS sections,
	(SELECT string_agg(concat_ws(' ', o ->> 'origin', o ->> 'email_hash', o ->> 'contact_key', o ->> 'email'), ', ' ORDER BY o::text)
		FROM jsonb_array_elements(x -> 'opt_outs') o) AS opt_outs
FROM mc_export_contact('ann@crm.test') x, jsonb_object_keys(x) AS key GROUP BY x;
SELECT mc_export_contact('ben@crm.test') ?& '{contacts,members,campaigns,activities,signals,test_mails}' AS others_are_left;
ROLLBACK;

DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE person;
DROP ROLE regress_export_one, regress_export_max;
