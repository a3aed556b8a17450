/*
 * push_answer.sql: what came back from a request that carried contacts.
 *
 * Every error of a reply is matched to its contact; where none can be, half as many travel together next time. What was sent is
 * done if it is still what is wanted. Other kinds of work ask here, too, whom a request carried and how contacts rest.
 */

-- the contacts that a request carries, as rows
CREATE FUNCTION mailchimp_sync.carried(_inflight_id bigint, OUT audience_id integer, OUT source_id integer,
	OUT contact_key text, OUT email_hash text, OUT version bigint, OUT hash bytea, OUT ordinal bigint)
RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 100	-- few enough for an index lookup each
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT f.audience_id, u.source_id, u.contact_key, u.email_hash, u.version, u.hash, u.ordinality
	FROM mailchimp_sync.inflight f
	CROSS JOIN LATERAL unnest(f.source_ids, f.contact_keys, f.email_hashes,
		f.versions, f.hashes) WITH ORDINALITY AS u(source_id, contact_key, email_hash, version, hash)
	WHERE f.inflight_id = _inflight_id;
END
$$;

-- members as the reply shows them; what we sent stands beside
CREATE FUNCTION mailchimp_sync.push_accepted(_inflight_id bigint, _hashes text[], _emails text[], _statuses text[],
	_contact_ids text[], _fields text[], _tags text[], _last_changed text[])
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	-- to the guard: who is there only now, and how many of those waited for it
	SELECT mailchimp_sync.guard_went(s.audience_id, 'subscribe',
		count(*) FILTER (WHERE coalesce(m.status, 'archived') = 'archived' AND u.status IN ('subscribed', 'pending')),
		count(*) FILTER (WHERE c.queue = 'subscribe' AND c.version = s.version))
	FROM mailchimp_sync.carried(_inflight_id) s
	JOIN unnest(_hashes, _statuses) AS u(hash, status) ON u.hash = s.email_hash
	LEFT JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key)
	LEFT JOIN mailchimp_sync.member m ON m.audience_id = s.audience_id AND m.email_hash = s.email_hash
	WHERE c.by_hand IS NOT TRUE GROUP BY s.audience_id;

	SELECT mailchimp_sync.signal_statuses(m.audience_id, array_agg(m.email_hash), array_agg(m.status), array_agg(u.status),
		array_fill(NULL::text, ARRAY[count(*)::integer]), array_fill(NULL::timestamptz, ARRAY[count(*)::integer]))
	FROM mailchimp_sync.carried(_inflight_id) s
	JOIN unnest(_hashes, _statuses) AS u(hash, status) ON u.hash = s.email_hash AND u.status = 'unsubscribed'
	JOIN mailchimp_sync.member m ON m.audience_id = s.audience_id AND m.email_hash = s.email_hash
	WHERE 'unsubscribed' = ANY (_statuses)		-- else nobody is looked up
	GROUP BY m.audience_id;

	WITH shown AS (
		SELECT DISTINCT ON (u.hash) u.* FROM unnest(_hashes, _emails, _statuses, _contact_ids, _fields, _tags, _last_changed)
			AS u(hash, email, status, contact_id, fields, tags, last_changed)
	), sent AS (
		SELECT c.*, a.direction, b.member, ARRAY(SELECT jsonb_array_elements_text(b.member -> 'tags')) AS tags
		FROM mailchimp_sync.carried(_inflight_id) c
		JOIN mailchimp_sync.audience a USING (audience_id)	-- it may have been dropped meanwhile
		JOIN (SELECT x.member, x.ordinality FROM mailchimp_sync.inflight f
			CROSS JOIN LATERAL jsonb_array_elements(f.body::jsonb -> 'members') WITH ORDINALITY AS x(member)
			WHERE f.inflight_id = _inflight_id) b ON b.ordinality = c.ordinal
	), seen AS (
		INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, ours, mailchimp_id,
			sent_fields, shown_fields, read_fields, sent_source_id, sent_tags, shown_tags, last_changed, pushed_at, read_at, inbound_at)
		-- the batch call shows no status of who is archived
		SELECT s.audience_id, s.email_hash, w.email, coalesce(w.status, 'archived'), true, w.contact_id,
			s.member -> 'merge_fields', CASE WHEN s.direction = 'both' THEN mailchimp_sync.fields_of(w.fields::jsonb, s.member -> 'merge_fields')
				ELSE w.fields::jsonb END, CASE WHEN s.direction <> 'push' THEN w.fields::jsonb END, s.source_id,
			s.tags,
			ARRAY(SELECT t ->> 'name' FROM jsonb_array_elements(w.tags::jsonb) t ORDER BY 1),
			mailchimp_sync.instant(w.last_changed), mailchimp_sync.clock(), mailchimp_sync.clock(),
			(SELECT mailchimp_sync.inbound_now(f.audience_id) FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id)
		FROM sent s JOIN shown w ON w.hash = s.email_hash
		ON CONFLICT (audience_id, email_hash) DO UPDATE SET email = excluded.email, status = excluded.status,
			archived_by_us = false, ours = true, mailchimp_id = excluded.mailchimp_id,
			status_before = CASE WHEN excluded.status = 'unsubscribed' AND mailchimp_sync.is_unsubscribed_by_us(m)
				THEN m.status_before END,
			-- news that tell neither
			unsubscribed_at = CASE WHEN excluded.status <> 'unsubscribed' OR m.status = 'unsubscribed' THEN m.unsubscribed_at END,
			unsubscribe_reason = CASE WHEN m.status = 'unsubscribed' THEN m.unsubscribe_reason END,
			-- where only a part is sent, the rest stays what was agreed upon
			sent_fields = CASE WHEN excluded.read_fields IS NULL THEN excluded.sent_fields
				ELSE coalesce(m.sent_fields, '{}') || excluded.sent_fields END,
			shown_fields = CASE WHEN excluded.read_fields IS NULL THEN excluded.shown_fields
				ELSE coalesce(m.shown_fields, '{}') || excluded.shown_fields END,
			-- an edit that it shows is for the next read to tell
			read_fields = CASE WHEN m.read_fields IS NULL OR excluded.read_fields IS NULL THEN excluded.read_fields
				ELSE m.read_fields || mailchimp_sync.fields_of(excluded.read_fields, excluded.sent_fields) END,
			sent_source_id = excluded.sent_source_id,
			sent_tags = mailchimp_sync.all_tags(m.sent_tags, excluded.sent_tags), shown_tags = excluded.shown_tags,
			last_changed = excluded.last_changed, pushed_at = excluded.pushed_at, read_at = excluded.read_at
		RETURNING m.email_hash, m.sent_tags
	), done AS (
		UPDATE mailchimp_sync.contact c SET sent_hash = s.hash, refused_hash = NULL, attempts = 0,
			next_attempt_at = mailchimp_sync.rests_until(c, NULL), batch_limit = NULL,
			state = CASE WHEN c.version <> s.version THEN c.state WHEN t.stale IS NULL THEN 'in_sync' ELSE 'pending' END,
			detail = CASE WHEN c.version = s.version THEN NULL ELSE c.detail END,
			action = CASE WHEN c.version <> s.version THEN c.action WHEN t.stale IS NOT NULL THEN 'tag' END,
			stale_tags = CASE WHEN c.version = s.version THEN t.stale END, open_fields = NULL,
			agreed_hash = CASE WHEN s.direction = 'both' THEN s.email_hash END
		FROM sent s JOIN seen e USING (email_hash)
		CROSS JOIN LATERAL (SELECT CASE WHEN NOT e.sent_tags <@ s.tags
			THEN mailchimp_sync.stale_tags(s.audience_id, e.sent_tags, s.tags) END AS stale OFFSET 0) AS t	-- once, not at each place that looks at it
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		RETURNING c.audience_id, c.source_id, c.contact_key
	)
	DELETE FROM mailchimp_sync.failure f USING done d
	WHERE f.work = 'push' AND f.audience_id = d.audience_id AND f.source_id = d.source_id
		AND f.contact_key = d.contact_key;

	SELECT mailchimp_sync.members_seen(f.audience_id, _hashes,
		ARRAY(SELECT coalesce(u.status, 'archived') FROM unnest(_statuses) WITH ORDINALITY AS u(status, position)
			ORDER BY u.position))
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
$$;

