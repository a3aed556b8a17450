-- Campaigns as far as no request is needed: drafts, recipients with the reasons for skipping, states and refusals
-- (R19-R25, R29, R30, R36, R48, R110, D5, D7, D8, D13, N2). The way to Mailchimp is in test/t/032_campaign.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_mia;
CREATE ROLE regress_mc_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
DO $$ BEGIN
	PERFORM mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_mia', 'marketer', 'mc_main'),
		mc_grant('regress_mc_rita', 'reader');
END $$;
-- what mc_refresh would have fetched
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now()),
	('mc_main', 'l2', 'Training', now()), ('mc_other', 'l3', 'Others', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, fetched_at) VALUES
	('mc_main', 11, 'Newsletter', true, now()), ('mc_main', 12, 'Invitation', true, now()),
	('mc_main', 13, 'Invitation', true, now()), ('mc_main', 14, 'Old', false, now());
INSERT INTO mailchimp_sync.domain (connection, domain, verified, authenticated, fetched_at) VALUES
	('mc_main', 'example.org', true, true, now()), ('mc_main', 'example.net', true, false, now());
CREATE TABLE candidate (id int PRIMARY KEY, email text, linked boolean DEFAULT true, opted_out boolean DEFAULT false);
INSERT INTO candidate (id, email) SELECT i, 'p' || i || '@example.org' FROM generate_series(1, 12) i;
ALTER TABLE candidate OWNER TO regress_mc_ada;
SET ROLE regress_mc_ada;
DO $$ BEGIN
	-- raises for contact 12
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'CASE WHEN 1 / (12 - id) < 2 THEN email END', linked => 'linked',
		opt_out => 'opted_out');
	PERFORM mc_add_source('stranger', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
END $$;
RESET ROLE;
RESET client_min_messages;

-- a draft: nothing but a name and an audience is needed (R110), it can be worked with at once (R21)
SET ROLE regress_mc_mia;
SELECT mc_create_campaign('Spring', 'customers') AS c \gset
SELECT name, audience, status, template_id, from_name, from_email, subject, recipients, skipped, edit_url, last_error
FROM mc_campaign;
SELECT mc_create_campaign('', 'customers');			-- fails
SELECT mc_create_campaign('Spring', 'customer');	-- fails
SELECT mc_create_campaign('Spring', 'customers', 'News');			-- fails: the nearest is named
SELECT mc_create_campaign('Spring', 'customers', 'Old');			-- fails: it was deleted at Mailchimp
SELECT mc_create_campaign('Spring', 'customers', 'Invitation');	-- fails: there are two
SELECT mc_create_campaign('Spring', 'customers', from_email => 'mia');	-- fails (R23)
SELECT mc_prepare_campaign(:c);	-- fails with all that is missing

-- changed until it is prepared, what belongs to a mailing and nothing else (R19, R110); the subject is the name unless it is given (R22, D7), merge tags go through (R24)
SELECT mc_alter_campaign(:c, '{"template": "13", "from_name": "*|OWNERNAME|*", "from_email": "mia@example.org"}');
SELECT template_id, from_name, from_email, subject FROM mc_campaign;
SELECT mc_alter_campaign(:c, '{"name": "Summer", "template": "Newsletter", "subject": "Hello *|FNAME|*"}');
SELECT name, template_id, subject FROM mc_campaign;
SELECT mc_alter_campaign(:c, '{"subject": null}');
SELECT subject FROM mc_campaign;
SELECT mc_alter_campaign(:c, '{"templat": "Newsletter"}');	-- fails
SELECT mc_alter_campaign(:c, '[]');	-- fails
SELECT mc_alter_campaign(:c, '{"name": " "}');	-- fails
SELECT mc_alter_campaign(99, '{"name": "x"}');	-- fails

-- recipients: everybody is a row, those who will not get it with the reason (R20, R29, R30, D8, D13)
RESET ROLE;
UPDATE candidate SET email = NULL WHERE id = 2;
UPDATE candidate SET email = 'p3@nowhere' WHERE id = 3;
UPDATE candidate SET linked = false WHERE id = 4;
UPDATE candidate SET opted_out = true WHERE id = 5;
UPDATE candidate SET email = ' P1@Example.org' WHERE id = 6;
SET ROLE regress_mc_mia;
SELECT mc_opt_out('candidate', 7), mc_opt_out_email('P8@example.org');
SELECT mc_add_recipients(:c, 'candidate', (SELECT array_agg(i) FROM generate_series(1, 13) i));
SELECT contact_key, email, status, skip_reason, detail FROM mc_campaign_recipient ORDER BY contact_key::int;
SELECT recipients, skipped FROM mc_campaign;
SELECT mc_add_recipients(:c, 'candidate', '{1,2}');	-- again; how many of these will get it
SELECT mc_add_recipients(:c, 'candidate', ARRAY['9', NULL]);
SELECT mc_add_recipients(:c, 'candidate', NULL::int[]), mc_add_recipients(:c, 'candidate', '{}');
SELECT mc_add_recipients(:c, 'candidate', '{x}');	-- fails
SELECT mc_add_recipients(:c, 'candidat', '{1}');	-- fails
SELECT mc_add_recipients(:c, 'stranger', '{1}');	-- fails

-- taken out; who was skipped for the same address takes over
SELECT mc_remove_recipients(:c, 'candidate', ARRAY[1, 2, 99]);
SELECT contact_key, status, skip_reason FROM mc_campaign_recipient WHERE contact_key IN ('1', '2', '6');
SELECT mc_add_recipients(:c, 'candidate', '{1}');
SELECT contact_key, status, skip_reason FROM mc_campaign_recipient WHERE contact_key IN ('1', '6') ORDER BY 1;

-- recipients as a relation
INSERT INTO mc_campaign_recipient (campaign_id, source, contact_key) VALUES (:c, 'candidate', ' 2') RETURNING contact_key, status, skip_reason;
INSERT INTO mc_campaign_recipient (campaign_id, source, contact_key, status) VALUES (:c, 'candidate', '2', 'pending');	-- fails
INSERT INTO mc_campaign_recipient (campaign_id, source, contact_key) VALUES (99, 'candidate', '2');	-- fails
DELETE FROM mc_campaign_recipient WHERE skip_reason = 'no_email' RETURNING contact_key;
SELECT count(*) FROM mc_campaign_recipient;

-- who opts out later is skipped at once, by contact and by address (R48, D12, N2) ...
SELECT mc_opt_out('candidate', 9), mc_opt_out_email('p10@example.org');
SELECT contact_key, status, skip_reason FROM mc_campaign_recipient WHERE contact_key IN ('9', '10') ORDER BY contact_key::int;
-- ... whoever puts in a recipient, also by the back door
RESET ROLE;
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email_hash, added_at, added_by)
SELECT :c, source_id, '9', NULL, now(), 'x' FROM mailchimp_sync.source WHERE source = 'candidate'
ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET status = 'pending', skip_reason = NULL;
SELECT status, skip_reason FROM mailchimp_sync.recipient WHERE contact_key = '9';

