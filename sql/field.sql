/*
 * field.sql: merge fields that a mapping names and the list lacks.
 *
 * They are made at Mailchimp before the first contact goes there; push waits
 * for them. The list's own fields are read first, so that one that is there
 * already, under whatever name and type, is used as it is.
 *
 * Somebody may delete or change a field there later. Nobody tells us, but contacts are
 * refused by its name: then the fields are read again, what is gone is made
 * again, and who was refused because of a field that is not what it was is tried again.
 */

-- the tags that sources of the audience map and the list, as far as we have read it, lacks
CREATE FUNCTION mailchimp_sync.missing_fields(_audience_id integer) RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT DISTINCT k.tag
	FROM mailchimp_sync.audience a
	JOIN mailchimp_sync.audience_source x USING (audience_id)
	JOIN mailchimp_sync.source s USING (source_id)
	CROSS JOIN LATERAL jsonb_object_keys(s.field_exprs) AS k(tag)
	WHERE a.audience_id = _audience_id AND a.direction <> 'pull'
		AND NOT EXISTS (SELECT FROM mailchimp_sync.merge_field f
			WHERE f.connection = a.connection AND f.list_id = a.list_id AND f.tag = k.tag)
	ORDER BY k.tag;
END
$$;

-- does a refusal speak of a merge field?
CREATE FUNCTION mailchimp_sync.is_about_field(_field text, _detail text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(_field <> '', false) OR coalesce(_detail ~* 'merge field', false)
$$;

-- the fields are to be read again, now or ten minutes after the last time
CREATE FUNCTION mailchimp_sync.ask_fields(_audience_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience a
	SET fields_asked_at = greatest(mailchimp_sync.clock(), a.fields_read_at + interval '10 minutes')
	WHERE a.audience_id = _audience_id AND a.fields_asked_at IS NULL
$$;

-- who was refused because of a field, before that changed, is tried again
CREATE FUNCTION mailchimp_sync.retry_fields(_audience_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH freed AS (
		UPDATE mailchimp_sync.contact c SET refused_hash = NULL, next_attempt_at = NULL
		FROM mailchimp_sync.failure f
		JOIN mailchimp_sync.audience a USING (audience_id)
		WHERE f.work = 'push' AND f.audience_id = _audience_id AND mailchimp_sync.is_about_field(f.field, f.detail)
			AND EXISTS (SELECT FROM mailchimp_sync.merge_field m
				WHERE m.connection = a.connection AND m.list_id = a.list_id AND m.changed_at > f.last_failed_at
					AND (m.tag = f.field OR f.field IS NULL))
			AND c.audience_id = f.audience_id AND c.source_id = f.source_id AND c.contact_key = f.contact_key
			AND c.state = 'refused' AND c.action IS NULL
		RETURNING c.source_id, c.contact_key
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key) SELECT d.source_id, d.contact_key FROM freed d
$$;

-- first the list's fields are read, then what still misses is made, one a request
CREATE FUNCTION mailchimp_sync.field_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT (w.work).* FROM mailchimp_sync.sending_audiences(_connection) a
	CROSS JOIN LATERAL (SELECT min(t) AS tag FROM mailchimp_sync.missing_fields(a.audience_id) t) m
	CROSS JOIN LATERAL (SELECT CASE
		WHEN a.fields_read_at IS NULL OR a.fields_read_at < mailchimp_sync.clock() - interval '1 minute'
			OR a.fields_asked_at <= mailchimp_sync.clock() THEN
			ROW(a.connection, 'GET', format('/lists/%s/merge-fields?count=1000', a.list_id), NULL, false,
				a.audience_id, NULL, 'read', NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.work
		ELSE ROW(a.connection, 'POST', format('/lists/%s/merge-fields', a.list_id),
				jsonb_build_object('tag', m.tag, 'name', m.tag, 'type', 'text')::text, true,
				a.audience_id, NULL, 'make', NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.work
		END AS work OFFSET 0) w
	WHERE (m.tag IS NOT NULL OR a.fields_asked_at <= mailchimp_sync.clock())
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'field' AND f.audience_id = a.audience_id AND f.doubt_at IS NULL)
	LIMIT 1;
END
$$;

CREATE FUNCTION mailchimp_sync.field_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(a.next_attempt_at, CASE WHEN EXISTS (SELECT FROM mailchimp_sync.missing_fields(a.audience_id))
			THEN mailchimp_sync.clock() ELSE a.fields_asked_at END))
		FROM mailchimp_sync.usable_connection u
		JOIN mailchimp_sync.audience a USING (connection)
		WHERE a.active_since IS NOT NULL AND NOT a.paused AND mailchimp_sync.goes_out(a)
			AND (a.fields_asked_at IS NOT NULL OR EXISTS (SELECT FROM mailchimp_sync.missing_fields(a.audience_id)))
			AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
				WHERE f.kind = 'field' AND f.audience_id = a.audience_id AND f.doubt_at IS NULL));
END
$$;

-- fields as a reply shows them; a page that is the whole list also says what is gone
CREATE FUNCTION mailchimp_sync.fields_seen(_audience_id integer, _tags text[], _merge_ids text[], _names text[],
	_types text[], _required text[], _defaults text[], _all boolean)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.store_merge_fields(a.connection, a.list_id, _tags, _merge_ids, _names, _types, _required,
		_defaults, _all)
	FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id;

	UPDATE mailchimp_sync.audience SET failures = 0, detail = NULL, next_attempt_at = NULL,
		fields_read_at = CASE WHEN _all THEN mailchimp_sync.clock() ELSE fields_read_at END,
		fields_asked_at = CASE WHEN NOT _all THEN fields_asked_at END
	WHERE audience_id = _audience_id;

	SELECT mailchimp_sync.retry_fields(_audience_id);
$$;

-- an answer that refuses it is the audience's trouble; the fields are read again before the next try
CREATE FUNCTION mailchimp_sync.field_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience a SET fields_read_at = NULL
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id AND a.audience_id = f.audience_id;

	SELECT mailchimp_sync.audience_failed(f.audience_id, concat_ws(': ', 'merge fields', _title, _detail))
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
$$;

CREATE FUNCTION mailchimp_sync.field_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience a SET fields_read_at = NULL, failures = a.failures + 1,
		next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(a.failures + 1)),
		detail = concat_ws(': ', 'merge fields', _title, _detail)
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id AND a.audience_id = f.audience_id
$$;
