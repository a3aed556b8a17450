/*
 * grants.sql: nobody may do anything until mc_grant. The last file of the script.
 *
 * Takes back what PostgreSQL gives to PUBLIC by default, and what default
 * privileges of this database gave to anybody. Functions that a view calls run
 * with the rights of who reads the view, so these alone are for all; they read
 * no table.
 */
DO $$
DECLARE
	_found record;
BEGIN
	FOR _found IN
		WITH member AS (
			SELECT d.classid, d.objid
			FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
			WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
				AND e.extname = 'mailchimp_sync'
		), owned AS (
			SELECT pg_catalog.format('ROUTINE %s', p.oid::pg_catalog.regprocedure) AS object, p.proowner AS owner,
				coalesce(p.proacl, pg_catalog.acldefault('f', p.proowner)) AS acl
			FROM member m
			JOIN pg_catalog.pg_proc p ON m.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND m.objid = p.oid
			UNION ALL
			SELECT pg_catalog.format('TABLE %s', c.oid::pg_catalog.regclass), c.relowner, c.relacl
			FROM member m
			JOIN pg_catalog.pg_class c ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid
			UNION ALL
			SELECT pg_catalog.format('TYPE %s', t.oid::pg_catalog.regtype), t.typowner,
				coalesce(t.typacl, pg_catalog.acldefault('T', t.typowner))
			FROM member m
			JOIN pg_catalog.pg_type t ON m.classid = 'pg_catalog.pg_type'::pg_catalog.regclass AND m.objid = t.oid
			-- members from 17 on, with the privileges of their elements
			WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = t.oid)
			UNION ALL
			SELECT pg_catalog.format('SCHEMA %I', n.nspname), n.nspowner, n.nspacl
			FROM member m
			JOIN pg_catalog.pg_namespace n
				ON m.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND m.objid = n.oid
		)
		SELECT DISTINCT o.object,
			CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE a.grantee::pg_catalog.regrole::text END AS grantee
		FROM owned o
		CROSS JOIN pg_catalog.aclexplode(o.acl) a
		WHERE a.grantee <> o.owner
	LOOP
		EXECUTE pg_catalog.format('REVOKE ALL ON %s FROM %s', _found.object, _found.grantee);
	END LOOP;

	FOR _found IN
		WITH RECURSIVE member AS (
			SELECT d.classid, d.objid
			FROM pg_catalog.pg_depend d
			JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
			WHERE d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'
				AND e.extname = 'mailchimp_sync'
		), reads AS (
			SELECT r.ev_class AS reader, d.refclassid, d.refobjid
			FROM pg_catalog.pg_rewrite r
			JOIN pg_catalog.pg_depend d
				ON d.classid = 'pg_catalog.pg_rewrite'::pg_catalog.regclass AND d.objid = r.oid
		), shown AS (
			-- public views, and what they read
			SELECT c.oid AS relation
			FROM member m
			JOIN pg_catalog.pg_class c ON m.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND m.objid = c.oid
			WHERE c.relkind = 'v' AND c.relnamespace <> 'mailchimp_sync'::pg_catalog.regnamespace
			UNION
			SELECT u.refobjid FROM shown s
			JOIN reads u ON u.reader = s.relation AND u.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
		)
		SELECT DISTINCT u.refobjid::pg_catalog.regprocedure AS helper
		FROM shown s
		JOIN reads u ON u.reader = s.relation
		JOIN member m ON m.classid = u.refclassid AND m.objid = u.refobjid
		WHERE u.refclassid = 'pg_catalog.pg_proc'::pg_catalog.regclass
	LOOP
		EXECUTE pg_catalog.format('GRANT EXECUTE ON FUNCTION %s TO PUBLIC', _found.helper);
	END LOOP;
END
$$;

-- PostgreSQL asks who makes a partition for the right to the triggers that it then gives it; nobody
-- can name the function without a right to its schema
GRANT EXECUTE ON FUNCTION mailchimp_sync.note_change() TO PUBLIC;
