/*
 * inbound_find.sql: the rows of the CRM that stale members mean, and what is to come into them (D13, D14); inbound_write.sql
 * has the whole.
 */
-- a stale member and its row
CREATE TYPE mailchimp_sync.inbound_member AS (
	email_hash		text,
	source_id		integer,	-- where its row is or may be; null: in any
	contact_key		text,
	is_ours			boolean,	-- the contact stands behind the member, or the row was brought in: no other will do
	stored			jsonb,		-- the row's columns as text, once it was found
	is_late			boolean,	-- another member has the row already
	refusal			text,		-- why it cannot be looked for
	sent			jsonb,		-- what it will have been dealt with by: the base
	shown			jsonb,
	writes			jsonb		-- the values of the columns that are to be written
);

/* ---- statements ---- */

-- the source as it is written: over the relation that takes the rows
CREATE FUNCTION mailchimp_sync.inbound_target(_inbound mailchimp_sync.inbound) RETURNS mailchimp_sync.source
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_target	mailchimp_sync.source;
BEGIN
	SELECT * INTO STRICT _target FROM mailchimp_sync.source s WHERE s.source_id = _inbound.source_id;
	_target.relation := coalesce(_inbound.into_relation, _target.relation);
	_target.key_expr := coalesce(_inbound.into_key, _target.key_expr);
	RETURN _target;
END
$$;

-- a name that the source does not have, so that it hides nothing
CREATE FUNCTION mailchimp_sync.other_alias(_source mailchimp_sync.source) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _source.source = 'k' THEN 'j' ELSE 'k' END
$$;

/*
 * The rows of the members $1, each {"hash", and "key" or "id" and "email"}; value is {"key", "how": 1 by the key, 2 by the
 * id, 3 by the address, "row": {column: text}}. Of rows with one address the first by its key (D13). Where there is an
 * index each member is looked up in it, whatever the planner knows of the table: an import fills it.
 */
