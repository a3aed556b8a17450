/*
 * batch.sql: many contacts leave in one request, the kind of work "batch" (D9).
 *
 * From batch_threshold() on that are due in an audience, up to batch_operations() of them go
 * as POST /batches; Mailchimp does its operations in its own time and order. It is looked at
 * with growing pauses until it is finished; who has left is then read from the list
 * itself, by the walk of those that were archived since. All others
 * go back to the queue of single leaves, which find out what is wrong with each.
 *
 * Until then its addresses are busy, also for another engine: who comes back meanwhile is
 * sent when it is over, and who opts out is unsubscribed at once, before or after they are archived.
 * Archiving hides who has unsubscribed there, so the statuses are read every minute meanwhile (read.sql). Under the
 * policy unsubscribe nobody could tell what was the batch's doing, so there all leave one by one.
 *
 * POST /batches is not idempotent. After no answer it is not asked again: when the request
 * can no longer land, one that may be it (as many operations, or not known yet how many) is
 * looked for in the account's list and waited for; no other that may be somebody else's is ever stopped.
 * One that does not end in its time, or whose audience is gone, is deleted, and its last operations are waited for.
 */
CREATE FUNCTION mailchimp_sync.batch_operations() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 1000
$$;

-- batches of a connection at a time: Mailchimp runs one after the other, so the next shall wait there for its turn
CREATE FUNCTION mailchimp_sync.batch_limit() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 4
$$;

-- how long Mailchimp may take for one
CREATE FUNCTION mailchimp_sync.batch_patience() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT interval '1 hour'
$$;

-- how far Mailchimp's clock may differ from ours for a batch to pass for ours by its time
CREATE FUNCTION mailchimp_sync.batch_skew() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT interval '5 minutes'
$$;

-- what may be asked about batches now, and when; audience_id null: it was dropped
CREATE VIEW mailchimp_sync.batch_ready AS
SELECT b.*, a.audience_id,
	CASE WHEN a.audience_id IS NULL AND b.phase = 'look' THEN mailchimp_sync.clock() ELSE b.next_attempt_at END AS at
FROM mailchimp_sync.batch b
LEFT JOIN mailchimp_sync.audience a USING (connection, list_id)
WHERE a.paused IS NOT TRUE
	AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'batch' AND f.versions[1] = b.batch_id);

CREATE FUNCTION mailchimp_sync.batch_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ready		mailchimp_sync.batch_ready;
	_audience	mailchimp_sync.audience;
	_hashes		text[];
BEGIN
	-- there is nobody left whom the list could tell about
	DELETE FROM mailchimp_sync.batch b
	WHERE b.phase = 'verify' AND b.next_attempt_at <= mailchimp_sync.clock()
		AND NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE (a.connection, a.list_id) = (b.connection, b.list_id));
	SELECT * INTO _ready FROM mailchimp_sync.batch_ready r
	WHERE r.connection = _connection AND r.at <= mailchimp_sync.clock() ORDER BY r.at LIMIT 1;
	IF FOUND THEN
		RETURN NEXT mailchimp_sync.batch_question(_ready);
		RETURN;
	END IF;
	IF (SELECT count(*) FROM mailchimp_sync.batch b WHERE b.connection = _connection) >= mailchimp_sync.batch_limit() THEN
		RETURN;
	END IF;
	FOR _audience IN SELECT * FROM mailchimp_sync.sending_audiences(_connection) LOOP
		WHILE mailchimp_sync.leaves_by_batch(_audience.audience_id) LOOP
			_hashes := mailchimp_sync.batch_addresses(_audience.audience_id);
			-- many may have come back: those are out of the queue now
			CONTINUE WHEN cardinality(_hashes) < mailchimp_sync.batch_threshold();
			RETURN NEXT mailchimp_sync.batch_work(_audience, _hashes);
			RETURN;
		END LOOP;
	END LOOP;
END
$$;

-- the addresses of those that have waited longest to leave, evaluated anew just before the request
CREATE FUNCTION mailchimp_sync.batch_addresses(_audience_id integer) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_limit		bigint := least(mailchimp_sync.batch_operations(), mailchimp_sync.guard_room(_audience_id, 'leave'));
	_source_id	integer;
	_keys		text[];
	_hashes		text[] := '{}';