/*
 * Contacts that Mailchimp refused, each with its words: they rest until they change;
 * where the words are of the day, or _for_now, at most for a day (retry.sql). Words about a field
 * make us read the list's fields again, for it may be gone (field.sql).
 */
CREATE FUNCTION mailchimp_sync.push_refused(_inflight_id bigint, _emails text[], _codes text[], _errors text[],
	_fields text[], _field_messages text[], _for_now boolean DEFAULT false)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH said AS (
		SELECT DISTINCT ON (u.email) mailchimp_sync.email_hash(u.email) AS hash, u.code,
			concat_ws(' ', u.error, nullif(nullif(u.field_message, u.error), '')) AS detail, nullif(u.field, '') AS field
		FROM unnest(_emails, _codes, _errors, _fields, _field_messages) AS u(email, code, error, field, field_message)
	), refused AS (
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1, refused_hash = s.hash, batch_limit = NULL,
			next_attempt_at = mailchimp_sync.rests_until(c, CASE WHEN c.version = s.version
				AND (_for_now OR mailchimp_sync.refuses_for_now(d.detail)) THEN mailchimp_sync.day_later() END),
			state = CASE WHEN c.version = s.version THEN 'refused' ELSE c.state END,
			detail = CASE WHEN w.still THEN d.detail ELSE c.detail END,
			action = CASE WHEN c.version = s.version THEN NULL ELSE c.action END
		FROM mailchimp_sync.carried(_inflight_id) s
		JOIN said d ON d.hash = s.email_hash
		JOIN mailchimp_sync.contact o USING (audience_id, source_id, contact_key)
		-- the same may be wanted by a new version: a ghost has ended
		CROSS JOIN LATERAL (SELECT o.version = s.version OR o.state IN ('pending', 'refused') AND o.desired_hash = s.hash AS still) AS w
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		RETURNING c.audience_id, c.source_id, c.contact_key, c.email, c.attempts, c.next_attempt_at, d.code, d.detail, d.field,
			w.still
	)
	INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, email,
		title, detail, field, attempts, first_failed_at, last_failed_at, next_attempt_at)
	SELECT 'push', r.audience_id, r.source_id, r.contact_key, a.connection, r.email,
		r.code, r.detail, r.field, r.attempts, mailchimp_sync.clock(), mailchimp_sync.clock(), r.next_attempt_at
	FROM refused r JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE r.still	-- else it has changed, or left, meanwhile
	ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET
		email = excluded.email, title = excluded.title, detail = excluded.detail, field = excluded.field,
		attempts = f.attempts + 1, last_failed_at = excluded.last_failed_at, next_attempt_at = excluded.next_attempt_at;

	SELECT mailchimp_sync.ask_fields(f.audience_id) FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND EXISTS (SELECT FROM unnest(_errors, _fields) AS u(error, field)
		WHERE mailchimp_sync.is_about_field(u.field, u.error));
