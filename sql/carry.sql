/*
 * carry.sql: opt-outs are carried to Mailchimp (D12), the kind of work "opt_out".
 *
 * An opt-out is carried when no audience, of whatever connection, has the address as
 * subscribed or pending any more, as far as we know, and no request of ours may have brought
 * it there, or bring it yet: PATCH status unsubscribed; 404 is as good. A push that was under way when
 * somebody opted out is waited for, and after the ghost of one Mailchimp is told once more.
 *
 * The same way, the other direction: who left the group with confirm => true is set to pending
 * where Mailchimp has them as unsubscribed, which makes Mailchimp ask them by
 * mail. That one waits for ghosts. Whom Mailchimp does not have yet is subscribed as pending (push.sql).
 */

-- where Mailchimp is still to be told; wanted: the status there. The addresses of a member of the group: as they were then, and as they are now
CREATE VIEW mailchimp_sync.carry_target AS
SELECT 'unsubscribe' AS phase, o.opt_out_id AS id, a.connection, a.audience_id, a.list_id, h.email_hash, o.email,
	coalesce(o.source_id, 0) AS source_id, coalesce(o.contact_key, h.email_hash) AS contact_key, o.next_attempt_at, a.paused
FROM mailchimp_sync.opt_out o
CROSS JOIN mailchimp_sync.audience a
CROSS JOIN LATERAL (
	SELECT o.email_hash WHERE o.email_hash IS NOT NULL
	UNION
	SELECT k.email_hash FROM mailchimp_sync.contact c
	CROSS JOIN LATERAL (VALUES (c.email_hash), (c.member_hash), (mailchimp_sync.email_hash(c.aside_email))) AS k(email_hash)
	WHERE c.audience_id = a.audience_id AND c.source_id = o.source_id AND c.contact_key = o.contact_key
		AND k.email_hash IS NOT NULL
	UNION
	-- a contact with the address that is a member under its former one still
	SELECT k.email_hash FROM mailchimp_sync.contact c
	CROSS JOIN LATERAL (VALUES (c.member_hash), (mailchimp_sync.email_hash(c.aside_email))) AS k(email_hash)
	WHERE c.audience_id = a.audience_id AND c.email_hash = o.email_hash AND k.email_hash <> c.email_hash) AS h
-- OFFSET, here and below: a lookup each, whatever the planner knows of the tables
LEFT JOIN LATERAL (SELECT k.email_hash, k.status FROM mailchimp_sync.member k
	WHERE k.audience_id = a.audience_id AND k.email_hash = h.email_hash OFFSET 0) AS m ON true
WHERE o.carried_at IS NULL
	AND (m.status IN ('subscribed', 'pending')
		-- a request of ours may have brought it, also back from the archive, or bring it yet
		OR (coalesce(m.status, 'archived') = 'archived' AND EXISTS (SELECT FROM mailchimp_sync.contact c
			WHERE c.audience_id = a.audience_id AND c.member_hash = h.email_hash
			UNION ALL
			SELECT FROM mailchimp_sync.contact c
			WHERE c.audience_id = a.audience_id AND c.aside_email IS NOT NULL
				AND mailchimp_sync.email_hash(c.aside_email) = h.email_hash))
		-- whether a contact's address was there before us, only Mailchimp can tell; in training it is not asked (N18), nor
		-- where it is erased
		OR (m.email_hash IS NULL AND a.active_since IS NOT NULL AND NOT mailchimp_sync.list_is_erased(a.audience_id, h.email_hash)
			AND EXISTS (SELECT FROM mailchimp_sync.contact c
				WHERE c.audience_id = a.audience_id AND c.email_hash = h.email_hash OFFSET 0)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.connection n
				WHERE n.connection = a.connection AND NOT mailchimp_sync.is_allowed(n.only_addresses, h.email_hash))))
UNION ALL
SELECT 'confirm', f.confirmation_id, a.connection, a.audience_id, a.list_id, f.email_hash, f.email,
	0, f.email_hash, f.next_attempt_at, a.paused