BEGIN
	FOR _source_id IN SELECT * FROM mailchimp_sync.sending_sources(_audience_id) LOOP
		_keys := ARRAY(SELECT * FROM mailchimp_sync.leaves_ready(_audience_id, _source_id,
			(_limit - cardinality(_hashes))::integer));
		CONTINUE WHEN _keys = '{}' OR NOT mailchimp_sync.fold_rivals(_audience_id, _source_id, _keys);
		_hashes := _hashes || ARRAY(
			SELECT c.member_hash FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
				AND c.action = 'leave'
				AND c.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
			ORDER BY c.contact_key);
	END LOOP;
	RETURN _hashes;
END
$$;

-- nobody knows what is at Mailchimp until it is over, so who comes back meanwhile has to be sent again
CREATE FUNCTION mailchimp_sync.batch_work(_audience mailchimp_sync.audience, _hashes text[]) RETURNS mailchimp_sync.work
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.contact c SET sent_hash = NULL
	WHERE c.audience_id = _audience.audience_id AND c.member_hash = ANY (_hashes);

	WITH asked AS (
		INSERT INTO mailchimp_sync.batch (connection, list_id, operations, email_hashes, phase, next_attempt_at, asked_at)
		VALUES (_audience.connection, _audience.list_id, cardinality(_hashes), _hashes, 'seek',
			mailchimp_sync.clock() + mailchimp_sync.ghost_life(), mailchimp_sync.clock())
		RETURNING *
	)
	SELECT ROW(b.connection, 'POST', '/batches', jsonb_build_object('operations', (
			SELECT jsonb_agg(jsonb_build_object('method', 'DELETE',
				'path', format('/lists/%s/members/%s', b.list_id, h.email_hash)))
			FROM unnest(b.email_hashes) AS h(email_hash)))::text,
		true, _audience.audience_id, NULL, 'start', NULL, NULL, NULL, ARRAY[b.batch_id], NULL)::mailchimp_sync.work
	FROM asked b
$$;

CREATE FUNCTION mailchimp_sync.batch_question(_b mailchimp_sync.batch_ready) RETURNS mailchimp_sync.work
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ROW(_b.connection, CASE _b.phase WHEN 'stop' THEN 'DELETE' ELSE 'GET' END, CASE _b.phase
			WHEN 'seek' THEN format('/batches?%s&fields=batches.id,batches.status,batches.total_operations,'
				'batches.submitted_at', p.page)
			WHEN 'look' THEN format('/batches/%s?fields=id,status,total_operations,submitted_at', _b.mailchimp_id)
			WHEN 'stop' THEN format('/batches/%s', _b.mailchimp_id)
			-- since_ leaves its own second out; the last first: ours come soon, and what is done meanwhile moves none out of sight
			ELSE format('/lists/%s/members?status=archived&since_last_changed=%s&sort_field=last_changed&sort_dir=DESC&%s'
				'&fields=members.id', _b.list_id, mailchimp_sync.query_instant(coalesce(_b.submitted_at - interval '1 second',
					-- by our clock, and none is a day off; they were not archived when it was asked for (read.sql)
					_b.asked_at - interval '1 day')), p.page) END,
		NULL, _b.phase = 'stop', _b.audience_id, NULL, _b.phase, NULL, NULL, NULL, ARRAY[_b.batch_id], NULL)::mailchimp_sync.work
	FROM (SELECT format('count=%s&offset=%s', mailchimp_sync.page_size(), _b.page_offset) AS page) p
$$;

CREATE FUNCTION mailchimp_sync.batch_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN least(
		(SELECT min(r.at) FROM mailchimp_sync.usable_connection u JOIN mailchimp_sync.batch_ready r USING (connection)),
		(SELECT mailchimp_sync.clock() FROM mailchimp_sync.usable_connection u
			CROSS JOIN LATERAL mailchimp_sync.sending_audiences(u.connection) a
			WHERE (SELECT count(*) FROM mailchimp_sync.batch b WHERE b.connection = u.connection) < mailchimp_sync.batch_limit()
				AND mailchimp_sync.leaves_by_batch(a.audience_id) LIMIT 1));
END
$$;

/* ---- what came back ---- */

-- the next question about it; _pause null: now
CREATE FUNCTION mailchimp_sync.batch_go(_batch_id bigint, _phase text, _pause interval DEFAULT NULL) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.batch SET phase = _phase, page_offset = 0, failures = 0,
		next_attempt_at = mailchimp_sync.clock() + coalesce(_pause, interval '0')
	WHERE batch_id = _batch_id
$$;

