-- Who may call what, and who sees what (R14, R16, D19, N12): every public function is called by every level, on a connection
-- of its own, another one and all; every public view is read; both come from the catalog. Then what becomes of grants when roles are
-- renamed, dropped, inherit nothing, and when everybody has one. What the levels mean: gate.sql.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
CREATE TABLE person (id bigint PRIMARY KEY, email text);
DO $$ BEGIN PERFORM mc_add_source('person', 'person', 'id', 'email'); END $$;
RESET client_min_messages;

CREATE VIEW member AS
SELECT d.classid, d.objid FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'mailchimp_sync';
CREATE VIEW public_view AS
SELECT v.oid::regclass AS name FROM member m JOIN pg_class v ON m.classid = 'pg_class'::regclass AND m.objid = v.oid
WHERE v.relkind = 'v' AND v.relnamespace = 'public'::regnamespace;

-- ---- a row in every table for each of two connections ----
BEGIN;
\getenv tests PG_ABS_SRCDIR
\set fill :tests '/sql/lib/fill.sql'
\set ECHO none
\i :fill
\set ECHO all
SET LOCAL client_min_messages = warning;
CREATE ROLE regress_r_fill;
SELECT source_id AS source_id FROM mailchimp_sync.source \gset
SELECT pg_temp.fill(jsonb_build_object('source_id', :source_id, 'source', 'person', 'owner', current_user,
	'role', 'regress_r_fill', 'relation', 'person', 'audience_id', c.id, 'audience', c.name, 'connection', 'mc_' || c.name, 'list_id', 'list ' || c.name,
	'campaign_id', c.id, 'erasure_id', c.id, 'request_id', c.id, 'contact_key', c.id::text, 'email', c.name || '@crm.test', 'email_hash', md5(c.name), 'text', c.name,
	'campaign.status', 'sent', 'poll_tier.min_age', '0', 'campaign.sent_at', '2026-01-01 UTC', 'campaign.mailchimp_id', c.name, 'campaign.next_poll_at', '2030-01-01 UTC', 'contact.action', 'update', 'member.status', 'subscribed',
	'audience.active_since', '2026-01-01 UTC', 'merge_field.tag', c.name, 'signal.kind', 'unsubscribed', 'signal_switch.kind', 'unsubscribed'))
FROM (VALUES (7001, 'main'), (7002, 'other')) AS c(id, name) ORDER BY c.id;
DELETE FROM mailchimp_sync.privilege;

-- ---- functions (R14, D19) ----
CREATE TEMP VIEW level AS SELECT DISTINCT w.level FROM mailchimp_sync.level_within w;
DO $$
DECLARE
	_role	record;
BEGIN
	CREATE ROLE regress_r_nobody;
	FOR _role IN SELECT l.level, r.reach FROM level l, (VALUES ('main'), ('all')) AS r(reach) LOOP
		EXECUTE format('CREATE ROLE regress_r_%s_%s', _role.level, _role.reach);
		PERFORM mc_grant(format('regress_r_%s_%s', _role.level, _role.reach), _role.level, CASE _role.reach WHEN 'main' THEN 'mc_main' END);
	END LOOP;
END
$$;
-- every call: of a function about what is mc_main's, mc_other's, or nobody's where that means something
CREATE TEMP TABLE call AS
SELECT g.*, a.about, format('%s public.%s(%s)', CASE f.prokind WHEN 'p' THEN 'CALL' ELSE 'SELECT' END, f.proname, (
		SELECT string_agg(CASE WHEN t.place = g.argument AND a.about <> 'null' THEN format('%L', CASE g.scope WHEN 'audience' THEN a.about
				WHEN 'campaign' THEN CASE a.about WHEN 'main' THEN '7001' ELSE '7002' END ELSE 'mc_' || a.about END)
			ELSE 'NULL' END || '::' || CASE format_type(t.type, NULL) WHEN 'anyelement' THEN 'int' WHEN 'anyarray' THEN 'int[]' ELSE format_type(t.type, NULL) END,
			', ' ORDER BY t.place)
		FROM unnest(f.proargtypes) WITH ORDINALITY AS t(type, place))) AS statement
