/*
 * compare.sql: the full comparison of an audience, which finds what no event told.
 *
 * Page by page, first the rows of each source, then our contacts whose row is gone;
 * each page is a step of the engine with a transaction of its own, so that a crash
 * goes on where it was and memory does not grow with the audience. What
 * happens to a contact is the same as after an event (settle.sql). Races that are closed:
 * a source that joins or leaves the audience while a comparison begins, an audience that
 * somebody is changing just now.
 */

CREATE TYPE mailchimp_sync.compare_page AS (
	keys			text[],
	values			mailchimp_sync.evaluated[],
	last_key		text,
	is_last			boolean,
	error_state		text,		-- the source cannot be read
	error_message	text
);

/*
 * The next page of a comparison: first the rows of the source in key order,
 * then our contacts, of which only those are returned whose row is gone.
 * Writes nothing, so the preview uses it too (N4).
 */
CREATE FUNCTION mailchimp_sync.compare_page(_audience_id integer, _source_id integer, _phase text,
	_after text, _limit integer DEFAULT 1000)
RETURNS mailchimp_sync.compare_page
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_owner	regrole;
	_page	mailchimp_sync.compare_page;
BEGIN
	SELECT s.owner INTO STRICT _owner FROM mailchimp_sync.source s WHERE s.source_id = _source_id;
	IF _phase = 'rows' THEN
		SELECT array_agg(w.contact_key ORDER BY w.ordinality) FILTER (WHERE w.error_state IS NULL),
			min(w.error_state), min(w.error_message)
		INTO _page.keys, _page.error_state, _page.error_message
		FROM mailchimp_sync.evaluate(_owner, mailchimp_sync.walk_query(_source_id),
			ARRAY[_after, _limit::text]) WITH ORDINALITY w;
	ELSE
		SELECT array_agg(l.contact_key ORDER BY l.contact_key) INTO _page.keys FROM (
			SELECT c.contact_key FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.source_id = _source_id
				AND (_after IS NULL OR c.contact_key > _after COLLATE "C")
			ORDER BY c.contact_key LIMIT _limit) l;
	END IF;
	_page.is_last := coalesce(cardinality(_page.keys), 0) < _limit;
	_page.last_key := _page.keys[cardinality(_page.keys)];
	IF _page.keys IS NULL OR _page.error_state IS NOT NULL THEN
		RETURN _page;
	END IF;
	SELECT coalesce(array_agg(ROW(e.contact_key, e.value, e.error_state, e.error_message)::mailchimp_sync.evaluated), '{}'),
		min(e.error_state) FILTER (WHERE e.contact_key IS NULL),
		min(e.error_message) FILTER (WHERE e.contact_key IS NULL)
	INTO _page.values, _page.error_state, _page.error_message
	FROM mailchimp_sync.evaluate(_owner, CASE _phase WHEN 'rows' THEN mailchimp_sync.source_query(_source_id, ARRAY[_audience_id])
		ELSE mailchimp_sync.present_query(_source_id) END, _page.keys) e;
	IF _phase = 'contacts' AND _page.error_state IS NULL THEN
		_page.keys := ARRAY(SELECT unnest(_page.keys) EXCEPT
			SELECT v.contact_key FROM unnest(mailchimp_sync.of_possible_keys(_source_id, _page.values)) v);
		_page.values := '{}';
	END IF;
	RETURN _page;
END
$$;

-- when an audience is to be compared next; null: it is not switched on
CREATE FUNCTION mailchimp_sync.compare_at(_audience mailchimp_sync.audience) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE WHEN _audience.active_since IS NOT NULL AND NOT _audience.paused
		THEN coalesce(_audience.compare_asked_at, _audience.compared_at + _audience.every, mailchimp_sync.clock()) END;
END
$$;

-- has it a source that can be compared, now or later; a stopped one is when it is defined anew
CREATE FUNCTION mailchimp_sync.is_comparable(_audience_id integer) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT EXISTS (SELECT FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
			WHERE x.audience_id = _audience_id AND s.state <> 'stopped'));
END
$$;

/*
 * What the engine, or somebody by hand, has stored of a source while it was being
 * taken out of the audience.
 */
