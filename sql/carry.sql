/*
 * carry.sql: opt-outs are carried to Mailchimp (D12), the kind of work "opt_out".
 *
 * An opt-out is carried when no audience, of whatever connection, has the address as
 * subscribed or pending any more, as far as we know: PATCH status unsubscribed; 404
 * is as good. A push that was under way when somebody opted out is waited for,
 * and after the ghost of one Mailchimp is told once more.
 *
 * The same way, the other direction: who left the group with confirm => true is set to pending
 * where Mailchimp has them as unsubscribed, which makes Mailchimp ask them by
 * mail. That one waits for ghosts.
 */

-- the addresses of a member of the group: as they were then, and as they are now
CREATE FUNCTION mailchimp_sync.opt_out_hashes(_o mailchimp_sync.opt_out, _audience_id integer) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _o.email_hash WHERE _o.email_hash IS NOT NULL
	UNION
	SELECT h.email_hash FROM mailchimp_sync.contact c
	CROSS JOIN LATERAL (VALUES (c.email_hash), (c.member_hash)) AS h(email_hash)
	WHERE c.audience_id = _audience_id AND c.source_id = _o.source_id AND c.contact_key = _o.contact_key
		AND h.email_hash IS NOT NULL
$$;

-- where Mailchimp is still to be told; wanted: the status there
CREATE VIEW mailchimp_sync.carry_target AS
SELECT 'unsubscribe' AS phase, o.opt_out_id AS id, a.connection, a.audience_id, a.list_id, h.email_hash, o.email,
	coalesce(o.source_id, 0) AS source_id, coalesce(o.contact_key, h.email_hash) AS contact_key, o.next_attempt_at
FROM mailchimp_sync.opt_out o
CROSS JOIN mailchimp_sync.audience a
CROSS JOIN LATERAL mailchimp_sync.opt_out_hashes(o, a.audience_id) AS h(email_hash)
LEFT JOIN mailchimp_sync.member m ON m.audience_id = a.audience_id AND m.email_hash = h.email_hash
WHERE o.carried_at IS NULL
	AND (m.status IN ('subscribed', 'pending')
		OR (m.email_hash IS NULL AND EXISTS (SELECT FROM mailchimp_sync.contact c
			WHERE c.audience_id = a.audience_id AND c.email_hash = h.email_hash AND c.member_hash = h.email_hash)))
UNION ALL
SELECT 'confirm', f.confirmation_id, a.connection, a.audience_id, a.list_id, f.email_hash, f.email,
	0, f.email_hash, f.next_attempt_at
FROM mailchimp_sync.confirmation f
CROSS JOIN mailchimp_sync.audience a
JOIN mailchimp_sync.member m ON m.audience_id = a.audience_id AND m.email_hash = f.email_hash
WHERE m.status = 'unsubscribed' AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = f.email_hash);

-- those that no request under way stands against
CREATE VIEW mailchimp_sync.carry_ready AS
SELECT t.* FROM mailchimp_sync.carry_target t
WHERE NOT EXISTS (SELECT FROM mailchimp_sync.busy b
	WHERE b.audience_id = t.audience_id AND b.email_hash = t.email_hash AND (NOT b.is_ghost OR t.phase = 'confirm'));

