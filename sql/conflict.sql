/*
 * conflict.sql: who has the say in a field that both the CRM and Mailchimp can change (R85, D14).
 *
 * Three ways are compared: what the CRM has, what Mailchimp shows, and the base, which is what each of them had
 * when they last agreed (member.sent_fields and shown_fields; two, since Mailchimp truncates and
 * normalises). Pure; desired.sql and inbound.sql ask the same function, so what the one leaves is the other's.
 */

/*
 * A value as it is compared, null where there is nothing: numbers by what they are worth, text without the
 * blanks around it, an address without its empty parts.
 */
CREATE FUNCTION mailchimp_sync.field_value(_value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE	-- keeps its plan, which SQL does not
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF jsonb_typeof(_value) = 'number' THEN
		RETURN trim_scale((_value #>> '{}')::numeric)::text;
	ELSIF jsonb_typeof(_value) = 'object' THEN
		RETURN (SELECT jsonb_object_agg(p.key, btrim(p.value))::text FROM jsonb_each_text(_value) AS p WHERE btrim(p.value) <> '');
	END IF;
	RETURN nullif(btrim(_value #>> '{}'), '');
END
$$;

/*
 * Is what Mailchimp shows all that there can be of it? Texts are cut at 255 bytes (API 3.0, merge fields), and not
 * within a letter.
 */
CREATE FUNCTION mailchimp_sync.is_cut_off(_shown text, _whole text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(octet_length(convert_to(_shown, 'UTF8')) BETWEEN 252 AND 255
		AND octet_length(convert_to(_whole, 'UTF8')) > 255 AND starts_with(_whole, _shown), false)
$$;

/*
 * For each field what is to be done: nothing ("in_sync"), the CRM gets Mailchimp's value ("to_crm") or the other
 * way round ("to_mailchimp").
 *
 * _inbound: the fields with an inbound column. _payload: the merge fields that the CRM wants there; _sent, _shown: the
 * base; _read: what Mailchimp shows now (null: what it showed then). _crm_at, _mailchimp_at: of the last change
 * of the record, for latest_wins; where they do not tell, the CRM leads.
 *
 * A field of which nothing was ever sent has no base: then a side has changed that has something. A
 * field without an inbound column is the CRM's own, one that the mapping does not name can only come in.
 * What Mailchimp emptied comes in nowhere.
 */
CREATE FUNCTION mailchimp_sync.field_decisions(_policy text, _inbound text[], _payload jsonb, _sent jsonb,
	_shown jsonb, _read jsonb, _crm_at timestamptz, _mailchimp_at timestamptz, OUT field text, OUT decision text)
RETURNS SETOF record
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT k.field, CASE
		WHEN v.crm IS NOT DISTINCT FROM v.mailchimp OR mailchimp_sync.is_cut_off(v.mailchimp, v.crm) THEN 'in_sync'
		WHEN NOT c.crm AND NOT c.mailchimp THEN 'in_sync'
		WHEN NOT k.goes_out THEN CASE WHEN c.mailchimp AND v.mailchimp IS NOT NULL AND _policy <> 'crm_wins'
			THEN 'to_crm' ELSE 'in_sync' END
		WHEN NOT k.comes_in OR NOT c.mailchimp OR v.mailchimp IS NULL OR _policy = 'crm_wins' THEN 'to_mailchimp'
		WHEN NOT c.crm OR _policy = 'mailchimp_wins' OR _mailchimp_at > _crm_at THEN 'to_crm'
		ELSE 'to_mailchimp' END
	FROM (SELECT u.field, _payload ? u.field AS goes_out, u.field = ANY (_inbound) AS comes_in, coalesce(_sent ? u.field, false) AS has_base
		FROM (SELECT jsonb_object_keys(_payload) UNION SELECT unnest(_inbound)) AS u(field)) AS k
	CROSS JOIN LATERAL (SELECT mailchimp_sync.field_value(_payload -> k.field) AS crm,
		mailchimp_sync.field_value(coalesce(_read, _shown, _sent) -> k.field) AS mailchimp,
		mailchimp_sync.field_value(_sent -> k.field) AS sent,
		mailchimp_sync.field_value(coalesce(_shown, _sent) -> k.field) AS shown) AS v
	CROSS JOIN LATERAL (SELECT
		CASE WHEN k.has_base THEN v.crm IS DISTINCT FROM v.sent ELSE v.crm IS NOT NULL END AS crm,
		CASE WHEN k.has_base THEN v.mailchimp IS DISTINCT FROM v.shown ELSE v.mailchimp IS NOT NULL END AS mailchimp) AS c;
END
$$;

/* ---- of a contact ---- */

-- what has an inbound column, of data: fields, and "email"
CREATE FUNCTION mailchimp_sync.incoming_fields(_audience_id integer, _source_id integer) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN ARRAY(SELECT k.name FROM mailchimp_sync.inbound i CROSS JOIN LATERAL jsonb_object_keys(i.columns) AS k(name)
		WHERE i.audience_id = _audience_id AND i.source_id = _source_id
			AND k.name NOT IN ('status', 'id', 'list_name', 'list_from'));
END
$$;

-- these fields as Mailchimp shows them
CREATE FUNCTION mailchimp_sync.fields_of(_fields jsonb, _named jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(jsonb_object_agg(k, coalesce(_fields -> k, '""')) FILTER (WHERE _fields IS NOT NULL), '{}')
	FROM jsonb_object_keys(_named) AS k
$$;

CREATE TYPE mailchimp_sync.weighed_fields AS (pushes jsonb, agrees jsonb);

/*
 * The fields of a member that a contact is to have, by direction both: those that are to be pushed, with the values, and those
 * that have come to be the same on both sides, as what they agree upon from now on (null: nothing new, and ours
 * already). What a request carried of which no answer is known is sent once more, with the value wanted now. Null: no such member.
 */
CREATE FUNCTION mailchimp_sync.weigh_fields(_audience_id integer, _source_id integer, _email_hash text, _policy text,
	_comes_in text[], _payload jsonb, _open jsonb, _crm_at timestamptz)
RETURNS mailchimp_sync.weighed_fields
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_weighed	mailchimp_sync.weighed_fields;
	_member		mailchimp_sync.member;
	_fields		jsonb;
BEGIN
	SELECT * INTO _member FROM mailchimp_sync.member m WHERE m.audience_id = _audience_id AND m.email_hash = _email_hash;
	IF NOT FOUND THEN
		RETURN NULL;
	END IF;
	_fields := CASE WHEN _member.sent_source_id <> _source_id THEN mailchimp_sync.with_emptied(_payload, _source_id, _member)
		ELSE _payload END -> 'merge_fields';
	-- mostly nothing has changed
	IF _open IS NULL AND NOT EXISTS (SELECT FROM jsonb_each(_fields) f
			WHERE _member.sent_fields -> f.key IS DISTINCT FROM f.value
				OR _member.read_fields -> f.key IS DISTINCT FROM _member.shown_fields -> f.key) THEN
		RETURN ROW('{}', CASE WHEN NOT _member.ours THEN '{}'::jsonb END)::mailchimp_sync.weighed_fields;
	END IF;
	SELECT coalesce(jsonb_object_agg(d.field, _fields -> d.field)
			FILTER (WHERE d.decision = 'to_mailchimp' OR d.decision = 'in_sync' AND o.is_open), '{}'),
		coalesce(jsonb_object_agg(d.field, _fields -> d.field)
			FILTER (WHERE d.decision = 'in_sync' AND _fields ? d.field AND NOT o.is_open
				AND (NOT coalesce(_member.sent_fields ? d.field, false)
					OR mailchimp_sync.field_value(_member.sent_fields -> d.field) IS DISTINCT FROM mailchimp_sync.field_value(_fields -> d.field)
					OR mailchimp_sync.field_value(_member.read_fields -> d.field)
						IS DISTINCT FROM mailchimp_sync.field_value(coalesce(_member.shown_fields, _member.sent_fields) -> d.field)
						AND _member.read_fields IS NOT NULL)),
			CASE WHEN NOT _member.ours THEN '{}'::jsonb END)
	INTO _weighed
	FROM mailchimp_sync.field_decisions(_policy, _comes_in, _fields, _member.sent_fields, _member.shown_fields,
		_member.read_fields, _crm_at, _member.last_changed) AS d
	CROSS JOIN LATERAL (SELECT coalesce(_fields ? d.field AND _open ? d.field, false) AS is_open) AS o;
	RETURN _weighed;
END
$$;

/*
 * Where a contact is to be at Mailchimp, by direction both: under its address in the CRM, but for who moved at
 * Mailchimp, where that is to come into the CRM.
 */
CREATE FUNCTION mailchimp_sync.agreed_address(_audience_id integer, _policy text, _comes_in text[], _email_hash text,
	_member_hash text, _agreed_hash text, _crm_at timestamptz)
RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_base	jsonb := jsonb_build_object('email', coalesce(_agreed_hash, _member_hash));
BEGIN
	IF coalesce(_member_hash = _email_hash, true) THEN
		RETURN _email_hash;
	END IF;
	RETURN (SELECT CASE WHEN d.decision = 'to_crm' THEN _member_hash ELSE _email_hash END
		FROM mailchimp_sync.field_decisions(_policy, CASE WHEN 'email' = ANY (_comes_in) THEN ARRAY['email'] ELSE '{}' END,
			jsonb_build_object('email', _email_hash), _base, _base, jsonb_build_object('email', _member_hash),
			_crm_at, (SELECT m.last_changed FROM mailchimp_sync.member m
				WHERE m.audience_id = _audience_id AND m.email_hash = _member_hash)) AS d);
END
$$;

-- by direction pull: under its address in the CRM, or where it was last, if it is not there
CREATE FUNCTION mailchimp_sync.pulled_hash(_audience_id integer, _email_hash text, _member_hash text) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN coalesce(_member_hash = _email_hash, true) OR EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.email_hash = _email_hash AND m.status IS NOT NULL)
		THEN _email_hash ELSE _member_hash END;
END
$$;

-- did the CRM refuse what Mailchimp shows of a member?
CREATE FUNCTION mailchimp_sync.inbound_rests(_audience_id integer, _email_hash text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.member m
		WHERE m.audience_id = _audience_id AND m.email_hash = _email_hash AND m.inbound_at > mailchimp_sync.clock());
END
$$;

/* ---- pushing, by direction both ---- */

-- what is sent of a contact that is there
CREATE FUNCTION mailchimp_sync.changed_payload(_audience mailchimp_sync.audience, _source_id integer, _email_hash text,
	_payload jsonb, _open jsonb, _crm_at timestamptz)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT CASE WHEN w.pushes IS NULL THEN _payload ELSE jsonb_set(_payload, '{merge_fields}', w.pushes) END
		FROM mailchimp_sync.weigh_fields(_audience.audience_id, _source_id, _email_hash, _audience.conflict,
			mailchimp_sync.incoming_fields(_audience.audience_id, _source_id), _payload, _open, _crm_at) AS w);
END
$$;

/*
 * Of the contacts that are to be pushed those that can be now. The others wait for a read that began after it was decided
 * to send them, as those who leave do (read.sql), and until what it brought is in the CRM: Mailchimp's values may win, and who
 * has moved there would be made a second time under the former address. Not who is sent once more after doubt: a
 * read leaves them out.
 */
CREATE FUNCTION mailchimp_sync.hold_back(_audience mailchimp_sync.audience, _source_id integer, _keys text[]) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_held	text[];
BEGIN
	WITH held AS (
		UPDATE mailchimp_sync.contact c
		SET next_attempt_at = CASE WHEN w.is_unread THEN 'infinity' ELSE mailchimp_sync.clock() + interval '1 second' END
		FROM mailchimp_sync.contact o
		CROSS JOIN LATERAL (SELECT (mailchimp_sync.is_read(_audience) AND o.changed_at < _audience.read_begun_at) IS NOT TRUE
				AND NOT EXISTS (SELECT FROM mailchimp_sync.busy b
					WHERE b.audience_id = o.audience_id AND b.email_hash = o.email_hash) AS is_unread) AS w
		WHERE o.audience_id = _audience.audience_id AND o.source_id = _source_id AND o.contact_key = ANY (_keys)
			AND o.action IN ('subscribe', 'update')
			AND (w.is_unread OR EXISTS (SELECT FROM mailchimp_sync.member m
				WHERE m.audience_id = o.audience_id AND m.email_hash = o.email_hash AND m.inbound_at <= mailchimp_sync.clock()))
			AND c.audience_id = o.audience_id AND c.source_id = o.source_id AND c.contact_key = o.contact_key
		RETURNING c.contact_key
	)
	SELECT coalesce(array_agg(h.contact_key), '{}') INTO _held FROM held h;
	RETURN ARRAY(SELECT k FROM unnest(_keys) AS k WHERE k <> ALL (_held));
END
$$;

-- the fields of each member in the body of a push
CREATE FUNCTION mailchimp_sync.carried_fields(_body text, OUT fields jsonb, OUT ordinality bigint) RETURNS SETOF record
LANGUAGE sql IMMUTABLE ROWS 500
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT x.member -> 'merge_fields', x.ordinality
	FROM jsonb_array_elements(_body::jsonb -> 'members') WITH ORDINALITY AS x(member)
$$;

/*
 * What requests of which no answer is known have carried shows in what was read: that is no edit at Mailchimp, and
 * what the CRM has by now is a later change of its own.
 */
CREATE FUNCTION mailchimp_sync.pushes_landed(_audience_id integer, _hashes text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_found	text[];
	_fields	jsonb;
BEGIN
	SELECT array_agg(l.email_hash), jsonb_object_agg(l.email_hash, l.fields) INTO _found, _fields FROM (
		SELECT h.email_hash, (SELECT jsonb_object_agg(f.key, f.value) FROM jsonb_each(c.open_fields) f
			CROSS JOIN LATERAL (SELECT mailchimp_sync.field_value(f.value) AS sent, mailchimp_sync.field_value(r.read_fields -> f.key) AS shown) v
			WHERE v.sent IS NOT DISTINCT FROM v.shown OR mailchimp_sync.is_cut_off(v.shown, v.sent)) AS fields
		FROM unnest(_hashes) AS h(email_hash)
		-- OFFSET: a lookup each, whatever the planner knows of the tables
		CROSS JOIN LATERAL (SELECT o.open_fields FROM mailchimp_sync.contact o
			WHERE o.audience_id = _audience_id AND o.member_hash = h.email_hash AND o.open_fields IS NOT NULL OFFSET 0) c
		CROSS JOIN LATERAL (SELECT o.read_fields FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience_id AND o.email_hash = h.email_hash AND o.read_fields IS NOT NULL OFFSET 0) r) l
	WHERE l.fields IS NOT NULL;
	UPDATE mailchimp_sync.member m SET sent_fields = coalesce(m.sent_fields, '{}') || (_fields -> m.email_hash),
		shown_fields = coalesce(m.shown_fields, '{}') || mailchimp_sync.fields_of(m.read_fields, _fields -> m.email_hash)
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_found);
END
$$;

-- a request goes out: nobody knows what is there until its answer has come
CREATE FUNCTION mailchimp_sync.open_fields(_audience_id integer, _hashes text[], _body text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.contact c SET open_fields = coalesce(c.open_fields, '{}') || f.fields
	FROM mailchimp_sync.carried_fields(_body) f
	WHERE c.audience_id = _audience_id AND c.member_hash = _hashes[f.ordinality];
END
$$;
