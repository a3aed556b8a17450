-- Which template somebody means (R3, R25): by id or name; what may be several is refused with all of them.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_mia;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
-- what mc_refresh would have fetched
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, edited_at, fetched_at) VALUES
	('mc_main', 11, 'Newsletter', true, '2026-01-02 12:00Z', now()),
	('mc_main', 12, 'Invitation', true, '2026-02-03 12:00Z', now()), ('mc_main', 13, 'Invitation', true, NULL, now()),
	('mc_main', 21, 'Spring  offer', true, NULL, now()), ('mc_main', 22, ' Spring offer ', true, NULL, now()),
	('mc_main', 31, 'Autumn', true, NULL, now()), ('mc_main', 32, 'AUTUMN', true, NULL, now()),
	('mc_main', 41, 'Winter' || E'\t' || 'offer ', true, NULL, now()),
	('mc_main', 51, '61', true, NULL, now()), ('mc_main', 61, 'Sixty-one', true, NULL, now()),
	('mc_main', 62, '2026', true, NULL, now()),
	('mc_main', 71, 'Old', false, '2025-12-01 12:00Z', now()), ('mc_main', 72, 'Old', false, NULL, now()),
	('mc_main', 73, 'Renewed', false, NULL, now()), ('mc_main', 74, 'Renewed', true, NULL, now()),
	('mc_other', 81, 'Newsletter', true, NULL, now()), ('mc_other', 82, 'Theirs', true, NULL, now());
DO $$ BEGIN
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers'), mc_grant('regress_mc_mia', 'marketer');
END $$;
RESET client_min_messages;
SET ROLE regress_mc_mia;
SET timezone = 'UTC';
SELECT mc_create_campaign('Spring', 'customers') AS c \gset
CREATE FUNCTION pg_temp.choose(template text) RETURNS bigint LANGUAGE sql AS $$
	SELECT mc_alter_campaign(campaign_id, jsonb_build_object('template', template)) FROM mc_campaign;
	SELECT template_id FROM mc_campaign;
$$;

-- found, by id and by name (R25)
SELECT choice, pg_temp.choose(choice) FROM (VALUES ('Newsletter'), (' newsletter '), ('11'), ('13'), ('Winter offer'), ('winter  OFFER'),
	('Autumn'), ('AUTUMN'), ('22'), ('51'), ('Sixty-one'), ('2026'), ('Renewed')) AS v(choice);

-- several that may be meant: all of them, and how to name the one (R3)
SELECT pg_temp.choose('Invitation');
SELECT pg_temp.choose('Spring offer');		-- they differ in blanks alone
SELECT pg_temp.choose('autumn');			-- in case alone, and neither is written so
SELECT pg_temp.choose('61');				-- an id and a name

-- none
SELECT pg_temp.choose('Newletter');
SELECT pg_temp.choose('Something quite different');
SELECT pg_temp.choose('99');
SELECT pg_temp.choose('Theirs');			-- of another account
SELECT pg_temp.choose('Old');				-- deleted at Mailchimp
SELECT pg_temp.choose('71');
SELECT template_id FROM mc_campaign;
DROP FUNCTION pg_temp.choose(text);

RESET ROLE;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_mia;
