/*
 * tag.sql: tags that we put and that are no longer wanted are taken away, the kind of work "tag".
 *
 * A tag is a static segment (API 3.0, tags and segments): POST /lists/{list_id}/segments/{segment_id} with
 * members_to_remove takes one tag from up to 500 members. Which tags are ours
 * to take stands in member.sent_tags, so one that was put on by hand, and any tag of a foreign
 * member, stays (D16). Tags are added by push, whose answers also show their segments;
 * only where none did Mailchimp is asked for one.
 *
 * Races that are closed: the tag is wanted again while its removal is under way (push waits
 * for it) or in doubt (push does not wait; when the ghost ends what is wanted is said once more,
 * engine.sql); a push in doubt puts the tag there after its removal (its tags count as put
 * from the doubt on, and again when its ghost ends); the tag was deleted at
 * Mailchimp and made anew under another number (404: it is asked for again).
 */

/*
 * The segments of the tags that a push carried, as its answer shows them on the very
 * members: under their name, or in another case where Mailchimp does not tell them
 * apart. Of more than 50 tags an answer shows 50. Segments of campaigns are no tags.
 */
CREATE FUNCTION mailchimp_sync.tags_seen(_inflight_id bigint, _hashes text[], _tags text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.tag AS t (audience_id, tag, segment_id)
	SELECT DISTINCT ON (k.tag) a.audience_id, k.tag, k.id
	FROM (
		SELECT DISTINCT f.audience_id, s.tag, x.name, x.id
		FROM mailchimp_sync.inflight f
		CROSS JOIN LATERAL jsonb_array_elements(f.body::jsonb -> 'members') WITH ORDINALITY AS m(member)
		JOIN unnest(_hashes, _tags) AS u(hash, shown) ON u.hash = f.email_hashes[m.ordinality]
		CROSS JOIN LATERAL jsonb_array_elements_text(m.member -> 'tags') AS s(tag)
		CROSS JOIN LATERAL jsonb_to_recordset(u.shown::jsonb) AS x(id bigint, name text)
		WHERE f.inflight_id = _inflight_id AND lower(x.name) = lower(s.tag) AND jsonb_array_length(u.shown::jsonb) < 50
	) AS k
	JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE NOT mailchimp_sync.is_of_campaign(a, k.id)
	ORDER BY k.tag, k.name <> k.tag, k.id
	ON CONFLICT (audience_id, tag) DO UPDATE SET segment_id = excluded.segment_id, search_offset = 0, failures = 0,
		next_attempt_at = NULL
	WHERE t.segment_id IS DISTINCT FROM excluded.segment_id
$$;

-- a static segment that we have made for a campaign
CREATE FUNCTION mailchimp_sync.is_of_campaign(_audience mailchimp_sync.audience, _segment_id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.campaign c WHERE c.connection = _audience.connection
		AND c.list_id = _audience.list_id AND c.segment_id = _segment_id)
$$;

/* ---- the next request ---- */

-- up to a batch of contacts that are to lose this tag next, the longest due first
CREATE FUNCTION mailchimp_sync.tag_page(_audience_id integer, _source_id integer, _tag text,
	OUT contact_key text, OUT batch_limit integer, OUT changed_at timestamptz, OUT due timestamptz)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.contact_key, c.batch_limit, c.changed_at, coalesce(c.next_attempt_at, '-infinity')
	FROM mailchimp_sync.contact c
	WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.action = 'tag' AND c.stale_tags[1] = _tag
		AND c.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.push_busy b WHERE b.audience_id = _audience_id)
	ORDER BY coalesce(c.next_attempt_at, '-infinity')
	LIMIT current_setting('mailchimp_sync.batch_size')::integer
$$;

/*
 * May more contacts join a batch that is not full? Changes are looked at, pushes
 * or removals are under way: whom they concern may have to lose the same tag.
 */
CREATE FUNCTION mailchimp_sync.tags_gather(_audience_id integer) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.audience_id = _audience_id AND f.kind IN ('push', 'tag') AND f.doubt_at IS NULL)
		OR EXISTS (SELECT FROM mailchimp_sync.audience_source x
			WHERE x.audience_id = _audience_id AND x.compare_from IS NOT NULL)
		OR EXISTS (SELECT FROM mailchimp_sync.sending_sources(_audience_id) AS s(source_id)
			WHERE EXISTS (SELECT FROM mailchimp_sync.event e WHERE e.source_id = s.source_id)
				OR EXISTS (SELECT FROM mailchimp_sync.push_waiting(_audience_id, s.source_id,
						mailchimp_sync.guard_room(_audience_id, 'subscribe'), 1) c
					WHERE coalesce(c.next_attempt_at, '-infinity') <= mailchimp_sync.clock()))