FROM mailchimp_sync.confirmation f
CROSS JOIN mailchimp_sync.audience a
CROSS JOIN LATERAL (SELECT k.status FROM mailchimp_sync.member k
	WHERE k.audience_id = a.audience_id AND k.email_hash = f.email_hash OFFSET 0) AS m
WHERE m.status = 'unsubscribed' AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = f.email_hash)
	-- nobody is asked for a list in which no contact wants them (D15)
	AND EXISTS (SELECT FROM mailchimp_sync.contact c
		WHERE c.audience_id = a.audience_id AND c.email_hash = f.email_hash AND c.desired_hash IS NOT NULL OFFSET 0);

-- is there anything to carry? Mostly not, and the views below take longer to plan than to look at
CREATE FUNCTION mailchimp_sync.carry_waits() RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.carried_at IS NULL)
		OR EXISTS (SELECT FROM mailchimp_sync.confirmation f);
END
$$;

-- those that no request under way stands against
CREATE VIEW mailchimp_sync.carry_ready AS
SELECT t.* FROM mailchimp_sync.carry_target t
WHERE NOT t.paused AND NOT EXISTS (SELECT FROM mailchimp_sync.busy b
	WHERE b.audience_id = t.audience_id AND b.email_hash = t.email_hash AND (NOT b.is_ghost OR t.phase = 'confirm'));

/*
 * What has come to its end. The oldest ones only: many may wait, and whoever stands behind
 * them comes to the front. Who opted out while they were in the archive do not come back from it
 * by leaving the group. A confirmation waits for contacts that have still to be pushed.
 */
CREATE FUNCTION mailchimp_sync.carry_end() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH ended AS (
		UPDATE mailchimp_sync.opt_out o SET carried_at = mailchimp_sync.clock(), next_attempt_at = NULL
		WHERE o.opt_out_id = ANY (ARRAY(
		SELECT u.opt_out_id FROM (SELECT w.opt_out_id FROM mailchimp_sync.opt_out w
			WHERE w.carried_at IS NULL ORDER BY w.opt_out_id LIMIT 500) w
		JOIN mailchimp_sync.opt_out u USING (opt_out_id)
		-- OFFSET: looked at one by one, a join would look at all that wait
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.carry_target t
			WHERE t.phase = 'unsubscribe' AND t.id = u.opt_out_id OFFSET 0)
		FOR UPDATE OF u SKIP LOCKED))
		RETURNING o.*
	), told AS (
		-- an attempt that failed may have come to its end otherwise: it landed, or somebody else did the same
		DELETE FROM mailchimp_sync.failure f USING ended e
		WHERE f.work = 'leave' AND f.campaign_id = 0 AND f.source_id = coalesce(e.source_id, 0)
			AND f.contact_key = coalesce(e.contact_key, e.email_hash)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c WHERE c.audience_id = f.audience_id
				AND c.source_id = f.source_id AND c.contact_key = f.contact_key AND c.action = 'leave')
	)
	UPDATE mailchimp_sync.member m SET archived_by_us = false
	FROM ended e
	CROSS JOIN mailchimp_sync.audience a
	CROSS JOIN LATERAL (
		SELECT e.email_hash
		UNION
		SELECT c.email_hash FROM mailchimp_sync.contact c
		WHERE c.audience_id = a.audience_id AND c.source_id = e.source_id AND c.contact_key = e.contact_key) AS h
	WHERE m.audience_id = a.audience_id AND m.email_hash = h.email_hash AND m.archived_by_us;

	DELETE FROM mailchimp_sync.confirmation f
	WHERE f.confirmation_id IN (SELECT u.confirmation_id FROM mailchimp_sync.confirmation u
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.carry_target t
				WHERE t.phase = 'confirm' AND t.id = u.confirmation_id)
			AND (EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = u.email_hash)
				OR NOT EXISTS (SELECT FROM mailchimp_sync.audience a
					JOIN mailchimp_sync.contact c USING (audience_id)
					WHERE c.email_hash = u.email_hash AND (c.action = 'subscribe' OR c.state IN ('opted_out', 'refused'))))
		FOR UPDATE OF u SKIP LOCKED);
