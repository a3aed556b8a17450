-- Copies, previews and checks of campaigns, as far as no request is needed. The rest is in test/t/037_campaign_check.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_mia;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
DO $$ BEGIN
	PERFORM mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_mia', 'marketer', 'mc_main');
END $$;
-- what mc_refresh would have fetched
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, fetched_at) VALUES
	('mc_main', 11, 'Newsletter', true, now()), ('mc_main', 12, 'Invitation', true, now());
INSERT INTO mailchimp_sync.merge_field (connection, list_id, tag, merge_id, name, type, default_value, fetched_at, changed_at) VALUES
	('mc_main', 'l1', 'FNAME', 1, 'First Name', 'text', 'friend', now(), now()), ('mc_main', 'l1', 'LNAME', 2, 'Last Name', 'text', NULL, now(), now()),
	('mc_main', 'l1', 'ADDRESS', 3, 'Address', 'address', NULL, now(), now()), ('mc_main', 'l1', 'SCORE', 5, 'Score', 'number', NULL, now(), now());
INSERT INTO mailchimp_sync.domain (connection, domain, verified, authenticated, fetched_at) VALUES
	('mc_main', 'example.org', true, true, now());
CREATE TABLE candidate (id int PRIMARY KEY, email text, first_name text, score numeric, linked boolean DEFAULT true);
INSERT INTO candidate SELECT i, 'p' || i || '@example.org', 'P' || i, i FROM generate_series(1, 8) i;
UPDATE candidate SET email = NULL WHERE id = 2;
UPDATE candidate SET linked = false WHERE id = 3;
CREATE TABLE client (id int PRIMARY KEY, email text);
INSERT INTO client VALUES (1, 'c1@example.org');
ALTER TABLE candidate OWNER TO regress_mc_ada;
ALTER TABLE client OWNER TO regress_mc_ada;
SET ROLE regress_mc_ada;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email', '{"FNAME": "first_name", "SCORE": "1 / score"}', linked => 'linked');
	PERFORM mc_add_source('client', 'client', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
	PERFORM mc_add_audience_source('customers', 'client');
END $$;
RESET client_min_messages;

-- ---- a copy: the same settings and the same selection, decided anew; a draft that can be used at once (R21, R110)
SET ROLE regress_mc_mia;
SELECT mc_create_campaign('Spring', 'customers', 'Newsletter', '*|OWNERNAME|*', 'mia@example.org') AS a \gset
SELECT mc_add_recipients(:a, 'candidate', '{1,2,3,4,5}'), mc_add_recipients(:a, 'client', '{1}');
SELECT mc_opt_out('candidate', 4);
RESET ROLE;
UPDATE candidate SET email = 'p2@example.org' WHERE id = 2;
DELETE FROM candidate WHERE id = 5;
SET ROLE regress_mc_mia;
SELECT mc_copy_campaign(:a) AS b \gset
SELECT campaign_id, name, audience, list_id, template_id, from_name, from_email, subject, status, recipients, skipped, origin, edit_url, last_error
FROM mc_campaign ORDER BY 1;
SELECT campaign_id, source, contact_key, email, status, skip_reason, detail FROM mc_campaign_recipient ORDER BY 1, 2, 3;
-- nothing of ours at Mailchimp bears the same mark
RESET ROLE;
SELECT count(DISTINCT marker) FROM mailchimp_sync.campaign;
SET ROLE regress_mc_mia;
-- the subject follows the copy's name (D7), one of its own is copied
SELECT mc_alter_campaign(:b, '{"name": "Summer"}');
SELECT mc_alter_campaign(:a, '{"subject": "Hello *|FNAME|*"}');
SELECT mc_copy_campaign(:a) AS d \gset
SELECT mc_alter_campaign(:d, '{"name": "Autumn"}');
SELECT name, subject FROM mc_campaign ORDER BY campaign_id;
-- from any state
SELECT mc_cancel_campaign(:a), mc_delete_campaign(:b);
SELECT status FROM mc_campaign WHERE campaign_id IN (:a, :b) ORDER BY 1;
SELECT mc_copy_campaign(:a), mc_copy_campaign(:b);
SELECT status, recipients, skipped FROM mc_campaign WHERE campaign_id > :d;
SELECT mc_copy_campaign(99);	-- fails
SELECT mc_copy_campaign(NULL);	-- fails
-- ---- a contact's view of subject and sender's name (R24, R33, R109): what the mapping gives now, the field's default where that
-- is empty; what a value brings in is no tag; all other tags stay, and those that Mailchimp will not know are named
SELECT mc_create_campaign('Hello *|FNAME|* *|LNAME|*(*|MERGE1|*, *|MERGE0|*)', 'customers', 'Newsletter', '*|SCORE|* of *|DATE:Y|*', 'mia@example.org') AS p \gset
SELECT mc_add_recipients(:p, 'candidate', '{1,3,6}');
RESET ROLE;
UPDATE candidate SET first_name = 'Newest *|EMAIL|* \1 & $1' WHERE id = 1;
UPDATE candidate SET first_name = '' WHERE id = 6;
UPDATE candidate SET email = 'P1@example.org ' WHERE id = 7;
INSERT INTO candidate VALUES (20, 'p20@example.org', 'Zero', 0);
SET ROLE regress_mc_mia;
SELECT * FROM mc_preview_campaign(:p, 'candidate', 1);
SELECT * FROM mc_preview_campaign(:p, 'candidate', ' 6');
-- would it get the mail? as it is now, whether it was selected or not
SELECT contact_key, subject, status, skip_reason, v.detail FROM unnest(ARRAY[1, 3, 4, 7, 20, 99]) AS contact_key,
	mc_preview_campaign(:p, 'candidate', contact_key) v;
SELECT mc_add_recipients(:p, 'candidate', '{7}');
SELECT status, skip_reason, detail FROM mc_preview_campaign(:p, 'candidate', 7);
SELECT count(*) FROM mc_preview_campaign(:p, 'candidate', NULL::int);
SELECT mc_alter_campaign(:p, '{"subject": "*|FNAM|* *|ADDRESS|* *|IF:LNAME|*x*|END:IF|* *|LNAME|*|* *|UNSUB|* *||* *|FNAM|* *|OWNER|*", "from_name": "*|FNAM|*"}');
SELECT subject, from_name, not_rendered, unknown_tags FROM mc_preview_campaign(:p, 'candidate', 1);
SELECT mc_preview_campaign(99, 'candidate', 1);	-- fails
SELECT mc_preview_campaign(:p, 'candidat', 1);	-- fails
SELECT mc_preview_campaign(:p, 'candidate', 'x');	-- fails

-- ---- everything that bears upon a campaign, with what to do (R34, R35, R109)
SELECT * FROM mc_check_campaign(:p);
SELECT mc_create_campaign('Empty', 'customers') AS q \gset
SELECT * FROM mc_check_campaign(:q);
SELECT * FROM mc_check_campaign(:a);	-- canceled
SELECT * FROM mc_check_campaign(:b);	-- deleted
-- what to do about items of Mailchimp's checklist; its words for them are not documented, so they are told by what they speak of
RESET ROLE;
SELECT w.words, mailchimp_sync.checklist_advice(c, w.words) AS advice FROM mailchimp_sync.campaign c, unnest(ARRAY[
	'Unsubscribe Link: Your campaign needs one', 'Reply-To Address: The domain of mia@example.com is not verified', 'Reply-To Address: missing',
	'From Name: missing', 'Subject Line: missing', 'Content: The template is incomplete', 'Recipients: Your recipients are not ready yet',
	'List: The segment of this campaign was deleted', 'Tracking: off']) WITH ORDINALITY AS w(words, position)
WHERE c.campaign_id = :q ORDER BY w.position;
-- what stands in the way
SET ROLE regress_mc_ada;
SELECT mc_pause('mc_main', 'customers');
SELECT mc_alter_connection('mc_main', '{"only_addresses": ["p1@example.org"]}');
SET ROLE regress_mc_mia;
SELECT * FROM mc_check_campaign(:q) WHERE heading ~ 'paused|connection';
SET ROLE regress_mc_ada;
SELECT mc_pause('mc_main');
SELECT mc_resume(audience => 'customers'), mc_alter_connection('mc_main', '{"only_addresses": null}');
SET ROLE regress_mc_mia;
SELECT * FROM mc_check_campaign(:q) WHERE heading ~ 'paused|connection';
RESET ROLE;
SET mailchimp_sync.send = off;
SET ROLE regress_mc_mia;
SELECT * FROM mc_check_campaign(:q) WHERE heading ~ 'Mailchimp';
RESET ROLE;
RESET mailchimp_sync.send;

-- ---- copies where something is missing
-- a source that is gone: its contacts are skipped; one that cannot be read is an error
RESET ROLE;
SET client_min_messages = warning;
SET ROLE regress_mc_ada;
SELECT mc_drop_source('client');
RESET client_min_messages;
SET ROLE regress_mc_mia;
SELECT mc_copy_campaign(:d) AS e \gset
SELECT source, contact_key, status, skip_reason, detail FROM mc_campaign_recipient WHERE campaign_id = :e AND source IS NULL;
RESET ROLE;
ALTER TABLE candidate RENAME COLUMN linked TO is_linked;
SET ROLE regress_mc_mia;
SELECT mc_copy_campaign(:d);	-- fails
RESET ROLE;
ALTER TABLE candidate RENAME COLUMN is_linked TO linked;
-- another audience of the list takes it over; without one nobody could get it
SET ROLE regress_mc_ada;
SELECT mc_drop_audience('customers');
SET ROLE regress_mc_mia;
SELECT mc_copy_campaign(:d);	-- fails
SET ROLE regress_mc_ada;
SELECT mc_create_audience('again', 'mc_main', 'l1', 'candidate');
SET ROLE regress_mc_mia;
SELECT mc_copy_campaign(:d) AS f \gset
SELECT audience, name FROM mc_campaign WHERE campaign_id = :f;

RESET ROLE;
SET client_min_messages = warning;
DROP TABLE candidate, client;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_ada, regress_mc_mia;