FROM member m
JOIN pg_proc f ON m.classid = 'pg_proc'::regclass AND m.objid = f.oid AND f.pronamespace = 'public'::regnamespace
LEFT JOIN mailchimp_sync.gate_function() g ON g.name = f.proname
CROSS JOIN (VALUES ('main'), ('other'), ('null')) AS a(about)
WHERE CASE WHEN g.argument IS NULL THEN a.about = 'main' ELSE a.about <> 'null' OR g.if_null IS NOT NULL END;
SELECT statement AS without_a_level FROM call WHERE level IS NULL;
SELECT count(*) > 100 AS many FROM call;
CREATE FUNCTION pg_temp.may(_call call, _level text, _reach text) RETURNS boolean LANGUAGE sql AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.level_within w WHERE w.level = _level AND w.includes = _call.level)
		AND (_reach = 'all' OR CASE WHEN _call.argument IS NULL THEN _call.scope = 'any'
			WHEN _call.about = 'null' THEN _call.if_null = 'any' ELSE _call.about = 'main' END)
$$;
-- refused for want of the level? Nothing of a call stays.
CREATE FUNCTION pg_temp.is_refused(_role text, _statement text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', _role);
	EXECUTE _statement;
	RAISE 'it went through';
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE = '42501' AND SQLERRM ~ '^permission denied for (function|procedure|view) mc_';
END
$$;
CREATE FUNCTION pg_temp.wrong_calls(_roles text) RETURNS TABLE (role text, statement text, refused boolean) LANGUAGE sql AS $$
	SELECT r.name, c.statement, f.refused
	FROM (SELECT format(_roles, l.level, v.reach), l.level, v.reach FROM level l, (VALUES ('main'), ('all')) AS v(reach)
		UNION ALL SELECT 'regress_r_nobody', NULL, 'main') AS r(name, level, reach)
	CROSS JOIN call c
	CROSS JOIN LATERAL (SELECT pg_temp.is_refused(r.name, c.statement) AS refused) f
	WHERE f.refused = pg_temp.may(c, r.level, r.reach)
$$;
SET LOCAL client_min_messages = error;
SELECT * FROM pg_temp.wrong_calls('regress_r_%s_%s');
-- whoever may EXECUTE by some other way comes no further than the gate (mc_run says first that it takes no transaction; see below)
SAVEPOINT executable;
GRANT EXECUTE ON ALL ROUTINES IN SCHEMA public TO PUBLIC;
SELECT * FROM pg_temp.wrong_calls('regress_r_%s_%s') WHERE statement !~ 'mc_run';
ROLLBACK TO executable;

-- ---- views: what can be read, what can be changed, whose rows show ----
CREATE FUNCTION pg_temp.rows_of(_role text, _view regclass, _name text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	_found	boolean;
	_id		text := CASE _name WHEN 'main' THEN '7001' ELSE '7002' END;
BEGIN
	EXECUTE format('SET LOCAL ROLE %I', _role);
	EXECUTE format('SELECT count(*) FILTER (WHERE v::text ~ %L) > 0 FROM %s v', format('\m(%s|mc_%1$s|%s)\M', _name, _id), _view) INTO _found;
	RAISE 'found %', _found;
EXCEPTION
	WHEN insufficient_privilege THEN RETURN NULL;
	WHEN raise_exception THEN RETURN SQLERRM = 'found t';
END
$$;
-- who may read nothing: nobody, and levels that do not include reader; everybody else reads all views
SELECT r.name AS role, v.name AS view FROM (SELECT format('regress_r_%s_main', l.level) AS name, EXISTS (SELECT FROM mailchimp_sync.level_within w
		WHERE w.level = l.level AND w.includes = 'reader') AS reads FROM level l UNION ALL SELECT 'regress_r_nobody', false) r
CROSS JOIN public_view v WHERE (pg_temp.rows_of(r.name, v.name, 'main') IS NOT NULL) <> r.reads;
-- a superuser sees the rows of both, so that something is there to be hidden; those that have none of a connection's
SELECT v.name AS of_no_connection FROM public_view v
WHERE NOT (pg_temp.rows_of(session_user::text, v.name, 'main') AND pg_temp.rows_of(session_user::text, v.name, 'other')) ORDER BY v.name::text;
-- a role with a grant on mc_main sees rows of mc_main and none of mc_other, but in these
SELECT v.name AS of_all, string_agg(l.level, ', ' ORDER BY l.level) AS levels FROM public_view v CROSS JOIN level l
WHERE pg_temp.rows_of(format('regress_r_%s_main', l.level), v.name, 'other') GROUP BY v.name ORDER BY v.name::text;
SELECT v.name AS hidden FROM public_view v
WHERE pg_temp.rows_of(session_user::text, v.name, 'main') AND NOT pg_temp.rows_of('regress_r_admin_main', v.name, 'main') ORDER BY 1;
SELECT v.name AS not_all FROM public_view v
WHERE pg_temp.rows_of(session_user::text, v.name, 'other') AND NOT pg_temp.rows_of('regress_r_admin_all', v.name, 'other') ORDER BY 1;
-- of functions that are about no connection in particular
SET LOCAL ROLE regress_r_reader_main;
SELECT string_agg(DISTINCT connection, ' ') FROM mc_signals('x');
SELECT mc_reports_html() ~ '>main<', mc_reports_html() ~ '>other<';
RESET ROLE;
-- changes take the level that the trigger says
SELECT r.level, t.tgrelid::regclass AS view, op FROM pg_trigger t
CROSS JOIN (SELECT l.level FROM level l UNION ALL SELECT 'nobody') r
CROSS JOIN (VALUES ('INSERT INTO %s DEFAULT VALUES'), ('DELETE FROM %s')) AS o(op)
WHERE t.tgfoid = 'mailchimp_sync.gate_trigger'::regproc
	AND pg_temp.is_refused(CASE r.level WHEN 'nobody' THEN 'regress_r_nobody' ELSE format('regress_r_%s_main', r.level) END, format(op, t.tgrelid::regclass))
		= EXISTS (SELECT FROM mailchimp_sync.level_within w WHERE w.level = r.level AND w.includes = split_part(encode(t.tgargs, 'escape'), '\000', 1));
SELECT c.name FROM public_view c WHERE has_table_privilege('regress_r_admin_all', c.name, 'UPDATE, TRUNCATE, REFERENCES, TRIGGER');

-- ---- the same when everybody has a grant (R16) ----
CREATE FUNCTION pg_temp.wrong_for_all() RETURNS TABLE (level text, statement text, refused boolean) LANGUAGE plpgsql AS $$
DECLARE
	_level	text;
BEGIN
	FOR _level IN SELECT l.level FROM level l LOOP
		PERFORM mc_grant('public', _level, 'mc_main');
		RETURN QUERY SELECT _level, c.statement, f.refused FROM call c
		CROSS JOIN LATERAL (SELECT pg_temp.is_refused('regress_r_nobody', c.statement) AS refused) f
		WHERE f.refused = pg_temp.may(c, _level, 'main');
		PERFORM mc_revoke('public');
	END LOOP;
END
$$;
SELECT * FROM pg_temp.wrong_for_all();
SELECT v.name FROM public_view v WHERE has_table_privilege('regress_r_nobody', v.name, 'SELECT');
ROLLBACK;

-- ---- what becomes of a grant ----
CREATE ROLE regress_r_old;
CREATE ROLE regress_r_heir IN ROLE regress_r_old;
CREATE ROLE regress_r_distant NOINHERIT IN ROLE regress_r_old;
SELECT mc_grant('regress_r_old', 'marketer', 'mc_main');
-- inherited, or not, where a role has to be taken on
SET ROLE regress_r_heir;
SELECT connection FROM mc_connection;
SELECT mc_opt_out_email('heir@crm.test');
SET ROLE regress_r_distant;
SELECT connection FROM mc_connection;	-- fails
SELECT mc_opt_out_email('distant@crm.test');	-- fails
RESET ROLE;
-- nor does the gate let it pass where it may EXECUTE
GRANT EXECUTE ON FUNCTION mc_opt_out_email TO regress_r_distant;
GRANT EXECUTE ON PROCEDURE mc_run TO regress_r_distant;
GRANT SELECT ON mc_connection TO regress_r_distant;
SET ROLE regress_r_distant;
SELECT connection FROM mc_connection;
SELECT mc_opt_out_email('distant@crm.test');	-- fails
CALL mc_run();	-- fails
SET ROLE regress_r_old;
SELECT mc_opt_out_email('distant@crm.test');
RESET ROLE;
SELECT email, added_by FROM mc_group_member ORDER BY email;
-- renamed: it is the same role
ALTER ROLE regress_r_old RENAME TO "regress_r ""New""";
SET ROLE regress_r_heir;
SELECT connection FROM mc_connection;
RESET ROLE;
SELECT mc_revoke('regress_r_old');	-- fails
SELECT mc_grant('regress_r "New"', 'reader');
SELECT role, level, connection FROM mailchimp_sync.privilege ORDER BY level;
-- what it does not have can be revoked; what another grant gives stays
SELECT mc_revoke('regress_r "New"', 'admin');
SELECT mc_revoke('regress_r "New"', 'marketer');
SELECT has_function_privilege('regress_r "New"', 'mc_opt_out_email(text,text,text)', 'EXECUTE') AS opts_out,
	has_table_privilege('regress_r "New"', 'mc_campaign', 'SELECT') AS sees;
SELECT mc_revoke('regress_r_distant');
SELECT mc_revoke(NULL);	-- fails
-- taken away beside us, it comes back with the next grant
REVOKE SELECT ON mc_campaign FROM "regress_r ""New""";
SELECT mc_grant('regress_r "New"', 'reader');
SELECT has_table_privilege('regress_r "New"', 'mc_campaign', 'SELECT') AS sees;
-- a role that is dropped leaves nothing to one of its name
DROP OWNED BY "regress_r ""New""";
DROP ROLE "regress_r ""New""";
CREATE ROLE "regress_r ""New""";
SELECT has_table_privilege('regress_r "New"', 'mc_campaign', 'SELECT') AS sees, has_server_privilege('regress_r "New"', 'mc_main', 'USAGE') AS uses;
SELECT mc_revoke('regress_r "New"');
SELECT count(*) AS left_over FROM mailchimp_sync.privilege;
-- everybody: who has a grant of their own keeps it
SELECT mc_grant('regress_r "New"', 'reader', 'mc_other'), mc_grant('public', 'marketer', 'mc_main');
SET ROLE regress_r_heir;
SELECT string_agg(connection, ' ' ORDER BY connection) FROM mc_connection;
SET ROLE "regress_r ""New""";
SELECT string_agg(connection, ' ' ORDER BY connection) FROM mc_connection;
RESET ROLE;
SELECT mc_revoke('public');
SET ROLE regress_r_heir;
SELECT connection FROM mc_connection;	-- fails
SET ROLE "regress_r ""New""";
SELECT connection FROM mc_connection;
RESET ROLE;
-- a connection that is gone and made again: the grant is on the name
SELECT mc_disconnect('mc_other');
SET ROLE "regress_r ""New""";
SELECT connection FROM mc_connection;
RESET ROLE;
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
SELECT mailchimp_sync.grant_connection('mc_other');
SET ROLE "regress_r ""New""";
SELECT connection FROM mc_connection;
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP VIEW IF EXISTS public_view, member;
DROP TABLE person;
DROP ROLE regress_r_heir, regress_r_distant, "regress_r ""New""";
