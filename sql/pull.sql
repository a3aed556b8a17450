/*
 * pull.sql: the members of a list, where they are to come into the CRM (directions pull and both).
 *
 * Beside the reads of what changed (read.sql) all members are read: first of all, then once in "every", and when
 * mc_sync_audience asks for it. Such a walk is a read of its own, which may take long, and in the meantime what changes is
 * read as often as ever. Who was not shown by it is looked for by name (look.sql), since rows that move while
 * pages are read can be missed; who is not found was deleted.
 *
 * Mailchimp's id stays when somebody's address changes there: the member, and the contact that is a member by it, move
 * to the new address. A page asked for before a request of ours ended shows the old one, and counts for nothing here either.
 */

/* ---- addresses that changed at Mailchimp ---- */

/*
 * Members of a page that we know by their id under another address. Not while a request of ours to either
 * address is or was under way since the page was asked for. Returns their new hashes.
 */
CREATE FUNCTION mailchimp_sync.follow_moves(_audience_id integer, _asked_at timestamptz, _ids text[], _emails text[],
	_contact_ids text[], _last_changed text[])
RETURNS text[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off		-- see activity.sql
SET enable_mergejoin = off
AS $$
DECLARE
	_olds	text[];
	_news	text[];
	_texts	text[];
BEGIN
	WITH shown AS (
		SELECT DISTINCT ON (u.contact_id) u.contact_id, lower(u.id) COLLATE "C" AS email_hash, u.email,
			mailchimp_sync.instant(u.last_changed) AS last_changed
		FROM unnest(_ids, _emails, _contact_ids, _last_changed) AS u(id, email, contact_id, last_changed)
		WHERE u.contact_id <> ''
	), moved AS (
		SELECT DISTINCT ON (s.email_hash) m.email_hash AS old_hash, s.email_hash AS new_hash, s.email
		FROM shown s
		-- OFFSET, here and below: a lookup each, whatever the planner knows of the table
		CROSS JOIN LATERAL (SELECT o.email_hash, o.read_at, o.last_changed FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience_id AND o.mailchimp_id = s.contact_id AND o.read_fields IS NOT NULL OFFSET 0) m
		WHERE m.email_hash <> s.email_hash
			AND coalesce(m.read_at <= _asked_at, true) AND coalesce(m.last_changed <= s.last_changed, true)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.member o WHERE o.audience_id = _audience_id AND o.email_hash = s.email_hash
				AND (o.read_at > _asked_at OR o.last_changed > s.last_changed))
			AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = s.email_hash)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.busy b
				WHERE b.audience_id = _audience_id AND b.email_hash IN (m.email_hash, s.email_hash))
	)
	SELECT array_agg(v.old_hash), array_agg(v.new_hash), array_agg(v.email) INTO _olds, _news, _texts FROM moved v;
	IF _news IS NULL THEN
		RETURN '{}';
	END IF;
	PERFORM mailchimp_sync.move_members(_audience_id, _olds, _news, _texts);
	-- the page tells when (store_statuses)
	UPDATE mailchimp_sync.member m SET last_changed = NULL WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_news);
	RETURN _news;
END
$$;

/*
 * Members move, perhaps to each other's addresses. Whoever was known under a new one cannot be there any more, and is
 * known by the id until its own new address is (which Mailchimp takes in place of a hash; it is looked for). What was
 * read of the same person there already is kept. Who opted out with the old address has opted out with the new one.
 */
