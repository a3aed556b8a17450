-- Every state of a campaign and everything that people can call with one: what the table of states allows happens and leads
-- where it says, also in a copy after mc_resume, and the rest is refused with an error that names the state (N3, design.md
-- rule 6). States come from the table's constraint, functions from the catalog: one that is new has a verb in
-- campaign_transitions(), or is named below as free of states.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
-- what mc_refresh would have fetched
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
INSERT INTO mailchimp_sync.template (connection, template_id, name, active, fetched_at) VALUES ('mc_main', 11, 'Newsletter', true, now());
INSERT INTO mailchimp_sync.domain (connection, domain, verified, authenticated, fetched_at) VALUES ('mc_main', 'example.org', true, true, now());
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate (id, email) SELECT i, 'p' || i || '@example.org' FROM generate_series(1, 3) i;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate'), mc_sync_audience('customers');
	PERFORM mc_add_recipients(mc_create_campaign('Spring', 'customers', 'Newsletter', 'Mia', 'mia@example.org'), 'candidate', '{1,2}');
END $$;

CREATE TEMP VIEW state AS
SELECT (regexp_matches(pg_get_constraintdef(c.oid), '''([a-z]+)''', 'g'))[1] AS status
FROM pg_constraint c JOIN pg_attribute a ON a.attrelid = c.conrelid AND c.conkey = ARRAY[a.attnum]
WHERE c.conrelid = 'mailchimp_sync.campaign'::regclass AND c.contype = 'c' AND a.attname = 'status';

-- the functions with the arguments that have no default, and the verb of each; null: in any state
CREATE TEMP VIEW call AS
SELECT p.oid::regprocedure AS function, coalesce(v.verb, f.name) AS verb, v.verb IS NULL AND f.name IN ('check', 'copy', 'preview', 'report') AS is_free,
	format('SELECT * FROM %s(%s)', p.proname, (SELECT string_agg(CASE a.name
			WHEN 'campaign' THEN '(SELECT campaign_id FROM mailchimp_sync.campaign)'
			WHEN 'settings' THEN '''{"name": "Summer"}'''
			WHEN 'source' THEN '''candidate'''
			WHEN 'contact_keys' THEN CASE a.type WHEN 'text'::regtype THEN '''{1}''' ELSE 'ARRAY[1]' END
			WHEN 'contact_key' THEN '1'
			WHEN 'emails' THEN '''{mia@example.org}'''
			ELSE CASE a.type WHEN 'timestamptz'::regtype THEN 'date_bin(''15 minutes'', now(), ''2000-01-01'') + interval ''2 hours'''
				WHEN 'text[]'::regtype THEN '''{VIP}''' WHEN 'boolean'::regtype THEN 'true' END
			END, ', ' ORDER BY a.position)
		FROM unnest(p.proargnames[:p.pronargs - p.pronargdefaults], p.proargtypes[0:p.pronargs - p.pronargdefaults - 1]::regtype[])
			WITH ORDINALITY AS a(name, type, position))) AS sql
FROM pg_proc p
CROSS JOIN LATERAL (SELECT CASE WHEN p.proname LIKE '%\_recipients' OR p.proname LIKE 'mc\_target\_%' THEN 'select'
	WHEN p.proname LIKE 'mc\_report\_%' THEN 'report' ELSE regexp_replace(p.proname, '^mc_(.*)_campaign$', '\1') END AS name) f
LEFT JOIN LATERAL (SELECT t.verb FROM mailchimp_sync.campaign_transitions() t WHERE t.verb = f.name LIMIT 1) v ON true
WHERE p.proname LIKE 'mc\_%' AND p.pronamespace = (SELECT extnamespace FROM pg_extension WHERE extname = 'mailchimp_sync')
	AND p.proargnames[1] = 'campaign' AND p.pronargs > 0 AND p.proargtypes[0] = 'bigint'::regtype;

-- the state that a call leads to, or its error; nothing of it stays
CREATE FUNCTION pg_temp.outcome(_status text, _goal text, _restored_at timestamptz, _mailchimp_id text, _sql text) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	_led_to	text;
BEGIN
	-- the state is given, and not come to
	PERFORM set_config('session_replication_role', 'replica', true);
	UPDATE mailchimp_sync.campaign SET status = _status, goal = _goal, step = CASE WHEN _goal IS NOT NULL THEN 'count' END,
		restored_at = _restored_at, mailchimp_id = _mailchimp_id, content_at = CASE WHEN _mailchimp_id <> '' THEN now() END;
	PERFORM set_config('session_replication_role', 'origin', true);
	EXECUTE _sql;
	SELECT status INTO _led_to FROM mailchimp_sync.campaign ORDER BY campaign_id LIMIT 1;
	RAISE EXCEPTION USING ERRCODE = 'MC000', MESSAGE = _led_to;
EXCEPTION WHEN OTHERS THEN
	RETURN CASE SQLSTATE WHEN 'MC000' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
END
$$;

