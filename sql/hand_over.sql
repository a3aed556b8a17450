/*
 * hand_over.sql: what is to outlive the extension is copied to ordinary tables (R97, R98, R113, D18).
 *
 * Each table is what a view shows, made by one statement, so that millions of rows go through no program; nothing of the
 * extension is needed to read it: names instead of numbers, no types of ours, comments that explain the words. It belongs to the
 * caller and to nobody else, whatever default privileges say. What exists is never overwritten.
 *
 * Views show the rows of connections that the current user may use, which is the extension's owner here. Were that one no
 * superuser, rows would be missing without a word; so that is looked at first.
 */
CREATE FUNCTION @extschema@.mc_hand_over(schema text) RETURNS TABLE (relation text, rows bigint)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_hand_over(text) IS
	'copies campaigns, results, opt-outs, members and the rest to ordinary tables of the caller, before the extension is dropped';

/* ---- what no public view shows as a whole ---- */

CREATE VIEW mailchimp_sync.kept_opt_out AS
SELECT s.source, o.contact_key, o.email, o.email_hash, o.origin, o.reason, o.added_at, o.added_by
FROM mailchimp_sync.opt_out o
LEFT JOIN mailchimp_sync.source s USING (source_id);

CREATE VIEW mailchimp_sync.kept_opt_out_history AS
SELECT l.logged_at, l.joined, s.source, l.contact_key, l.email, l.origin, l.reason, l.actor
FROM mailchimp_sync.opt_out_log l
LEFT JOIN mailchimp_sync.source s USING (source_id);

CREATE VIEW mailchimp_sync.kept_report_link AS
SELECT l.campaign_id, l.url, l.clicks, l.unique_clicks, l.human_clicks, l.last_click FROM mailchimp_sync.report_link l;

CREATE VIEW mailchimp_sync.kept_erasure AS
SELECT e.erasure_id, e.email_hash, e.asked_at, e.asked_by, l.connection, l.list_id, l.state, l.erased_at, e.done_at
FROM mailchimp_sync.erasure e
LEFT JOIN mailchimp_sync.erasure_list l USING (erasure_id);