CREATE FUNCTION mailchimp_sync.move_members(_audience_id integer, _olds text[], _news text[], _emails text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_parked	text[];
	_ids	text[];
	_from	text[];
	_to		text[];
BEGIN
	PERFORM mailchimp_sync.opt_out_add(NULL, NULL, u.email, 'mailchimp', 'opted out with the former address', 'Mailchimp')
	FROM unnest(_olds, _news, _emails) AS u(old_hash, new_hash, email)
	WHERE mailchimp_sync.is_opted_out(NULL, NULL, u.old_hash) AND NOT mailchimp_sync.is_opted_out(NULL, NULL, u.new_hash);

	-- by arrays, here and below: a lookup each, whatever the planner knows of the table
	UPDATE mailchimp_sync.member m SET (status, read_fields, last_changed, read_at, unsubscribed_at, unsubscribe_reason,
		inbound_source_id, inbound_key) = (SELECT n.status, n.read_fields, n.last_changed, n.read_at, n.unsubscribed_at, n.unsubscribe_reason,
			coalesce(m.inbound_source_id, n.inbound_source_id), coalesce(m.inbound_key, n.inbound_key)
		FROM mailchimp_sync.member n
		WHERE n.audience_id = _audience_id AND n.email_hash = _news[array_position(_olds, m.email_hash COLLATE "C")])
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_olds) AND EXISTS (SELECT FROM mailchimp_sync.member n
		WHERE n.audience_id = _audience_id AND n.email_hash = _news[array_position(_olds, m.email_hash COLLATE "C")]
			AND n.mailchimp_id = m.mailchimp_id OFFSET 0);
	DELETE FROM mailchimp_sync.member n
	WHERE n.audience_id = _audience_id AND n.email_hash = ANY (_news) AND n.email_hash <> ALL (_olds)
		AND coalesce(n.mailchimp_id = (SELECT m.mailchimp_id FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.email_hash = _olds[array_position(_news, n.email_hash COLLATE "C")]), true);
	SELECT array_agg(n.email_hash), array_agg(lower(n.mailchimp_id)) INTO _parked, _ids FROM mailchimp_sync.member n
	WHERE n.audience_id = _audience_id AND n.email_hash = ANY (_news) AND n.email_hash <> ALL (_olds);
	UPDATE mailchimp_sync.member m SET email_hash = lower(m.mailchimp_id), look_at = mailchimp_sync.clock()
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_parked);
	-- the CRM is asked again
	DELETE FROM mailchimp_sync.failure f
	WHERE f.work = 'pull' AND f.audience_id = _audience_id AND f.campaign_id = 0 AND f.source_id = 0 AND f.contact_key = ANY (_olds);
	-- by way of names that are no hashes: some change places
	UPDATE mailchimp_sync.member m SET email_hash = 'moving ' || _news[array_position(_olds, m.email_hash COLLATE "C")],
		email = _emails[array_position(_olds, m.email_hash COLLATE "C")], look_at = NULL
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_olds);
	UPDATE mailchimp_sync.member m SET email_hash = substr(m.email_hash, length('moving ') + 1)
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (ARRAY(SELECT 'moving ' || n FROM unnest(_news) AS n));

	_from := _olds || _parked;
	_to := _news || _ids;
	WITH moved AS (
		UPDATE mailchimp_sync.contact c SET member_hash = _to[array_position(_from, c.member_hash COLLATE "C")],
			aside_email = CASE WHEN mailchimp_sync.email_hash(c.aside_email) <> _to[array_position(_from, c.member_hash COLLATE "C")]
				THEN c.aside_email END
		WHERE c.audience_id = _audience_id AND c.member_hash = ANY (_from)
		RETURNING c.source_id, c.contact_key
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key) SELECT v.source_id, v.contact_key FROM moved v;
END
$$;

/* ---- all members ---- */

