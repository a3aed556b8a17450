/*
 * retry.sql: what failed, and how it is tried again (R62, N8).
 *
 * What Mailchimp refuses rests until the contact changes, in state "refused", with
 * its words in "failure". Where it says that this is for now (engine.sql), or fails at one
 * contact again and again (push_answer.sql), next_attempt_at is set and the step retry() takes the refusal back
 * then. mc_retry does so at once, and ends the pauses of what keeps failing.
 */
CREATE VIEW @extschema@.mc_failure WITH (security_barrier) AS
SELECT f.work, a.audience, nullif(f.campaign_id, 0) AS campaign_id, s.source,
	-- a campaign's: see test_mail.sql
	CASE WHEN f.work <> 'campaign' THEN nullif(f.contact_key, '') END AS contact_key,
	f.email, f.title, f.detail, f.field, f.attempts, f.first_failed_at, f.last_failed_at, f.next_attempt_at
FROM mailchimp_sync.failure f
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (audience_id)
LEFT JOIN mailchimp_sync.source s USING (source_id)
UNION ALL
-- what could not be fetched of an account
SELECT 'refresh', a.audience, NULL, NULL, NULL, NULL, r.title, r.detail, r.what, r.attempts, r.first_failed_at,
	r.last_failed_at, r.next_attempt_at
FROM mailchimp_sync.refresh r
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (connection, list_id)
WHERE r.attempts > 0
UNION ALL
-- nor its campaigns (import.sql)
SELECT 'pull', NULL, NULL, NULL, NULL, NULL, i.title, i.detail, 'campaigns', i.attempts, i.first_failed_at, i.last_failed_at, i.next_attempt_at
FROM mailchimp_sync.import i
JOIN mailchimp_sync.permitted_connection p USING (connection)
WHERE i.attempts > 0;
COMMENT ON VIEW @extschema@.mc_failure IS
	'what Mailchimp refused or what keeps failing, in Mailchimp''s own words; without next_attempt_at it rests until something changes';

/* ---- by itself ---- */

CREATE INDEX contact_refused_until ON mailchimp_sync.contact (next_attempt_at)
	WHERE state = 'refused' AND action IS NULL AND next_attempt_at IS NOT NULL;

CREATE FUNCTION mailchimp_sync.retry() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_count	bigint;
BEGIN
	WITH due AS (
		SELECT c.audience_id, c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.state = 'refused' AND c.action IS NULL AND c.next_attempt_at <= mailchimp_sync.clock()
		ORDER BY c.next_attempt_at LIMIT 1000
	), freed AS (
		UPDATE mailchimp_sync.contact c SET refused_hash = NULL, next_attempt_at = NULL, attempts = 0
		FROM due d
		WHERE c.audience_id = d.audience_id AND c.source_id = d.source_id AND c.contact_key = d.contact_key
		RETURNING c.source_id, c.contact_key
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key) SELECT f.source_id, f.contact_key FROM freed f;
	GET DIAGNOSTICS _count = ROW_COUNT;
	RETURN _count;
END
$$;

CREATE FUNCTION mailchimp_sync.retry_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(c.next_attempt_at) FROM mailchimp_sync.contact c
		WHERE c.state = 'refused' AND c.action IS NULL AND c.next_attempt_at IS NOT NULL);
END
$$;

/* ---- for people ---- */

CREATE FUNCTION @extschema@.mc_retry(audience text DEFAULT NULL, source text DEFAULT NULL, contact_key text DEFAULT NULL)
RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_retry(text, text, text) IS
	'tries failed work again now, all of it or that of an audience, source or contact; returns how many';

