-- Who may do what: levels, connections, identity (R14, R16, D19, N12).
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
RESET client_min_messages;
CREATE EXTENSION mailchimp_sync;

CREATE ROLE regress_mc_nobody;
CREATE ROLE regress_mc_reader;
CREATE ROLE regress_mc_marketer;
CREATE ROLE regress_mc_admin;
CREATE ROLE regress_mc_owner;
CREATE ROLE regress_mc_member IN ROLE regress_mc_marketer;
CREATE ROLE "regress_mc ""Odd"" Name";
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');

-- what a role can reach at all, from the catalog
CREATE VIEW member AS
SELECT d.classid, d.objid
FROM pg_depend d
JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'mailchimp_sync';
CREATE VIEW public_function AS
SELECT f.oid, f.proname, g.level
FROM member m
JOIN pg_proc f ON m.classid = 'pg_proc'::regclass AND m.objid = f.oid
LEFT JOIN mailchimp_sync.gate_function() g ON g.name = f.proname
WHERE f.pronamespace = 'public'::regnamespace;
CREATE VIEW public_view AS
SELECT v.oid, v.relname
FROM member m
JOIN pg_class v ON m.classid = 'pg_class'::regclass AND m.objid = v.oid
WHERE v.relkind = 'v' AND v.relnamespace = 'public'::regnamespace;
CREATE FUNCTION reach(_role text) RETURNS TABLE (levels text, views text, changes text, servers text, wrapper boolean)
LANGUAGE sql AS $$
	SELECT
		(SELECT string_agg(DISTINCT level, ',' ORDER BY level) FROM public_function f
			WHERE has_function_privilege(_role, f.oid, 'EXECUTE')),
		(SELECT CASE count(*) FILTER (WHERE has_table_privilege(_role, v.oid, 'SELECT'))
			WHEN 0 THEN 'none' WHEN count(*) THEN 'all' ELSE 'some' END FROM public_view v),
		(SELECT string_agg(relname, ',' ORDER BY relname) FROM public_view v
			WHERE has_table_privilege(_role, v.oid, 'INSERT') AND has_table_privilege(_role, v.oid, 'DELETE')),
		(SELECT string_agg(srvname, ',' ORDER BY srvname) FROM pg_foreign_server s
			WHERE has_server_privilege(_role, s.oid, 'USAGE')),
		has_foreign_data_wrapper_privilege(_role, 'mailchimp_sync', 'USAGE')
$$;

-- every public function goes by the table in the gate
SELECT proname FROM public_function WHERE level IS NULL;

-- at first nobody may do anything; helpers of views read no table, and what the triggers call is out of reach by its name
SELECT * FROM reach('regress_mc_nobody');
SELECT f.oid::regprocedure FROM member m JOIN pg_proc f ON m.classid = 'pg_proc'::regclass AND m.objid = f.oid
WHERE has_function_privilege('regress_mc_nobody', f.oid, 'EXECUTE')
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_rewrite'::regclass AND d.refobjid = f.oid);
SELECT c.oid::regclass FROM member m JOIN pg_class c ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind IN ('r', 'v', 'S') AND has_table_privilege('regress_mc_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE');
SELECT has_schema_privilege('regress_mc_nobody', 'mailchimp_sync', 'USAGE, CREATE');
SET ROLE regress_mc_nobody;
SELECT mc_grant('regress_mc_nobody', 'admin');
RESET ROLE;

-- the three levels, on all connections or on one (R14, D19)
SELECT mc_grant('regress_mc_reader', 'reader');
SELECT mc_grant('regress_mc_marketer', 'marketer', 'mc_main');
SELECT mc_grant('regress_mc_admin', 'admin', 'mc_main');
SELECT mc_grant('regress_mc "Odd" Name', 'reader', 'mc_other');
SELECT mc_grant('regress_mc_marketer', 'marketer', 'mc_main');
SELECT * FROM mailchimp_sync.privilege ORDER BY role::text;
SELECT role, r.* FROM unnest(ARRAY['regress_mc_nobody', 'regress_mc_reader', 'regress_mc_marketer', 'regress_mc_admin',
	'regress_mc "Odd" Name']) AS role, reach(role) r;