$$;

/*
 * Of a member that the reply shows something cannot be read: it is there, but nobody knows how, so it rests
 * until it changes or for a day.
 */
CREATE FUNCTION mailchimp_sync.push_unreadable(_inflight_id bigint, _hash text, _email text, _part text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.push_refused(_inflight_id, ARRAY[c.email], ARRAY['unreadable answer'],
		ARRAY[format('"%s" in Mailchimp''s answer is not what its API says', _part)], ARRAY[NULL::text], ARRAY[NULL::text], true)
	FROM mailchimp_sync.carried(_inflight_id) s
	JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key)
	WHERE s.email_hash IN (_hash, mailchimp_sync.email_hash(_email)) AND c.email_hash = s.email_hash
$$;

-- the contacts of a request of which its reply says nothing
CREATE FUNCTION mailchimp_sync.passed_over(_inflight_id bigint, _hashes text[], _emails text[])
RETURNS SETOF mailchimp_sync.contact
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.*
	FROM mailchimp_sync.carried(_inflight_id) s
	JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key)
	WHERE s.email_hash NOT IN (SELECT h FROM unnest(_hashes) AS h WHERE h IS NOT NULL)
		AND s.email_hash NOT IN (SELECT mailchimp_sync.email_hash(e) FROM unnest(_emails) AS e WHERE e IS NOT NULL)
$$;

/*
 * They are asked for again, later. Addresses in a compliance state can be passed
 * over in silence (API 3.0, batch subscribe), so the fifth time counts as a refusal.
 */
