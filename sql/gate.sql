/*
 * gate.sql: who may do what.
 *
 * A grant is a row: a role (0: everybody) has a level on one connection or on
 * all. mc_grant writes it and carries it out as GRANTs, which let the role reach
 * functions, views and servers at all; the gate (src/gate.c) and permitted_connection
 * then look at the connection. The owner of a server is admin of its connection.
 */
CREATE TABLE mailchimp_sync.privilege (
	role			regrole NOT NULL,			-- 0: public
	level			text NOT NULL CHECK (level IN ('reader', 'marketer', 'admin', 'webhook')),
	connection		text NOT NULL DEFAULT '',	-- '': all, also those to come
	PRIMARY KEY (role, level, connection)
);
-- the number of a role that was dropped may be another role's where it is restored
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.privilege',
	'WHERE role = 0 OR EXISTS (SELECT FROM pg_catalog.pg_roles WHERE oid = role)');

CREATE FUNCTION mailchimp_sync.caller() RETURNS regrole
	LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mc_caller_role';
COMMENT ON FUNCTION mailchimp_sync.caller() IS 'the role that called the public function';

CREATE FUNCTION mailchimp_sync.gate_function()
	RETURNS TABLE (name text, level text, scope text, argument integer, if_null text)
	LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mc_gate_functions';
COMMENT ON FUNCTION mailchimp_sync.gate_function() IS
	'the public functions, the level that each takes and on what: any or all connections, or the argument of that number; if that is null';

CREATE FUNCTION mailchimp_sync.gate_trigger() RETURNS trigger
	LANGUAGE c AS 'MODULE_PATHNAME', 'mc_gate_trigger';
COMMENT ON FUNCTION mailchimp_sync.gate_trigger() IS
	'INSTEAD OF trigger of a public view: (level, internal function [, kind, column])';

CREATE VIEW mailchimp_sync.level_within (level, includes) AS
VALUES ('reader', 'reader'),
	('marketer', 'reader'), ('marketer', 'marketer'),
	('admin', 'reader'), ('admin', 'marketer'), ('admin', 'admin'), ('admin', 'webhook'),
	('webhook', 'webhook');		-- for a program that passes on what Mailchimp tells; it sees nothing

-- the servers that are connections
CREATE VIEW mailchimp_sync.server AS
SELECT s.srvname::text COLLATE "default" AS connection, s.oid AS server, s.srvowner AS owner
FROM pg_catalog.pg_foreign_server s
JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw
WHERE w.fdwname = 'mailchimp_sync';

-- every connection that there is or was; server is null where it is gone
CREATE VIEW mailchimp_sync.known_connection AS
SELECT coalesce(s.connection, c.connection) AS connection, s.server, s.owner
FROM mailchimp_sync.server s
FULL JOIN mailchimp_sync.connection c ON c.connection = s.connection;

-- the connections that the current user may see; public views join it
CREATE VIEW mailchimp_sync.permitted_connection AS
SELECT k.connection
FROM mailchimp_sync.known_connection k
WHERE CASE WHEN k.server IS NOT NULL THEN pg_catalog.has_server_privilege(k.server, 'USAGE')
	ELSE EXISTS (SELECT FROM mailchimp_sync.privilege p
			WHERE p.connection = '' AND p.level <> 'webhook' AND (p.role = 0 OR pg_catalog.pg_has_role(p.role, 'USAGE')))
		OR (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname = current_user)
	END;

-- every level that a role has of its own; the gate (src/level.c) looks here on each call
CREATE VIEW mailchimp_sync.given_level AS
SELECT p.role::oid AS role, w.includes AS level, p.connection
FROM mailchimp_sync.privilege p
JOIN mailchimp_sync.level_within w ON w.level = p.level
UNION ALL
SELECT s.owner, w.includes, s.connection
FROM mailchimp_sync.server s
JOIN mailchimp_sync.level_within w ON w.level = 'admin';

-- what the gate asks of the caller of a function about one connection, for those that are about several
CREATE FUNCTION mailchimp_sync.caller_has(_level text, _connection text) RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.given_level g
			WHERE g.level = _level AND g.connection IN ('', _connection)
				AND (g.role = 0 OR pg_has_role(mailchimp_sync.caller(), g.role, 'USAGE')))
		OR (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = mailchimp_sync.caller())