-- what cannot be given
SELECT mc_grant('regress_mc_raeder', 'reader');
SELECT mc_grant('regress_mc_reader', 'boss');
SELECT mc_grant('regress_mc_reader', NULL);
SELECT mc_grant(NULL, 'reader');
SELECT mc_grant('regress_mc_reader', 'reader', 'mc_mian');
SELECT mc_grant('regress_mc_reader', 'reader', '');

-- every public view can be read, and shows the connections of the role alone
CREATE SERVER mc_gone FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
SELECT mc_pause('mc_gone');
DROP SERVER mc_gone;
CREATE FUNCTION read_views() RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	_view text;
BEGIN
	FOR _view IN SELECT table_name FROM information_schema.role_table_grants
		WHERE table_schema = 'public' AND table_name LIKE 'mc\_%' AND privilege_type = 'SELECT' LOOP
		EXECUTE format('SELECT * FROM %I', _view);
	END LOOP;
	RETURN (SELECT string_agg(connection, ',' ORDER BY connection) FROM mc_connection);
END
$$;
SET ROLE regress_mc_reader;
SELECT read_views();
SET ROLE regress_mc_marketer;
SELECT read_views();
RESET ROLE;
SELECT read_views();

-- the level counts on the connection that the call is about
SET ROLE regress_mc_admin;
SELECT mc_pause('mc_other');
SELECT mc_pause('mc_mian');
SELECT mc_pause(NULL);
SELECT mc_resume();
SELECT mc_grant('regress_mc_nobody', 'reader');
SELECT mc_grant('regress_mc_nobody', 'reader', 'mc_other');
SELECT mc_revoke('regress_mc_reader');
SELECT mc_grant('regress_mc_nobody', 'reader', 'mc_main');
-- nobody learns what exists without the level
RESET ROLE;
GRANT EXECUTE ON FUNCTION mc_pause TO regress_mc_reader;
SET ROLE regress_mc_reader;
SELECT mc_pause('mc_other');
SELECT mc_pause('mc_mian');
RESET ROLE;
REVOKE EXECUTE ON FUNCTION mc_pause FROM regress_mc_reader;

-- the true caller: of a call, of a change of a view, through a role's member, in a trigger of the CRM
SET ROLE regress_mc_marketer;
SELECT mc_opt_out_email('call@example.com');
INSERT INTO mc_group_member (email) VALUES ('view@example.com') RETURNING email, added_by;
SET ROLE regress_mc_member;
SELECT mc_opt_out_email('member@example.com');
RESET ROLE;
SELECT mc_grant('regress_mc_owner', 'marketer', 'mc_other');
CREATE TABLE note (email text);
CREATE FUNCTION note_opt_out() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
	PERFORM mc_opt_out_email(NEW.email);
	RETURN NULL;
END
$$;
GRANT ALL ON note TO PUBLIC;
ALTER FUNCTION note_opt_out() OWNER TO regress_mc_owner;
CREATE TRIGGER opt_out AFTER INSERT ON note FOR EACH ROW EXECUTE FUNCTION note_opt_out();
SET ROLE regress_mc_marketer;
INSERT INTO note VALUES ('trigger@example.com');
-- an error inside leaves the identity as it was
SET ROLE regress_mc_admin;
DO $$
BEGIN
	PERFORM mc_grant('regress_mc_raeder', 'reader', 'mc_main');
EXCEPTION WHEN undefined_object THEN
	PERFORM mc_opt_out_email('after@example.com');
