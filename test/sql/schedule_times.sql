-- The times that a campaign can be scheduled for, in the night in which the clocks are put forward and back: an instant is
-- meant, whatever the session's time zone calls it, and stays it in every other (R28, D6). Full quarters of an hour
-- are counted in UTC, as Mailchimp does, also where a time zone is off by five minutes. What then happens is in
-- test/t/037_schedule.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, fetched_at) VALUES ('mc_main', 11, 'Newsletter', true, now());
INSERT INTO mailchimp_sync.domain (connection, domain, verified, authenticated, fetched_at) VALUES ('mc_main', 'example.org', true, true, now());
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate VALUES (1, 'p1@example.org');
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate'), mc_sync_audience('customers');
	PERFORM mc_add_recipients(mc_create_campaign('Spring', 'customers', 'Newsletter', 'Mia', 'mia@example.org'), 'candidate', '{1}');
END $$;
RESET client_min_messages;
SET datestyle = 'ISO';

-- the hour from two to three is skipped there: what nobody's clock shows is the same time after it
SET timezone = 'CET-1CEST,M3.5.0,M10.5.0/3';	-- Amsterdam, as long as the rules are what they are
SELECT mc_schedule_campaign(1, '2035-03-25 02:30');
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
SELECT mc_schedule_campaign(1, '2035-03-25 01:45');
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
-- it is there twice: either can be meant, an hour apart
SELECT mc_schedule_campaign(1, '2035-10-28 02:30');
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
SELECT mc_schedule_campaign(1, '2035-10-28 02:30+02');
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
-- another session sees the same instant
SET timezone = 'EST5EDT,M3.2.0,M11.1.0';
SELECT scheduled_for FROM mc_campaign;
-- what Mailchimp is told
SELECT mailchimp_sync.query_instant(scheduled_for) FROM mailchimp_sync.campaign;
-- time zones that are off by a quarter are no matter, one that is off by less has other full quarters
SET timezone = '<+0545>-05:45';
SELECT mc_schedule_campaign(1, '2035-03-25 12:00');
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
SET timezone = '<+0505>-05:05';
SELECT mc_schedule_campaign(1, '2035-03-25 12:00');		-- fails, with the nearest as that session calls them
SELECT mc_schedule_campaign(1, '2035-03-25 12:00', hold => true);
SELECT scheduled_for, scheduled_for AT TIME ZONE 'UTC' AS utc FROM mc_campaign;
-- the two nearest in the night with two hours from two to three
SET timezone = 'CET-1CEST,M3.5.0,M10.5.0/3';
SELECT mc_schedule_campaign(1, '2035-10-28 02:59+02');	-- fails

-- whoever cuts the engine off is told what Mailchimp sends all the same, also to people who opt out meanwhile (N2)
SET timezone = 'UTC';
SELECT mc_pause('mc_main');		-- nothing is there yet
UPDATE mailchimp_sync.campaign SET status = 'scheduled', goal = NULL, step = NULL, hold = true, mailchimp_id = 'c1';
SELECT mc_pause('mc_main');		-- we hold it
UPDATE mailchimp_sync.campaign SET hold = false;
SELECT mc_pause('mc_main');
BEGIN;
SELECT mc_disconnect('mc_main');
ROLLBACK;
SELECT mailchimp_sync.forget_remote('mc_main');		-- another account
SELECT status, last_error FROM mc_campaign;

RESET timezone;
SET client_min_messages = warning;
DROP TABLE candidate;
DROP EXTENSION mailchimp_sync CASCADE;