END
$$;

/*
 * Opt-outs come before all other work, but do not take all requests to themselves: there may
 * be a hundred thousand. One by one in their order, so that a call costs what it finds; one that was refused does
 * not stand in the way of the same one at another audience.
 */
CREATE FUNCTION mailchimp_sync.opt_out_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT mailchimp_sync.carry_waits() THEN
		RETURN;
	END IF;
	PERFORM mailchimp_sync.carry_end();
	IF (SELECT count(*) FROM mailchimp_sync.inflight f
			WHERE f.connection = _connection AND f.kind = 'opt_out' AND f.doubt_at IS NULL) >= 3 THEN
		RETURN;
	END IF;
	RETURN QUERY
	SELECT _connection, 'PATCH', format('/lists/%s/members/%s', t.list_id, t.email_hash),
		jsonb_build_object('status', CASE t.phase WHEN 'confirm' THEN 'pending' ELSE 'unsubscribed' END)::text, true,
		t.audience_id, NULL::bigint, t.phase, ARRAY[t.source_id], ARRAY[t.contact_key], ARRAY[t.email_hash],
		ARRAY[t.id], NULL::bytea[]
	FROM (
		(SELECT 'unsubscribe' AS phase, o.opt_out_id AS id FROM mailchimp_sync.opt_out o
			WHERE o.carried_at IS NULL AND coalesce(o.next_attempt_at <= mailchimp_sync.clock(), true)
			ORDER BY o.opt_out_id)
		UNION ALL
		SELECT 'confirm', f.confirmation_id FROM mailchimp_sync.confirmation f
		WHERE coalesce(f.next_attempt_at <= mailchimp_sync.clock(), true)
	) w
	CROSS JOIN LATERAL (
		SELECT r.* FROM mailchimp_sync.carry_ready r
		LEFT JOIN mailchimp_sync.failure f ON f.work = 'leave' AND f.audience_id = r.audience_id AND f.campaign_id = 0
			AND f.source_id = r.source_id AND f.contact_key = r.contact_key
		WHERE r.phase = w.phase AND r.id = w.id AND r.connection = _connection
		ORDER BY f.last_failed_at NULLS FIRST, r.audience_id LIMIT 1) t
	LIMIT 1;
END
$$;

CREATE FUNCTION mailchimp_sync.opt_out_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT mailchimp_sync.carry_waits() THEN
		RETURN NULL;
	END IF;
	RETURN least(
		(SELECT mailchimp_sync.clock() FROM mailchimp_sync.carry_ready t
			JOIN mailchimp_sync.usable_connection u USING (connection)
			WHERE coalesce(t.next_attempt_at <= mailchimp_sync.clock(), true) LIMIT 1),
		(SELECT min(t.next_attempt_at) FROM mailchimp_sync.carry_ready t
			JOIN mailchimp_sync.usable_connection u USING (connection)
			WHERE t.next_attempt_at > mailchimp_sync.clock()));
END
$$;

