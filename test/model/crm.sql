-- The CRM of the model test: two kinds of people (R1, R56), two watched tables (R33), every kind of expression of a mapping.
-- Run as ann, an admin who owns it all.

CREATE TABLE crm.owner (id integer PRIMARY KEY, name text);
CREATE TABLE crm.company (id integer PRIMARY KEY, email text);
CREATE TABLE crm.candidate (id integer PRIMARY KEY, first_name text, initials text, last_name text, email text, owner_id integer,
	born text, groups text[], mailings boolean, linked boolean, active boolean, level integer);
CREATE TABLE crm.client (code text COLLATE "C" PRIMARY KEY, name text, email text, company_id integer, kind text,
	linked boolean, no_mail boolean, interests text[]);
CREATE INDEX ON crm.candidate (owner_id);
CREATE INDEX ON crm.client (company_id);

-- R33, R63, R67, R68: fallbacks, another table, tags from an array and by a condition, the link flag
SELECT mc_add_source('candidate', 'crm.candidate', 'id', 'email', merge_fields => '{
		"FNAME": "coalesce(first_name, initials)",
		"LNAME": "last_name",
		"OWNERNAME": "(SELECT o.name FROM crm.owner o WHERE o.id = owner_id)",
		"BORN": "born"}',
	tags => 'groups', tag_rules => '{"Mailingen-ontvangen-nee": "not mailings"}', linked => 'linked');
SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id');

-- R57, R65, R81: the address of the company where the person has none, a flag that opts out, a key that is text
SELECT mc_add_source('client', 'crm.client', 'code',
	'coalesce(nullif(btrim(email), ''''), (SELECT m.email FROM crm.company m WHERE m.id = company_id))',
	merge_fields => '{"LNAME": "upper(name)"}', tags => 'interests', linked => 'linked', opt_out => 'no_mail');
SELECT mc_watch('client', 'crm.company', 'SELECT c.code FROM crm.client c JOIN changed m ON c.company_id = m.id');
