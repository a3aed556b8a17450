/*
 * leave.sql: contacts leave Mailchimp, one request each (D9).
 *
 * DELETE archives, which is reversible; the policy unsubscribe sends PATCH with
 * that status. It waits for every ghost of its address, else a late push
 * would bring back who has left. Many that leave at once go together (batch.sql).
 *
 * Somebody's row may go while another one with the address comes, also of another
 * source, in one transaction (a lead becomes a customer): nobody is to leave for that, since
 * only an archived member can be brought back. So a leave waits until every event that was
 * there when it was decided has been read, and until a comparison in which it was
 * found is through with all sources; those that cannot be read now are not waited for.
 */
CREATE FUNCTION mailchimp_sync.unread(_audience_id integer, OUT event_id bigint, OUT compare_from timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(e.event_id), min(x.compare_from)
	FROM mailchimp_sync.audience_source x
	JOIN mailchimp_sync.source s USING (source_id)
	LEFT JOIN LATERAL (SELECT o.event_id FROM mailchimp_sync.event o
		WHERE o.source_id = s.source_id ORDER BY o.event_id LIMIT 1) AS e ON true
	WHERE x.audience_id = _audience_id AND mailchimp_sync.source_is_usable(s)
$$;

-- from so many on that are due at once, contacts of an audience leave by batch
CREATE FUNCTION mailchimp_sync.batch_threshold() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 500
$$;

-- the contacts of a source that could leave now, the longest due first
CREATE FUNCTION mailchimp_sync.leaves_ready(_audience_id integer, _source_id integer, _limit integer) RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT c.contact_key FROM mailchimp_sync.unread(_audience_id) u, mailchimp_sync.contact c
	WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.queue = 'leave'
		AND coalesce(c.next_attempt_at, '-infinity') <= mailchimp_sync.clock()
		AND coalesce(c.leave_after < u.event_id, true) AND coalesce(c.changed_at < u.compare_from, true)
		AND c.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
	ORDER BY coalesce(c.next_attempt_at, '-infinity') LIMIT _limit;
END
$$;

-- asked at every turn of the engine: what costs least first
CREATE FUNCTION mailchimp_sync.leaves_by_batch(_audience_id integer) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_most	integer := mailchimp_sync.batch_threshold();
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.contact c WHERE c.audience_id = _audience_id AND c.queue = 'leave'
			LIMIT 1 OFFSET _most - 1)
		AND EXISTS (SELECT FROM mailchimp_sync.audience a JOIN mailchimp_sync.connection c USING (connection)
			WHERE a.audience_id = _audience_id AND a.on_leave = 'archive'
				AND coalesce(c.no_batch_until <= mailchimp_sync.clock(), true))
		AND mailchimp_sync.guard_room(_audience_id, 'leave') >= _most
		AND EXISTS (SELECT FROM mailchimp_sync.sending_sources(_audience_id) AS s(source_id)
			CROSS JOIN LATERAL mailchimp_sync.leaves_ready(_audience_id, s.source_id, _most) r
			LIMIT 1 OFFSET _most - 1);
END
$$;

CREATE FUNCTION mailchimp_sync.leave_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_source_id	integer;
	_key		text;
BEGIN
	FOR _audience IN SELECT * FROM mailchimp_sync.sending_audiences(_connection) LOOP
		CONTINUE WHEN mailchimp_sync.guard_holds(_audience.audience_id, 'leave');
		CONTINUE WHEN mailchimp_sync.leaves_by_batch(_audience.audience_id);
		FOR _source_id IN SELECT * FROM mailchimp_sync.sending_sources(_audience.audience_id) LOOP
			-- evaluated anew just before the request: it may have come back, then the next one, as far as that is done soon
			FOR _look IN 1 .. 50 LOOP
				_key := (SELECT r FROM mailchimp_sync.leaves_ready(_audience.audience_id, _source_id, 1) r);
				EXIT WHEN _key IS NULL
					OR NOT mailchimp_sync.fold_rivals(_audience.audience_id, _source_id, ARRAY[_key]);
				RETURN QUERY
				SELECT _connection, CASE WHEN _audience.on_leave = 'archive' THEN 'DELETE' ELSE 'PATCH' END,
					format('/lists/%s/members/%s', _audience.list_id, c.member_hash),
					CASE WHEN _audience.on_leave = 'unsubscribe' THEN '{"status": "unsubscribed"}' END, true,
					c.audience_id, NULL::bigint, _audience.on_leave,
					ARRAY[c.source_id], ARRAY[c.contact_key], ARRAY[c.member_hash], ARRAY[c.version], ARRAY[c.desired_hash]
				FROM mailchimp_sync.contact c
				WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id
					AND c.contact_key = _key AND c.action = 'leave';
				IF FOUND THEN
					RETURN;
				END IF;
			END LOOP;
		END LOOP;
	END LOOP;