-- the tables that are made, what is in them, and how that reads
CREATE FUNCTION mailchimp_sync.kept_relations() RETURNS TABLE (name text, view regclass, comment text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	VALUES ('mailchimp_audience', '@extschema@.mc_audience'::regclass,
		'Mailchimp lists (audiences) that were kept in step with the CRM, and how'),
	('mailchimp_source', '@extschema@.mc_source',
		'tables and views of the CRM with contacts, and the SQL expressions that gave key, address, merge fields and tags'),
	('mailchimp_list', '@extschema@.mc_list', 'the lists of the Mailchimp accounts'),
	('mailchimp_contact', '@extschema@.mc_contact_state',
		'each contact of the CRM that concerned an audience, by source and key, and the one state in which it was'),
	('mailchimp_member', '@extschema@.mc_member',
		'the members of the audiences'' lists as Mailchimp last showed them, with the contact (source, contact_key) behind each; '
		'foreign_member: it was not brought there by the CRM'),
	('mailchimp_list_member', '@extschema@.mc_list_member', 'who was in the lists of the audiences, with names, status and the contact'),
	('mailchimp_campaign', '@extschema@.mc_campaign',
		'campaigns: how they were set and what became of them; archive_url is the mail as it was sent; origin imported: made at Mailchimp'),
	('mailchimp_campaign_target', '@extschema@.mc_campaign_target', 'the tags or the audience at which campaigns aimed'),
	('mailchimp_recipient', '@extschema@.mc_campaign_recipient',
		'everybody who was selected for a campaign, and the one status: pending; skipped with the reason; or sent, bounced, opened, clicked, '
		'unsubscribed, of which the last that came true counts'),
	('mailchimp_activity', '@extschema@.mc_activity',
		'every bounce, open, click and unsubscribe that was recorded; machine: Mailchimp takes it for a machine''s'),
	('mailchimp_report', '@extschema@.mc_report',
		'the figures of each campaign as Mailchimp reported them at polled_at; rates in percent of the delivered mails'),
	('mailchimp_report_link', 'mailchimp_sync.kept_report_link', 'clicks per campaign and link as Mailchimp reported them; human_clicks: without machines'),
	('mailchimp_opt_out', 'mailchimp_sync.kept_opt_out',
		'the group MailChimp opt-out: contacts and addresses that must not be mailed; email_hash is the MD5 of the address in lower case, all that '
		'is kept of who was erased (origin erasure)'),
	('mailchimp_opt_out_history', 'mailchimp_sync.kept_opt_out_history', 'who joined and left the opt-out group, when and by whom; joined false: left'),
	('mailchimp_failure', '@extschema@.mc_failure', 'what Mailchimp refused or what kept failing, in Mailchimp''s own words'),
	('mailchimp_signal', '@extschema@.mc_signal', 'what programs were told of lately'),
	('mailchimp_erasure', 'mailchimp_sync.kept_erasure', 'persons who were to be erased, by the MD5 of the address alone, and how far that was in each list')
$$;

/* ---- handing over ---- */

CREATE FUNCTION mailchimp_sync.mc_hand_over(_schema text) RETURNS TABLE (relation text, rows bigint)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_kept	record;
BEGIN
	PERFORM mailchimp_sync.check_kept_schema(_schema);
	PERFORM mailchimp_sync.check_all_visible();
	FOR _kept IN SELECT * FROM mailchimp_sync.kept_relations() LOOP
		relation := format('%I.%I', _schema, _kept.name);
		rows := mailchimp_sync.keep_relation(relation, _kept.view, _kept.comment);
		RETURN NEXT;
	END LOOP;
	PERFORM mailchimp_sync.warn_of_unsynced();
	RAISE NOTICE USING MESSAGE = format('the tables in schema "%s" are yours and stay when the extension is dropped', _schema),
		DETAIL = 'Contacts in the tables of the CRM stay as they are. Everything else goes, and what Mailchimp learns later, opt-outs '
			'included, is noted by nobody.',
		HINT = 'DROP EXTENSION mailchimp_sync CASCADE cannot be undone.';
END
$$;

-- a schema that exists, in which the caller may make tables, which does not go with the extension, and without those
CREATE FUNCTION mailchimp_sync.check_kept_schema(_schema text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_oid	oid := (SELECT n.oid FROM pg_namespace n WHERE n.nspname = _schema);
	_there	text;
BEGIN
	IF _oid IS NULL THEN
		PERFORM mailchimp_sync.raise_unknown('schema', _schema,
			(SELECT array_agg(n.nspname::text) FROM pg_namespace n WHERE n.nspname !~ '^(pg_|information_schema|mailchimp_sync)'));
	ELSIF _schema ~ '^(pg_|information_schema$|mailchimp_sync$)' THEN
		RAISE invalid_parameter_value USING MESSAGE = format('schema "%s" is not for tables that are to stay', _schema),
			HINT = 'CREATE SCHEMA makes another one.';
	ELSIF NOT (has_schema_privilege(mailchimp_sync.caller(), _oid, 'CREATE')
			AND has_schema_privilege(mailchimp_sync.caller(), _oid, 'USAGE')) THEN
		RAISE insufficient_privilege USING MESSAGE = format('permission denied for schema %s', _schema),
			DETAIL = 'The tables become the caller''s, who has to have the right to make them there.';
	END IF;
	SELECT string_agg(k.name, ', ' ORDER BY k.name) INTO _there FROM mailchimp_sync.kept_relations() k
	WHERE EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = _oid AND c.relname = k.name)
		OR EXISTS (SELECT FROM pg_type t WHERE t.typnamespace = _oid AND t.typname = k.name);
	IF _there IS NOT NULL THEN
		RAISE duplicate_table USING MESSAGE = format('schema "%s" has tables of these names already', _schema), DETAIL = _there || '.',
			HINT = 'Nothing is overwritten: name another schema, or drop or rename them.';
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.check_all_visible() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hidden	text := (SELECT string_agg(quote_ident(k.connection), ', ' ORDER BY k.connection) FROM mailchimp_sync.known_connection k
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.permitted_connection p WHERE p.connection = k.connection));
BEGIN
	IF _hidden IS NOT NULL THEN
		RAISE insufficient_privilege USING MESSAGE = format('the owner of the extension, %s, may not see everything', current_user),
			DETAIL = format('It has no grant on: %s.', _hidden),
			HINT = format('SELECT mc_grant(%L, ''reader'') gives it one.', current_user);
	END IF;
