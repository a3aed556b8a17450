-- Who has the say in a field (R85, D14): the whole table of cases.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
RESET client_min_messages;
\pset null '-'
CREATE SCHEMA test_conflict;

-- one field F; a null is a value that is not there at all
CREATE FUNCTION test_conflict.decide(_policy text, _inbound boolean, _crm text, _sent text, _shown text, _read text, _crm_is_later boolean DEFAULT NULL)
RETURNS text LANGUAGE sql AS $$
	SELECT string_agg(d.field || ' ' || d.decision, ', ')
	FROM mailchimp_sync.field_decisions(_policy, CASE WHEN _inbound THEN ARRAY['F'] ELSE '{}' END,
		CASE WHEN _crm IS NULL THEN '{}' ELSE jsonb_build_object('F', _crm) END,
		CASE WHEN _sent IS NOT NULL THEN jsonb_build_object('F', _sent) END,
		CASE WHEN _shown IS NOT NULL THEN jsonb_build_object('F', _shown) END,
		CASE WHEN _read IS NULL THEN '{}' ELSE jsonb_build_object('F', _read) END,
		CASE WHEN _crm_is_later THEN '2026-01-03' WHEN NOT _crm_is_later THEN '2026-01-01' END::timestamptz, '2026-01-02') AS d
$$;

-- every case of a field with an inbound column: base (none, empty, something, something that Mailchimp shows otherwise), CRM, Mailchimp
CREATE TABLE test_conflict.cases AS
SELECT row_number() OVER () AS n, b.base, c.crm, m.mailchimp, b.sent, b.shown
FROM (VALUES ('none', NULL, NULL), ('empty', '', ''), ('old', 'old', 'old'), ('old, shown as Old', 'old', 'Old')) AS b(base, sent, shown)
CROSS JOIN (VALUES (''), ('old'), ('new'), ('Old')) AS c(crm)
CROSS JOIN (VALUES (''), ('old'), ('other'), ('Old'), ('new')) AS m(mailchimp);
SELECT base, crm, mailchimp, test_conflict.decide('crm_wins', true, crm, sent, shown, mailchimp) AS crm_wins,
	test_conflict.decide('mailchimp_wins', true, crm, sent, shown, mailchimp) AS mailchimp_wins,
	test_conflict.decide('latest_wins', true, crm, sent, shown, mailchimp, true) AS crm_is_later,
	test_conflict.decide('latest_wins', true, crm, sent, shown, mailchimp, false) AS mailchimp_is_later
FROM test_conflict.cases ORDER BY n;

-- The rules behind it, each by itself
SELECT policy, count(*) FILTER (WHERE crm = mailchimp AND decision <> 'F in_sync') AS equal_but_not_left,
	count(*) FILTER (WHERE mailchimp = '' AND decision = 'F to_crm') AS emptied_by_mailchimp,
	count(*) FILTER (WHERE crm = sent AND mailchimp = shown AND decision <> 'F in_sync') AS nobody_changed,
	count(*) FILTER (WHERE crm <> sent AND mailchimp = shown AND crm <> mailchimp AND decision <> 'F to_mailchimp') AS only_the_crm_changed,
	count(*) FILTER (WHERE policy <> 'crm_wins' AND crm = sent AND mailchimp <> shown AND mailchimp NOT IN ('', crm)
		AND decision <> 'F to_crm') AS only_mailchimp_changed,
	count(*) FILTER (WHERE policy = 'crm_wins' AND decision = 'F to_crm') AS applied_though_the_crm_wins,
	count(*) FILTER (WHERE crm IS DISTINCT FROM mailchimp AND (crm, mailchimp) IS DISTINCT FROM (sent, shown) AND decision = 'F in_sync') AS left_apart
FROM test_conflict.cases
CROSS JOIN (VALUES ('crm_wins', true), ('mailchimp_wins', true), ('latest_wins', true), ('latest_wins', false)) AS p(policy, later)
CROSS JOIN LATERAL test_conflict.decide(policy, true, crm, sent, shown, mailchimp, later) AS decision
GROUP BY policy ORDER BY policy;

-- latest_wins where the times do not tell: the CRM leads
SELECT test_conflict.decide('latest_wins', true, 'new', 'old', 'old', 'other', NULL) AS no_time_of_the_crm,
	(SELECT decision FROM mailchimp_sync.field_decisions('latest_wins', '{F}', '{"F": "new"}', '{"F": "old"}', '{"F": "old"}', '{"F": "other"}', now(), NULL)) AS none_of_mailchimp,
	(SELECT decision FROM mailchimp_sync.field_decisions('latest_wins', '{F}', '{"F": "new"}', '{"F": "old"}', '{"F": "old"}', '{"F": "other"}', now(), now())) AS the_same;

-- A field without an inbound column is the CRM's own under every policy: asserted where Mailchimp shows another value than after our push
SELECT base, crm, mailchimp, min(decision) AS decision, count(DISTINCT decision) AS decisions
FROM test_conflict.cases
CROSS JOIN (VALUES ('crm_wins', true), ('mailchimp_wins', true), ('latest_wins', true), ('latest_wins', false)) AS p(policy, later)
CROSS JOIN LATERAL test_conflict.decide(policy, false, crm, sent, shown, mailchimp, later) AS decision
WHERE crm IN ('old', '') GROUP BY n, base, crm, mailchimp ORDER BY n;