-- N18: a training connection mails only the addresses that it was given
SET ROLE regress_mc_ada;
SELECT mc_alter_connection('mc_main', '{"only_addresses": ["P11@example.org"]}');
SET ROLE regress_mc_mia;
SELECT mc_add_recipients(:c, 'candidate', '{1,11}');
SELECT contact_key, status, skip_reason, detail FROM mc_campaign_recipient WHERE contact_key IN ('1', '11') ORDER BY 1;
SET ROLE regress_mc_ada;
SELECT mc_alter_connection('mc_main', '{"only_addresses": null}');
-- recipients => members: who is not in the audience is skipped
SELECT mc_alter_audience('customers', '{"recipients": "members"}');
SET ROLE regress_mc_mia;
SELECT mc_add_recipients(:c, 'candidate', '{1}');
SELECT contact_key, status, skip_reason, detail FROM mc_campaign_recipient WHERE contact_key = '1';
SET ROLE regress_mc_ada;
SELECT mc_alter_audience('customers', '{"recipients": "join"}');
SET ROLE regress_mc_mia;
SELECT mc_add_recipients(:c, 'candidate', '{1}');

-- our own checks (R4, R5, R34)
SELECT * FROM mc_check_campaign(:c);
SELECT mc_alter_campaign(:c, '{"from_email": "mia@example.net", "template": null}');
SELECT * FROM mc_check_campaign(:c);
SELECT * FROM mc_check_campaign(99);	-- fails

