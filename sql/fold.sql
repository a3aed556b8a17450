/*
 * fold.sql: from events to stored states.
 *
 * Only the engine runs this, one engine per database. Races that are closed:
 * an event that commits after its id list was read stays and is folded later;
 * expressions are evaluated in a later snapshot than the one that showed the
 * events; states (settle.sql) and the deletion of the events commit together.
 */

/* ---- evaluating ---- */

/*
 * The type of a key can change under a definition that holds (a column of type integer that
 * had to become bigint). Returns whether it has, after an error that may come
 * from casting keys to the former one.
 */
CREATE FUNCTION mailchimp_sync.follow_key_type(_source_id integer, _error_state text) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_type	text;
BEGIN
	IF _error_state IS NULL OR left(_error_state, 2) NOT IN ('22', '42') THEN
		RETURN false;
	END IF;
	WITH RECURSIVE base(type) AS (
		SELECT (e.value #>> '{}')::oid
		FROM mailchimp_sync.source s
		CROSS JOIN LATERAL mailchimp_sync.evaluate(s.owner, format(
			'SELECT NULL::pg_catalog.text, pg_catalog.to_jsonb(pg_catalog.pg_typeof((SELECT (%s) FROM %s LIMIT 0))::pg_catalog.oid)',
			s.key_expr, mailchimp_sync.source_from(s)), '{}') e
		WHERE s.source_id = _source_id AND e.error_state IS NULL
		UNION ALL
		SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
	)
	SELECT format_type(t.oid, -1) INTO _type FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype <> 'd';
	UPDATE mailchimp_sync.source s SET key_type = _type
	WHERE s.source_id = _source_id AND to_regtype(s.key_type) IS DISTINCT FROM to_regtype(_type) AND _type IS NOT NULL;
	RETURN FOUND;
END
$$;

-- what is evaluated, and the names that its relations go by now
CREATE FUNCTION mailchimp_sync.source_version(_source mailchimp_sync.source) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN concat_ws(' ', _source.revision, _source.relation, (SELECT string_agg(w.relation::text, ' ' ORDER BY w.relation_id)
		FROM mailchimp_sync.watch w WHERE w.source_id = _source.source_id));
END
$$;

/*
 * What an evaluation that failed as a whole means for its source; nothing where that was put right meanwhile, or where
 * a relation was renamed after the query had been made of its name: the engine tries again at once.
 */
CREATE FUNCTION mailchimp_sync.source_trouble(_source_id integer, _version text, _error_state text, _error_message text)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH troubled AS (
		UPDATE mailchimp_sync.source s SET
			state = CASE WHEN mailchimp_sync.error_is_lasting(_error_state) THEN 'stopped' ELSE 'waiting' END,
			detail = CASE WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = s.relation) THEN _error_message
				ELSE 'its relation is gone' END,
			failures = s.failures + 1,
			next_attempt_at = CASE WHEN NOT mailchimp_sync.error_is_lasting(_error_state)
				THEN mailchimp_sync.clock() + mailchimp_sync.backoff(s.failures + 1) END
		WHERE s.source_id = _source_id AND mailchimp_sync.source_version(s) = _version
		RETURNING s.source_id, s.state, s.failures, s.detail
	), unread AS (
		DELETE FROM mailchimp_sync.event e USING troubled t
		WHERE e.source_id = t.source_id AND mailchimp_sync.error_is_lasting(_error_state)
	)
	SELECT mailchimp_sync.signal_source(t.source_id, t.state, t.failures, t.detail) FROM troubled t
$$;

CREATE FUNCTION mailchimp_sync.source_is_usable(_source mailchimp_sync.source) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN _source.state = 'ok'
		OR _source.state = 'waiting' AND _source.next_attempt_at <= mailchimp_sync.clock();
END
$$;

-- when it can be evaluated again; a source that is stopped is left out by whoever asks
CREATE FUNCTION mailchimp_sync.source_due(_source mailchimp_sync.source) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN _source.state = 'waiting' THEN _source.next_attempt_at ELSE mailchimp_sync.clock() END;
END
$$;

-- the sources from which contacts of audiences that are switched on may be sent, and from when on
CREATE VIEW mailchimp_sync.due_source AS
SELECT a.audience_id, s.source_id, greatest(a.next_attempt_at, mailchimp_sync.source_due(s)) AS at
FROM mailchimp_sync.usable_connection u
JOIN mailchimp_sync.audience a USING (connection)
JOIN mailchimp_sync.audience_source x USING (audience_id)
JOIN mailchimp_sync.source s USING (source_id)
WHERE a.active_since IS NOT NULL AND NOT a.paused AND mailchimp_sync.goes_out(a) AND s.state <> 'stopped';