CREATE FUNCTION mailchimp_sync.push_unmentioned(_inflight_id bigint, _hashes text[], _emails text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.push_refused(_inflight_id, array_agg(p.email), array_agg('no answer'::text),
		array_agg('Mailchimp''s answers do not mention it'::text), NULL, NULL)
	FROM mailchimp_sync.passed_over(_inflight_id, _hashes, _emails) p
	WHERE p.attempts >= 4 HAVING count(*) > 0;
	UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1,
		next_attempt_at = mailchimp_sync.rests_until(c, mailchimp_sync.clock() + mailchimp_sync.backoff(c.attempts + 1))
	FROM mailchimp_sync.passed_over(_inflight_id, _hashes, _emails) p
	WHERE c.audience_id = p.audience_id AND c.source_id = p.source_id AND c.contact_key = p.contact_key
		AND p.attempts < 4;
END
$$;

/*
 * A definite answer, or none that could have had an effect: who was not brought
 * to Mailchimp by this request nor an earlier one is not there by us, so that
 * another address of theirs is simply a new one. _there: those whom the answer shows.
 */
CREATE FUNCTION mailchimp_sync.push_absent(_inflight_id bigint, _there text[] DEFAULT '{}') RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.contact c SET member_hash = NULL
	FROM mailchimp_sync.carried(_inflight_id) s
	WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		AND c.member_hash = s.email_hash AND s.email_hash NOT IN (SELECT h FROM unnest(_there) AS h WHERE h IS NOT NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = s.audience_id AND m.email_hash = s.email_hash)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.busy b
			WHERE b.audience_id = s.audience_id AND b.email_hash = s.email_hash AND b.inflight_id <> _inflight_id)
$$;

/*
 * The whole request was refused by an answer (4xx). 404: the list is gone or
 * not ours, which is the audience's trouble. Otherwise some contact of it is to blame:
 * half as many travel together next time, until it is alone and keeps the words.
 */
