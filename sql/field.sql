/*
 * field.sql: merge fields that a mapping names and the list lacks.
 *
 * They are made at Mailchimp before the first contact goes there; push waits
 * for them. The list's own fields are read first, so that one that is there
 * already, under whatever name and type, is used as it is.
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
	WHERE a.audience_id = _audience_id
		AND NOT EXISTS (SELECT FROM mailchimp_sync.merge_field f
			WHERE f.connection = a.connection AND f.list_id = a.list_id AND f.tag = k.tag)
	ORDER BY k.tag;
END
$$;

-- first the list's fields are read, then what still misses is made, one a request
CREATE FUNCTION mailchimp_sync.field_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT w.work FROM mailchimp_sync.sending_audiences(_connection) a
	CROSS JOIN LATERAL (SELECT min(t) AS tag FROM mailchimp_sync.missing_fields(a.audience_id) t) m
	CROSS JOIN LATERAL (SELECT CASE
		WHEN a.fields_read_at IS NULL OR a.fields_read_at < mailchimp_sync.clock() - interval '1 minute' THEN
			ROW(a.connection, 'GET', format('/lists/%s/merge-fields?count=1000', a.list_id), NULL, false,
				a.audience_id, NULL, 'read', NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.work
		ELSE ROW(a.connection, 'POST', format('/lists/%s/merge-fields', a.list_id),
				jsonb_build_object('tag', m.tag, 'name', m.tag, 'type', 'text')::text, true,
				a.audience_id, NULL, 'make', NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.work
		END AS work) w
	WHERE m.tag IS NOT NULL
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'field' AND f.audience_id = a.audience_id AND f.doubt_at IS NULL)
	LIMIT 1
$$;

CREATE FUNCTION mailchimp_sync.field_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(coalesce(a.next_attempt_at, mailchimp_sync.clock()))
	FROM mailchimp_sync.usable_connection u
	JOIN mailchimp_sync.audience a USING (connection)
	WHERE a.active_since IS NOT NULL AND NOT a.paused
		AND EXISTS (SELECT FROM mailchimp_sync.missing_fields(a.audience_id))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'field' AND f.audience_id = a.audience_id AND f.doubt_at IS NULL)
$$;

-- fields as a reply shows them; a page that is the whole list also says what is gone
CREATE FUNCTION mailchimp_sync.fields_seen(_audience_id integer, _merge_ids integer[], _tags text[], _names text[],
	_types text[], _required boolean[], _all boolean)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.merge_field (connection, list_id, tag, merge_id, name, type, required, fetched_at)
	SELECT a.connection, a.list_id, u.tag, u.merge_id, u.name, u.type, u.required, mailchimp_sync.clock()
	FROM mailchimp_sync.audience a, unnest(_merge_ids, _tags, _names, _types, _required) AS u(merge_id, tag, name, type, required)
	WHERE a.audience_id = _audience_id
	ON CONFLICT (connection, list_id, tag) DO UPDATE SET merge_id = excluded.merge_id, name = excluded.name,
		type = excluded.type, required = excluded.required, fetched_at = excluded.fetched_at;

	DELETE FROM mailchimp_sync.merge_field f USING mailchimp_sync.audience a
	WHERE _all AND a.audience_id = _audience_id AND f.connection = a.connection AND f.list_id = a.list_id
		AND f.tag <> ALL (_tags);

	UPDATE mailchimp_sync.audience SET failures = 0, detail = NULL, next_attempt_at = NULL,
		fields_read_at = CASE WHEN _all THEN mailchimp_sync.clock() ELSE fields_read_at END
	WHERE audience_id = _audience_id;
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
