/*
 * leave.sql: contacts leave Mailchimp, one request each (D9).
 *
 * DELETE archives, which is reversible; the policy unsubscribe sends PATCH with
 * that status. It waits for every ghost of its address, else a late push
 * would bring back who has left.
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
		FOR _source_id IN SELECT * FROM mailchimp_sync.sending_sources(_audience.audience_id) LOOP
			-- evaluated anew just before the request: it may have come back, then the next one
			LOOP
				_key := mailchimp_sync.leave_ready(_audience.audience_id, _source_id);
				EXIT WHEN _key IS NULL
					OR NOT mailchimp_sync.fold_rivals(_audience.audience_id, _source_id, _key);
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

-- the contact of a source that is due to leave for the longest time
CREATE FUNCTION mailchimp_sync.leave_ready(_audience_id integer, _source_id integer) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.contact_key FROM mailchimp_sync.unread(_audience_id) u, mailchimp_sync.contact c
	WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.queue = 'leave'
		AND coalesce(c.next_attempt_at, '-infinity') <= mailchimp_sync.clock()
		AND coalesce(c.leave_after < u.event_id, true) AND coalesce(c.changed_at < u.compare_from, true)
		AND c.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
	ORDER BY coalesce(c.next_attempt_at, '-infinity') LIMIT 1
$$;

CREATE FUNCTION mailchimp_sync.leave_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(greatest(d.due, a.next_attempt_at, mailchimp_sync.source_due(s)))
	FROM mailchimp_sync.usable_connection u
	JOIN mailchimp_sync.audience a USING (connection)
	JOIN mailchimp_sync.audience_source x USING (audience_id)
	JOIN mailchimp_sync.source s USING (source_id)
	CROSS JOIN LATERAL (
		SELECT coalesce(c.next_attempt_at, '-infinity') AS due
		FROM mailchimp_sync.contact c
		WHERE c.audience_id = a.audience_id AND c.source_id = s.source_id AND c.queue = 'leave'
			AND (a.audience_id, c.member_hash) NOT IN (SELECT b.audience_id, b.email_hash FROM mailchimp_sync.busy b)
		ORDER BY coalesce(c.next_attempt_at, '-infinity') LIMIT 1) AS d
	WHERE a.active_since IS NOT NULL AND NOT a.paused AND s.state <> 'stopped'
		AND NOT mailchimp_sync.guard_holds(a.audience_id, 'leave')
$$;

/*
 * It is not there any more; _found: it was until now, _archived: Mailchimp says that it was
 * archived already, by us where an earlier request was tried without an answer, else by somebody else, who has the
 * say then (D20). What was not there is no member that could be brought back. Where Mailchimp never showed a status, ours is
 * the one that push asked for; who left by their own hand stays out in any case,
 * Mailchimp sees to that. What remains is said by evaluating once more, also for others
 * who have the address by now.
 */
CREATE FUNCTION mailchimp_sync.leave_done(_inflight_id bigint, _found boolean, _archived boolean DEFAULT false)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.guard_went(s.audience_id, 'leave', CASE WHEN _found THEN count(*) ELSE 0 END,
		count(*) FILTER (WHERE c.queue = 'leave'))
	FROM mailchimp_sync.carried(_inflight_id) s
	LEFT JOIN mailchimp_sync.contact c ON c.audience_id = s.audience_id AND c.source_id = s.source_id
		AND c.contact_key = s.contact_key
	GROUP BY s.audience_id;

	INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, status_before, archived_by_us, ours,
		read_at)
	SELECT s.audience_id, s.email_hash, coalesce(c.email, ''),
		CASE WHEN _found THEN CASE f.phase WHEN 'archive' THEN 'archived' ELSE 'unsubscribed' END END,
		CASE WHEN _found THEN 'subscribed' END,
		_found AND f.phase = 'archive' AND NOT (_archived AND coalesce(c.attempts, 0) = 0), true, mailchimp_sync.clock()
	FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.carried(_inflight_id) s ON f.inflight_id = _inflight_id
	JOIN mailchimp_sync.audience a ON a.audience_id = s.audience_id		-- it may have been dropped meanwhile
	-- so may its source
	LEFT JOIN mailchimp_sync.contact c ON c.audience_id = s.audience_id AND c.source_id = s.source_id
		AND c.contact_key = s.contact_key
	ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status,
		status_before = CASE WHEN _found THEN coalesce(m.status, m.status_before, 'subscribed') END,
		-- one of ours that was in doubt may have been the first
		archived_by_us = excluded.archived_by_us OR (_archived AND m.archived_by_us), read_at = excluded.read_at,
		-- an archived member keeps its tags
		sent_tags = CASE WHEN _found THEN m.sent_tags END;

	-- not there: it may have stepped aside
	UPDATE mailchimp_sync.contact c SET
		member_hash = CASE WHEN NOT _found THEN mailchimp_sync.email_hash(c.aside_email) END,
		left_hash = CASE WHEN _found THEN s.email_hash ELSE c.left_hash END,
		aside_email = NULL, sent_hash = NULL, attempts = 0, next_attempt_at = NULL, action = NULL,
		stale_tags = NULL
	FROM mailchimp_sync.carried(_inflight_id) s
	WHERE c.audience_id = s.audience_id AND c.source_id = s.source_id AND c.contact_key = s.contact_key;

	DELETE FROM mailchimp_sync.failure f USING mailchimp_sync.carried(_inflight_id) s
	WHERE f.work = 'leave' AND f.audience_id = s.audience_id AND f.source_id = s.source_id
		AND f.contact_key = s.contact_key;

	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT s.source_id, s.contact_key FROM mailchimp_sync.carried(_inflight_id) s
	UNION
	SELECT c.source_id, c.contact_key FROM mailchimp_sync.carried(_inflight_id) s
	JOIN mailchimp_sync.contact c ON c.audience_id = s.audience_id AND c.email_hash = s.email_hash;
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
		status_before = coalesce(m.status, m.status_before, 'subscribed'),
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
	INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, email, title, detail,
		attempts, first_failed_at, last_failed_at, next_attempt_at)
	SELECT 'leave', r.audience_id, r.source_id, r.contact_key, a.connection, r.email, _title, _detail,
		r.attempts, mailchimp_sync.clock(), mailchimp_sync.clock(), r.next_attempt_at
	FROM refused r JOIN mailchimp_sync.audience a USING (audience_id)
	ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET title = excluded.title,
		detail = excluded.detail, attempts = f.attempts + 1, last_failed_at = excluded.last_failed_at,
		next_attempt_at = excluded.next_attempt_at
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
