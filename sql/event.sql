/*
 * event.sql: "this contact may differ", append-only.
 *
 * Written inside the transactions of the CRM by triggers (trigger.sql)
 * and by our own functions; read and deleted by the engine alone, by the ids
 * that it has read and never up to a high-water mark, since a lower id can
 * commit later. No unique key besides the id and no upsert: writers would wait
 * for each other (requirement N17).
 *
 * Four kinds of rows:
 *
 *	relation_id and a row before or after or both: from a trigger. Of an UPDATE
 *		that left the stored columns alone only the row after is kept. The
 *		queries below turn such rows into contact keys.
 *	relation_id and no row: something about that relation may differ and nobody
 *		can say what (TRUNCATE, a column that is gone, a huge key). For the
 *		source as for an event without anything: a full comparison.
 *	contact_key: one of our own functions names the contact.
 *	neither: every contact of the source.
 */
-- a number that no other event has; not of a sequence, since lastval() is the CRM's (src/event.c)
CREATE FUNCTION mailchimp_sync.next_event_id() RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_next_event_id';

-- every event that is committed by now has a lower number than this; a later one can have that too
CREATE FUNCTION mailchimp_sync.event_horizon() RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_event_horizon';

CREATE TABLE mailchimp_sync.event (
	event_id		bigint NOT NULL DEFAULT mailchimp_sync.next_event_id(),
	source_id		integer NOT NULL,
	-- from a trigger: which watch, and the stored columns of the row before
	-- and after: {"column": "text value"}, a column of type jsonb as it is
	relation_id		integer,
	old_row			jsonb,
	new_row			jsonb,
	-- from our own functions: the contact itself (text, cast to the key's type and
	-- back); null with no relation_id either: every contact of the source
	contact_key		text COLLATE "C",
	-- when the CRM changed it: the start of its transaction (crm_time.sql)
	happened_at		timestamptz,
	-- somebody asks for it now: rests are ended (mc_retry, mc_sync_member)
	now				boolean NOT NULL DEFAULT false,
	-- led by the source: a step of the engine takes the oldest of one source
	PRIMARY KEY (source_id, event_id)
);

-- wakes the engine of this database after the commit of this transaction
CREATE FUNCTION mailchimp_sync.wake() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_wake';

/*
 * The queries that turn rows of events into contact keys, for evaluate() to run
 * as the source's owner: own_keys_query() for events of the source's own
 * relation (watch.keys_query is null), event_keys_query() for a watched one.
 * $1 text[]: old_row and new_row of the events of one relation_id, as text, nulls left out.
 * They return (contact_key text, value jsonb null), each key once, and raise
 *
 *	class 42 where a column or function is gone, or where the owner may no
 *		longer read the watched relation: a transition table carries no rights, so
 *		the query of a watch looks (for no row) into the relation itself;
 *	class 22 where a value in an event does not fit its column's type any more:
 *		the event is older than an ALTER TABLE, and only a full comparison helps.
 */
CREATE FUNCTION mailchimp_sync.own_keys_query(_source_id integer) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT DISTINCT (%1$s)::text AS contact_key, NULL::jsonb AS value FROM %2$s WHERE (%1$s) IS NOT NULL',
		s.key_expr, mailchimp_sync.event_rows(s.relation, w.stored_columns, s.source))
	FROM mailchimp_sync.source s JOIN mailchimp_sync.watch w USING (source_id)
	WHERE s.source_id = _source_id AND w.keys_query IS NULL
$$;

CREATE FUNCTION mailchimp_sync.event_keys_query(_relation_id integer) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.compose_keys_query(w.relation, w.stored_columns, w.keys_query, s.key_type)
	FROM mailchimp_sync.watch w JOIN mailchimp_sync.source s USING (source_id)
	WHERE w.relation_id = _relation_id AND w.keys_query IS NOT NULL
$$;

-- "changed" has all columns in their order, as when the query was read; those that it does not read are null
CREATE FUNCTION mailchimp_sync.compose_keys_query(_relation regclass, _columns text[], _keys_query text,
	_key_type text) RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('WITH changed AS (SELECT %1$s FROM %2$s WHERE NOT EXISTS (SELECT %3$s FROM %4$s WHERE false))'
		' SELECT DISTINCT k.contact_key::%5$s::text AS contact_key, NULL::jsonb AS value'
		' FROM (%6$s) AS k(contact_key) WHERE k.contact_key IS NOT NULL',
		(SELECT string_agg(format(CASE WHEN a.attname = ANY (_columns) THEN 'r.%I' ELSE 'NULL AS %I' END, a.attname),
				', ' ORDER BY a.attnum)
			FROM pg_attribute a WHERE a.attrelid = _relation AND a.attnum > 0 AND NOT a.attisdropped),
		mailchimp_sync.event_rows(_relation, _columns, 'r'),
		(SELECT string_agg(quote_ident(c.name), ', ') FROM unnest(_columns) AS c(name)),
		_relation, _key_type, _keys_query)
$$;

/*
 * The rows (of $1, if nothing else is said) with the stored columns as they are now typed. Where these are
 * all columns they are rows of the relation's own type, since an expression may
 * take the row as a whole; otherwise not, since a domain that forbids nulls would
 * complain about columns that were not stored.
 */
CREATE FUNCTION mailchimp_sync.event_rows(_relation regclass, _columns text[], _alias text, _rows text DEFAULT '$1::jsonb[]')
RETURNS text
LANGUAGE sql STABLE STRICT
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN count(*) = count(*) FILTER (WHERE a.attname = ANY (_columns))
		THEN format('jsonb_populate_recordset(NULL::%s, to_jsonb(%s)) AS %I', _relation, _rows, _alias)
		WHEN count(*) FILTER (WHERE a.attname = ANY (_columns)) = 0
		THEN format('jsonb_array_elements(to_jsonb(%s)) AS %I', _rows, _alias)
		ELSE format('jsonb_to_recordset(to_jsonb(%s)) AS %I(%s)', _rows, _alias,
			string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum)
				FILTER (WHERE a.attname = ANY (_columns)))
	END
	FROM pg_attribute a
	WHERE a.attrelid = _relation AND a.attnum > 0 AND NOT a.attisdropped
$$;
