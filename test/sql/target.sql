-- What a campaign aims at, as far as no request is needed (R38, R20, R110, D15): given, replaced, taken away, refused. How targets
-- become recipients is in test/t/037_targets.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_target_ada;
CREATE ROLE regress_target_mia;
CREATE ROLE regress_target_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
DO $$ BEGIN
	PERFORM mc_grant('regress_target_ada', 'admin'), mc_grant('regress_target_mia', 'marketer', 'mc_main'),
		mc_grant('regress_target_rita', 'reader', 'mc_other');
END $$;
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, fetched_at) VALUES ('mc_main', 11, 'Newsletter', true, now());
CREATE TABLE candidate (id int PRIMARY KEY, email text, groups text[]);
INSERT INTO candidate SELECT i, 'p' || i || '@example.org', '{vip}' FROM generate_series(1, 3) i;
ALTER TABLE candidate OWNER TO regress_target_ada;
SET ROLE regress_target_ada;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email', tags => 'groups', tag_rules => '{"Mailingen-ontvangen-nee": "id = 2"}');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
	PERFORM mc_sync_audience('customers');
END $$;
RESET ROLE;
-- what comparing and pushing would have made of it
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, state, member_hash, changed_at)
SELECT 1, 1, id::text, email, md5(email), CASE id WHEN 3 THEN 'opted_out' ELSE 'in_sync' END, md5(email), now() FROM candidate;
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours, sent_tags, shown_tags)
SELECT 1, md5(email), email, 'subscribed', true, '{vip}', CASE id WHEN 1 THEN '{vip,By hand}' ELSE '{vip}' END::text[] FROM candidate;
INSERT INTO mailchimp_sync.tag (audience_id, tag, segment_id) VALUES (1, 'vip', 1);
RESET client_min_messages;

SET ROLE regress_target_mia;
SELECT mc_create_campaign('Spring', 'customers', 'Newsletter', 'Mia', 'mia@example.org') AS c \gset
SELECT mc_prepare_campaign(:c);	-- fails: a campaign without any target is refused

-- tags (R38): each once, whatever the case; again replaces; how many it would be
SELECT mc_target_tags(:c, '{vip, " VIP",Mailingen-ontvangen-nee}');
SELECT mc_target_tags(:c, '{vip}', '{BY HAND}');
SELECT campaign_id, kind, include, exclude, foreign_members, resolved, set_by FROM mc_campaign_target;
SELECT mc_target_tags(:c, '{vi}');	-- who may know it is Mailchimp
SELECT ok, heading, detail FROM mc_check_campaign(:c) WHERE heading ~ 'target|recipients';
SELECT mc_target_tags(:c, '{vip,""}');	-- fails
SELECT mc_target_tags(:c, '{vip,NULL}');	-- fails
SELECT mc_target_tags(:c, '{vip}', '{Vip}');	-- fails
SELECT mc_target_tags(99, '{vip}');	-- fails

-- left out of the audience as well; they alone take nobody in
SELECT mc_target_tags(:c, NULL, '{by hand}');
SELECT mc_prepare_campaign(:c);	-- fails
SELECT mc_target_audience(:c), mc_target_audience(:c, true);
SELECT kind, include, exclude, foreign_members FROM mc_campaign_target ORDER BY kind;
SELECT mc_target_tags(:c, '{}');
SELECT kind, include, exclude, foreign_members FROM mc_campaign_target;

-- whom somebody took out no target brings, unless somebody names them again
SELECT mc_remove_recipients(:c, 'candidate', '{2}'), mc_remove_recipients(:c, 'candidate', '{2}');
SELECT mc_target_audience(:c);
SELECT mc_add_recipients(:c, 'candidate', '{2}');
SELECT mc_target_audience(:c);

-- an intent like any other (N1), for as long as recipients may change
BEGIN;
SELECT mc_send_campaign(:c);
SELECT mc_target_tags(:c, '{vip}');	-- fails
ROLLBACK;
SELECT status FROM mc_campaign;
SELECT mc_remove_recipients(:c, 'candidate', '{1,2}');
SELECT mc_copy_campaign(:c) AS d \gset
SELECT campaign_id = :d AS is_copy, kind, foreign_members FROM mc_campaign_target ORDER BY 1;
SELECT mc_target_audience(:d);
SELECT mc_target_audience(:c, NULL);
SELECT count(*) FROM mc_campaign_target WHERE campaign_id = :c;
SELECT mc_prepare_campaign(:c);	-- fails

-- levels: shown to readers of the connection, given by marketers
SET ROLE regress_target_rita;
SELECT count(*) FROM mc_campaign_target;
SELECT mc_target_tags(:c, '{vip}');	-- fails
SELECT mc_target_audience(:c);	-- fails
RESET ROLE;

SET client_min_messages = warning;
DROP TABLE candidate;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_target_ada, regress_target_mia, regress_target_rita;