END
$$;

CREATE FUNCTION mailchimp_sync.leave_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(d.due, a.at))
		FROM mailchimp_sync.due_source a
		CROSS JOIN LATERAL (
			SELECT coalesce(c.next_attempt_at, '-infinity') AS due
			FROM mailchimp_sync.contact c
			WHERE c.audience_id = a.audience_id AND c.source_id = a.source_id AND c.queue = 'leave'
				AND (a.audience_id, c.member_hash) NOT IN (SELECT b.audience_id, b.email_hash FROM mailchimp_sync.busy b)
			ORDER BY coalesce(c.next_attempt_at, '-infinity') LIMIT 1) AS d
		WHERE NOT mailchimp_sync.guard_holds(a.audience_id, 'leave')
			AND NOT mailchimp_sync.leaves_by_batch(a.audience_id));
END
$$;

/*
 * They are not there any more; _found: they were until now, _archived: Mailchimp says that they were
 * archived already, by us where an earlier request was tried without an answer, else by somebody else, who has the
 * say then (D20). What was not there is no member that could be brought back. Where Mailchimp never showed a status, ours is
 * the one that push asked for; who left by their own hand stays out in any case,
 * Mailchimp sees to that. What remains is said by evaluating once more, also for others
 * who have the address by now. A page of statuses that was asked for before knows nothing of it.
 */
