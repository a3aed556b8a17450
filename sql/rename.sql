/*
 * rename.sql: a contact's address changed, and the member moves with it.
 *
 * One PATCH of email_address keeps the member's status and history (D10); its
 * other data follow by push under the new address. Waits for every ghost of
 * both addresses. Where the list knows the new address already the change is
 * refused there, and rests with Mailchimp's words until the contact changes.
 */
CREATE INDEX contact_rename_due ON mailchimp_sync.contact (audience_id, next_attempt_at NULLS FIRST)
	WHERE action = 'rename';

CREATE FUNCTION mailchimp_sync.rename_ready(_audience_id integer)
RETURNS SETOF mailchimp_sync.contact
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.*
	FROM mailchimp_sync.contact c
	JOIN mailchimp_sync.source s USING (source_id)
	WHERE c.audience_id = _audience_id AND c.action = 'rename'
		AND mailchimp_sync.source_is_usable(s)
		AND (c.audience_id, c.member_hash) NOT IN (SELECT b.audience_id, b.email_hash FROM mailchimp_sync.busy b)
		AND (c.audience_id, c.email_hash) NOT IN (SELECT b.audience_id, b.email_hash FROM mailchimp_sync.busy b)
	ORDER BY c.next_attempt_at NULLS FIRST LIMIT 1
$$;

CREATE FUNCTION mailchimp_sync.rename_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_contact	record;
BEGIN
	FOR _contact IN
		SELECT r.*, a.list_id
		FROM mailchimp_sync.sending_audiences(_connection) a
		CROSS JOIN LATERAL mailchimp_sync.rename_ready(a.audience_id) r
		WHERE r.next_attempt_at IS NULL OR r.next_attempt_at <= mailchimp_sync.clock()
	LOOP
		-- evaluated anew just before the request: it may have changed back
		PERFORM mailchimp_sync.fold_contacts(_contact.source_id, ARRAY[_contact.contact_key]);
		RETURN QUERY
		SELECT _connection, 'PATCH', format('/lists/%s/members/%s', _contact.list_id, c.member_hash),
			jsonb_build_object('email_address', c.email)::text, true, c.audience_id, NULL::bigint, 'rename',
			ARRAY[c.source_id, c.source_id], ARRAY[c.contact_key, c.contact_key],
			ARRAY[c.member_hash, c.email_hash], ARRAY[c.version, c.version], ARRAY[c.desired_hash, c.desired_hash]
		FROM mailchimp_sync.contact c
		WHERE c.audience_id = _contact.audience_id AND c.source_id = _contact.source_id
			AND c.contact_key = _contact.contact_key AND c.action = 'rename';
		IF FOUND THEN
			RETURN;
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION mailchimp_sync.rename_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(greatest(coalesce(r.next_attempt_at, mailchimp_sync.clock()), a.next_attempt_at))
	FROM mailchimp_sync.usable_connection u
	JOIN mailchimp_sync.audience a USING (connection)
	CROSS JOIN LATERAL mailchimp_sync.rename_ready(a.audience_id) r
	WHERE a.active_since IS NOT NULL AND NOT a.paused
$$;

-- the member has moved (or, _moved false, there was none under the old address)
CREATE FUNCTION mailchimp_sync.rename_done(_inflight_id bigint, _moved boolean, _email text, _status text)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.member m USING mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND m.audience_id = f.audience_id
		AND m.email_hash = f.email_hashes[CASE WHEN _moved THEN 2 ELSE 1 END];

	UPDATE mailchimp_sync.member m SET email_hash = f.email_hashes[2], email = _email, status = _status
	FROM mailchimp_sync.inflight f
	WHERE _moved AND f.inflight_id = _inflight_id AND m.audience_id = f.audience_id
		AND m.email_hash = f.email_hashes[1];

	UPDATE mailchimp_sync.contact c SET action = NULL, attempts = 0, next_attempt_at = NULL, sent_hash = NULL,
		member_hash = CASE WHEN _moved THEN f.email_hashes[2] END
	FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND c.audience_id = f.audience_id
		AND c.source_id = f.source_ids[1] AND c.contact_key = f.contact_keys[1];

	DELETE FROM mailchimp_sync.failure x USING mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND x.work = 'rename' AND x.audience_id = f.audience_id
		AND x.source_id = f.source_ids[1] AND x.contact_key = f.contact_keys[1];

	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT f.source_ids[1], f.contact_keys[1]
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
$$;

-- an answer that refuses it: rests with Mailchimp's words until the contact changes
CREATE FUNCTION mailchimp_sync.rename_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH refused AS (
		UPDATE mailchimp_sync.contact c SET attempts = c.attempts + 1, refused_hash = f.hashes[1],
			state = 'refused', action = NULL, detail = _detail, next_attempt_at = NULL
		FROM mailchimp_sync.inflight f
		WHERE f.inflight_id = _inflight_id AND c.audience_id = f.audience_id
			AND c.source_id = f.source_ids[1] AND c.contact_key = f.contact_keys[1]
		RETURNING c.*
	)
	INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, email, title, detail,
		attempts, first_failed_at, last_failed_at)
	SELECT 'rename', r.audience_id, r.source_id, r.contact_key, a.connection, r.email, _title, _detail,
		r.attempts, mailchimp_sync.clock(), mailchimp_sync.clock()
	FROM refused r JOIN mailchimp_sync.audience a USING (audience_id)
	ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET title = excluded.title,
		detail = excluded.detail, attempts = excluded.attempts, last_failed_at = excluded.last_failed_at,
		next_attempt_at = NULL
$$;

CREATE FUNCTION mailchimp_sync.rename_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.push_failed(_inflight_id, _outcome, _title, _detail, _retry_at)
$$;