END
$$;

-- one table of the caller's with all rows of a view; returns how many
CREATE FUNCTION mailchimp_sync.keep_relation(_table text, _view regclass, _comment text) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_owner	text := mailchimp_sync.grantee(mailchimp_sync.caller());
	_rows	bigint;
	_todo	text;
BEGIN
	EXECUTE format('CREATE TABLE %s AS SELECT %s FROM %s', _table, (
		-- what is an object's number comes as its name
		SELECT string_agg(format(CASE WHEN t.typname LIKE 'reg%' THEN '%1$I::text AS %1$I' ELSE '%1$I' END, a.attname), ', ' ORDER BY a.attnum)
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
		WHERE a.attrelid = _view AND a.attnum > 0 AND NOT a.attisdropped), _view);
	GET DIAGNOSTICS _rows = ROW_COUNT;
	FOR _todo IN
		SELECT format('REVOKE ALL ON %s FROM %s', _table, mailchimp_sync.grantee(x.grantee))
		FROM pg_class c CROSS JOIN aclexplode(c.relacl) x WHERE c.oid = _table::regclass AND x.grantee <> c.relowner
		UNION ALL
		SELECT format('COMMENT ON COLUMN %s.%I IS %L', _table, a.attname, col_description(_view, a.attnum))
		FROM pg_attribute a WHERE a.attrelid = _view AND a.attnum > 0 AND col_description(_view, a.attnum) IS NOT NULL
	LOOP
		EXECUTE _todo;
	END LOOP;
	EXECUTE format('COMMENT ON TABLE %s IS %L', _table, format('%s (mailchimp_sync, %s)', _comment,
		to_char(mailchimp_sync.clock() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')));
	EXECUTE format('ALTER TABLE %s OWNER TO %s', _table, _owner);
	RETURN _rows;
END
$$;

/* ---- what is not as it will be (R113) ---- */

CREATE FUNCTION mailchimp_sync.unsynced() RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s: %s', q.what, q.n) FROM (VALUES
		('changes of the CRM that were not looked at', (SELECT count(*) FROM mailchimp_sync.event)),
		('contacts that wait to be sent to Mailchimp', (SELECT count(*) FROM mailchimp_sync.contact c WHERE c.action IS NOT NULL)),
		('members whose changes are not in the CRM', (SELECT count(*) FROM mailchimp_sync.member m WHERE m.inbound_at IS NOT NULL)),
		('opt-outs that were not carried to Mailchimp', (SELECT count(*) FROM mailchimp_sync.opt_out o WHERE o.carried_at IS NULL)),
		('campaigns on their way', (SELECT count(*) FROM mailchimp_sync.campaign c WHERE c.goal IS NOT NULL)),
		('campaigns that this database was to send at their time',
			(SELECT count(*) FROM mailchimp_sync.campaign c WHERE c.status = 'scheduled' AND c.hold)),
		('campaigns whose results are due', (SELECT count(*) FROM mailchimp_sync.campaign c WHERE c.next_poll_at <= mailchimp_sync.clock())),
		('erasures that are not done', (SELECT count(*) FROM mailchimp_sync.erasure e WHERE e.done_at IS NULL))) AS q(what, n)
	WHERE q.n > 0
$$;

CREATE FUNCTION mailchimp_sync.warn_of_unsynced() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_unsynced	text := (SELECT string_agg(u, ', ') FROM mailchimp_sync.unsynced() u);
BEGIN
	IF _unsynced IS NOT NULL THEN
		RAISE WARNING USING MESSAGE = 'not everything is synced yet', DETAIL = format('Still to be done: %s.', _unsynced),
			HINT = 'What is to be kept has to be synced first: CALL mc_run() until mc_status shows nothing pending, then hand over to another schema.';
	END IF;
	PERFORM mailchimp_sync.warn_of_scheduled(k.connection) FROM mailchimp_sync.known_connection k;
END
$$;
