-- Audiences: who may, what is refused, what unknown names get (D19, D21, N8). What takes a list is in t/020_push.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP ROLE IF EXISTS regress_audience_admin, regress_audience_marketer, regress_audience_reader, regress_audience_other;
CREATE ROLE regress_audience_admin;
CREATE ROLE regress_audience_marketer;
CREATE ROLE regress_audience_reader;
CREATE ROLE regress_audience_other;
CREATE SERVER regress_audience FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER regress_audience_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
SELECT mc_grant('regress_audience_admin', 'admin', 'regress_audience');
SELECT mc_grant('regress_audience_marketer', 'marketer', 'regress_audience');
SELECT mc_grant('regress_audience_reader', 'reader', 'regress_audience');
SELECT mc_grant('regress_audience_other', 'admin', 'regress_audience_other');
RESET client_min_messages;

-- making and changing takes an admin of the connection
SET ROLE regress_audience_reader;
SELECT mc_create_audience('people', 'regress_audience', 'Customers');
SELECT mc_sync_audience('people');
SELECT mc_preview('people');
CALL mc_run();
SET ROLE regress_audience_marketer;
SELECT mc_create_audience('people', 'regress_audience', 'Customers');
SELECT mc_alter_audience('people', '{}');
SET ROLE regress_audience_other;
SELECT mc_create_audience('people', 'regress_audience', 'Customers');
SELECT mc_create_audience('people', 'nowhere', 'Customers');

-- nobody has asked Mailchimp for lists yet
SET ROLE regress_audience_admin;
SELECT mc_create_audience('people', 'regress_audience', 'Customers');
SELECT mc_create_audience('people', 'regress_audience', NULL);
SELECT mc_alter_audience('people', '{"every": "1 day"}');
SELECT mc_drop_audience('people');
SELECT mc_sync_audience('people');
SELECT * FROM mc_preview('people');
SELECT mc_sync_member('people', 1);
SELECT mc_retry('people');
SELECT mc_retry();

-- empty, and readable by readers
SET ROLE regress_audience_reader;
SELECT * FROM mc_audience;
SELECT * FROM mc_audience_status;
SELECT * FROM mc_contact_state;
SELECT * FROM mc_member;
SELECT * FROM mc_failure;
SELECT * FROM mc_progress;
SELECT * FROM mc_request;
SELECT item, ok, value FROM mc_status ORDER BY item COLLATE "C";
RESET ROLE;

-- settings are checked as a whole
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"direction": "sideways"}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"on_leave": null}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"on_unsubscribe": "forget"}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"recipients": "all"}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"every": "1 second"}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"read_every": null}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings(s::jsonb) FROM (VALUES ('{"double_opt_in": null}')) AS v(s);
SELECT mailchimp_sync.check_audience_settings('{"direction": "push", "conflict": "crm_wins", "on_leave": "keep", "on_unsubscribe": "ignore",
	"recipients": "members", "every": "1 minute", "read_every": "1 hour", "double_opt_in": true}') IS NOT NULL AS taken;

SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_audience_admin, regress_audience_marketer, regress_audience_reader, regress_audience_other;