-- Mailchimp has the address with that status now; null: it does not have it
CREATE FUNCTION mailchimp_sync.opt_out_done(_inflight_id bigint, _status text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_w		mailchimp_sync.work;
	_ghost	timestamptz;
BEGIN
	_w := mailchimp_sync.work_of(_inflight_id);
	SELECT max(f.ghost_until) INTO _ghost FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.busy b USING (inflight_id)
	WHERE b.audience_id = _w.audience_id AND b.email_hash = _w.email_hashes[1] AND b.is_ghost
		AND (f.kind IN ('push', 'rename') OR f.phase = 'confirm');
	IF _w.phase = 'unsubscribe' AND _ghost IS NOT NULL THEN
		-- a push that may still land would bring it, or bring it back
		UPDATE mailchimp_sync.opt_out SET next_attempt_at = _ghost WHERE opt_out_id = _w.versions[1];
		RETURN;
	END IF;
	IF coalesce(_status, 'archived') = 'archived' THEN
		-- it may have stepped aside, or has not, in the end
		UPDATE mailchimp_sync.contact SET member_hash = mailchimp_sync.email_hash(aside_email), aside_email = NULL, sent_hash = NULL
		WHERE audience_id = _w.audience_id AND member_hash = _w.email_hashes[1];
		UPDATE mailchimp_sync.contact SET aside_email = NULL
		WHERE audience_id = _w.audience_id AND aside_email IS NOT NULL
			AND mailchimp_sync.email_hash(aside_email) = _w.email_hashes[1];
	END IF;
	INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, ours, read_at)
	SELECT _w.audience_id, _w.email_hashes[1], t.email, _status, true, mailchimp_sync.clock()
	FROM (SELECT coalesce(
		(SELECT c.email FROM mailchimp_sync.contact c WHERE c.audience_id = _w.audience_id
			AND c.email_hash = _w.email_hashes[1] LIMIT 1),
		(SELECT o.email FROM mailchimp_sync.opt_out o WHERE o.email_hash = _w.email_hashes[1] LIMIT 1), '') AS email) t
	ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status, read_at = excluded.read_at,
		sent_tags = CASE WHEN excluded.status <> 'forgotten' THEN m.sent_tags END;
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'leave' AND f.audience_id = _w.audience_id AND f.campaign_id = 0
		AND f.source_id = _w.source_ids[1] AND f.contact_key = _w.contact_keys[1] COLLATE "C";
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
	WHERE c.audience_id = _w.audience_id AND c.email_hash = _w.email_hashes[1];
END
$$;

-- later again; where it was Mailchimp that said no, with its words
CREATE FUNCTION mailchimp_sync.opt_out_rests(_inflight_id bigint, _title text, _detail text, _retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_w			mailchimp_sync.work;
	_attempts	integer;
	_at			timestamptz;
BEGIN
	_w := mailchimp_sync.work_of(_inflight_id);
	IF _w.phase = 'unsubscribe' THEN
		UPDATE mailchimp_sync.opt_out SET attempts = attempts + 1,
			next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(attempts + 1))
		WHERE opt_out_id = _w.versions[1] AND carried_at IS NULL RETURNING attempts, next_attempt_at INTO _attempts, _at;
	ELSE
		UPDATE mailchimp_sync.confirmation SET attempts = attempts + 1,
			next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(attempts + 1))
		WHERE confirmation_id = _w.versions[1] RETURNING attempts, next_attempt_at INTO _attempts, _at;
	END IF;
	IF NOT FOUND THEN
		RETURN;		-- it has come to its end otherwise
	END IF;
	PERFORM mailchimp_sync.note_failure('leave', _w.connection, _title, _detail, _at, _w.audience_id,
		_source_id => _w.source_ids[1], _contact_key => _w.contact_keys[1], _attempts => _attempts);
END
$$;

CREATE FUNCTION mailchimp_sync.opt_out_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.opt_out_rests(_inflight_id, coalesce(_title, _outcome), _detail, _retry_at)
$$;

/*
 * Mailchimp said no. Who was deleted there permanently is told enough. Otherwise
 * an opt-out is tried again, and nobody is asked twice whom Mailchimp will not ask.
 */
CREATE FUNCTION mailchimp_sync.opt_out_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- the title may be translated, the words in the detail say the same
	IF _title = 'Forgotten Email Not Subscribed' OR _detail ~ 'permanently deleted' THEN
		PERFORM mailchimp_sync.opt_out_done(_inflight_id, 'forgotten');
	ELSE
		PERFORM mailchimp_sync.opt_out_rests(_inflight_id, _title, _detail, NULL);
		DELETE FROM mailchimp_sync.confirmation c USING mailchimp_sync.inflight f
		WHERE f.inflight_id = _inflight_id AND f.phase = 'confirm' AND c.confirmation_id = f.versions[1];
	END IF;
END
$$;
