-- The opt-out group (R45-R48, D12, N1, N2): who is in it, who gets out of it, by whatever way. Carrying it to Mailchimp
-- is in test/t/031_opt_out.pl, races in test/specs/opt_out_fixing.spec.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
RESET client_min_messages;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_mia;
CREATE ROLE regress_mc_rita;
SELECT mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_mia', 'marketer'), mc_grant('regress_mc_rita', 'reader');
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate VALUES (1, ' Ann@Example.org '), (2, 'bob@example.org'), (3, 'ann@example.org'), (4, NULL), (5, 'eve@example.org');
ALTER TABLE candidate OWNER TO regress_mc_ada;
SET ROLE regress_mc_ada;
SELECT mc_add_source('candidate', 'candidate', 'id', 'email');
RESET ROLE;

-- group and tag are there from the start (R46, R47), and readers see them
SET ROLE regress_mc_rita;
SELECT * FROM mc_group;
SELECT * FROM mc_group_member;
SELECT mc_opt_out('candidate', 1);	-- fails: a reader looks only
INSERT INTO mc_group_member (email) VALUES ('ann@example.org');	-- fails

-- opting a contact out brings in the address that it has now; keys of any type
SET ROLE regress_mc_mia;
SELECT mc_opt_out('candidate', 1, reason => 'phoned', by => 'Mia');
SELECT mc_opt_out('candidate', ' 1');	-- again: nothing
SELECT mc_opt_out('candidate', '4'::text);
SELECT mc_opt_out('candidate', NULL::int);	-- nobody
SELECT mc_opt_out('candidate', 'x');	-- fails
SELECT mc_opt_out('candidates', 1);	-- fails
SELECT source, contact_key, email, origin, reason, added_by FROM mc_group_member ORDER BY contact_key;

-- any membership counts: one's own, and that of one's address, whoever it was that brought it in (D12)
RESET ROLE;
CREATE FUNCTION candidate_ids(int) RETURNS SETOF int LANGUAGE sql AS 'SELECT generate_series(1, $1)';
SET ROLE regress_mc_rita;
SELECT id, mc_is_opted_out('candidate', id) FROM candidate_ids(5) id;

-- an address alone, before anybody has it
SET ROLE regress_mc_mia;
SELECT mc_opt_out_email(' NEW@example.org', 'letter');
SELECT mc_opt_out_email(' ');	-- fails
SELECT mc_opt_out_email(E'line@example.org\r\n');	-- as a file has it
SELECT quote_literal(email) FROM mc_group_member WHERE email LIKE 'line@%';
SELECT mc_opt_in_email(E'\tline@example.org');
RESET ROLE;
UPDATE candidate SET email = 'new@example.org' WHERE id = 5;
SET ROLE regress_mc_mia;
SELECT mc_is_opted_out('candidate', 5);

-- in again: the contact and its present address; another contact's own opt-out stays, and is told
SELECT mc_opt_in('candidate', 5);
SELECT mc_is_opted_out('candidate', 5);
SELECT mc_opt_in('candidate', 3);
SELECT mc_is_opted_out('candidate', 3);
SELECT mc_opt_in_email('ann@example.org');
SELECT mc_opt_in('candidate', 1);
SELECT mc_is_opted_out('candidate', 1), mc_is_opted_out('candidate', 3);
SELECT mc_opt_in('candidate', 4, confirm => true);

-- a contact that was in with an older address brings the new one in
SELECT mc_opt_out('candidate', 2, by => 'Mia');
RESET ROLE;
UPDATE candidate SET email = 'bob@new.example.org' WHERE id = 2;
SET ROLE regress_mc_mia;
SELECT mc_opt_out('candidate', 2);
SELECT source, contact_key, email FROM mc_group_member ORDER BY contact_key;
SELECT mc_opt_in('candidate', 2);
SELECT count(*) FROM mc_group_member;

-- the group as a table (R47): for CRM code that knows nothing of us
INSERT INTO mc_group_member (source, contact_key) VALUES ('candidate', '1') RETURNING group_id, contact_key, email, origin, added_by;
INSERT INTO mc_group_member (source, contact_key) SELECT 'candidate', id::text FROM candidate_ids(3) id;
INSERT INTO mc_group_member (group_id, email, origin, reason, added_by) VALUES (1, 'x@example.org', 'crm', 'import', 'HR');
INSERT INTO mc_group_member (group_id, email) VALUES (2, 'x@example.org');	-- fails
INSERT INTO mc_group_member (email, origin) VALUES ('y@example.org', 'mailchimp');	-- fails
INSERT INTO mc_group_member (email, added_at) VALUES ('y@example.org', now());	-- fails
INSERT INTO mc_group_member (source) VALUES ('candidate');	-- fails
INSERT INTO mc_group_member (reason) VALUES ('why');	-- fails
UPDATE mc_group_member SET reason = 'other';	-- fails
SELECT source, contact_key, email, origin, reason, added_by FROM mc_group_member ORDER BY contact_key, email;
DELETE FROM mc_group_member WHERE contact_key = '1';
DELETE FROM mc_group_member WHERE email = 'x@example.org' RETURNING email;
SELECT source, contact_key, email FROM mc_group_member ORDER BY contact_key;
SET ROLE regress_mc_rita;
DELETE FROM mc_group_member;	-- fails

-- who rolls back leaves nothing (N1); the log keeps everything that happened
SET ROLE regress_mc_mia;
BEGIN;
SELECT mc_opt_out('candidate', 5);
ROLLBACK;
DELETE FROM mc_group_member;
SELECT count(*) FROM mc_group_member;
RESET ROLE;
SELECT joined, contact_key, email, origin, reason, actor FROM mailchimp_sync.opt_out_log;
-- everybody concerned is looked at anew
SELECT DISTINCT contact_key FROM mailchimp_sync.event WHERE contact_key IS NOT NULL ORDER BY 1;
SELECT email, asked_by FROM mailchimp_sync.confirmation;

-- a contact whose source is gone stays opted out by its address, and that can be lifted
SET ROLE regress_mc_mia;
SELECT mc_opt_out('candidate', 1);
SELECT mc_opt_out('candidate', 2);
SET ROLE regress_mc_ada;
SELECT mc_drop_source('candidate');
SET ROLE regress_mc_mia;
SELECT source, contact_key, email FROM mc_group_member ORDER BY contact_key;
-- a later source of the same name has the same contacts: whoever opted out has opted out, under a new address too (N2)
SET ROLE regress_mc_ada;
UPDATE candidate SET email = 'elsewhere@example.org' WHERE id = 2;
SELECT mc_add_source('candidate', 'candidate', 'id', 'email');
SET ROLE regress_mc_mia;
SELECT source, contact_key, email FROM mc_group_member ORDER BY contact_key;
SELECT mc_is_opted_out('candidate', 2);
SET ROLE regress_mc_ada;
SELECT mc_drop_source('candidate');
SET ROLE regress_mc_mia;
SELECT mc_opt_in_email('ann@example.org');
DELETE FROM mc_group_member WHERE contact_key = '2';
SELECT source, contact_key, email FROM mc_group_member;
RESET ROLE;

SET client_min_messages = warning;
DROP TABLE candidate;
DROP FUNCTION candidate_ids(int);
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_ada, regress_mc_mia, regress_mc_rita;