CREATE FUNCTION mailchimp_sync.opt_out_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
BEGIN
	-- what has come to its end
	UPDATE mailchimp_sync.opt_out o SET carried_at = mailchimp_sync.clock(), next_attempt_at = NULL
	WHERE o.opt_out_id IN (SELECT u.opt_out_id FROM mailchimp_sync.opt_out u
		WHERE u.carried_at IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.carry_target t
			WHERE t.phase = 'unsubscribe' AND t.id = u.opt_out_id)
		FOR UPDATE OF u SKIP LOCKED);
	DELETE FROM mailchimp_sync.confirmation f
	WHERE f.confirmation_id IN (SELECT u.confirmation_id FROM mailchimp_sync.confirmation u
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.carry_target t
			WHERE t.phase = 'confirm' AND t.id = u.confirmation_id)
		FOR UPDATE OF u SKIP LOCKED);
	-- one that was refused does not stand in the way of another audience's
	RETURN QUERY
	SELECT _connection, 'PATCH', format('/lists/%s/members/%s', t.list_id, t.email_hash),
		jsonb_build_object('status', CASE t.phase WHEN 'confirm' THEN 'pending' ELSE 'unsubscribed' END)::text, true,
		t.audience_id, NULL::bigint, t.phase, ARRAY[t.source_id], ARRAY[t.contact_key], ARRAY[t.email_hash],
		ARRAY[t.id], NULL::bytea[]
	FROM mailchimp_sync.carry_ready t
	LEFT JOIN mailchimp_sync.failure f ON f.work = 'leave' AND f.audience_id = t.audience_id AND f.campaign_id = 0
		AND f.source_id = t.source_id AND f.contact_key = t.contact_key
	WHERE t.connection = _connection AND coalesce(t.next_attempt_at <= mailchimp_sync.clock(), true)
	ORDER BY f.last_failed_at NULLS FIRST, t.phase DESC, t.id LIMIT 1;
END
$$;

CREATE FUNCTION mailchimp_sync.opt_out_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(coalesce(t.next_attempt_at, mailchimp_sync.clock()))
	FROM mailchimp_sync.usable_connection u
	JOIN mailchimp_sync.carry_ready t USING (connection)
$$;

-- Mailchimp has the address with that status now; null: it does not have it
CREATE FUNCTION mailchimp_sync.opt_out_done(_inflight_id bigint, _status text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	_w		mailchimp_sync.work;
	_ghost	timestamptz;
BEGIN
	_w := mailchimp_sync.work_of(_inflight_id);
	SELECT max(f.ghost_until) INTO _ghost FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.busy b USING (inflight_id)
	WHERE b.audience_id = _w.audience_id AND b.email_hash = _w.email_hashes[1] AND b.is_ghost;
	IF _status IS NULL AND _ghost IS NOT NULL THEN
		-- not there yet: a push that may still land would bring it
		UPDATE mailchimp_sync.opt_out SET next_attempt_at = _ghost WHERE opt_out_id = _w.versions[1];
		RETURN;
	END IF;
	INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, ours, read_at)
	SELECT _w.audience_id, _w.email_hashes[1], t.email, _status, true, mailchimp_sync.clock()
	FROM (SELECT coalesce(
		(SELECT c.email FROM mailchimp_sync.contact c WHERE c.audience_id = _w.audience_id
			AND c.email_hash = _w.email_hashes[1] LIMIT 1),
		(SELECT o.email FROM mailchimp_sync.opt_out o WHERE o.email_hash = _w.email_hashes[1] LIMIT 1), '') AS email) t
	ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status, read_at = excluded.read_at;
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
		WHERE opt_out_id = _w.versions[1] RETURNING attempts, next_attempt_at INTO _attempts, _at;
	ELSE
		UPDATE mailchimp_sync.confirmation SET attempts = attempts + 1,
			next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(attempts + 1))
		WHERE confirmation_id = _w.versions[1] RETURNING attempts, next_attempt_at INTO _attempts, _at;
	END IF;
	INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, title, detail,
		attempts, first_failed_at, last_failed_at, next_attempt_at)
	VALUES ('leave', _w.audience_id, _w.source_ids[1], _w.contact_keys[1], _w.connection, _title, _detail,
		coalesce(_attempts, 1), mailchimp_sync.clock(), mailchimp_sync.clock(), _at)
	ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET title = excluded.title,
		detail = excluded.detail, attempts = excluded.attempts, last_failed_at = excluded.last_failed_at,
		next_attempt_at = excluded.next_attempt_at;
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
SET lock_timeout = '1s'
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