$$;

/*
 * The tags that contacts of a source are to lose next, and when a request may go. A full batch goes at once;
 * another one when no more can join it, after five minutes at the latest. So a tag costs one request for 500
 * members and one for the rest.
 */
CREATE FUNCTION mailchimp_sync.tag_queue(_audience_id integer, _source_id integer, OUT tag text, OUT at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	WITH RECURSIVE first AS (		-- each once, by an index that knows no DISTINCT
		(SELECT c.stale_tags[1] AS tag FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.action = 'tag'
			ORDER BY c.stale_tags[1] LIMIT 1)
		UNION ALL
		SELECT (SELECT c.stale_tags[1] FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.action = 'tag'
				AND c.stale_tags[1] > f.tag
			ORDER BY c.stale_tags[1] LIMIT 1)
		FROM first f WHERE f.tag IS NOT NULL
	), waiting AS MATERIALIZED (
		SELECT f.tag, p.*, t.next_attempt_at AS rests
		FROM first f
		LEFT JOIN mailchimp_sync.tag t ON t.audience_id = _audience_id AND t.tag = f.tag
		CROSS JOIN LATERAL (SELECT min(q.due) AS due, min(q.changed_at) AS since,
				count(*) FILTER (WHERE q.due <= mailchimp_sync.clock())
					= current_setting('mailchimp_sync.batch_size')::bigint AS is_full
			FROM mailchimp_sync.tag_page(_audience_id, _source_id, f.tag) q) AS p
		WHERE p.due IS NOT NULL
			AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight i WHERE i.kind = 'tag' AND NOT i.writes
				AND i.audience_id = _audience_id AND i.phase = f.tag)
	)
	SELECT w.tag, greatest(w.due, w.rests, CASE WHEN NOT w.is_full AND (SELECT mailchimp_sync.tags_gather(_audience_id))
		THEN w.since + interval '5 minutes' END)
	FROM waiting w;
END
$$;

CREATE FUNCTION mailchimp_sync.tag_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_source_id	integer;
	_tag		text;
	_segment_id	bigint;
	_keys		text[];
BEGIN
	FOR _audience IN SELECT * FROM mailchimp_sync.sending_audiences(_connection) LOOP
		FOR _source_id IN SELECT * FROM mailchimp_sync.sending_sources(_audience.audience_id) LOOP
			LOOP
				-- the first of a contact's tags is the first by name: one tag after the other keeps batches large
				SELECT q.tag INTO _tag FROM mailchimp_sync.tag_queue(_audience.audience_id, _source_id) q
				WHERE q.at <= mailchimp_sync.clock() ORDER BY q.tag COLLATE "C" LIMIT 1;
				EXIT WHEN NOT FOUND;
				SELECT t.segment_id INTO _segment_id FROM mailchimp_sync.tag t
				WHERE t.audience_id = _audience.audience_id AND t.tag = _tag;
				IF _segment_id IS NULL THEN
					RETURN NEXT mailchimp_sync.tag_search(_audience, _tag);
					RETURN;
				END IF;
				-- evaluated anew just before the request: it may be wanted again, then the next ones
				SELECT mailchimp_sync.together(array_agg(p.contact_key), array_agg(p.batch_limit)) INTO _keys
				FROM mailchimp_sync.tag_page(_audience.audience_id, _source_id, _tag) p
				WHERE p.due <= mailchimp_sync.clock();
				EXIT WHEN mailchimp_sync.fold_contacts(_source_id, _keys) IS NULL;
				RETURN QUERY
				SELECT _connection, 'POST', format('/lists/%s/segments/%s', _audience.list_id, _segment_id),
					jsonb_build_object('members_to_remove', jsonb_agg(c.email ORDER BY c.contact_key))::text, true,
					_audience.audience_id, NULL::bigint, _tag,
					array_agg(c.source_id ORDER BY c.contact_key), array_agg(c.contact_key ORDER BY c.contact_key),
					array_agg(c.email_hash ORDER BY c.contact_key), array_agg(c.version ORDER BY c.contact_key),
					array_agg(c.desired_hash ORDER BY c.contact_key)
				FROM mailchimp_sync.contact c
				WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
					AND c.action = 'tag' AND c.stale_tags[1] = _tag
				HAVING count(*) > 0;
				IF FOUND THEN
					RETURN;
				END IF;
			END LOOP;
		END LOOP;
	END LOOP;
