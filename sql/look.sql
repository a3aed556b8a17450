/*
 * look.sql: members that a walk of their list has missed, the kind of work "look".
 *
 * Each is asked for by name: who is there nevertheless is stored as a page would be (a row that moves from page to page while
 * they are read can be in none), who is not was deleted at Mailchimp. Its requests carry no addresses in
 * "inflight": they change nothing, and what others do meanwhile counts for more.
 */

-- the next one, of those that rest no longer than _before
CREATE FUNCTION mailchimp_sync.look_ready(_audience_id integer, _before timestamptz) RETURNS SETOF mailchimp_sync.member
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT m.* FROM mailchimp_sync.member m
	WHERE m.audience_id = _audience_id AND m.look_at <= _before
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'look' AND f.audience_id = m.audience_id AND f.phase = m.email_hash)
	ORDER BY m.look_at LIMIT 1;
END
$$;

-- of audiences that only push none is looked for
CREATE FUNCTION mailchimp_sync.look_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT a.connection, 'GET', format('/lists/%s/members/%s?fields=id,email_address,status,contact_id,unsubscribe_reason,'
			'last_changed,merge_fields', a.list_id, m.email_hash), NULL::text, false, a.audience_id, NULL::bigint, m.email_hash,
		NULL::integer[], NULL::text[], NULL::text[], NULL::bigint[], NULL::bytea[]
	FROM mailchimp_sync.audience a
	CROSS JOIN LATERAL mailchimp_sync.look_ready(a.audience_id, mailchimp_sync.clock()) m
	WHERE a.connection = _connection AND a.direction <> 'push' AND a.active_since IS NOT NULL AND NOT a.paused
		AND coalesce(a.next_attempt_at <= mailchimp_sync.clock(), true) LIMIT 1;
END
$$;

CREATE FUNCTION mailchimp_sync.look_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(a.next_attempt_at, m.look_at))
		FROM mailchimp_sync.usable_connection u
		JOIN mailchimp_sync.audience a USING (connection)
		CROSS JOIN LATERAL mailchimp_sync.look_ready(a.audience_id, 'infinity') m
		WHERE a.direction <> 'push' AND a.active_since IS NOT NULL AND NOT a.paused);
END
$$;

-- there it is
CREATE FUNCTION mailchimp_sync.look_seen(_inflight_id bigint, _asked_at timestamptz, _ids text[], _emails text[], _statuses text[],
	_contact_ids text[], _reasons text[], _last_changed text[], _fields text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.members_shown(f.audience_id, false, _asked_at, _ids, _emails, _statuses, _contact_ids, _reasons,
		_last_changed, _fields)
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	SELECT mailchimp_sync.look_over(_inflight_id);
$$;

CREATE FUNCTION mailchimp_sync.look_over(_inflight_id bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.member m SET look_at = NULL, looks = 0
	FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND m.audience_id = f.audience_id AND m.email_hash = f.phase;
	DELETE FROM mailchimp_sync.failure x USING mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND x.work = 'pull' AND x.audience_id = f.audience_id AND x.campaign_id = 0
		AND x.source_id = 0 AND x.contact_key = f.phase;
$$;

/*
 * It is not there: somebody deleted it at Mailchimp for good, which no request of ours can undo. A member with whom the
 * CRM has nothing to do is forgotten here, too. Nothing where a request of ours may have brought it back since.
 */
CREATE FUNCTION mailchimp_sync.look_gone(_inflight_id bigint, _asked_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_f	mailchimp_sync.inflight;
BEGIN
	SELECT * INTO STRICT _f FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	IF NOT EXISTS (SELECT FROM mailchimp_sync.busy b WHERE b.audience_id = _f.audience_id AND b.email_hash = _f.phase) THEN
		UPDATE mailchimp_sync.member m SET status = 'forgotten', status_before = NULL, archived_by_us = false, read_at = _asked_at
		WHERE m.audience_id = _f.audience_id AND m.email_hash = _f.phase AND coalesce(m.read_at <= _asked_at, true);
		DELETE FROM mailchimp_sync.member m
		WHERE m.audience_id = _f.audience_id AND m.email_hash = _f.phase AND m.status = 'forgotten' AND NOT m.ours
			AND m.inbound_source_id IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c
				WHERE c.audience_id = m.audience_id AND (c.email_hash = m.email_hash OR c.member_hash = m.email_hash));
		INSERT INTO mailchimp_sync.event (source_id, contact_key)
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _f.audience_id AND c.email_hash = _f.phase
		UNION
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _f.audience_id AND c.member_hash = _f.phase;
	END IF;
	PERFORM mailchimp_sync.look_over(_inflight_id);
END
$$;

CREATE FUNCTION mailchimp_sync.look_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH resting AS (
		UPDATE mailchimp_sync.member m SET looks = m.looks + 1,
			look_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(m.looks + 1))
		FROM mailchimp_sync.inflight f
		WHERE f.inflight_id = _inflight_id AND m.audience_id = f.audience_id AND m.email_hash = f.phase
		RETURNING m.*, f.connection
	)
	SELECT mailchimp_sync.note_failure('pull', r.connection, coalesce(_title, _outcome), _detail, r.look_at, r.audience_id,
		_contact_key => r.email_hash, _email => r.email, _attempts => r.looks)
	FROM resting r WHERE r.looks >= 3
$$;
