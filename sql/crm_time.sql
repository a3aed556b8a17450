/*
 * crm_time.sql: when the CRM changed a contact, where the latest change wins (conflict.sql).
 *
 * By the start of the transaction that made the event. What the engine notices otherwise (a comparison, or looking once more
 * just before a request) has the time when it was noticed, until its event is read.
 */
CREATE FUNCTION mailchimp_sync.key_times_query(_source_id integer) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT (%1$s)::text AS contact_key, to_jsonb(max(("mailchimp_sync event".e ->> ''at'')::timestamptz)) AS value'
		' FROM jsonb_array_elements(to_jsonb($1::jsonb[])) AS "mailchimp_sync event"(e) CROSS JOIN LATERAL %2$s'
		' WHERE (%1$s) IS NOT NULL GROUP BY 1',
		s.key_expr, mailchimp_sync.event_rows(s.relation, w.stored_columns, s.source, 'ARRAY["mailchimp_sync event".e -> ''row'']'))
	FROM mailchimp_sync.source s JOIN mailchimp_sync.watch w USING (source_id)
	WHERE s.source_id = _source_id AND w.keys_query IS NULL
$$;

-- is a time of the CRM's changes asked for?
CREATE FUNCTION mailchimp_sync.wants_times(_source_id integer) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.audience a USING (audience_id)
		WHERE x.source_id = _source_id AND a.direction = 'both' AND a.conflict = 'latest_wins');
END
$$;

/*
 * The times of these events, after their contacts were evaluated. An event that came after the last change of what the contact
 * should have at Mailchimp is about something else.
 */
CREATE FUNCTION mailchimp_sync.note_times(_source_id integer, _ids bigint[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_rows	text[];
BEGIN
	SELECT array_agg(jsonb_build_object('row', r.stored, 'at', e.happened_at)::text) INTO _rows
	FROM mailchimp_sync.event e
	JOIN mailchimp_sync.watch w USING (source_id, relation_id)
	CROSS JOIN LATERAL (VALUES (e.old_row), (e.new_row)) AS r(stored)
	WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _ids[cardinality(_ids)] AND e.event_id = ANY (_ids)
		AND w.keys_query IS NULL AND r.stored IS NOT NULL AND e.happened_at IS NOT NULL;
	UPDATE mailchimp_sync.contact c SET crm_at = t.at
	FROM (
		SELECT u.contact_key, max(u.at) AS at FROM (
			SELECT e.contact_key COLLATE "C", (e.value #>> '{}')::timestamptz
			FROM mailchimp_sync.source s
			CROSS JOIN LATERAL mailchimp_sync.evaluate(s.owner, mailchimp_sync.key_times_query(_source_id), _rows) e
			WHERE s.source_id = _source_id AND _rows IS NOT NULL AND e.error_state IS NULL
			UNION ALL
			SELECT e.contact_key, e.happened_at FROM mailchimp_sync.event e
			WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _ids[cardinality(_ids)] AND e.event_id = ANY (_ids)
				AND e.contact_key IS NOT NULL AND e.happened_at IS NOT NULL) AS u(contact_key, at)
		GROUP BY 1) AS t
	CROSS JOIN mailchimp_sync.audience a
	WHERE a.direction = 'both' AND a.conflict = 'latest_wins' AND c.audience_id = a.audience_id AND c.source_id = _source_id
		AND c.contact_key = t.contact_key AND c.changed_at >= t.at AND c.crm_at IS DISTINCT FROM t.at;
END
$$;