-- states: nothing starts before the audience is switched on (R2); then intents are rows (N1)
SELECT mc_alter_campaign(:c, '{"from_email": "mia@example.org", "template": "Newsletter"}');
SELECT mc_send_campaign(:c);	-- fails
SELECT mc_sync_audience('customers');
SELECT mc_poll_campaign(:c);	-- fails
BEGIN;
SELECT mc_send_campaign(:c);
SELECT status, last_error FROM mc_campaign;
ROLLBACK;
SELECT status, last_error FROM mc_campaign;
SELECT mc_prepare_campaign(:c);
SELECT status, last_error FROM mc_campaign;
SELECT mc_prepare_campaign(:c);	-- fails
SELECT mc_alter_campaign(:c, '{"name": "x"}');	-- fails
SELECT mc_add_recipients(:c, 'candidate', '{1}');	-- fails
SELECT mc_send_campaign(:c);	-- goes on when it is prepared
SELECT status, last_error FROM mc_campaign;
SELECT mc_cancel_campaign(:c);
SELECT status, last_error FROM mc_campaign;
SELECT mc_send_campaign(:c);	-- fails

-- drafts have nothing at Mailchimp
SELECT mc_create_campaign('Draft', 'customers') AS d \gset
SELECT mc_cancel_campaign(:d);
SELECT status FROM mc_campaign WHERE campaign_id = :d;
SELECT mc_cancel_campaign(:d);	-- fails
SELECT mc_send_campaign(:d);	-- fails
SELECT mc_create_campaign('Draft', 'customers') AS d \gset
SELECT mc_delete_campaign(:d);
SELECT status FROM mc_campaign WHERE campaign_id = :d;
SELECT mc_delete_campaign(:d);	-- fails

-- a campaign belongs to its connection: levels
RESET ROLE;
REVOKE USAGE ON FOREIGN SERVER mc_main FROM regress_mc_rita;
SET ROLE regress_mc_rita;
SELECT count(*) FROM mc_campaign;
SELECT count(*) FROM mc_campaign_recipient;
SELECT mc_send_campaign(:c);	-- fails
SELECT mc_create_campaign('x', 'customers');	-- fails
RESET ROLE;

-- the one table of states: every verb and state of it is known
SELECT verb, string_agg(from_status || ' > ' || to_status, ', ' ORDER BY from_status) FROM mailchimp_sync.campaign_transitions()
GROUP BY verb ORDER BY verb COLLATE "C";
-- every step has its functions, and every next step exists
SELECT s.step FROM mailchimp_sync.campaign_steps() s
WHERE to_regprocedure(format('mailchimp_sync.%s_%s(mailchimp_sync.campaign)', CASE WHEN is_local THEN 'step' ELSE 'ask' END, s.step)) IS NULL
	OR s.next NOT IN (SELECT step FROM mailchimp_sync.campaign_steps())
	OR s.look NOT IN (SELECT step FROM mailchimp_sync.campaign_steps());

SET client_min_messages = warning;
DROP TABLE candidate;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_ada, regress_mc_mia, regress_mc_rita;