CREATE FUNCTION mailchimp_sync.members_left(_audience_id integer, _hashes text[], _on_leave text, _found boolean,
	_archived boolean)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.guard_went(_audience_id, 'leave', CASE WHEN _found THEN cardinality(_hashes) ELSE 0 END,
		(SELECT count(*) FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.member_hash = ANY (_hashes) AND c.queue = 'leave'));

	INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, status_before, archived_by_us, ours,
		read_at)
	SELECT a.audience_id, h.email_hash, coalesce(c.email, ''),
		CASE WHEN _found THEN mailchimp_sync.status_of_leaving(_on_leave) END,
		CASE WHEN _found THEN 'subscribed' END,
		_found AND _on_leave = 'archive' AND NOT (_archived AND coalesce(c.attempts, 0) = 0), true, mailchimp_sync.clock()
	FROM unnest(_hashes) AS h(email_hash)
	JOIN mailchimp_sync.audience a ON a.audience_id = _audience_id	-- it may have been dropped meanwhile
	-- so may its source
	LEFT JOIN LATERAL (SELECT o.email, o.attempts FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.member_hash = h.email_hash LIMIT 1) AS c ON true
	ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status,
		status_before = CASE WHEN _found THEN coalesce(m.status, m.status_before, 'subscribed') END,
		-- one of ours that was in doubt may have been the first
		archived_by_us = excluded.archived_by_us OR (_archived AND m.archived_by_us), read_at = excluded.read_at,
		-- its instant is shown by the next read; whoever archives it after that is not we (read.sql)
		last_changed = NULL,
		-- an archived member keeps its tags
		sent_tags = CASE WHEN _found THEN m.sent_tags END;

	WITH gone AS (
		-- not there: it may have stepped aside
		UPDATE mailchimp_sync.contact c SET
			member_hash = CASE WHEN NOT _found THEN mailchimp_sync.email_hash(c.aside_email) END,
			left_hash = CASE WHEN _found THEN c.member_hash ELSE c.left_hash END,
			aside_email = NULL, sent_hash = NULL, attempts = 0, next_attempt_at = NULL, action = NULL,
			stale_tags = NULL
		WHERE c.audience_id = _audience_id AND c.member_hash = ANY (_hashes)
		RETURNING c.source_id, c.contact_key
	), healed AS (
		DELETE FROM mailchimp_sync.failure f USING gone g
		WHERE f.work = 'leave' AND f.audience_id = _audience_id AND f.source_id = g.source_id
			AND f.contact_key = g.contact_key
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT g.source_id, g.contact_key FROM gone g
	UNION
	SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
	WHERE c.audience_id = _audience_id AND c.email_hash = ANY (_hashes);
$$;

-- with direction both it may have moved at Mailchimp meanwhile: then it leaves from there, as soon as that was read
CREATE FUNCTION mailchimp_sync.leave_done(_inflight_id bigint, _found boolean, _archived boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_f		mailchimp_sync.inflight;
	_member	mailchimp_sync.member;
BEGIN
	SELECT * INTO STRICT _f FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	SELECT * INTO _member FROM mailchimp_sync.member m
	WHERE m.audience_id = _f.audience_id AND m.email_hash = _f.email_hashes[1];
	IF NOT _found AND mailchimp_sync.know_by_id(_member) THEN
		UPDATE mailchimp_sync.contact c SET member_hash = lower(_member.mailchimp_id), aside_email = NULL, attempts = 0,
			next_attempt_at = 'infinity', changed_at = mailchimp_sync.clock()
		WHERE c.audience_id = _f.audience_id AND c.member_hash = _f.email_hashes[1];
	ELSE
		PERFORM mailchimp_sync.members_left(_f.audience_id, _f.email_hashes, _f.phase, _found, _archived);
	END IF;
END
$$;

/*
 * Its ghost has ended, and nobody knows whether it landed. The member's status is not
 * known any more: who wants it there is sent with the status that it had, and who
 * leaves again, now or later, is asked for again.
 */
CREATE FUNCTION mailchimp_sync.leave_unknown(_inflight_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status_before, archived_by_us, ours, read_at)
	SELECT s.audience_id, s.email_hash, coalesce(c.email, ''), 'subscribed', f.phase = 'archive', true, mailchimp_sync.clock()
	FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.carried(_inflight_id) s ON f.inflight_id = _inflight_id
	JOIN mailchimp_sync.audience a ON a.audience_id = s.audience_id
	LEFT JOIN mailchimp_sync.contact c ON c.audience_id = s.audience_id AND c.source_id = s.source_id
		AND c.contact_key = s.contact_key
	ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = NULL,
		status_before = coalesce(m.status, m.status_before, 'subscribed'), last_changed = NULL,
		archived_by_us = excluded.archived_by_us, read_at = excluded.read_at;

	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT s.source_id, s.contact_key FROM mailchimp_sync.carried(_inflight_id) s
	UNION
	SELECT c.source_id, c.contact_key FROM mailchimp_sync.carried(_inflight_id) s
	JOIN mailchimp_sync.contact c ON c.audience_id = s.audience_id AND c.email_hash = s.email_hash;
$$;

-- an answer that refuses it, with Mailchimp's words
CREATE FUNCTION mailchimp_sync.leave_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH refused AS (
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1, detail = _detail,
			next_attempt_at = mailchimp_sync.rests_until(c, mailchimp_sync.clock() + mailchimp_sync.backoff(c.attempts + 1))
		FROM mailchimp_sync.carried(_inflight_id) s
		WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key
		RETURNING c.*
	)
	SELECT mailchimp_sync.note_failure('leave', a.connection, _title, _detail, r.next_attempt_at, r.audience_id,
		_source_id => r.source_id, _contact_key => r.contact_key, _email => r.email, _attempts => r.attempts)
	FROM refused r JOIN mailchimp_sync.audience a USING (audience_id)
$$;

-- after doubt it may have landed or land yet: who came back meanwhile is to be sent again
CREATE FUNCTION mailchimp_sync.leave_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.push_failed(_inflight_id, _outcome, _title, _detail, _retry_at);

	UPDATE mailchimp_sync.contact c SET sent_hash = NULL
	FROM mailchimp_sync.carried(_inflight_id) s
	WHERE _outcome = 'doubt' AND c.audience_id = s.audience_id AND c.source_id = s.source_id
		AND c.contact_key = s.contact_key;

	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT s.source_id, s.contact_key FROM mailchimp_sync.carried(_inflight_id) s
	WHERE _outcome = 'doubt';
$$;