-- A field that the mapping does not name only comes in
SELECT base, mailchimp, test_conflict.decide('crm_wins', true, NULL, sent, shown, mailchimp) AS crm_wins,
	test_conflict.decide('mailchimp_wins', true, NULL, sent, shown, mailchimp) AS mailchimp_wins,
	test_conflict.decide('latest_wins', true, NULL, sent, shown, mailchimp, true) AS latest_wins
FROM test_conflict.cases WHERE crm = '' ORDER BY n;

-- Several fields at once, each by itself; one that was mapped after the last push has no base
SELECT * FROM mailchimp_sync.field_decisions('mailchimp_wins', '{A,B,C,D}', '{"A": "1", "B": "2", "C": "3", "E": "5", "G": "7"}',
	'{"A": "1", "B": "1", "E": "5"}', '{"A": "1", "B": "1", "C": "x", "E": "5", "G": "7"}', '{"A": "9", "B": "1", "C": "x", "D": "4", "E": "edited", "G": "7"}',
	NULL, NULL) ORDER BY field;
-- nothing was read since our push; a member that was never seen
SELECT decision FROM mailchimp_sync.field_decisions('mailchimp_wins', '{F}', '{"F": "a"}', '{"F": "a"}', '{"F": "A"}', NULL, NULL, NULL);
SELECT decision FROM mailchimp_sync.field_decisions('mailchimp_wins', '{F}', '{"F": "b"}', '{"F": "a"}', '{"F": "A"}', NULL, NULL, NULL);
SELECT decision FROM mailchimp_sync.field_decisions('mailchimp_wins', '{F}', '{"F": "b"}', NULL, NULL, NULL, NULL, NULL);
SELECT decision FROM mailchimp_sync.field_decisions('mailchimp_wins', '{F}', '{"F": "b"}', '{"F": "a"}', NULL, NULL, NULL, NULL);

-- What is the same value
SELECT what, decision = 'in_sync' AS same
FROM (VALUES ('numbers', '1.50'::jsonb, '1.5'::jsonb), ('a number as text', '5', '"5"'), ('blanks around', '"Ann "', '"Ann"'), ('null and empty', 'null', '""'),
	('blank and empty', '"  "', '""'), ('no letter case', '"ann"', '"Ann"'), ('an address with empty parts', '{"addr1": "x", "city": "y"}',
		'{"addr1": "x", "addr2": "", "city": "y", "country": ""}'), ('another country', '{"addr1": "x"}', '{"addr1": "x", "country": "NL"}'),
	('an address of nothing', '{"addr1": "", "city": null}', '""'), ('cut at 255 bytes', to_jsonb(repeat('x', 300)), to_jsonb(repeat('x', 255))),
	('cut within a letter', to_jsonb(repeat('é', 150)), to_jsonb(repeat('é', 127))), ('edited to be shorter', to_jsonb(repeat('x', 300)), to_jsonb(repeat('x', 200))),
	('edited after it was cut', to_jsonb(repeat('x', 300)), to_jsonb(repeat('x', 254) || 'y')), ('not cut', to_jsonb(repeat('x', 255)), to_jsonb(repeat('x', 254))))
	AS v(what, crm, shown)
CROSS JOIN LATERAL mailchimp_sync.field_decisions('mailchimp_wins', '{F}', jsonb_build_object('F', crm), NULL, NULL, jsonb_build_object('F', shown), NULL, NULL);

-- When the CRM changed a contact: the events of its table, whatever they store
CREATE TABLE test_conflict.person (id integer PRIMARY KEY, name text, email text, "at" text, note text);
SET client_min_messages = warning;
SELECT mc_add_source('some', 'test_conflict.person', 'id', 'email', '{"FNAME": "name"}');
SELECT mc_add_source('odd', 'test_conflict.person', 'coalesce(id, 0)', 'email', '{"FNAME": "\"at\"", "LNAME": "odd.note"}');
SELECT mc_add_source('row', 'test_conflict.person', 'id', 'email', '{"FNAME": "(\"row\")::text"}');
RESET client_min_messages;
SELECT s.source, e.*
FROM mailchimp_sync.source s
CROSS JOIN LATERAL mailchimp_sync.evaluate(s.owner, mailchimp_sync.key_times_query(s.source_id), ARRAY[
	'{"row": {"id": "1", "name": "x", "at": "y"}, "at": "2026-01-01T10:00:00+00:00"}', '{"row": {"id": "1"}, "at": "2026-01-01T12:00:00+00:00"}',
	'{"row": {"id": "2"}, "at": "2026-01-01T11:00:00+00:00"}', '{"row": {"id": null}, "at": "2026-01-01T11:00:00+00:00"}']) e
ORDER BY s.source, e.contact_key;
SET client_min_messages = warning;
DROP SCHEMA test_conflict CASCADE;
DROP EXTENSION mailchimp_sync CASCADE;