CREATE FUNCTION mailchimp_sync.forget_uncoupled(_audience_id integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source_ids	integer[] := ARRAY(
		SELECT s.source_id FROM mailchimp_sync.source s UNION ALL SELECT d.source_id FROM mailchimp_sync.dropped_source d
		EXCEPT SELECT x.source_id FROM mailchimp_sync.audience_source x WHERE x.audience_id = _audience_id);
BEGIN
	DELETE FROM mailchimp_sync.contact c WHERE c.audience_id = _audience_id AND c.source_id = ANY (_source_ids);
	DELETE FROM mailchimp_sync.hand_given g WHERE g.audience_id = _audience_id AND g.source_id = ANY (_source_ids);
END
$$;

/*
 * Begins the comparisons that are due; an audience that somebody is changing just now is
 * for another time. Its sources are looked at after the lock: one that joined a moment
 * before it would else be missed, and what was asked with it taken for done.
 */
CREATE FUNCTION mailchimp_sync.compare_begin() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ids	integer[];
BEGIN
	SELECT array_agg(l.audience_id) INTO _ids FROM (
		SELECT a.audience_id FROM mailchimp_sync.audience a
		WHERE mailchimp_sync.compare_at(a) <= mailchimp_sync.clock()
			AND mailchimp_sync.is_comparable(a.audience_id)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source x
				WHERE x.audience_id = a.audience_id AND x.compare_from IS NOT NULL)
		FOR NO KEY UPDATE SKIP LOCKED) l;
	IF _ids IS NULL THEN
		RETURN;
	END IF;
	UPDATE mailchimp_sync.audience a SET compare_asked_at = NULL WHERE a.audience_id = ANY (_ids);
	PERFORM mailchimp_sync.forget_uncoupled(i) FROM unnest(_ids) AS i;
	UPDATE mailchimp_sync.audience_source x
	SET compare_from = mailchimp_sync.clock(), compare_phase = 'rows', compare_after = NULL
	FROM mailchimp_sync.source s
	WHERE x.audience_id = ANY (_ids) AND s.source_id = x.source_id AND s.state <> 'stopped';
END
$$;

-- this source is done, with which the comparison of the audience may be at its end
CREATE FUNCTION mailchimp_sync.compare_end(_step mailchimp_sync.audience_source) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience_source x SET compare_phase = NULL, compare_from = NULL, compare_after = NULL
	WHERE x.audience_id = _step.audience_id AND x.source_id = _step.source_id;
	UPDATE mailchimp_sync.audience a SET compared_at = _step.compare_from
	WHERE a.audience_id = _step.audience_id AND mailchimp_sync.is_comparable(a.audience_id)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source x
			WHERE x.audience_id = a.audience_id AND x.compare_from IS NOT NULL);
$$;

/*
 * One step of a comparison under way: one page, stored and remembered in one
 * transaction, so that a crash goes on where it was. 0: nothing to do.
 */
CREATE FUNCTION mailchimp_sync.compare() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_step		mailchimp_sync.audience_source;
	_version	text;
	_page		mailchimp_sync.compare_page;
BEGIN
	PERFORM mailchimp_sync.compare_begin();
	-- stopped meanwhile: the other sources go on without it
	PERFORM mailchimp_sync.compare_end(x)
	FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
	WHERE x.compare_from IS NOT NULL AND s.state = 'stopped';
	SELECT x.* INTO _step
	FROM mailchimp_sync.audience_source x
	JOIN mailchimp_sync.audience a USING (audience_id)
	JOIN mailchimp_sync.source s USING (source_id)
	WHERE x.compare_from IS NOT NULL AND NOT a.paused AND mailchimp_sync.source_is_usable(s)
	ORDER BY x.compare_from, x.audience_id, x.position LIMIT 1
	FOR NO KEY UPDATE OF x, a SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN 0;
	END IF;
	SELECT mailchimp_sync.source_version(s) INTO _version FROM mailchimp_sync.source s WHERE s.source_id = _step.source_id;
	_page := mailchimp_sync.compare_page(_step.audience_id, _step.source_id, _step.compare_phase, _step.compare_after);
	IF mailchimp_sync.follow_key_type(_step.source_id,
			coalesce(_page.error_state, (SELECT min(v.error_state) FROM unnest(_page.values) v))) THEN
		RETURN 1;
	ELSIF _page.error_state IS NOT NULL THEN
		PERFORM mailchimp_sync.source_trouble(_step.source_id, _version, _page.error_state, _page.error_message);
		RETURN 1;
	END IF;
	PERFORM mailchimp_sync.apply_values(_step.source_id, ARRAY[_step.audience_id], _page.keys, _page.values);
	PERFORM mailchimp_sync.keep_statistics();
	IF _page.is_last AND _step.compare_phase = 'contacts' THEN
		PERFORM mailchimp_sync.compare_end(_step);
	ELSE
		UPDATE mailchimp_sync.audience_source x SET
			compare_phase = CASE WHEN _page.is_last THEN 'contacts' ELSE _step.compare_phase END,
			compare_after = CASE WHEN NOT _page.is_last THEN _page.last_key END
		WHERE x.audience_id = _step.audience_id AND x.source_id = _step.source_id;
	END IF;
	RETURN 1;
END
$$;

CREATE FUNCTION mailchimp_sync.compare_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(CASE WHEN w.under_way THEN w.due
			WHEN mailchimp_sync.is_comparable(a.audience_id) THEN mailchimp_sync.compare_at(a) END)
		FROM mailchimp_sync.audience a
		CROSS JOIN LATERAL (SELECT count(*) > 0 AS under_way, min(mailchimp_sync.source_due(s)) AS due
			FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
			WHERE x.audience_id = a.audience_id AND x.compare_from IS NOT NULL) w
		WHERE a.active_since IS NOT NULL AND NOT a.paused);
END
$$;