CREATE FUNCTION mailchimp_sync.mc_retry(_audience text, _source text, _contact_key text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience_id	integer := CASE WHEN _audience IS NOT NULL THEN mailchimp_sync.audience_id(_audience) END;
	_source_id		integer := CASE WHEN _source IS NOT NULL THEN mailchimp_sync.source_id(_source) END;
	_count			bigint;
BEGIN
	IF _contact_key IS NOT NULL AND _source IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a contact is named by its source and its key',
			HINT = 'Give the source too.';
	END IF;
	_count := mailchimp_sync.retry_contacts(_audience_id, _source_id,
		CASE WHEN _contact_key IS NOT NULL THEN (mailchimp_sync.normal_keys(_source_id, ARRAY[_contact_key]))[1] END);
	IF _source IS NULL THEN
		_count := _count + mailchimp_sync.retry_audiences(_audience_id);
	END IF;
	PERFORM mailchimp_sync.wake();
	RETURN _count;
END
$$;

/*
 * Contacts that failed, in whatever work: an event that ends their rests. An opt-out that
 * could not be carried to Mailchimp has a rest of its own; one that the engine has in hand is not waited for.
 */
CREATE FUNCTION mailchimp_sync.retry_contacts(_audience_id integer, _source_id integer, _contact_key text) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source_ids		integer[];
	_contact_keys	text[];
BEGIN
	SELECT array_agg(f.source_id), array_agg(f.contact_key) INTO _source_ids, _contact_keys
	FROM (SELECT DISTINCT f.source_id, f.contact_key FROM mailchimp_sync.failure f
		WHERE f.contact_key <> '' AND f.work <> 'campaign' AND (_audience_id IS NULL OR f.audience_id = _audience_id)
			AND (_source_id IS NULL OR f.source_id = _source_id)
			AND (_contact_key IS NULL OR f.contact_key = _contact_key COLLATE "C")
			AND mailchimp_sync.caller_has('marketer', f.connection)) f;
	INSERT INTO mailchimp_sync.event (source_id, contact_key, now)
	SELECT u.source_id, u.contact_key, true FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
	WHERE u.source_id <> 0;
	UPDATE mailchimp_sync.opt_out o SET next_attempt_at = NULL
	WHERE o.opt_out_id IN (SELECT w.opt_out_id FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
		JOIN mailchimp_sync.opt_out w ON (w.source_id, w.contact_key) = (u.source_id, u.contact_key COLLATE "C")
			OR (u.source_id = 0 AND w.email_hash = u.contact_key COLLATE "C")
		WHERE w.next_attempt_at IS NOT NULL FOR UPDATE OF w SKIP LOCKED);
	-- what the CRM refused of a member
	UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock()
	FROM mailchimp_sync.failure f, unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
	WHERE f.work = 'pull' AND f.source_id = u.source_id AND f.contact_key = u.contact_key COLLATE "C"
		AND (_audience_id IS NULL OR f.audience_id = _audience_id)
		AND m.audience_id = f.audience_id AND m.email_hash = mailchimp_sync.email_hash(f.email) AND m.inbound_at IS NOT NULL;
	RETURN coalesce(cardinality(_source_ids), 0);
END
$$;

-- lists that make trouble, test mails, readings of statuses, columns of the CRM that cannot be written, searches for tags and questions about batches that failed, what could not be fetched
CREATE FUNCTION mailchimp_sync.retry_audiences(_audience_id integer) RETURNS bigint
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH audience AS (
		SELECT a.audience_id FROM mailchimp_sync.audience a
		WHERE (_audience_id IS NULL OR a.audience_id = _audience_id)
			AND mailchimp_sync.caller_has('marketer', a.connection)
	), working AS (
		UPDATE mailchimp_sync.audience a SET next_attempt_at = NULL
		FROM audience x WHERE a.audience_id = x.audience_id AND a.next_attempt_at IS NOT NULL
		RETURNING a.audience_id
	), reading AS (
		UPDATE mailchimp_sync.reading r SET next_attempt_at = NULL
		FROM audience x WHERE r.audience_id = x.audience_id AND r.next_attempt_at IS NOT NULL
		RETURNING r.audience_id
	), writing AS (
		UPDATE mailchimp_sync.inbound i SET next_attempt_at = NULL, walk_after = ''
		FROM audience x WHERE i.audience_id = x.audience_id AND i.next_attempt_at IS NOT NULL
		RETURNING i.audience_id
	), searching AS (
		UPDATE mailchimp_sync.tag t SET next_attempt_at = NULL
		FROM audience x WHERE t.audience_id = x.audience_id AND t.next_attempt_at IS NOT NULL
		RETURNING t.audience_id
	), asking AS (
		UPDATE mailchimp_sync.batch b SET next_attempt_at = mailchimp_sync.clock()
		FROM audience x JOIN mailchimp_sync.audience a USING (audience_id)
		WHERE (b.connection, b.list_id) = (a.connection, a.list_id) AND b.failures > 0
		RETURNING a.audience_id
	), testing AS (
		UPDATE mailchimp_sync.test_mail t SET next_attempt_at = NULL
		FROM audience x JOIN mailchimp_sync.campaign c USING (audience_id)
		WHERE t.campaign_id = c.campaign_id AND t.next_attempt_at IS NOT NULL
		RETURNING c.audience_id
	), fetching AS (
		UPDATE mailchimp_sync.refresh r SET next_attempt_at = mailchimp_sync.clock()
		WHERE r.attempts > 0 AND mailchimp_sync.caller_has('marketer', r.connection)
			AND (_audience_id IS NULL OR (r.connection, r.list_id) =
				(SELECT a.connection, a.list_id FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id))
		RETURNING 0 AS audience_id
	), pulling AS (
		UPDATE mailchimp_sync.import i SET next_attempt_at = NULL
		WHERE i.attempts > 0 AND _audience_id IS NULL AND mailchimp_sync.caller_has('marketer', i.connection)
		RETURNING 0 AS audience_id
	)
	SELECT count(*) FROM (SELECT w.audience_id FROM working w UNION ALL SELECT r.audience_id FROM reading r
		UNION ALL SELECT i.audience_id FROM writing i UNION ALL SELECT s.audience_id FROM searching s UNION ALL SELECT b.audience_id FROM asking b
		UNION ALL SELECT t.audience_id FROM testing t UNION ALL SELECT f.audience_id FROM fetching f
		UNION ALL SELECT p.audience_id FROM pulling p) n
$$;