CREATE FUNCTION mailchimp_sync.inbound_look_query(_target mailchimp_sync.source, _columns jsonb) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_k	text := mailchimp_sync.other_alias(_target);
BEGIN
	RETURN (
		WITH attribute AS (
			SELECT c.key, c.value AS name, format_type(a.atttypid, -1) AS type, mailchimp_sync.is_citext(a.atttypid) AS is_citext,
				mailchimp_sync.has_key_index(_target.relation, mailchimp_sync.inbound_index(c.key, c.value, a.atttypid)) AS has_index
			FROM jsonb_each_text(_columns) c
			LEFT JOIN pg_attribute a ON a.attrelid = _target.relation AND a.attname = c.value AND NOT a.attisdropped
		), way AS (
			SELECT 1 AS how, format('(%s) %s (%s.probe ->> ''key'')::%s', _target.key_expr,
				mailchimp_sync.key_operator(_target.key_type, 3, '='), _k, _target.key_type) AS condition, false AS has_index
			UNION ALL
			SELECT 2, format('%I.%I %s (%s.probe ->> ''id'')::%s', _target.source, a.name,
				mailchimp_sync.key_operator(a.type, 3, '='), _k, a.type), a.has_index FROM attribute a WHERE a.key = 'id'
			UNION ALL
			SELECT 3, CASE WHEN a.is_citext THEN format('%I.%I %s (%s.probe ->> ''email'')::%s', _target.source, a.name,
					mailchimp_sync.key_operator(a.type, 3, '='), _k, a.type)
				ELSE format('pg_catalog.lower(%I.%I::pg_catalog.text) = (%s.probe ->> ''email'')', _target.source, a.name, _k) END, a.has_index
			FROM attribute a WHERE a.key = 'email'
		)
		SELECT 'SELECT DISTINCT ON (x.given COLLATE pg_catalog."C") x.given, pg_catalog.jsonb_build_object('
				'''key'', x.key::pg_catalog.text, ''how'', x.how, ''row'', x.columns) FROM ('
			|| string_agg(format('SELECT %1$s.given, l.key, %3$s AS how, l.columns '
				'FROM (SELECT u.given, u.given::pg_catalog.jsonb AS probe FROM pg_catalog.unnest($1) AS u(given)) AS %1$s '
				'CROSS JOIN LATERAL (SELECT (%2$s) AS key, %4$s AS columns FROM %5$s WHERE %6$s AND (%2$s) IS NOT NULL %7$s) AS l',
				_k, _target.key_expr, w.how,
				mailchimp_sync.object_query(ARRAY(SELECT format('%L, (%I.%I)::pg_catalog.text', a.name, _target.source, a.name)
					FROM attribute a ORDER BY a.name)),
				mailchimp_sync.source_from(_target), w.condition, CASE WHEN w.has_index THEN 'OFFSET 0' END),
				' UNION ALL ' ORDER BY w.how)
			|| ') AS x ORDER BY x.given COLLATE pg_catalog."C", x.how, x.key'
		FROM way w);
END
$$;

/* ---- trouble ---- */

/*
 * The definition cannot be carried out: a column is gone, the right to it, the owner. It is tried again by itself, an
 * hour later where that lasts until somebody acts (mc_retry, mc_set_inbound).
 */
CREATE FUNCTION mailchimp_sync.inbound_trouble(_inbound mailchimp_sync.inbound, _error_state text, _error_message text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_next	timestamptz := mailchimp_sync.clock() + CASE WHEN mailchimp_sync.error_is_lasting(_error_state) THEN interval '1 hour'
		ELSE mailchimp_sync.backoff(_inbound.failures + 1) END;
BEGIN
	UPDATE mailchimp_sync.inbound i SET failures = i.failures + 1, next_attempt_at = _next
	WHERE i.audience_id = _inbound.audience_id AND i.source_id = _inbound.source_id;
	PERFORM mailchimp_sync.note_failure('pull', a.connection, 'The CRM cannot be written', _error_message, _next, a.audience_id,
		_source_id => _inbound.source_id)
	FROM mailchimp_sync.audience a WHERE a.audience_id = _inbound.audience_id;
	IF _inbound.failures = (CASE WHEN mailchimp_sync.error_is_lasting(_error_state) THEN 0
			ELSE mailchimp_sync.failing_for_long() - 1 END) THEN
		PERFORM mailchimp_sync.signal('sync_failed', a.connection, a.audience_id, NULL,
			jsonb_build_object('reason', format('source "%s": %s', s.source, _error_message)))
		FROM mailchimp_sync.audience a JOIN mailchimp_sync.source s ON s.source_id = _inbound.source_id
		WHERE a.audience_id = _inbound.audience_id;
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.inbound_works(_inbound mailchimp_sync.inbound) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.inbound i SET failures = 0, next_attempt_at = NULL
	WHERE i.audience_id = _inbound.audience_id AND i.source_id = _inbound.source_id AND i.failures > 0;
	IF FOUND THEN
		DELETE FROM mailchimp_sync.failure f
		WHERE f.work = 'pull' AND f.audience_id = _inbound.audience_id AND f.source_id = _inbound.source_id AND f.contact_key = '';
	END IF;
END
$$;

-- columns are stored by their names: null, or what is wrong with them by now, as far as all rows have it
CREATE FUNCTION mailchimp_sync.inbound_misfit(_inbound mailchimp_sync.inbound, _target mailchimp_sync.source) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT CASE WHEN c.oid IS NULL THEN 'the relation that takes the rows is gone'
			ELSE (SELECT format('column "%s" of %s does not exist', n.name, _target.relation)
				FROM (SELECT v.value AS name FROM jsonb_each_text(_inbound.columns) v
					UNION SELECT k FROM jsonb_object_keys(_inbound.defaults) k WHERE _inbound.create_new) n
				WHERE NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = n.name AND a.attnum > 0
					AND NOT a.attisdropped)
				UNION ALL
				SELECT format('role %s needs UPDATE on column "%s" of %s', r.rolname, v.value, _target.relation)
				FROM jsonb_each_text(_inbound.columns) v JOIN pg_roles r ON r.oid = _target.owner
				JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = v.value
				WHERE NOT has_column_privilege(r.oid, c.oid, a.attnum, 'UPDATE')
				ORDER BY 1 LIMIT 1) END
		FROM (SELECT) AS one LEFT JOIN pg_class c ON c.oid = _target.relation);
END
$$;

/* ---- finding the rows ---- */

-- who stands behind the members, as far as we know without the CRM
CREATE FUNCTION mailchimp_sync.inbound_known(_audience_id integer, _hashes text[]) RETURNS mailchimp_sync.inbound_member[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY(
		SELECT ROW(m.email_hash, coalesce(c.source_id, l.source_id), coalesce(c.contact_key, l.contact_key),
			coalesce(c.is_ours, l.contact_key IS NOT NULL), NULL, false, NULL, NULL, NULL, NULL)::mailchimp_sync.inbound_member
		FROM unnest(_hashes) AS h(email_hash)
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience_id AND o.email_hash = h.email_hash COLLATE "C" OFFSET 0) AS m
		LEFT JOIN LATERAL (
			SELECT k.source_id, k.contact_key, k.is_ours FROM (
				SELECT o.source_id, o.contact_key, o.state, o.desired_hash, true AS is_ours FROM mailchimp_sync.contact o
				WHERE o.audience_id = _audience_id AND o.member_hash = m.email_hash
				UNION ALL
				-- not one that is at Mailchimp under another address
				SELECT o.source_id, o.contact_key, o.state, o.desired_hash, false FROM mailchimp_sync.contact o
				WHERE o.audience_id = _audience_id AND o.email_hash = m.email_hash AND o.member_hash IS NULL) AS k
			JOIN mailchimp_sync.audience_source x ON x.audience_id = _audience_id AND x.source_id = k.source_id
			JOIN mailchimp_sync.source s ON s.source_id = k.source_id
			ORDER BY k.is_ours DESC, k.desired_hash IS NULL OR k.state = 'conflict',
				mailchimp_sync.precedence(x.position, s.key_type, k.contact_key) COLLATE "C" LIMIT 1) AS c ON true
		-- the row it was brought into may stand behind another member by now
		LEFT JOIN LATERAL (SELECT m.inbound_source_id AS source_id, m.inbound_key AS contact_key
			WHERE m.inbound_key IS NOT NULL AND NOT mailchimp_sync.inbound_is_taken(_audience_id, m.inbound_source_id, m.inbound_key,
				m.email_hash)) AS l ON true);
END
$$;

-- has another member the row, as the contact that stands behind it or because it was brought in?
CREATE FUNCTION mailchimp_sync.inbound_is_taken(_audience_id integer, _source_id integer, _key text, _email_hash text)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.contact c
			JOIN mailchimp_sync.member m ON m.audience_id = c.audience_id AND m.email_hash = coalesce(c.member_hash, c.email_hash)
			WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.contact_key = _key COLLATE "C"
				AND m.email_hash <> _email_hash COLLATE "C" AND m.status IS NOT NULL)
		OR EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.inbound_source_id = _source_id AND m.inbound_key = _key COLLATE "C"
				AND m.email_hash <> _email_hash COLLATE "C" AND m.status IS NOT NULL);
END
$$;

-- what is looked for in a source: by the keys that are known, or, of those that are nowhere yet, by id and address
CREATE FUNCTION mailchimp_sync.inbound_probes(_inbound mailchimp_sync.inbound, _members mailchimp_sync.inbound_member[],
	_by_key boolean)
RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _by_key THEN
		RETURN ARRAY(SELECT jsonb_build_object('hash', u.email_hash, 'key', u.contact_key)::text FROM unnest(_members) u
			WHERE u.source_id = _inbound.source_id);
	END IF;
	RETURN ARRAY(SELECT jsonb_build_object('hash', u.email_hash, 'id', m.mailchimp_id, 'email', lower(m.email))::text
		FROM unnest(_members) u
		JOIN mailchimp_sync.member m ON m.audience_id = _inbound.audience_id AND m.email_hash = u.email_hash COLLATE "C"
		WHERE NOT u.is_ours AND u.stored IS NULL AND u.refusal IS NULL);
END
$$;

-- null where the source cannot be read, which is noted
CREATE FUNCTION mailchimp_sync.inbound_look(_inbound mailchimp_sync.inbound, _members mailchimp_sync.inbound_member[],
	_by_key boolean)
RETURNS mailchimp_sync.inbound_member[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_target	mailchimp_sync.source := mailchimp_sync.inbound_target(_inbound);
	_probes	text[] := mailchimp_sync.inbound_probes(_inbound, _members, _by_key);
	_found	mailchimp_sync.evaluated[];
	_error	record;
BEGIN
	IF _probes = '{}' THEN
		RETURN _members;
	END IF;
	SELECT array_agg(ROW(e.*)::mailchimp_sync.evaluated) INTO _found
	FROM mailchimp_sync.evaluate(_target.owner, mailchimp_sync.inbound_look_query(_target, _inbound.columns), _probes) e;
	SELECT f.error_state, f.error_message INTO _error FROM unnest(_found) f WHERE f.contact_key IS NULL LIMIT 1;
	IF FOUND THEN
		PERFORM mailchimp_sync.inbound_trouble(_inbound, _error.error_state, _error.error_message);
		RETURN NULL;
	END IF;
	RETURN ARRAY(
		SELECT ROW(u.email_hash, CASE WHEN f.stored IS NULL THEN u.source_id ELSE _inbound.source_id END,
			CASE WHEN f.stored IS NULL THEN u.contact_key ELSE f.key END, u.is_ours, coalesce(f.stored, u.stored),
			u.is_late OR coalesce(f.is_late, false), coalesce(f.error, u.refusal), NULL, NULL, NULL)::mailchimp_sync.inbound_member
		FROM unnest(_members) u
		LEFT JOIN (
			SELECT r.*, NOT _by_key AND (r.number > 1
				OR EXISTS (SELECT FROM unnest(_members) o WHERE o.stored IS NOT NULL AND o.source_id = _inbound.source_id
					AND o.contact_key = r.key)
				OR mailchimp_sync.inbound_is_taken(_inbound.audience_id, _inbound.source_id, r.key, r.email_hash)) AS is_late
			FROM (SELECT v.contact_key::jsonb ->> 'hash' AS email_hash, v.value ->> 'key' AS key, v.value -> 'row' AS stored,
					v.error_message AS error,
					row_number() OVER (PARTITION BY v.value ->> 'key' ORDER BY v.value ->> 'how', v.contact_key) AS number
				FROM unnest(_found) v) AS r) AS f USING (email_hash));
END
$$;

/* ---- deciding ---- */

-- the values that a definition has columns for, by column
CREATE FUNCTION mailchimp_sync.by_column(_values jsonb, _columns jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(jsonb_object_agg(c.value, _values -> c.key), '{}') FROM jsonb_each_text(_columns) c WHERE _values ? c.key
$$;

-- what was deleted there has no status
CREATE FUNCTION mailchimp_sync.member_facts(_member mailchimp_sync.member) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_build_object('status', _member.status) || jsonb_strip_nulls(jsonb_build_object('id', _member.mailchimp_id,
			'list_name', l.name, 'list_from', l.from_email))
		FROM mailchimp_sync.audience a LEFT JOIN mailchimp_sync.list l USING (connection, list_id)
		WHERE a.audience_id = _member.audience_id);
END
$$;

/*
 * The fields of a member by the policy: those that come in, with their values, and the base of all that are dealt with.
 * _payload is null where the source gives the row none.
 */
CREATE FUNCTION mailchimp_sync.inbound_fields(_audience mailchimp_sync.audience, _tags text[], _payload jsonb,
	_member mailchimp_sync.member, _crm_at timestamptz, OUT comes jsonb, OUT sent jsonb, OUT shown jsonb)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_wanted	jsonb := CASE WHEN _audience.direction = 'both' THEN _payload ELSE '{}' END;
BEGIN
	comes := '{}';
	IF _audience.direction = 'push' OR _wanted IS NULL OR _member.read_fields IS NULL THEN
		RETURN;
	END IF;
	SELECT coalesce(jsonb_object_agg(d.field, r.value) FILTER (WHERE d.decision = 'to_crm'), '{}'),
		jsonb_object_agg(d.field, CASE WHEN NOT _wanted ? d.field THEN '""' WHEN d.decision = 'to_crm' THEN r.value
			ELSE _wanted -> d.field END) FILTER (WHERE e.is_dealt_with),
		jsonb_object_agg(d.field, r.value) FILTER (WHERE e.is_dealt_with)
	INTO comes, sent, shown
	FROM mailchimp_sync.field_decisions(CASE WHEN _audience.direction = 'both' THEN _audience.conflict ELSE 'mailchimp_wins' END,
		_tags, _wanted, _member.sent_fields, _member.shown_fields, _member.read_fields, _crm_at, _member.last_changed) AS d
	CROSS JOIN LATERAL (SELECT coalesce(_member.read_fields -> d.field, '""') AS value) AS r
	CROSS JOIN LATERAL (SELECT d.decision = 'to_crm' OR d.decision = 'in_sync' AND (NOT _wanted ? d.field
		OR mailchimp_sync.field_value(_wanted -> d.field) IS NOT DISTINCT FROM mailchimp_sync.field_value(r.value)) AS is_dealt_with) AS e
	WHERE d.field = ANY (_tags);
END
$$;

/*
 * Does the address of a member come in? Of a contact, by direction both, as desired() sees it; else the base is the
 * address that the row had when it was last brought there. A row that was found by the id says nothing of its own.
 */
CREATE FUNCTION mailchimp_sync.inbound_address(_audience mailchimp_sync.audience, _member mailchimp_sync.member, _row_email text,
	_is_ours boolean, _contact mailchimp_sync.contact)
RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_row_hash	text := mailchimp_sync.email_hash(nullif(mailchimp_sync.bare_address(_row_email), ''));
	_base		jsonb := CASE WHEN _member.inbound_hash IS NOT NULL THEN jsonb_build_object('email', _member.inbound_hash) END;
BEGIN
	IF _audience.direction = 'push' OR _row_hash = _member.email_hash OR _member.status IS NULL THEN
		RETURN false;
	ELSIF _row_hash IS NULL THEN
		RETURN _audience.direction = 'pull' OR _audience.conflict <> 'crm_wins';
	ELSIF _audience.direction = 'both' AND _contact.member_hash = _member.email_hash THEN
		RETURN mailchimp_sync.agreed_address(_audience.audience_id, _audience.conflict, '{email}', _row_hash, _contact.member_hash,
			_contact.agreed_hash, _contact.crm_at) = _contact.member_hash;
	ELSIF _base IS NULL AND _is_ours THEN
		RETURN false;
	END IF;
	RETURN (SELECT d.decision = 'to_crm' FROM mailchimp_sync.field_decisions(
		CASE WHEN _audience.direction = 'both' THEN _audience.conflict ELSE 'mailchimp_wins' END, '{email}',
		CASE WHEN _audience.direction = 'both' THEN jsonb_build_object('email', _row_hash) ELSE '{}' END, _base, _base,
		jsonb_build_object('email', _member.email_hash), NULL, _member.last_changed) AS d);
END
$$;

-- what the source gives the rows that were found, by key; null where it cannot be evaluated, which is noted
CREATE FUNCTION mailchimp_sync.inbound_payloads(_source_id integer, _keys text[]) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_values	mailchimp_sync.evaluated[] := mailchimp_sync.evaluate_contacts(_source_id, '{}', _keys);
BEGIN
	RETURN CASE WHEN _values IS NOT NULL THEN (SELECT coalesce(jsonb_object_agg(v.contact_key, mailchimp_sync.payload(v.value)), '{}')
		FROM unnest(_values) v WHERE v.error_state IS NULL) END;
END
$$;

/*
 * Where the latest change wins: the contacts that the CRM has changed, and whose events were not read yet. When that was is
 * known when they are (crm_time.sql), so their members wait for it.
 */
CREATE FUNCTION mailchimp_sync.inbound_unread(_audience mailchimp_sync.audience, _source_id integer, _payloads jsonb)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_keys	text[];
BEGIN
	IF _audience.direction <> 'both' OR _audience.conflict <> 'latest_wins' THEN
		RETURN '{}';
	END IF;
	SELECT coalesce(array_agg(c.contact_key), '{}') INTO _keys
	FROM jsonb_each(_payloads) p
	JOIN mailchimp_sync.contact c ON c.audience_id = _audience.audience_id AND c.source_id = _source_id
		AND c.contact_key = p.key COLLATE "C"
	WHERE c.desired_hash <> mailchimp_sync.payload_hash(p.value);
	IF _keys <> '{}' THEN
		PERFORM mailchimp_sync.fold_contacts(_source_id, _keys);
	END IF;
	RETURN _keys;
END
$$;

/*
 * Of a definition's members whose rows were found: what is to be written, and the base. Null where the source has
 * trouble; values null: it is not to be decided yet.
 */
CREATE FUNCTION mailchimp_sync.inbound_decide(_audience mailchimp_sync.audience, _inbound mailchimp_sync.inbound,
	_members mailchimp_sync.inbound_member[])
RETURNS mailchimp_sync.inbound_member[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_payloads	jsonb := '{}';
	_unread		text[];
	_tags		text[] := ARRAY(SELECT k FROM jsonb_object_keys(_inbound.columns) k
		WHERE k <> 'email' AND k <> ALL (mailchimp_sync.inbound_facts()));
BEGIN
	IF _audience.direction = 'both' THEN
		_payloads := mailchimp_sync.inbound_payloads(_inbound.source_id, ARRAY(SELECT u.contact_key FROM unnest(_members) u));
		IF _payloads IS NULL THEN
			RETURN NULL;
		END IF;
	END IF;
	_unread := mailchimp_sync.inbound_unread(_audience, _inbound.source_id, _payloads);
	RETURN ARRAY(
		SELECT ROW(u.email_hash, u.source_id, u.contact_key, u.is_ours, u.stored, u.is_late, u.refusal, f.sent, f.shown,
			CASE WHEN u.contact_key <> ALL (_unread) THEN (SELECT coalesce(jsonb_object_agg(w.key, w.value), '{}')
				FROM jsonb_each(mailchimp_sync.by_column(mailchimp_sync.member_facts(m) || f.comes
					|| CASE WHEN _inbound.columns ? 'email' AND mailchimp_sync.inbound_address(_audience, m,
						u.stored ->> (_inbound.columns ->> 'email'), u.is_ours, c) THEN jsonb_build_object('email', m.email)
						ELSE '{}' END, _inbound.columns)) AS w
				WHERE (w.value #>> '{}') IS DISTINCT FROM (u.stored ->> w.key)) END)::mailchimp_sync.inbound_member
		FROM unnest(_members) u
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience.audience_id AND o.email_hash = u.email_hash COLLATE "C" OFFSET 0) AS m
		LEFT JOIN mailchimp_sync.contact c ON c.audience_id = _audience.audience_id AND c.source_id = u.source_id
			AND c.contact_key = u.contact_key COLLATE "C"
		CROSS JOIN LATERAL mailchimp_sync.inbound_fields(_audience, _tags,
			mailchimp_sync.with_emptied(_payloads -> u.contact_key, u.source_id, m) -> 'merge_fields', m, c.crm_at) AS f);
END
$$;

/*
 * Members that match nothing become rows of the first source that takes new ones: those who are subscribed and were
 * not erased. What is empty gets the column's own default, or that of the definition.
 */
CREATE FUNCTION mailchimp_sync.inbound_new(_inbound mailchimp_sync.inbound, _hashes text[])
RETURNS mailchimp_sync.inbound_member[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY(
		SELECT ROW(m.email_hash, _inbound.source_id, NULL, false, NULL, false, NULL,
			(SELECT jsonb_object_agg(f.key, CASE WHEN s.field_exprs ? f.key THEN f.value ELSE '""' END)
				FROM jsonb_each(m.read_fields) f WHERE _inbound.columns ? f.key),
			(SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(m.read_fields) f WHERE _inbound.columns ? f.key),
			_inbound.defaults || mailchimp_sync.by_column(mailchimp_sync.member_facts(m) || jsonb_build_object('email', m.email)
				|| (SELECT coalesce(jsonb_object_agg(f.key, f.value), '{}') FROM jsonb_each(m.read_fields) f
					WHERE mailchimp_sync.field_value(f.value) IS NOT NULL), _inbound.columns))::mailchimp_sync.inbound_member
		FROM unnest(_hashes) AS h(email_hash)
		JOIN mailchimp_sync.member m ON m.audience_id = _inbound.audience_id AND m.email_hash = h.email_hash COLLATE "C"
		JOIN mailchimp_sync.source s ON s.source_id = _inbound.source_id
		WHERE m.status = 'subscribed' AND m.read_fields IS NOT NULL
			AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = m.email_hash));
END
$$;
