-- Several sources in one audience as far as no request is needed: adding, replacing and dropping them, who may, rules of
-- their own (R1, R56, R111, D13, D19, D21), and contacts by hand (R77). With Mailchimp: test/t/042_sources.pl, 043_hand.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP ROLE IF EXISTS regress_sources_ann, regress_sources_bob, regress_sources_mia, regress_sources_rita;
CREATE ROLE regress_sources_ann;
CREATE ROLE regress_sources_bob;
CREATE ROLE regress_sources_mia;
CREATE ROLE regress_sources_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
DO $$ BEGIN
	PERFORM mc_grant('regress_sources_ann', 'admin'), mc_grant('regress_sources_bob', 'admin', 'mc_main'),
		mc_grant('regress_sources_mia', 'marketer', 'mc_main'), mc_grant('regress_sources_rita', 'reader', 'mc_main');
END $$;
-- what mc_refresh would have fetched
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES
	('mc_main', 'l1', 'Customers', now()), ('mc_main', 'l2', 'Training', now()), ('mc_other', 'l3', 'Others', now());
CREATE TABLE client (id bigint PRIMARY KEY, email text, active boolean DEFAULT true);
CREATE TABLE contact (code text PRIMARY KEY, email text, active boolean DEFAULT true);
INSERT INTO client VALUES (9, 'same@crm.test', true), (10, 'same@crm.test', true), (11, 'client@crm.test', true), (12, 'client12@crm.test', false);
INSERT INTO contact VALUES ('a', 'same@crm.test'), ('b', 'contact@crm.test'), ('c', 'client12@crm.test');
ALTER TABLE client OWNER TO regress_sources_ann;
ALTER TABLE contact OWNER TO regress_sources_ann;
SET ROLE regress_sources_ann;
DO $$ BEGIN
	PERFORM mc_add_source('client', 'client', 'id', 'email');
	PERFORM mc_add_source('contact', 'contact', 'code', 'email');
	PERFORM mc_create_audience('people', 'mc_main', 'Customers');
END $$;
RESET client_min_messages;

-- made without a source; sources come later
SELECT mc_sync_audience('people');	-- fails
SELECT * FROM mc_preview('people');
SELECT mc_alter_audience('people', '{"rule": "active"}');	-- fails
SELECT mc_add_audience_source('people', 'client', 'active AND nonsense');	-- fails
SELECT mc_add_audience_source('people', 'nobody');	-- fails
SELECT mc_add_audience_source('nobody', 'client');	-- fails
SELECT mc_add_audience_source('people', NULL);	-- fails
SELECT mc_add_audience_source('people', 'client', 'active');
SELECT mc_add_audience_source('people', 'contact');
SELECT sources, state FROM mc_audience;
SELECT action, source, contact_key, email, reason FROM mc_preview('people');

-- again replaces the rule and keeps the place; without one it takes all
SELECT mc_add_audience_source('people', 'client');
SELECT sources FROM mc_audience;
SELECT source, contact_key FROM mc_preview('people') WHERE email = 'client12@crm.test' AND action = 'subscribe';
SELECT mc_add_audience_source('people', 'client', 'active');
SELECT mc_alter_audience('people', '{"rule": "active"}');	-- fails: of which?

-- who may: an admin of the connection, for rules that run as the source's owner a member of that role
SET ROLE regress_sources_mia;
SELECT mc_add_audience_source('people', 'client');	-- fails
SELECT mc_drop_audience_source('people', 'client');	-- fails
SET ROLE regress_sources_bob;
SELECT mc_add_audience_source('people', 'client', 'true');	-- fails
RESET ROLE;

-- by hand, of each source on its own (R77)
SET ROLE regress_sources_rita;
SELECT mc_add_member('people', 'client', 12);	-- fails
SET ROLE regress_sources_mia;
SELECT mc_add_member('people', 'client', 13);	-- fails: there is none
SELECT mc_add_member('people', 'contact', 12);	-- fails: nor of that source
SELECT mc_add_member('people', 'client', ' 12'), mc_remove_member('people', 'contact', 'b'), mc_remove_member('people', 'contact', 'gone');
SELECT action, source, contact_key, email, reason FROM mc_preview('people') WHERE email ~ '^(client12|contact)';
SELECT mc_release_member('people', 'client', 12), mc_release_member('people', 'contact', 'b'), mc_release_member('people', 'contact', NULL);
SELECT mc_sync_member('client', 9), mc_sync_member('client', NULL);	-- not switched on
SELECT mc_sync_audience('people');
SELECT mc_sync_member('client', 9), mc_sync_member('client', 9999);
RESET ROLE;