/*
 * The values of the keys for these audiences; null where the source cannot be
 * evaluated at all, which is noted.
 */
CREATE FUNCTION mailchimp_sync.evaluate_contacts(_source_id integer, _audience_ids integer[], _keys text[])
RETURNS mailchimp_sync.evaluated[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source		mailchimp_sync.source;
	_version	text;
	_values		mailchimp_sync.evaluated[];
	_trouble	record;
BEGIN
	SELECT * INTO STRICT _source FROM mailchimp_sync.source WHERE source_id = _source_id;
	_version := mailchimp_sync.source_version(_source);
	SELECT coalesce(array_agg(ROW(e.*)::mailchimp_sync.evaluated), '{}') INTO _values
	FROM mailchimp_sync.evaluate(_source.owner, mailchimp_sync.source_query(_source_id, _audience_ids), _keys) AS e;
	IF mailchimp_sync.follow_key_type(_source_id, (SELECT min(v.error_state) FROM unnest(_values) v)) THEN
		RETURN mailchimp_sync.evaluate_contacts(_source_id, _audience_ids, _keys);
	END IF;
	SELECT v.error_state, v.error_message INTO _trouble FROM unnest(_values) v WHERE v.contact_key IS NULL LIMIT 1;
	IF FOUND THEN
		PERFORM mailchimp_sync.source_trouble(_source_id, _version, _trouble.error_state, _trouble.error_message);
		RETURN NULL;
	END IF;
	RETURN mailchimp_sync.of_possible_keys(_source_id, _values);
END
$$;

/* ---- contacts ---- */

/*
 * Evaluates and stores contacts of one source for all its audiences that are
 * switched on; returns the values, null on trouble. An opt_out expression
 * counts even where no audience is on yet.
 */
CREATE FUNCTION mailchimp_sync.fold_contacts(_source_id integer, _keys text[]) RETURNS mailchimp_sync.evaluated[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience_ids	integer[];
	_values			mailchimp_sync.evaluated[];
BEGIN
	SELECT coalesce(array_agg(a.audience_id ORDER BY a.audience_id), '{}') INTO _audience_ids
	FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE x.source_id = _source_id AND a.active_since IS NOT NULL;
	_values := mailchimp_sync.evaluate_contacts(_source_id, _audience_ids, _keys);
	IF _values IS NOT NULL THEN
		PERFORM mailchimp_sync.apply_values(_source_id, _audience_ids, _keys, _values);
		PERFORM mailchimp_sync.keep_statistics();
	END IF;
	RETURN _values;
END
$$;

/*
 * Evaluates contacts of a source with those whose addresses at Mailchimp are or were the same, as
 * must be before one of them is archived or moved: what the others want may not
 * have been read yet. Those in conflict do not count, there may be many. False where
 * the contacts themselves could not be evaluated.
 */
CREATE FUNCTION mailchimp_sync.fold_rivals(_audience_id integer, _source_id integer, _contact_keys text[]) RETURNS boolean
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH address AS (
		SELECT DISTINCT h.email_hash FROM mailchimp_sync.contact c
		CROSS JOIN LATERAL (VALUES (c.email_hash), (c.member_hash)) AS h(email_hash)
		WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_contact_keys)
	), rival AS (
		SELECT _source_id AS source_id, k COLLATE "C" AS contact_key FROM unnest(_contact_keys) AS k
		UNION
		SELECT r.source_id, r.contact_key FROM address a
		CROSS JOIN LATERAL (
			SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.email_hash = a.email_hash AND c.state <> 'conflict'
			UNION ALL
			SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.member_hash = a.email_hash) AS r
	), folded AS MATERIALIZED (
		SELECT r.source_id, mailchimp_sync.fold_contacts(r.source_id, array_agg(r.contact_key ORDER BY r.contact_key))
				IS NOT NULL AS worked
		FROM rival r GROUP BY r.source_id ORDER BY r.source_id <> _source_id DESC
	)
	SELECT bool_and(f.worked) FILTER (WHERE f.source_id = _source_id) FROM folded f
$$;

/*
 * A table that has doubled since the planner looked at it is looked at again, and a small one
 * that it never looked at: autovacuum comes too late for a first fill, and does not see what a
 * mc_run has written before its end. Nobody waits for it while it vacuums.
 */
CREATE FUNCTION mailchimp_sync.keep_statistics() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_table	regclass;
BEGIN
	FOR _table IN
		SELECT c.oid FROM pg_class c
		WHERE c.oid IN ('mailchimp_sync.contact'::regclass, 'mailchimp_sync.member'::regclass, 'mailchimp_sync.recipient'::regclass)
				AND pg_relation_size(c.oid) / current_setting('block_size')::bigint > 2 * c.relpages + 50
			OR c.oid IN ('mailchimp_sync.audience'::regclass, 'mailchimp_sync.audience_source'::regclass,
				'mailchimp_sync.source'::regclass) AND c.reltuples < 0
	LOOP
		BEGIN
			EXECUTE format('LOCK TABLE %s IN SHARE UPDATE EXCLUSIVE MODE NOWAIT', _table);
			EXECUTE format('ANALYZE %s', _table);
		EXCEPTION WHEN lock_not_available THEN
			NULL;	-- the next time
		END;
	END LOOP;
END
$$;

/* ---- events ---- */

-- somebody asks for these contacts now: what was refused or rests is tried again
CREATE FUNCTION mailchimp_sync.end_rests(_source_id integer, _keys text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.contact SET refused_hash = NULL, attempts = 0, batch_limit = NULL,
		next_attempt_at = CASE WHEN next_attempt_at = 'infinity' THEN next_attempt_at END
	WHERE source_id = _source_id AND contact_key = ANY (_keys)
		AND (refused_hash IS NOT NULL OR attempts > 0 OR next_attempt_at < 'infinity' OR batch_limit IS NOT NULL)
$$;

-- a full comparison of every audience that is on and has the source
CREATE FUNCTION mailchimp_sync.ask_compare(_source_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience a SET compare_asked_at = mailchimp_sync.clock()
	FROM mailchimp_sync.audience_source x
	WHERE x.audience_id = a.audience_id AND x.source_id = _source_id AND a.active_since IS NOT NULL
$$;

/*
 * The contacts that events of triggers mean; null on trouble, which shows without
 * any row, too. A row for which the key cannot be computed names no contact: the
 * comparison will find it.
 */
CREATE FUNCTION mailchimp_sync.event_keys(_source_id integer, _relation_id integer, _rows text[])
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_query			text;
	_owner			regrole;
	_version		text;
	_watched		regclass;
	_keys			text[];
	_error_state	text;
	_error_message	text;
	_any_error		text;
BEGIN
	SELECT s.owner, mailchimp_sync.source_version(s), CASE WHEN w.keys_query IS NULL THEN mailchimp_sync.own_keys_query(_source_id)
			ELSE mailchimp_sync.event_keys_query(_relation_id) END,
		CASE WHEN w.keys_query IS NOT NULL THEN w.relation END
	INTO STRICT _owner, _version, _query, _watched
	FROM mailchimp_sync.source s JOIN mailchimp_sync.watch w USING (source_id)
	WHERE s.source_id = _source_id AND w.relation_id = _relation_id;
	SELECT coalesce(array_agg(DISTINCT e.contact_key) FILTER (WHERE e.error_state IS NULL
			AND e.contact_key IS NOT NULL), '{}'),
		min(e.error_state) FILTER (WHERE e.contact_key IS NULL),
		min(e.error_message) FILTER (WHERE e.contact_key IS NULL),
		min(e.error_state)
	INTO _keys, _error_state, _error_message, _any_error
	FROM mailchimp_sync.evaluate(_owner, _query, _rows) e;
	IF mailchimp_sync.follow_key_type(_source_id, _any_error) THEN
		RETURN mailchimp_sync.event_keys(_source_id, _relation_id, _rows);
	ELSIF _error_state IS NOT NULL THEN
		PERFORM mailchimp_sync.source_trouble(_source_id, _version, _error_state, CASE WHEN _watched IS NULL THEN _error_message
			ELSE format('watched relation %s: %s', _watched, _error_message) END);
		RETURN NULL;
	END IF;
	RETURN _keys;
END
$$;

CREATE FUNCTION mailchimp_sync.oldest_events(_source_id integer, _limit integer) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_sort = off		-- by the index, and no further than to the last: there may be a million
AS $$
	SELECT array_agg(l.event_id) FROM (
		SELECT e.event_id FROM mailchimp_sync.event e
		WHERE e.source_id = _source_id ORDER BY e.event_id LIMIT _limit) l
$$;

/*
 * Up to _limit events of one source. A truncated relation, one that is no longer watched, or an
 * event for every contact, asks for the full comparison. What a watched
 * relation's rows mean can be any number of contacts (an owner's candidates),
 * so these become events of their own and are folded in turn.
 */
CREATE FUNCTION mailchimp_sync.fold_source(_source_id integer, _limit integer) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ids		bigint[];
	_last		bigint;
	_count		bigint;
	_relation	record;
	_keys		text[];
	_all		text[];
BEGIN
	_ids := mailchimp_sync.oldest_events(_source_id, _limit);
	_last := _ids[cardinality(_ids)];	-- a range is read by the index in any case

	FOR _relation IN
		SELECT w.relation_id, w.keys_query IS NULL AS is_own, max(e.happened_at) AS happened_at,
			NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = w.relation) AS is_gone,
			coalesce(array_agg(r.stored::text) FILTER (WHERE r.stored IS NOT NULL), '{}') AS rows
		FROM mailchimp_sync.event e
		JOIN mailchimp_sync.watch w USING (source_id, relation_id)
		CROSS JOIN LATERAL (VALUES (e.old_row), (e.new_row)) AS r(stored)
		WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _last AND e.event_id = ANY (_ids) GROUP BY w.relation_id, w.keys_query
	LOOP
		IF _relation.is_gone AND NOT _relation.is_own THEN
			PERFORM mailchimp_sync.ask_compare(_source_id);
			CONTINUE;
		END IF;
		_keys := mailchimp_sync.event_keys(_source_id, _relation.relation_id, _relation.rows);
		IF _keys IS NULL THEN
			RETURN 0;		-- the source has trouble; its events stay
		END IF;
		IF _relation.is_own THEN
			_all := _all || _keys;
		ELSE
			INSERT INTO mailchimp_sync.event (source_id, contact_key, happened_at)
			SELECT _source_id, k, _relation.happened_at FROM unnest(_keys) k;
		END IF;
	END LOOP;

	IF EXISTS (SELECT FROM mailchimp_sync.event e WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _last AND e.event_id = ANY (_ids)
			AND (e.old_row IS NULL AND e.new_row IS NULL AND e.contact_key IS NULL
				-- nobody can say any more which contacts they mean
				OR e.relation_id IS NOT NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.watch w
					WHERE w.source_id = _source_id AND w.relation_id = e.relation_id))) THEN
		PERFORM mailchimp_sync.ask_compare(_source_id);
	END IF;
	SELECT array_agg(DISTINCT e.contact_key) INTO _keys FROM mailchimp_sync.event e
	WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _last AND e.event_id = ANY (_ids) AND e.now;
	PERFORM mailchimp_sync.end_rests(_source_id, _keys);

	SELECT array_agg(DISTINCT k) INTO _all FROM (
		SELECT unnest(_all) UNION ALL
		SELECT e.contact_key FROM mailchimp_sync.event e
		WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _last AND e.event_id = ANY (_ids) AND e.contact_key IS NOT NULL) AS u(k);
	IF _all IS NOT NULL AND mailchimp_sync.fold_contacts(_source_id, _all) IS NULL THEN
		RETURN 0;
	END IF;
	IF mailchimp_sync.wants_times(_source_id) THEN
		PERFORM mailchimp_sync.note_times(_source_id, _ids);
	END IF;
	DELETE FROM mailchimp_sync.event e
	WHERE e.source_id = _source_id AND e.event_id BETWEEN _ids[1] AND _last AND e.event_id = ANY (_ids);
	GET DIAGNOSTICS _count = ROW_COUNT;
	RETURN _count;
END
$$;

/*
 * One step: the source with the oldest events. Where somebody's open transaction is in its way
 * the next one gets its turn. Events of a source that is stopped are dropped: defining it
 * anew compares in full.
 */
CREATE FUNCTION mailchimp_sync.fold(_limit integer DEFAULT 1000) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
	_source_id	integer;
	_blocked	boolean := false;
BEGIN
	DELETE FROM mailchimp_sync.event e USING mailchimp_sync.source s
	WHERE s.state = 'stopped' AND e.source_id = s.source_id;
	FOR _source_id IN
		SELECT s.source_id
		FROM mailchimp_sync.source s
		CROSS JOIN LATERAL (SELECT e.event_id FROM mailchimp_sync.event e
			WHERE e.source_id = s.source_id ORDER BY e.event_id LIMIT 1) AS oldest
		WHERE mailchimp_sync.source_is_usable(s) ORDER BY oldest.event_id
	LOOP
		BEGIN
			RETURN mailchimp_sync.fold_source(_source_id, _limit);
		EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
			_blocked := true;
		END;
	END LOOP;
	IF _blocked THEN
		RAISE lock_not_available USING MESSAGE = 'an open transaction is in the way of every source';
	END IF;
	RETURN 0;
END
$$;

CREATE FUNCTION mailchimp_sync.fold_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(mailchimp_sync.source_due(s))
		FROM mailchimp_sync.source s
		WHERE s.state <> 'stopped' AND EXISTS (SELECT FROM mailchimp_sync.event e WHERE e.source_id = s.source_id));
END
$$;