CREATE FUNCTION mailchimp_sync.push_rejected(_inflight_id bigint, _status integer, _title text, _detail text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_count	integer;
BEGIN
	SELECT count(*) INTO _count FROM mailchimp_sync.carried(_inflight_id);
	IF _status = 404 THEN
		PERFORM mailchimp_sync.audience_failed(f.audience_id, concat_ws(': ', _title, _detail))
		FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	ELSIF _count = 1 THEN
		PERFORM mailchimp_sync.push_refused(_inflight_id, ARRAY[c.email], ARRAY[_title], ARRAY[_detail],
			ARRAY[NULL::text], ARRAY[NULL::text])
		FROM mailchimp_sync.carried(_inflight_id) s
		JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key);
	ELSE
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1, batch_limit = greatest(_count / 2, 1)
		FROM mailchimp_sync.carried(_inflight_id) s
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key;
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.audience_failed(_audience_id integer, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience SET failures = failures + 1, detail = _detail,
		next_attempt_at = mailchimp_sync.clock() + mailchimp_sync.backoff(failures + 1)
	WHERE audience_id = _audience_id;
	SELECT mailchimp_sync.signal('sync_failed', a.connection, a.audience_id, NULL, jsonb_build_object('reason', _detail))
	FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id AND a.failures = mailchimp_sync.failing_for_long();
$$;

CREATE FUNCTION mailchimp_sync.audience_works(_audience_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience SET failures = 0, detail = NULL, next_attempt_at = NULL
	WHERE audience_id = _audience_id AND failures > 0
$$;

/*
 * No usable answer: the contacts rest, all alike lest they come one by one, and go again with the values
 * wanted then. One that keeps failing alone is a failure for people to see.
 */
CREATE FUNCTION mailchimp_sync.contacts_rest(_f mailchimp_sync.inflight, _attempts integer, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_at	timestamptz := greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(_attempts));
BEGIN
	UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1, next_attempt_at = mailchimp_sync.rests_until(c, _at),
		detail = concat_ws(': ', _title, _detail)
	FROM mailchimp_sync.carried(_f.inflight_id) s
	WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		AND c.action IS NOT NULL;
	IF _attempts >= 3 AND _f.kind IN ('push', 'rename', 'leave', 'tag') THEN
		PERFORM mailchimp_sync.note_failure(_f.kind, _f.connection, _title, _detail, _at, c.audience_id,
			_source_id => c.source_id, _contact_key => c.contact_key, _email => c.email, _attempts => c.attempts)
		FROM mailchimp_sync.contact c
		WHERE c.audience_id = _f.audience_id AND c.source_id = _f.source_ids[1] AND c.contact_key = _f.contact_keys[1]
			AND c.action IS NOT NULL
			AND NOT EXISTS (SELECT FROM mailchimp_sync.carried(_f.inflight_id) s
				WHERE (s.source_id, s.contact_key) <> (_f.source_ids[1], _f.contact_keys[1] COLLATE "C"));
	END IF;
END
$$;

/*
 * Where Mailchimp fails for the third time at the same contacts, or we at its answer, it may be one of them: as with a request that is
 * refused, half as many travel together next time. While nothing else succeeds either it is rather Mailchimp,
 * and they are taken apart no further once they are 25 or fewer. One that fails alone while others arrive rests
 * for a day after its fifth time.
 */
CREATE FUNCTION mailchimp_sync.push_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_f			mailchimp_sync.inflight;
	_attempts	integer;
	_count		integer;
	_suspicion	integer;
BEGIN
	SELECT * INTO STRICT _f FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	SELECT coalesce(max(c.attempts), 0) + 1, count(*) INTO _attempts, _count
	FROM mailchimp_sync.carried(_inflight_id) s
	LEFT JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key);
	_suspicion := CASE WHEN _f.kind IN ('push', 'tag') AND _attempts >= 3 THEN mailchimp_sync.suspicion(_f) ELSE 0 END;
	IF _count > 1 AND (_suspicion = 2 OR _suspicion = 1 AND _count > 25) THEN
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1,
			next_attempt_at = mailchimp_sync.rests_until(c, _retry_at), batch_limit = greatest(_count / 2, 1),
			detail = concat_ws(': ', _title, _detail)
		FROM mailchimp_sync.carried(_inflight_id) s
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
			AND c.action IS NOT NULL;
	ELSIF _f.kind = 'push' AND _count = 1 AND _suspicion = 2 AND _attempts >= 5 THEN
		PERFORM mailchimp_sync.push_refused(_inflight_id, ARRAY[c.email], ARRAY[_title], ARRAY[_detail],
			ARRAY[NULL::text], ARRAY[NULL::text], true)
		FROM mailchimp_sync.carried(_inflight_id) s
		JOIN mailchimp_sync.contact c USING (audience_id, source_id, contact_key);
	ELSE
		PERFORM mailchimp_sync.contacts_rest(_f, _attempts, _title, _detail, _retry_at);
	END IF;
	IF _f.kind = 'push' AND _outcome IN ('answered', 'refused', 'not_sent') THEN
		PERFORM mailchimp_sync.push_absent(_inflight_id);
	ELSIF _outcome IN ('doubt', 'error') THEN
		PERFORM mailchimp_sync.tags_put(_inflight_id);
	END IF;
END
$$;

/*
 * What Mailchimp says of members, whoever asked: push now, reading later. Who
 * unsubscribed there joins the opt-out group where the audience says so (R45,
 * D11), but not whom we have unsubscribed ourselves; everybody whose status differs from what we knew is evaluated anew.
 */
CREATE FUNCTION mailchimp_sync.members_seen(_audience_id integer, _hashes text[], _statuses text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.opt_out_add(c.source_id, c.contact_key, c.email, 'mailchimp', NULL, 'Mailchimp')
	FROM unnest(_hashes, _statuses) AS u(hash, status)
	JOIN mailchimp_sync.audience a ON a.audience_id = _audience_id AND a.on_unsubscribe = 'opt_out'
	JOIN mailchimp_sync.contact c ON c.audience_id = _audience_id AND c.member_hash = u.hash
	WHERE u.status = 'unsubscribed'
		AND NOT EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.email_hash = u.hash AND mailchimp_sync.is_unsubscribed_by_us(m))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out o
			WHERE o.source_id = c.source_id AND o.contact_key = c.contact_key);

	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT c.source_id, c.contact_key
	FROM unnest(_hashes, _statuses) AS u(hash, status)
	JOIN mailchimp_sync.contact c ON c.audience_id = _audience_id AND c.member_hash = u.hash
	WHERE u.status NOT IN ('subscribed', 'pending', 'transactional') AND c.state IN ('in_sync', 'pending');
$$;