-- it is over: whoever has not left goes one by one
CREATE FUNCTION mailchimp_sync.batch_end(_batch_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.failure f
	USING mailchimp_sync.batch b JOIN mailchimp_sync.audience a USING (connection, list_id)
	WHERE b.batch_id = _batch_id AND f.work = 'leave' AND f.audience_id = a.audience_id
		AND f.campaign_id = 0 AND f.source_id = 0 AND f.contact_key = '';
	DELETE FROM mailchimp_sync.batch WHERE batch_id = _batch_id
$$;

CREATE FUNCTION mailchimp_sync.no_batches(_connection text, _rest interval) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.connection SET no_batch_until = mailchimp_sync.clock() + _rest WHERE connection = _connection
$$;

-- 5 s, 10, 20 ... 60 between two looks
CREATE FUNCTION mailchimp_sync.batch_pause(_looks integer) RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT least(60, 5 * 2 ^ least(_looks, 10)) * interval '1 second'
$$;

CREATE FUNCTION mailchimp_sync.batch_started(_batch_id bigint, _mailchimp_id text, _submitted_at text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.batch SET mailchimp_id = _mailchimp_id, submitted_at = _submitted_at::timestamptz
	WHERE batch_id = _batch_id;
	SELECT mailchimp_sync.batch_go(_batch_id, 'look', mailchimp_sync.batch_pause(0));
$$;

-- Mailchimp did not take it, or it was not sent
CREATE FUNCTION mailchimp_sync.batch_refused(_batch_id bigint, _rest interval) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.no_batches(b.connection, _rest) FROM mailchimp_sync.batch b WHERE b.batch_id = _batch_id;
	SELECT mailchimp_sync.batch_end(_batch_id);
$$;

CREATE FUNCTION mailchimp_sync.is_submitted_then(_asked_at timestamptz, _submitted_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _submitted_at BETWEEN _asked_at - mailchimp_sync.batch_skew()
		AND _asked_at + mailchimp_sync.ghost_life() + mailchimp_sync.batch_skew()
$$;

/*
 * A page of the account's batches, after no answer. One that is not finished may be ours;
 * how many operations it has is not shown at once (0). Where there is none, or none any more, either nothing
 * came of the request or all of it is done, which the list tells.
 */
CREATE FUNCTION mailchimp_sync.batch_sought(_batch_id bigint, _ids text[], _statuses text[], _totals text[], _submitted text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_found	text;
BEGIN
	SELECT u.id INTO _found
	FROM mailchimp_sync.batch b
	CROSS JOIN LATERAL unnest(_ids, _statuses, _totals, _submitted) AS u(id, status, total, submitted)
	WHERE b.batch_id = _batch_id AND u.status <> 'finished' AND u.total::integer IN (0, b.operations)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.batch o WHERE o.connection = b.connection AND o.mailchimp_id = u.id)
	ORDER BY mailchimp_sync.is_submitted_then(b.asked_at, u.submitted::timestamptz) DESC, u.submitted::timestamptz, u.id LIMIT 1;
	IF FOUND THEN
		UPDATE mailchimp_sync.batch SET mailchimp_id = _found WHERE batch_id = _batch_id;
		PERFORM mailchimp_sync.batch_go(_batch_id, 'look');
	ELSIF cardinality(_ids) >= mailchimp_sync.page_size() THEN
		UPDATE mailchimp_sync.batch SET page_offset = page_offset + mailchimp_sync.page_size(), failures = 0
		WHERE batch_id = _batch_id;
	ELSE
		PERFORM mailchimp_sync.batch_go(_batch_id, 'verify');
	END IF;
END
$$;

/*
 * How it is; null: it is not there. One that was only found is ours if it has as many operations; when it is
 * finished, or proves to be another's, there may be one more. It is stopped only if it was submitted then, too.
 */
CREATE FUNCTION mailchimp_sync.batch_looked(_batch_id bigint, _status text, _total integer, _submitted_at text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_b		mailchimp_sync.batch_ready;
	_late	boolean;
BEGIN
	UPDATE mailchimp_sync.batch SET looks = looks + 1 WHERE batch_id = _batch_id;
	SELECT b.*, a.audience_id, NULL::timestamptz INTO STRICT _b
	FROM mailchimp_sync.batch b LEFT JOIN mailchimp_sync.audience a USING (connection, list_id)
	WHERE b.batch_id = _batch_id;
	_late := _b.asked_at + mailchimp_sync.batch_patience() <= mailchimp_sync.clock() OR _b.audience_id IS NULL;
	IF _status IS NULL AND _b.submitted_at IS NOT NULL THEN
		-- somebody deleted it, and its last operation may be on its way
		PERFORM mailchimp_sync.batch_go(_batch_id, 'verify', mailchimp_sync.ghost_life());
	ELSIF _b.submitted_at IS NULL AND (_status IS NULL OR _status = 'finished' OR _total NOT IN (0, _b.operations)) THEN
		UPDATE mailchimp_sync.batch SET mailchimp_id = NULL WHERE batch_id = _batch_id;
		PERFORM mailchimp_sync.batch_go(_batch_id, 'seek');
	ELSIF _status = 'finished' THEN
		PERFORM mailchimp_sync.batch_go(_batch_id, 'verify');
	ELSIF _late AND (_b.submitted_at IS NOT NULL OR _total = _b.operations
			AND mailchimp_sync.is_submitted_then(_b.asked_at, _submitted_at::timestamptz)) THEN
		PERFORM mailchimp_sync.batch_go(_batch_id, 'stop');
	ELSIF _late THEN
		PERFORM mailchimp_sync.batch_go(_batch_id, 'verify');
	ELSE
		PERFORM mailchimp_sync.batch_go(_batch_id, 'look', mailchimp_sync.batch_pause(_b.looks));
	END IF;
END
$$;

/*
 * A page of those that have left the list since it began. Where there was one, and less than half of
 * its members are among these, batches are no good for the time being.
 */
CREATE FUNCTION mailchimp_sync.batch_verified(_batch_id bigint, _ids text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_b	mailchimp_sync.batch;
BEGIN
	PERFORM mailchimp_sync.members_left(i.audience_id, array_agg(i.email_hash), 'archive', true, i.is_told)
	FROM (
		-- Mailchimp has said already that nobody is there: to an opt-out, which nobody comes back from
		SELECT b.audience_id, b.email_hash, EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = b.audience_id AND m.email_hash = b.email_hash AND m.status IS NULL) AS is_told
		FROM mailchimp_sync.batch_address b
		WHERE b.batch_id = _batch_id AND b.email_hash IN (SELECT unnest(_ids))
			AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = b.email_hash)) AS i
	GROUP BY i.audience_id, i.is_told;
	UPDATE mailchimp_sync.batch b SET email_hashes = ARRAY(SELECT unnest(b.email_hashes) EXCEPT SELECT unnest(_ids)),
		page_offset = b.page_offset + mailchimp_sync.page_size(), failures = 0
	WHERE b.batch_id = _batch_id RETURNING b.* INTO STRICT _b;
	IF cardinality(_ids) >= mailchimp_sync.page_size() AND _b.email_hashes <> '{}' THEN
		RETURN;
	END IF;
	IF _b.mailchimp_id IS NOT NULL AND 2 * cardinality(_b.email_hashes) > _b.operations THEN
		PERFORM mailchimp_sync.no_batches(_b.connection, mailchimp_sync.batch_patience());
	END IF;
	PERFORM mailchimp_sync.batch_end(_batch_id);
END
$$;

-- asked again later, the same
CREATE FUNCTION mailchimp_sync.batch_rests(_batch_id bigint, _title text, _detail text, _retry_at timestamptz) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH resting AS (
		UPDATE mailchimp_sync.batch b SET failures = b.failures + 1,
			next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(b.failures + 1))
		WHERE b.batch_id = _batch_id
		RETURNING b.*
	)
	SELECT mailchimp_sync.note_failure('leave', r.connection, _title, _detail, r.next_attempt_at, a.audience_id,
		_attempts => r.failures)
	FROM resting r JOIN mailchimp_sync.audience a USING (connection, list_id)
$$;

/*
 * No usable answer. Where nothing can have come of the request that starts it, the contacts go one by one for a while:
 * Mailchimp takes no more batches, say. In doubt it is looked for later.
 */
CREATE FUNCTION mailchimp_sync.batch_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_w	mailchimp_sync.work;
BEGIN
	_w := mailchimp_sync.work_of(_inflight_id);
	IF _w.phase <> 'start' THEN
		PERFORM mailchimp_sync.batch_rests(_w.versions[1], coalesce(_title, _outcome), _detail, _retry_at);
	ELSIF _outcome = 'not_sent' THEN
		PERFORM mailchimp_sync.batch_refused(_w.versions[1], interval '0');
	ELSIF _outcome IN ('answered', 'refused') THEN
		PERFORM mailchimp_sync.batch_refused(_w.versions[1], interval '10 minutes');
	END IF;
END
$$;