$$;

-- what permitted_connection shows to the caller of a function, in which the current user is the extension's owner
CREATE FUNCTION mailchimp_sync.connection_of_caller() RETURNS TABLE (connection text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT k.connection
	FROM mailchimp_sync.known_connection k
	WHERE CASE WHEN k.server IS NOT NULL THEN has_server_privilege(mailchimp_sync.caller(), k.server, 'USAGE')
		ELSE mailchimp_sync.caller_has('reader', '') END
$$;

-- the GRANTs that carry out the grants of a role
CREATE FUNCTION mailchimp_sync.carried_grants(_role oid) RETURNS TABLE (privilege text, object text)
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	WITH held AS (
		SELECT DISTINCT w.includes AS level, p.connection
		FROM mailchimp_sync.privilege p
		JOIN mailchimp_sync.level_within w ON w.level = p.level
		WHERE p.role = _role
	), member AS (
		SELECT d.classid, d.objid
		FROM pg_depend d
		JOIN pg_extension e ON e.oid = d.refobjid
		WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND e.extname = 'mailchimp_sync'
	), routine AS MATERIALIZED (	-- first, for most members are functions of ours
		SELECT f.oid, f.proname FROM member m
		JOIN pg_proc f ON m.classid = 'pg_proc'::regclass AND m.objid = f.oid
		WHERE f.pronamespace <> 'mailchimp_sync'::regnamespace
	)
	SELECT 'EXECUTE', format('ROUTINE %s', f.oid::regprocedure)
	FROM routine f
	JOIN mailchimp_sync.gate_function() g ON g.name = f.proname
	WHERE g.level IN (SELECT h.level FROM held h)
	UNION ALL
	SELECT 'SELECT', format('TABLE %s', v.oid::regclass)
	FROM member m
	JOIN pg_class v ON m.classid = 'pg_class'::regclass AND m.objid = v.oid
	WHERE v.relkind = 'v' AND v.relnamespace <> 'mailchimp_sync'::regnamespace
		AND 'reader' IN (SELECT h.level FROM held h)
	UNION ALL
	SELECT op.name, format('TABLE %s', t.tgrelid::regclass)
	FROM pg_trigger t
	JOIN (VALUES (4, 'INSERT'), (8, 'DELETE'), (16, 'UPDATE')) AS op (bit, name) ON t.tgtype & op.bit <> 0
	WHERE t.tgfoid = 'mailchimp_sync.gate_trigger'::regproc
		AND split_part(encode(t.tgargs, 'escape'), '\000', 1) IN (SELECT h.level FROM held h)
	UNION ALL
	SELECT 'USAGE', format('FOREIGN SERVER %I', s.connection)
	FROM mailchimp_sync.server s
	WHERE EXISTS (SELECT FROM held h WHERE h.level = 'reader' AND h.connection IN ('', s.connection))
	UNION ALL
	SELECT 'USAGE', 'FOREIGN DATA WRAPPER mailchimp_sync'
	WHERE 'admin' IN (SELECT h.level FROM held h)
$$;

-- a role as GRANT wants it
CREATE FUNCTION mailchimp_sync.grantee(_role oid) RETURNS text
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE WHEN _role = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(_role)) END
$$;

CREATE FUNCTION mailchimp_sync.grant_role(_role text) RETURNS oid
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_oid oid := CASE WHEN _role = 'public' THEN 0::oid ELSE (SELECT r.oid FROM pg_roles r WHERE r.rolname = _role) END;
BEGIN
	IF _oid IS NULL THEN
		PERFORM mailchimp_sync.raise_unknown('role', _role,
			(SELECT array_agg(r.rolname::text) FROM pg_roles r WHERE r.rolname NOT LIKE 'pg\_%'));
	END IF;
	-- two at a time would meet in the catalog ("tuple concurrently updated")
	LOCK TABLE mailchimp_sync.privilege IN SHARE ROW EXCLUSIVE MODE;
	-- a role that was dropped took its privileges along and left its rows
	DELETE FROM mailchimp_sync.privilege p
	WHERE p.role <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.role);
	RETURN _oid;
END
$$;