END
$$;

-- asks for the segment of a tag, by the beginning of its name; every byte of it goes encoded
CREATE FUNCTION mailchimp_sync.tag_search(_audience mailchimp_sync.audience, _tag text) RETURNS mailchimp_sync.work
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.tag (audience_id, tag) VALUES (_audience.audience_id, _tag) ON CONFLICT DO NOTHING;

	SELECT ROW(_audience.connection, 'GET', format('/lists/%s/tag-search?name=%s&count=%s&offset=%s&fields=tags.id,tags.name',
			_audience.list_id, regexp_replace(encode(convert_to(_tag, 'UTF8'), 'hex'), '..', '%\&', 'g'),
			mailchimp_sync.page_size(), coalesce((SELECT t.search_offset FROM mailchimp_sync.tag t
				WHERE t.audience_id = _audience.audience_id AND t.tag = _tag), 0)),
		NULL, false, _audience.audience_id, NULL, _tag, NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.work;
$$;

CREATE FUNCTION mailchimp_sync.tag_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(q.at, a.at))
		FROM mailchimp_sync.due_source a
		CROSS JOIN LATERAL mailchimp_sync.tag_queue(a.audience_id, a.source_id) AS q);
END
$$;

/* ---- what came back ---- */

-- the members with these addresses do not have the tag any more
CREATE FUNCTION mailchimp_sync.tag_taken(_audience_id integer, _tag text, _hashes text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.member m SET sent_tags = array_remove(m.sent_tags, _tag),
		shown_tags = array_remove(m.shown_tags, _tag)
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_hashes);
	UPDATE mailchimp_sync.tag t SET taken_at = mailchimp_sync.clock() WHERE t.audience_id = _audience_id AND t.tag = _tag;

	WITH lost AS (
		UPDATE mailchimp_sync.contact c SET stale_tags = nullif(array_remove(c.stale_tags, _tag), '{}'),
			state = CASE WHEN cardinality(c.stale_tags) = 1 THEN 'in_sync' ELSE c.state END,
			action = CASE WHEN cardinality(c.stale_tags) > 1 THEN c.action END,
			detail = NULL, attempts = 0, next_attempt_at = NULL, batch_limit = NULL
		WHERE c.audience_id = _audience_id AND c.email_hash = ANY (_hashes) AND c.action = 'tag'
			AND _tag = ANY (c.stale_tags)
		RETURNING c.audience_id, c.source_id, c.contact_key
	)
	DELETE FROM mailchimp_sync.failure f USING lost l
	WHERE f.work = 'tag' AND f.audience_id = l.audience_id AND f.source_id = l.source_id
		AND f.contact_key = l.contact_key;
$$;