-- all states, and what is called in them
SELECT string_agg(status, ' ' ORDER BY status) FROM state;
SELECT count(DISTINCT function) >= 16 AS functions, count(*) FILTER (WHERE is_free) AS free FROM call;
SELECT function AS "neither in campaign_transitions() nor free of states" FROM call c
WHERE NOT is_free AND verb NOT IN (SELECT t.verb FROM mailchimp_sync.campaign_transitions() t);
-- the table knows no other states
SELECT * FROM mailchimp_sync.campaign_transitions() t
WHERE from_status NOT IN (SELECT status FROM state) OR to_status NOT IN (SELECT status FROM state);

-- each in each, as the table says, or refused with the state in words; a campaign on its way has a goal, and one in a copy
-- is looked for before anything else
CREATE TEMP TABLE tried AS
SELECT c.function, c.verb, s.status, r.restored_at IS NOT NULL AS restored,
	CASE WHEN c.is_free THEN s.status
		WHEN r.restored_at IS NOT NULL AND c.verb NOT IN ('alter', 'select', 'test', 'poll') AND t.to_status IS NOT NULL
			THEN coalesce(mailchimp_sync.campaign_leads_to('trace', s.status), t.to_status)
		ELSE t.to_status END AS expected,
	pg_temp.outcome(s.status, CASE s.status WHEN 'preparing' THEN 'schedule' WHEN 'sending' THEN 'send' END, r.restored_at,
		CASE WHEN NOT c.is_free THEN 'abc' END, c.sql) AS outcome
FROM call c
CROSS JOIN state s
CROSS JOIN (VALUES (NULL::timestamptz), (now())) AS r(restored_at)
LEFT JOIN mailchimp_sync.campaign_transitions() t ON t.verb = c.verb AND t.from_status = s.status;

SELECT function, status, restored, expected, outcome FROM tried
WHERE CASE WHEN expected IS NULL THEN outcome NOT LIKE '55000 cannot % campaign %: it is ' || status
	ELSE outcome <> expected END
ORDER BY function::text, status, restored;
-- something was allowed, and something was refused, for each verb and in each state
SELECT verb FROM tried WHERE verb NOT IN ('check', 'copy', 'preview', 'report') GROUP BY verb
HAVING bool_and(expected IS NULL) OR bool_and(expected IS NOT NULL);
SELECT status FROM tried GROUP BY status HAVING bool_and(expected IS NULL) OR bool_and(expected IS NOT NULL);

-- on its way to another goal: until it is sent, another end can be given to it, and who stops it is not outdone
SELECT g.goal, c.verb, pg_temp.outcome('preparing', g.goal, NULL, 'abc', c.sql) AS outcome
FROM (VALUES ('prepare'), ('send'), ('schedule'), ('unschedule'), ('cancel'), ('delete')) AS g(goal)
JOIN call c ON c.verb IN ('prepare', 'send', 'schedule', 'unschedule', 'cancel', 'delete')
ORDER BY 1, 2;
-- what was sent or canceled and is being deleted is deleted once
SELECT s.status, c.verb, pg_temp.outcome(s.status, 'delete', NULL, 'abc', c.sql) AS outcome
FROM (VALUES ('sent'), ('canceled')) AS s(status) JOIN call c ON c.verb IN ('delete', 'cancel', 'send') ORDER BY 1, 2;

-- one that was imported: what would send it or change it is refused, whatever its state, the rest is as the table says (R112)
UPDATE mailchimp_sync.campaign SET origin = 'imported', imported_at = now(), linked_at = now(), mailchimp_id = 'abc';
SELECT verb, string_agg(status, ' ' ORDER BY status) FILTER (WHERE outcome !~ '^55000') AS allowed,
	bool_and(outcome ~ '^[a-z]+$' OR outcome LIKE '55000 cannot % campaign %: it is ' || CASE WHEN mailchimp_sync.is_for_imported(verb) THEN status ELSE 'imported' END) AS told
FROM (SELECT c.verb, s.status, pg_temp.outcome(s.status, CASE s.status WHEN 'preparing' THEN 'delete' END, NULL, 'abc', c.sql) AS outcome
	FROM call c CROSS JOIN state s WHERE NOT c.is_free AND s.status <> 'draft') t
GROUP BY verb ORDER BY verb;
-- Mailchimp says what it is, but what was sent does not become unsent
SELECT string_agg(f.status || ' > ' || t.status, ', ' ORDER BY f.status, t.status) AS refused
FROM state f CROSS JOIN state t
WHERE t.status IN ('prepared', 'scheduled', 'sending', 'sent', 'canceled', 'deleted') AND f.status IN ('prepared', 'scheduled', 'sending', 'sent', 'canceled', 'deleted')
	AND pg_temp.outcome(f.status, NULL, NULL, 'abc', format('UPDATE mailchimp_sync.campaign SET status = %L', t.status)) ~ '^55000';

DROP FUNCTION pg_temp.outcome;
DROP TABLE candidate;
DROP EXTENSION mailchimp_sync CASCADE;