END
$$;
SELECT mc_grant('regress_mc_raeder', 'reader', 'mc_main');
SELECT current_user, current_setting('search_path');
RESET ROLE;
SELECT email, added_by FROM mc_group_member ORDER BY email;
-- the view asks for the level, not only for the privilege
GRANT INSERT ON mc_group_member TO regress_mc_nobody;
SET ROLE regress_mc_nobody;
INSERT INTO mc_group_member (email) VALUES ('nobody@example.com');
RESET ROLE;
REVOKE INSERT ON mc_group_member FROM regress_mc_nobody;
-- the internal functions are out of reach
SET ROLE regress_mc_admin;
SELECT mailchimp_sync.mc_grant('regress_mc_admin', 'admin', NULL);
RESET ROLE;
-- mc_run works as the extension's owner, and names of its caller's mean nothing there
CREATE SCHEMA regress_mc_trap AUTHORIZATION regress_mc_marketer;
SET ROLE regress_mc_marketer;
CREATE FUNCTION regress_mc_trap.spring(text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	RAISE 'trapped as %', current_user;
END
$$;
CREATE FUNCTION regress_mc_trap.keep(text, text, text) RETURNS text LANGUAGE sql AS 'SELECT $1';
CREATE AGGREGATE regress_mc_trap.string_agg(text, text) (
	SFUNC = regress_mc_trap.keep, STYPE = text, FINALFUNC = regress_mc_trap.spring);
SET search_path = regress_mc_trap, pg_catalog, public;
CALL mc_run();
RESET search_path;
RESET ROLE;
SET client_min_messages = warning;
DROP SCHEMA regress_mc_trap CASCADE;
RESET client_min_messages;

-- the owner of a server is admin of its connection; a new one is in the reach of who has all
GRANT USAGE ON FOREIGN DATA WRAPPER mailchimp_sync TO regress_mc_owner;
GRANT EXECUTE ON FUNCTION mc_pause TO regress_mc_owner;
SET ROLE regress_mc_owner;
CREATE SERVER mc_own FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
SELECT mc_pause('mc_own');
SELECT mc_pause('mc_main');
RESET ROLE;
SELECT mailchimp_sync.grant_connection('mc_own');
SELECT servers FROM reach('regress_mc_reader');
DROP SERVER mc_own;
REVOKE ALL ON FOREIGN DATA WRAPPER mailchimp_sync FROM regress_mc_owner;
REVOKE EXECUTE ON FUNCTION mc_pause FROM regress_mc_owner;

-- taken back is what no other grant gives
SELECT mc_grant('regress_mc_marketer', 'reader', 'mc_other');
SELECT mc_revoke('regress_mc_marketer', 'marketer');
SELECT * FROM reach('regress_mc_marketer');
SELECT mc_revoke('regress_mc_marketer', 'marketer');
SELECT mc_revoke('regress_mc_marketer', 'boss');
SELECT mc_revoke('regress_mc_marketer');
SELECT * FROM reach('regress_mc_marketer');
SELECT mc_revoke(role) FROM unnest(ARRAY['regress_mc_reader', 'regress_mc_admin', 'regress_mc_owner', 'regress_mc_nobody',
	'regress_mc "Odd" Name']) AS role;
SELECT role, r.* FROM unnest(ARRAY['regress_mc_reader', 'regress_mc_admin', 'regress_mc_owner',
	'regress_mc_nobody', 'regress_mc "Odd" Name']) AS role, reach(role) r;

-- everybody (R16); a dropped role's grants go with the next call
SELECT mc_grant('public', 'reader', 'mc_main');
SELECT * FROM reach('regress_mc_nobody');
SELECT mc_grant('regress_mc_admin', 'admin');
DROP OWNED BY regress_mc_admin;
DROP ROLE regress_mc_admin;
SELECT mc_revoke('public');
SELECT * FROM mailchimp_sync.privilege;
SELECT * FROM reach('regress_mc_nobody');

DROP TABLE note;
DROP FUNCTION note_opt_out(), reach(text), read_views();
DROP VIEW public_function, public_view, member;
DROP SERVER mc_main, mc_other;
DROP EXTENSION mailchimp_sync;
DROP ROLE regress_mc_nobody, regress_mc_reader, regress_mc_member, regress_mc_marketer, regress_mc_owner, "regress_mc ""Odd"" Name";