-- addresses that the answer calls errors are not on the list, so they have no tags either
CREATE FUNCTION mailchimp_sync.tag_done(_inflight_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.tag_taken(f.audience_id, f.phase, f.email_hashes), mailchimp_sync.audience_works(f.audience_id)
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id
$$;

-- 404: the segment is gone, and with it the tag, or the list; the search tells
CREATE FUNCTION mailchimp_sync.tag_missing(_inflight_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.tag t SET segment_id = NULL, search_offset = 0
	FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND t.audience_id = f.audience_id AND t.tag = f.phase;

	UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1,
		next_attempt_at = mailchimp_sync.clock() + mailchimp_sync.backoff(c.attempts + 1)
	FROM mailchimp_sync.carried(_inflight_id) s
	WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		AND c.action = 'tag';
$$;

/*
 * A page of segments whose names begin like the tag; the oldest of its name is it, to the
 * letter, since another one may be somebody else's. Where there is none, nobody has the tag: those who are to lose it
 * next have lost it. Ten thousand at once; whoever is left asks again.
 */
CREATE FUNCTION mailchimp_sync.tag_found(_inflight_id bigint, _names text[], _ids bigint[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_tag		text;
	_segment_id	bigint;
	_full		boolean := cardinality(_names) >= mailchimp_sync.page_size();
BEGIN
	SELECT f.phase INTO _tag FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	SELECT a.* INTO _audience FROM mailchimp_sync.inflight f JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE f.inflight_id = _inflight_id;
	SELECT min(u.id) INTO _segment_id FROM unnest(_names, _ids) AS u(name, id)
	WHERE u.name = _tag AND NOT mailchimp_sync.is_of_campaign(_audience, u.id);
	UPDATE mailchimp_sync.tag t SET segment_id = _segment_id, failures = 0, next_attempt_at = NULL,
		search_offset = CASE WHEN _segment_id IS NULL AND _full THEN t.search_offset + mailchimp_sync.page_size() ELSE 0 END
	WHERE t.audience_id = _audience.audience_id AND t.tag = _tag;
	DELETE FROM mailchimp_sync.failure f
	WHERE f.work = 'tag' AND f.audience_id = _audience.audience_id AND f.contact_key = '';
	IF _segment_id IS NULL AND NOT _full THEN
		PERFORM mailchimp_sync.tag_taken(_audience.audience_id, _tag, array_agg(l.email_hash))
		FROM (SELECT c.email_hash FROM mailchimp_sync.audience_source x
			JOIN mailchimp_sync.contact c USING (audience_id, source_id)
			WHERE c.audience_id = _audience.audience_id AND c.action = 'tag' AND c.stale_tags[1] = _tag
			LIMIT 10000) AS l;
	END IF;
END
$$;

-- an answer that refuses to search; 404: the list is gone or not ours
CREATE FUNCTION mailchimp_sync.tag_unsearched(_inflight_id bigint, _status integer, _title text, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.audience_failed(f.audience_id, concat_ws(': ', _title, _detail))
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id AND _status = 404;

	SELECT mailchimp_sync.tag_rests(_inflight_id, NULL);

	SELECT mailchimp_sync.note_failure('tag', a.connection, _title, _detail, t.next_attempt_at, a.audience_id,
		_attempts => t.failures)
	FROM mailchimp_sync.inflight i
	JOIN mailchimp_sync.audience a USING (audience_id)
	JOIN mailchimp_sync.tag t ON t.audience_id = i.audience_id AND t.tag = i.phase
	WHERE i.inflight_id = _inflight_id;
$$;

CREATE FUNCTION mailchimp_sync.tag_rests(_inflight_id bigint, _retry_at timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.tag t SET failures = t.failures + 1,
		next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(t.failures + 1))
	FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND NOT f.writes AND t.audience_id = f.audience_id AND t.tag = f.phase
$$;

/*
 * The whole request was refused by an answer. As with a push some contact of it is to
 * blame: half as many travel together next time, until it is alone, keeps the words and
 * rests until it changes.
 */
CREATE FUNCTION mailchimp_sync.tag_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH blamed AS (
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1,
			batch_limit = CASE WHEN b.is_alone THEN NULL ELSE b.half END,
			refused_hash = CASE WHEN b.is_alone THEN c.desired_hash ELSE c.refused_hash END,
			state = CASE WHEN b.is_alone THEN 'refused' ELSE c.state END,
			detail = CASE WHEN b.is_alone THEN _detail ELSE c.detail END,
			action = CASE WHEN NOT b.is_alone THEN c.action END,
			stale_tags = CASE WHEN NOT b.is_alone THEN c.stale_tags END, next_attempt_at = NULL
		FROM mailchimp_sync.carried(_inflight_id) s
		CROSS JOIN (SELECT count(*) = 1 AS is_alone, greatest(count(*) / 2, 1) AS half
			FROM mailchimp_sync.carried(_inflight_id)) AS b
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
			AND c.action = 'tag' AND c.version = s.version
		RETURNING c.*
	)
	SELECT mailchimp_sync.note_failure('tag', a.connection, _title, _detail, NULL, r.audience_id,
		_source_id => r.source_id, _contact_key => r.contact_key, _email => r.email, _attempts => r.attempts)
	FROM blamed r JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE r.state = 'refused'
$$;

-- no usable answer: taking a tag away twice does no harm, so soon once more with what is wanted then
CREATE FUNCTION mailchimp_sync.tag_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.push_failed(_inflight_id, _outcome, _title, _detail, _retry_at);
	SELECT mailchimp_sync.tag_rests(_inflight_id, _retry_at);
$$;
