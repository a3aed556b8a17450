/*
 * settle.sql: what desired() says of contacts is stored, with all that follows from it.
 *
 * Costs what the page costs, as desired() does. Only the engine runs this, so nothing is stored between what desired() has
 * looked at and what is written.
 */

/*
 * Stores what desired() says. Where an address changes hands, the other contacts that
 * claim it get an event, so that the next in line takes over (D13), and so do those
 * that are at Mailchimp under it, who may have to leave when nobody claims it any more.
 */
CREATE FUNCTION mailchimp_sync.settle(_audience_id integer, _source_id integer, _keys text[],
	_values mailchimp_sync.evaluated[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH desired AS MATERIALIZED (
		SELECT * FROM mailchimp_sync.desired(_audience_id, _source_id, _keys, _values)
	), stored AS (
		INSERT INTO mailchimp_sync.contact AS c (audience_id, source_id, contact_key, email, email_hash,
			state, detail, action, stale_tags, desired_hash, by_hand, leave_after, next_attempt_at, changed_at,
			member_hash, agreed_hash)
		SELECT _audience_id, _source_id, d.contact_key, d.email, d.email_hash,
			d.state, d.detail, d.action, d.stale_tags, d.desired_hash,
			EXISTS (SELECT FROM mailchimp_sync.hand h WHERE h.audience_id = _audience_id
				AND h.source_id = _source_id AND h.contact_key = d.contact_key AND h.inside),
			CASE WHEN d.action = 'leave' THEN mailchimp_sync.event_horizon() END,
			-- not before its status was read (read.sql)
			CASE WHEN d.action = 'leave' THEN 'infinity'::timestamptz END, mailchimp_sync.clock(),
			CASE WHEN d.adopts THEN d.at_hash END,
			CASE WHEN d.adopts OR d.pushes IS NOT NULL AND d.at_hash = d.email_hash AND d.at_hash = (d.weight).member_hash
				THEN d.at_hash END
		FROM desired d
		ON CONFLICT (audience_id, source_id, contact_key) DO UPDATE SET
			email = excluded.email, email_hash = excluded.email_hash,
			state = excluded.state, detail = excluded.detail, action = excluded.action,
			stale_tags = excluded.stale_tags, desired_hash = excluded.desired_hash, by_hand = excluded.by_hand,
			left_hash = CASE WHEN c.member_hash IS NULL AND c.email_hash IS DISTINCT FROM excluded.email_hash
				THEN mailchimp_sync.left_under(_audience_id, c.state, c.email_hash, c.left_hash) ELSE c.left_hash END,
			leave_after = CASE WHEN c.action = excluded.action THEN least(c.leave_after, excluded.leave_after)
				ELSE excluded.leave_after END,
			changed_at = excluded.changed_at,
			version = c.version + 1,
			-- who wants nothing any more begins anew
			refused_hash = CASE WHEN excluded.desired_hash IS NOT NULL THEN c.refused_hash END,
			-- a rest is for what failed, not for something new
			attempts = CASE WHEN c.desired_hash IS DISTINCT FROM excluded.desired_hash
				OR c.action IS DISTINCT FROM excluded.action THEN 0 ELSE c.attempts END,
			next_attempt_at = CASE WHEN c.action IS DISTINCT FROM excluded.action THEN excluded.next_attempt_at
				WHEN c.desired_hash IS DISTINCT FROM excluded.desired_hash AND c.next_attempt_at < 'infinity' THEN NULL
				ELSE c.next_attempt_at END,
			batch_limit = CASE WHEN c.desired_hash IS DISTINCT FROM excluded.desired_hash
				THEN NULL ELSE c.batch_limit END,
			member_hash = coalesce(excluded.member_hash, c.member_hash),
			agreed_hash = coalesce(excluded.agreed_hash, c.agreed_hash),
			crm_at = CASE WHEN c.desired_hash <> excluded.desired_hash THEN excluded.changed_at ELSE c.crm_at END
		WHERE (c.email, c.email_hash, c.state, c.detail, c.action, c.stale_tags, c.desired_hash, c.by_hand)
			IS DISTINCT FROM (excluded.email, excluded.email_hash, excluded.state, excluded.detail,
				excluded.action, excluded.stale_tags, excluded.desired_hash, excluded.by_hand)
			OR (c.member_hash, c.agreed_hash) IS DISTINCT FROM (coalesce(excluded.member_hash, c.member_hash),
				coalesce(excluded.agreed_hash, c.agreed_hash))
		RETURNING c.contact_key, c.queue, c.left_hash
	), met AS (
		-- whoever takes the address of somebody who is there is to have what Mailchimp shows of them, and whoever gives one up may have
		-- kept another one there out of the CRM (inbound_write.sql)
		SELECT DISTINCT h.email_hash FROM desired d
		CROSS JOIN LATERAL (VALUES (d.email_hash), (d.old_email_hash)) AS h(email_hash)
		WHERE CASE WHEN d.email_hash = h.email_hash THEN d.standing IS DISTINCT FROM 'later'
					AND (d.email_hash, d.standing) IS DISTINCT FROM (d.old_email_hash, d.old_standing)
				ELSE h.email_hash IS NOT NULL END
			AND EXISTS (SELECT FROM mailchimp_sync.inbound i WHERE i.audience_id = _audience_id AND i.source_id = _source_id)
		UNION
		-- or was another member before
		SELECT d.at_hash FROM desired d JOIN stored s USING (contact_key) WHERE d.adopts AND s.left_hash <> d.at_hash
	), agreed AS (
		-- what both have already is what they agree upon, and who is as the CRM wants them is ours from then on (D20)
		UPDATE mailchimp_sync.member m SET ours = m.ours OR d.adopts, sent_source_id = _source_id,
			sent_fields = coalesce(m.sent_fields, '{}') || d.agrees,
			shown_fields = coalesce(m.shown_fields, '{}') || mailchimp_sync.fields_of(m.read_fields, d.agrees),
			inbound_at = CASE WHEN d.at_hash IN (SELECT x.email_hash FROM met x) THEN mailchimp_sync.clock() ELSE m.inbound_at END
		FROM desired d
		-- a lookup each, as in desired(), and mostly none
		WHERE m.ctid = ANY (ARRAY(SELECT k.ctid FROM desired x
				CROSS JOIN LATERAL (SELECT o.ctid FROM mailchimp_sync.member o
					WHERE o.audience_id = _audience_id AND o.email_hash = x.at_hash OFFSET 0) AS k
				WHERE x.agrees IS NOT NULL))
			AND m.email_hash = d.at_hash AND (d.agrees <> '{}' OR d.agrees = '{}' AND d.adopts AND NOT m.ours)
		RETURNING m.email_hash
	), told AS (
		UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock()
		WHERE m.ctid = ANY (ARRAY(SELECT k.ctid FROM met x
				CROSS JOIN LATERAL (SELECT o.ctid FROM mailchimp_sync.member o
					WHERE o.audience_id = _audience_id AND o.email_hash = x.email_hash AND o.status IS NOT NULL OFFSET 0) AS k))
			AND m.email_hash NOT IN (SELECT g.email_hash FROM agreed g)
	), guarded AS (
		UPDATE mailchimp_sync.guard g SET waiting = g.waiting + n.more,
			check_at = greatest(mailchimp_sync.clock(), g.check_after)
		FROM (SELECT k.kind, count(*) FILTER (WHERE s.queue = k.kind) AS more
			FROM stored s CROSS JOIN (VALUES ('subscribe'), ('leave')) AS k(kind) GROUP BY k.kind) n
		WHERE g.audience_id = _audience_id AND g.kind = n.kind AND (n.more > 0 OR g.stopped_at IS NOT NULL)
	), failed AS (
		INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, email,
			title, detail, attempts, first_failed_at, last_failed_at)
		SELECT 'push', _audience_id, _source_id, d.contact_key, a.connection, d.email,
			'expression', d.error_message, 1, mailchimp_sync.clock(), mailchimp_sync.clock()
		FROM desired d JOIN mailchimp_sync.audience a ON a.audience_id = _audience_id
		WHERE d.error_message IS NOT NULL
		ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET
			title = excluded.title, detail = excluded.detail, field = NULL, attempts = f.attempts + 1,
			last_failed_at = excluded.last_failed_at, next_attempt_at = NULL
	), healed AS (
		-- Mailchimp's words stay while what it refused is wanted
		DELETE FROM mailchimp_sync.failure f USING desired d JOIN stored s USING (contact_key)
		WHERE f.work IN ('push', 'leave', 'rename', 'tag') AND f.audience_id = _audience_id AND f.source_id = _source_id
			AND f.contact_key = d.contact_key AND d.error_message IS NULL
			AND CASE f.work WHEN 'push' THEN d.state NOT IN ('refused', 'pending') OR d.desired_hash IS NULL
				-- who opted out and cannot be told of at Mailchimp (carry.sql)
				WHEN 'leave' THEN d.action IS DISTINCT FROM 'leave' AND d.state <> 'opted_out'
				ELSE d.action IS DISTINCT FROM f.work AND (d.state <> 'refused' OR d.desired_hash IS NULL) END
	), lifted AS (
		-- of an address that had opted out (carry.sql)
		DELETE FROM mailchimp_sync.failure f USING desired d JOIN stored s USING (contact_key)
		WHERE f.work = 'leave' AND f.audience_id = _audience_id AND f.campaign_id = 0 AND f.source_id = 0
			AND f.contact_key = d.email_hash AND d.state <> 'opted_out'
	), untold AS (
		-- who opted out before the audience had such a contact may be a member of its list
		UPDATE mailchimp_sync.opt_out o SET carried_at = NULL
		WHERE o.opt_out_id IN (
			SELECT u.opt_out_id FROM desired d JOIN stored s USING (contact_key)
			CROSS JOIN LATERAL (
				SELECT x.opt_out_id, false AS is_heir FROM mailchimp_sync.opt_out x
				WHERE x.source_id = _source_id AND x.contact_key = d.contact_key
				UNION ALL
				SELECT x.opt_out_id, false FROM mailchimp_sync.opt_out x WHERE x.email_hash = d.email_hash
				UNION ALL
				-- somebody else who has the address of one who goes and is kept as a member
				SELECT x.opt_out_id, true FROM mailchimp_sync.contact c
				JOIN mailchimp_sync.opt_out x USING (source_id, contact_key)
				WHERE d.state = 'outside' AND d.action IS DISTINCT FROM 'leave'
					AND c.audience_id = _audience_id AND c.email_hash = d.email_hash AND c.state = 'opted_out'
					AND EXISTS (SELECT FROM mailchimp_sync.member m
						WHERE m.audience_id = _audience_id AND m.email_hash = d.email_hash AND m.status IN ('subscribed', 'pending'))) AS y
			JOIN mailchimp_sync.opt_out u USING (opt_out_id)
			WHERE u.carried_at IS NOT NULL AND (y.is_heir OR d.state = 'opted_out' AND
				(NOT EXISTS (SELECT FROM mailchimp_sync.member m
						WHERE m.audience_id = _audience_id AND m.email_hash = d.email_hash)
					-- or took one under which somebody is a member
					OR d.email_hash IS DISTINCT FROM d.old_email_hash AND EXISTS (SELECT FROM mailchimp_sync.member m
						WHERE m.audience_id = _audience_id AND m.email_hash = d.email_hash AND m.status IN ('subscribed', 'pending'))
					-- or took an address that had opted out, and is a member under its former one still
					OR EXISTS (SELECT FROM mailchimp_sync.contact c
						WHERE c.audience_id = _audience_id AND c.source_id = _source_id AND c.contact_key = d.contact_key
							AND (c.member_hash <> d.email_hash OR c.aside_email IS NOT NULL))))
			FOR UPDATE OF u SKIP LOCKED)
	), changed AS MATERIALIZED (
		SELECT d.contact_key, h.* FROM desired d
		JOIN stored s USING (contact_key)
		CROSS JOIN LATERAL (VALUES (d.email_hash, d.standing, false), (d.old_email_hash, d.old_standing, true))
			AS h(email_hash, standing, is_former)
		WHERE (d.standing, d.email_hash) IS DISTINCT FROM (d.old_standing, d.old_email_hash)
			-- who comes later is of no concern to others, but if they were told to wait for it
			AND (h.standing <> 'later' OR h.is_former)
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT DISTINCT c.source_id, c.contact_key
	FROM (SELECT x.email_hash, bool_or(x.standing <> 'later') AS tells_all FROM changed x GROUP BY 1) AS h
	CROSS JOIN LATERAL (
		SELECT o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.email_hash = h.email_hash AND o.desired_hash IS NOT NULL
			AND (h.tells_all OR o.detail IN (SELECT mailchimp_sync.conflict_detail(s.source, x.contact_key)
				FROM changed x JOIN mailchimp_sync.source s ON s.source_id = _source_id WHERE x.is_former))
		UNION ALL
		SELECT o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.member_hash = h.email_hash OFFSET 0) AS c
	WHERE NOT (c.source_id = _source_id AND c.contact_key IN (SELECT k FROM unnest(_keys) AS k WHERE k IS NOT NULL));
END
$$;

/*
 * What evaluating brought is stored: the source works, whom its opt_out
 * expression names joins the group, and each audience gets its states.
 */
CREATE FUNCTION mailchimp_sync.apply_values(_source_id integer, _audience_ids integer[], _keys text[],
	_values mailchimp_sync.evaluated[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_blocked	jsonb := mailchimp_sync.blocked_before(_source_id, _audience_ids, _keys);
BEGIN
	UPDATE mailchimp_sync.source SET state = 'ok', detail = NULL, failures = 0, next_attempt_at = NULL
	WHERE source_id = _source_id AND state <> 'ok';

	PERFORM mailchimp_sync.opt_out_add(_source_id, v.contact_key, btrim(v.value ->> 'email'), 'crm', NULL, s.source)
	FROM unnest(_values) v
	JOIN mailchimp_sync.source s ON s.source_id = _source_id
	WHERE (v.value ->> 'opt_out')::boolean
		AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out o
			WHERE o.source_id = _source_id AND o.contact_key = v.contact_key COLLATE "C");

	PERFORM mailchimp_sync.settle(a.audience_id, _source_id, _keys, _values)
	FROM unnest(_audience_ids) AS a(audience_id);
	PERFORM mailchimp_sync.newcomers_opt_out(_source_id, _keys, _blocked);

	PERFORM mailchimp_sync.skip_waiting(_source_id, ARRAY(SELECT c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = ANY (_audience_ids) AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
			AND c.state = 'opted_out'));
END
$$;