-- of a walk's page: those that were shown, under whatever address, but not stored, are there nevertheless
CREATE FUNCTION mailchimp_sync.left_out(_audience_id integer, _asked_at timestamptz, _ids text[], _contact_ids text[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off		-- see activity.sql
SET enable_mergejoin = off
AS $$
	UPDATE mailchimp_sync.member m SET seen_at = _asked_at WHERE m.ctid = ANY (ARRAY(
		SELECT k.ctid FROM unnest(_ids) AS u(id)
		CROSS JOIN LATERAL (SELECT o.ctid, o.read_at FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience_id AND o.email_hash = lower(u.id) COLLATE "C" OFFSET 0) k
		WHERE coalesce(k.read_at < _asked_at, true)
		UNION
		SELECT k.ctid FROM unnest(_contact_ids) AS u(id)
		CROSS JOIN LATERAL (SELECT o.ctid, o.read_at FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience_id AND o.mailchimp_id = u.id AND o.read_fields IS NOT NULL OFFSET 0) k
		WHERE coalesce(k.read_at < _asked_at, true)))
$$;

-- one that we know, and that the walk has not shown; a request that is under way (_busy) brings its own news
CREATE FUNCTION mailchimp_sync.is_missed(_member mailchimp_sync.member, _r mailchimp_sync.reading, _busy text[]) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _member.status <> 'forgotten' AND coalesce(greatest(_member.read_at, _member.seen_at) < _r.begun_at, true)
		AND _member.email_hash <> ALL (_busy)
$$;

/*
 * The walk has come to its end. Whoever moved before anything was read of them is found by the id under the new address;
 * the others that were missed are looked for.
 */
CREATE FUNCTION mailchimp_sync.walk_done(_r mailchimp_sync.reading) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_olds	text[];
	_news	text[];
	_texts	text[];
	_busy	text[] := ARRAY(SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _r.audience_id);
BEGIN
	SELECT array_agg(v.old_hash), array_agg(v.new_hash), array_agg(v.email) INTO _olds, _news, _texts FROM (
		SELECT DISTINCT ON (n.email_hash) m.email_hash AS old_hash, n.email_hash AS new_hash, n.email
		FROM mailchimp_sync.member m
		CROSS JOIN LATERAL (SELECT o.email_hash, o.email, o.read_at FROM mailchimp_sync.member o
			WHERE o.audience_id = _r.audience_id AND o.mailchimp_id = m.mailchimp_id AND o.read_fields IS NOT NULL OFFSET 0) n
		WHERE m.audience_id = _r.audience_id AND coalesce(m.read_at < _r.begun_at, true) AND mailchimp_sync.is_missed(m, _r, _busy)
			AND n.email_hash <> m.email_hash AND n.read_at >= _r.begun_at) v;
	IF _olds IS NOT NULL THEN
		PERFORM mailchimp_sync.move_members(_r.audience_id, _olds, _news, _texts);
	END IF;
	UPDATE mailchimp_sync.member m SET look_at = mailchimp_sync.clock()
	WHERE m.audience_id = _r.audience_id AND m.look_at IS NULL AND coalesce(m.read_at < _r.begun_at, true)
		AND mailchimp_sync.is_missed(m, _r, _busy);
	UPDATE mailchimp_sync.audience SET walked_at = _r.begun_at WHERE audience_id = _r.audience_id;
	PERFORM mailchimp_sync.read_over(_r);
END
$$;

/* ---- what the CRM hears of ---- */

/*
 * New subscribers and changed profiles (R95), by an act that is not ours. Until all members were read once nobody is new:
 * but Mailchimp is told of those of them who have opted out here. A contact whom a push of ours may have
 * brought there is no news.
 */
CREATE FUNCTION mailchimp_sync.signal_pulled(_a mailchimp_sync.audience, _seen mailchimp_sync.seen_member[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.opt_out o SET carried_at = NULL
	WHERE _a.walked_at IS NULL AND o.opt_out_id IN (
		SELECT x.opt_out_id FROM unnest(_seen) s JOIN mailchimp_sync.opt_out x ON x.email_hash = s.email_hash
		WHERE s.old_status IS NULL AND s.status IN ('subscribed', 'pending') AND x.carried_at IS NOT NULL FOR UPDATE OF x SKIP LOCKED);

	SELECT mailchimp_sync.signal('subscribed', _a.connection, _a.audience_id, NULL, jsonb_build_object('blocked',
		CASE WHEN mailchimp_sync.is_opted_out(c.source_id, c.contact_key, s.email_hash) THEN true END),
		c.source_id, c.contact_key, m.email)
	FROM unnest(_seen) s
	CROSS JOIN LATERAL (SELECT o.email FROM mailchimp_sync.member o
		WHERE o.audience_id = _a.audience_id AND o.email_hash = s.email_hash OFFSET 0) m
	LEFT JOIN LATERAL mailchimp_sync.contact_behind(_a.audience_id, s.email_hash) c ON true
	WHERE _a.walked_at IS NOT NULL AND s.is_status AND s.old_status IS NULL AND s.status = 'subscribed'
		AND NOT EXISTS (SELECT FROM mailchimp_sync.contact k
			WHERE k.audience_id = _a.audience_id AND k.member_hash = s.email_hash);

	SELECT mailchimp_sync.signal('profile_updated', _a.connection, _a.audience_id, NULL, jsonb_build_object('changed', v.fields),
		c.source_id, c.contact_key, m.email)
	FROM unnest(_seen) s
	CROSS JOIN LATERAL (SELECT jsonb_agg(f.field ORDER BY f.field) AS fields FROM (
		SELECT coalesce(o.key, n.key) AS field FROM jsonb_each(s.old_fields) o FULL JOIN jsonb_each(s.fields) n USING (key)
		WHERE o.value IS DISTINCT FROM n.value
		UNION ALL
		SELECT 'email' WHERE s.is_moved) f) v
	CROSS JOIN LATERAL (SELECT o.email FROM mailchimp_sync.member o
		WHERE o.audience_id = _a.audience_id AND o.email_hash = s.email_hash OFFSET 0) m
	LEFT JOIN LATERAL mailchimp_sync.contact_behind(_a.audience_id, s.email_hash) c ON true
	WHERE s.old_fields IS NOT NULL AND s.fields IS NOT NULL AND v.fields IS NOT NULL;
$$;

/* ---- contacts whom Mailchimp has as unsubscribed ---- */

-- {"audience_id": [keys of contacts that are inactive or opted out]}, of audiences whose members are read; null: there is none
CREATE FUNCTION mailchimp_sync.blocked_before(_source_id integer, _audience_ids integer[], _keys text[]) RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT jsonb_object_agg(a.audience_id, (SELECT coalesce(jsonb_agg(c.contact_key), '[]') FROM mailchimp_sync.contact c
			WHERE c.audience_id = a.audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
				AND c.state IN ('inactive', 'opted_out')))
		FROM mailchimp_sync.audience a
		WHERE a.audience_id = ANY (_audience_ids) AND a.direction <> 'push' AND a.on_unsubscribe = 'opt_out');
END
$$;

/*
 * Of who is only pushed the answer says that they have unsubscribed, and they join the opt-out group (push_answer.sql). Here
 * that is known before anything is pushed, so whoever comes to such a member joins at once. Not who was inactive
 * before: somebody may have let them in again (mc_opt_in).
 */
CREATE FUNCTION mailchimp_sync.newcomers_opt_out(_source_id integer, _keys text[], _blocked jsonb) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _blocked IS NOT NULL THEN
		PERFORM mailchimp_sync.opt_out_add(c.source_id, c.contact_key, c.email, 'mailchimp', m.unsubscribe_reason, 'Mailchimp')
		FROM jsonb_each(_blocked) AS b(id, keys)
		JOIN mailchimp_sync.contact c ON c.audience_id = b.id::integer AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
		CROSS JOIN LATERAL (SELECT o.unsubscribe_reason FROM mailchimp_sync.member o
			WHERE o.audience_id = c.audience_id AND o.email_hash = c.email_hash
				AND o.status = 'unsubscribed' AND NOT mailchimp_sync.is_unsubscribed_by_us(o) OFFSET 0) m
		WHERE c.state = 'inactive' AND c.desired_hash IS NOT NULL AND NOT b.keys ? c.contact_key;
	END IF;
END
$$;

/* ---- for people ---- */

CREATE FUNCTION @extschema@.mc_pull(audience text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_pull(text) IS
	'asks Mailchimp now what changed in the audience''s list; all members of it are read by mc_sync_audience';

CREATE FUNCTION mailchimp_sync.mc_pull(_audience text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_id	integer := mailchimp_sync.audience_id(_audience);
BEGIN
	UPDATE mailchimp_sync.audience SET read_asked_at = mailchimp_sync.clock(), next_attempt_at = NULL
	WHERE audience_id = _id AND active_since IS NOT NULL;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('audience "%s" is not switched on', _audience),
			HINT = format('SELECT mc_sync_audience(%L) switches it on and reads all members.', _audience);
	END IF;
	UPDATE mailchimp_sync.reading SET next_attempt_at = NULL WHERE audience_id = _id AND next_attempt_at IS NOT NULL;
	PERFORM mailchimp_sync.wake();
END
$$;

CREATE VIEW @extschema@.mc_list_member WITH (security_barrier) AS
SELECT a.audience, a.list_id, l.name AS list, m.email, f.fields ->> 'FNAME' AS first_name, f.fields ->> 'LNAME' AS last_name,
	m.status, m.mailchimp_id AS member_id, s.source, c.contact_key
FROM mailchimp_sync.member m
JOIN mailchimp_sync.audience a USING (audience_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.list l USING (connection, list_id)
CROSS JOIN LATERAL (SELECT coalesce(CASE WHEN a.direction <> 'push' THEN m.read_fields END, m.shown_fields, m.sent_fields) AS fields) f
-- the contact that is this member, else the one that has the address, else the row that it came into
LEFT JOIN LATERAL (SELECT v.source_id, v.contact_key FROM (
		SELECT 1 AS rank, o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = m.audience_id AND o.member_hash = m.email_hash
		UNION ALL
		SELECT 2, o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = m.audience_id AND o.email_hash = m.email_hash AND o.state <> 'conflict'
		UNION ALL
		SELECT 3, m.inbound_source_id, m.inbound_key WHERE m.inbound_source_id IS NOT NULL) v
	ORDER BY v.rank, v.source_id, v.contact_key LIMIT 1) c ON true
LEFT JOIN mailchimp_sync.source s USING (source_id)
WHERE m.status IN ('subscribed', 'unsubscribed', 'cleaned', 'pending', 'transactional') AND m.email <> '';
COMMENT ON VIEW @extschema@.mc_list_member IS
	'who is in the lists of the audiences, with the contact that each member is; all of them where the direction is pull or both';