CREATE FUNCTION mailchimp_sync.check_level(_level text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.level_within w WHERE w.level = _level) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('level "%s" does not exist', coalesce(_level, 'null')),
			HINT = 'Levels are reader, marketer, admin and webhook.';
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_grant(_role text, _level text, _connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_oid oid := mailchimp_sync.grant_role(_role);
	_grant record;
BEGIN
	PERFORM mailchimp_sync.check_level(_level);
	IF _connection IS NOT NULL
		AND NOT EXISTS (SELECT FROM mailchimp_sync.known_connection k WHERE k.connection = _connection) THEN
		PERFORM mailchimp_sync.raise_unknown('connection', _connection,
			(SELECT array_agg(k.connection) FROM mailchimp_sync.known_connection k));
	END IF;
	INSERT INTO mailchimp_sync.privilege (role, level, connection)
	VALUES (_oid, _level, coalesce(_connection, ''))
	ON CONFLICT DO NOTHING;
	FOR _grant IN SELECT * FROM mailchimp_sync.carried_grants(_oid) LOOP
		EXECUTE format('GRANT %s ON %s TO %s', _grant.privilege, _grant.object, mailchimp_sync.grantee(_oid));
	END LOOP;
END
$$;

-- takes back what no other grant of the role still gives
CREATE FUNCTION mailchimp_sync.mc_revoke(_role text, _level text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_oid oid := mailchimp_sync.grant_role(_role);
	_before text[];
	_grant text;
BEGIN
	IF _level IS NOT NULL THEN
		PERFORM mailchimp_sync.check_level(_level);
	END IF;
	_before := ARRAY(SELECT format('%s ON %s', c.privilege, c.object) FROM mailchimp_sync.carried_grants(_oid) c);
	DELETE FROM mailchimp_sync.privilege p
	WHERE p.role = _oid AND (_level IS NULL OR p.level = _level);
	FOR _grant IN
		SELECT * FROM unnest(_before)
		EXCEPT
		SELECT format('%s ON %s', c.privilege, c.object) FROM mailchimp_sync.carried_grants(_oid) c
	LOOP
		EXECUTE format('REVOKE %s FROM %s', _grant, mailchimp_sync.grantee(_oid));
	END LOOP;
END
$$;

-- the roles that have a grant on a connection, but nothing on its server yet: it was made after the grant
CREATE FUNCTION mailchimp_sync.roles_without_server(_connection text) RETURNS SETOF oid
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT DISTINCT p.role::oid
	FROM mailchimp_sync.privilege p
	WHERE p.connection IN ('', _connection) AND p.level <> 'webhook'
		AND (p.role = 0 OR EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.role))
		AND NOT EXISTS (SELECT
			FROM pg_foreign_server s, aclexplode(coalesce(s.srvacl, acldefault('S', s.srvowner))) x
			WHERE s.srvname = _connection AND x.grantee = p.role AND x.privilege_type = 'USAGE')
$$;

/*
 * Carries the grants on a connection over to its server. Each call to Mailchimp
 * comes by here, mostly for nothing: the catalog is left alone then, for two that
 * write it at a time fail ("tuple concurrently updated"). The row of the connection,
 * which they have locked, does not keep them apart: a transaction that commits stops
 * being in progress a moment before others learn what it did to the catalog. A lock
 * on a table does.
 */
CREATE FUNCTION mailchimp_sync.grant_connection(_connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_role oid;
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.roles_without_server(_connection)) THEN
		RETURN;
	END IF;
	LOCK TABLE mailchimp_sync.privilege IN SHARE ROW EXCLUSIVE MODE;
	FOR _role IN SELECT mailchimp_sync.roles_without_server(_connection) LOOP
		EXECUTE format('GRANT USAGE ON FOREIGN SERVER %I TO %s', _connection, mailchimp_sync.grantee(_role));
	END LOOP;
END
$$;

CREATE FUNCTION @extschema@.mc_grant(role text, level text, connection text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_grant(text, text, text) IS
	'gives a role (or public) the level reader, marketer, admin or webhook on one connection or on all';

CREATE FUNCTION @extschema@.mc_revoke(role text, level text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_revoke(text, text) IS
	'takes back the grants of one level, or all grants, of a role (or public)';