-- of several audiences those count that the caller may see
SET ROLE regress_sources_ann;
SELECT mc_create_audience('others', 'mc_other', 'Others', 'client');
SELECT mc_sync_audience('others');
SELECT mc_sync_member('client', 9) AS two;
-- a source may have any name
SELECT mc_add_source('k', 'client', 'id', 'email');
SELECT mc_add_audience_source('others', 'k', 'false');
SELECT mc_add_member('others', 'k', 12);
SELECT mc_add_member('others', 'k', 13);	-- fails
SELECT mc_drop_source('k');
SET ROLE regress_sources_mia;
SELECT mc_sync_member('client', 9) AS one;

-- nothing is sent without a key, but the states are there (mc_run's notices depend on the machine)
SET client_min_messages = warning;
CALL mc_run();
SELECT source, contact_key, email, state, detail FROM mc_contact_state WHERE audience = 'people' ORDER BY source, contact_key;
SELECT * FROM mc_audience_status WHERE audience = 'people';

-- dropping: its contacts go, and who is next in line takes over
SET ROLE regress_sources_ann;
SELECT mc_drop_audience_source('people', 'nobody');	-- fails
SELECT mc_drop_audience_source('others', 'contact');	-- fails
SELECT mc_drop_audience_source('people', 'client');
SELECT sources FROM mc_audience WHERE audience = 'people';
CALL mc_run();
SELECT source, contact_key, email, state, detail FROM mc_contact_state WHERE audience = 'people' ORDER BY source, contact_key;
-- back again it is the last
SELECT mc_add_audience_source('people', 'client', 'active');
SELECT sources FROM mc_audience WHERE audience = 'people';
CALL mc_run();
SELECT source, contact_key, email, state, detail FROM mc_contact_state WHERE audience = 'people' ORDER BY source, contact_key;
SELECT mc_drop_source('contact');
CALL mc_run();
SELECT source, contact_key, email, state, detail FROM mc_contact_state WHERE audience = 'people' ORDER BY source, contact_key;
SELECT mc_drop_source('client');
SELECT audience, sources FROM mc_audience ORDER BY 1;
SELECT count(*) FROM mc_contact_state;
CALL mc_run();
SELECT mc_sync_audience('people');	-- fails

-- what is said while a comparison is under way counts for all of it (R111): after the first thousand
RESET ROLE;
CREATE TABLE many AS SELECT i AS id, format('m%s@crm.test', i) AS email FROM generate_series(1, 1500) i;
ALTER TABLE many ADD PRIMARY KEY (id);
ALTER TABLE many OWNER TO regress_sources_ann;
SET ROLE regress_sources_ann;
SELECT mc_add_source('many', 'many', '''k'' || id', 'email');
SELECT mc_add_audience_source('others', 'many', 'id > 100');
RESET ROLE;
SELECT mailchimp_sync.compare();
SELECT contacts, pending, outside FROM mc_audience_status WHERE audience = 'others';
SET ROLE regress_sources_ann;
SELECT mc_alter_audience('others', '{"rule": "id <= 50"}');
CALL mc_run();
SELECT contacts, pending, outside FROM mc_audience_status WHERE audience = 'others';
SELECT mc_add_audience_source('others', 'many');
RESET ROLE;
SELECT mailchimp_sync.compare();
SET ROLE regress_sources_ann;
SELECT mc_add_source('many', 'many', 'id', 'email');
CALL mc_run();
SELECT contacts, pending, outside FROM mc_audience_status WHERE audience = 'others';
SELECT state, detail FROM mc_source WHERE source = 'many';
SELECT mc_sync_audience('others');
RESET ROLE;
SELECT mailchimp_sync.compare();
SET ROLE regress_sources_ann;
SELECT mc_drop_audience_source('others', 'many');
CALL mc_run();
SELECT contacts FROM mc_audience_status WHERE audience = 'others';
SELECT mc_add_audience_source('others', 'many', 'id <= 3');
CALL mc_run();
SELECT contacts, pending FROM mc_audience_status WHERE audience = 'others';
RESET ROLE;

SET client_min_messages = warning;
DROP TABLE client, contact, many;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_sources_ann, regress_sources_bob, regress_sources_mia, regress_sources_rita;
