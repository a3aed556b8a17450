/*
 * push.sql: contacts go to Mailchimp, up to 500 in one request (rule 5).
 *
 * POST /lists/{list_id} with update_existing: new addresses get status_if_new,
 * so nobody who left is subscribed again (D10). What comes back is in push_answer.sql.
 */

-- addresses that a push has to wait for: under way, or of a leave or batch that may still archive them
CREATE VIEW mailchimp_sync.push_busy AS
SELECT b.audience_id, b.email_hash FROM mailchimp_sync.busy b WHERE NOT b.is_ghost OR b.kind IN ('leave', 'batch');

/*
 * Those of the keys, given in their order with the number of contacts that each may
 * travel with at most, that travel together with the first.
 */
CREATE FUNCTION mailchimp_sync.together(_keys text[], _limits integer[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT array_agg(n.key ORDER BY n.number) FROM (
			SELECT u.key, u.batch_limit, row_number() OVER (PARTITION BY u.batch_limit ORDER BY u.ordinality) AS number
			FROM unnest(_keys, _limits) WITH ORDINALITY AS u(key, batch_limit)) AS n
		WHERE n.batch_limit IS NOT DISTINCT FROM _limits[1] AND coalesce(n.number <= n.batch_limit, true));
END
$$;

/*
 * The contacts of a source that can be pushed, the longest due first: those that the guard
 * has no say in, and of the others as many as there is room for; of each no more
 * than one request takes. NOT IN is hashed once, while NOT EXISTS would look through all for each contact.
 */
CREATE FUNCTION mailchimp_sync.push_waiting(_audience_id integer, _source_id integer, _room bigint, _limit integer)
RETURNS SETOF mailchimp_sync.contact
LANGUAGE plpgsql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT w.* FROM (VALUES ('push', _limit::bigint), ('subscribe', least(_limit, _room))) AS q(queue, most)
	CROSS JOIN LATERAL (
		SELECT c.* FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience_id AND c.queue = q.queue AND c.source_id = _source_id
			AND c.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.push_busy b WHERE b.audience_id = _audience_id)
			-- who is there under that address moves away first
			AND NOT EXISTS (SELECT FROM mailchimp_sync.contact o
				WHERE o.audience_id = _audience_id AND o.member_hash = c.email_hash AND o.action = 'rename' OFFSET 0)
		ORDER BY coalesce(c.next_attempt_at, '-infinity') LIMIT q.most) AS w;
END
$$;

-- the contacts of a source that could travel together now
CREATE FUNCTION mailchimp_sync.push_ready(_audience_id integer, _source_id integer, _room bigint) RETURNS text[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		WITH ready AS MATERIALIZED (
			SELECT c.contact_key, c.batch_limit, coalesce(c.next_attempt_at, '-infinity') AS due
			FROM mailchimp_sync.push_waiting(_audience_id, _source_id, _room,
				current_setting('mailchimp_sync.batch_size')::integer) c
			WHERE coalesce(c.next_attempt_at, '-infinity') <= mailchimp_sync.clock()
			ORDER BY coalesce(c.next_attempt_at, '-infinity')
			LIMIT current_setting('mailchimp_sync.batch_size')::integer
		)
		SELECT mailchimp_sync.together(array_agg(r.contact_key ORDER BY r.due, r.contact_key),
			array_agg(r.batch_limit ORDER BY r.due, r.contact_key))
		FROM ready r);
END
$$;

-- the audiences of a connection that may send now; like all that is asked again and again of small tables it keeps its plan
CREATE FUNCTION mailchimp_sync.sending_audiences(_connection text) RETURNS SETOF mailchimp_sync.audience
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT a.* FROM mailchimp_sync.audience a
	WHERE a.connection = _connection AND a.active_since IS NOT NULL AND NOT a.paused AND mailchimp_sync.goes_out(a)
		AND (a.next_attempt_at IS NULL OR a.next_attempt_at <= mailchimp_sync.clock())
		-- of an audience older than this copy of the database the statuses have to be read first
		AND (a.read_at IS NOT NULL OR a.active_since >= (SELECT h.stamped_at FROM mailchimp_sync.home h))
	ORDER BY a.audience_id;
END
$$;

-- their sources that can be evaluated now
CREATE FUNCTION mailchimp_sync.sending_sources(_audience_id integer) RETURNS SETOF integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT s.source_id FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
	WHERE x.audience_id = _audience_id AND mailchimp_sync.source_is_usable(s)
	ORDER BY x.position;
END
$$;

CREATE FUNCTION mailchimp_sync.push_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_source_id	integer;
	_room		bigint;
	_keys		text[];
	_values		mailchimp_sync.evaluated[];
	_work		mailchimp_sync.work;
BEGIN
	FOR _audience IN SELECT * FROM mailchimp_sync.sending_audiences(_connection) LOOP
		CONTINUE WHEN EXISTS (SELECT FROM mailchimp_sync.missing_fields(_audience.audience_id));
		_room := mailchimp_sync.guard_room(_audience.audience_id, 'subscribe');
		FOR _source_id IN SELECT * FROM mailchimp_sync.sending_sources(_audience.audience_id) LOOP
			-- evaluating anew may show that none of a page is to be sent any more: then the next page
			LOOP
				_keys := mailchimp_sync.push_ready(_audience.audience_id, _source_id, _room);
				EXIT WHEN _keys IS NULL;
				_values := mailchimp_sync.fold_contacts(_source_id, _keys);
				EXIT WHEN _values IS NULL;
				IF _audience.direction = 'both' THEN
					_keys := mailchimp_sync.hold_back(_audience, _source_id, _keys);
				END IF;
				_work := mailchimp_sync.push_work(_audience, _source_id, _keys, _values, _room);
				IF _work.contact_keys IS NOT NULL THEN
					IF _audience.direction = 'both' THEN
						PERFORM mailchimp_sync.open_fields(_audience.audience_id, _work.email_hashes, _work.body);
					END IF;
					RETURN NEXT _work;
					RETURN;
				END IF;
			END LOOP;
		END LOOP;
	END LOOP;
END
$$;

-- is what was read of the members of an audience new enough to act upon?
CREATE FUNCTION mailchimp_sync.is_read(_audience mailchimp_sync.audience) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN coalesce(_audience.read_at > mailchimp_sync.clock() - interval '1 minute', false);
END
$$;

/*
 * The request for those of the keys that are still to be sent; somebody whose update turned out to be a new
 * subscription stays behind where there is no room for it. From here on
 * they may be at Mailchimp under their address: member_hash says so, and a
 * contact that leaves is looked for there. Nobody knows what is there until the
 * answer has come, so sent_hash says nothing: who goes back to the old value
 * meanwhile has to be sent again. Whoever had the address before has it no more
 * (D13). Whoever comes back after having left rests until what became of the member was read
 * (read.sql). Whoever is to confirm that (mc_opt_in) is asked. Where Mailchimp's members change the CRM, too, of one
 * who is there only what is to change is sent (conflict.sql), lest an edit that nobody has read yet be undone.
 */
CREATE FUNCTION mailchimp_sync.push_work(_audience mailchimp_sync.audience, _source_id integer, _keys text[],
	_values mailchimp_sync.evaluated[], _room bigint)
RETURNS mailchimp_sync.work
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	WITH behind AS (
		SELECT c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
			AND c.queue = 'subscribe'
		ORDER BY c.contact_key OFFSET _room
	), unread AS (
		UPDATE mailchimp_sync.contact c SET next_attempt_at = 'infinity'
		FROM mailchimp_sync.member m
		WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
			AND c.action = 'subscribe' AND m.audience_id = c.audience_id AND m.email_hash IN (c.email_hash, c.left_hash)
			AND m.archived_by_us AND m.status_before = 'subscribed'
			AND (mailchimp_sync.is_read(_audience) AND c.changed_at < _audience.read_begun_at) IS NOT TRUE
		RETURNING c.contact_key
	), travelling AS (
		UPDATE mailchimp_sync.contact c SET member_hash = c.email_hash, left_hash = NULL, sent_hash = NULL
		WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id AND c.contact_key = ANY (_keys)
			AND c.action IN ('subscribe', 'update') AND c.contact_key NOT IN (SELECT b.contact_key FROM behind b)
			AND c.contact_key NOT IN (SELECT u.contact_key FROM unread u)
		RETURNING c.*
	), met AS (
		-- whoever was another member before is to have in the CRM what Mailchimp shows of this one (inbound_write.sql)
		UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock()
		WHERE (SELECT mailchimp_sync.inbound_now(_audience.audience_id)) IS NOT NULL
			AND m.audience_id = _audience.audience_id AND m.email_hash IN (SELECT c.email_hash FROM mailchimp_sync.contact c
				WHERE c.audience_id = _audience.audience_id AND c.source_id = _source_id
					AND c.contact_key IN (SELECT t.contact_key FROM travelling t) AND coalesce(c.member_hash, c.left_hash) <> c.email_hash)
	), former AS (
		-- it may have stepped aside
		UPDATE mailchimp_sync.contact c SET member_hash = mailchimp_sync.email_hash(c.aside_email), aside_email = NULL, sent_hash = NULL
		FROM travelling t
		WHERE c.audience_id = t.audience_id AND c.member_hash = t.email_hash
			AND (c.source_id, c.contact_key) <> (t.source_id, t.contact_key)
	), chosen AS (
		SELECT c.contact_key, c.email_hash, c.version, c.desired_hash,
			CASE WHEN _audience.direction = 'both' AND c.action = 'update'
				THEN mailchimp_sync.changed_payload(_audience, _source_id, c.email_hash, mailchimp_sync.payload(v.value),
					c.open_fields, c.crm_at)
				ELSE mailchimp_sync.with_emptied(mailchimp_sync.payload(v.value), _source_id, m) END AS payload,
			m.archived_by_us AND m.status_before = 'subscribed' AS comes_back,
			EXISTS (SELECT FROM mailchimp_sync.confirmation f WHERE f.email_hash = c.email_hash) AS confirms
		FROM travelling c
		JOIN unnest(_values) v ON v.contact_key = c.contact_key
		LEFT JOIN mailchimp_sync.member m ON m.audience_id = _audience.audience_id AND m.email_hash = c.email_hash
	)
	SELECT ROW(_audience.connection, 'POST',
		format('/lists/%s?skip_merge_validation=true', _audience.list_id),
		jsonb_build_object('update_existing', true, 'members', jsonb_agg(jsonb_build_object(
			'email_address', c.payload -> 'email',
			CASE WHEN c.comes_back THEN 'status' ELSE 'status_if_new' END,
			CASE WHEN c.comes_back IS NOT TRUE AND (_audience.double_opt_in OR coalesce(l.double_optin, false) OR c.confirms)
				THEN 'pending' ELSE 'subscribed' END,
			'merge_fields', c.payload -> 'merge_fields', 'tags', c.payload -> 'tags') ORDER BY c.contact_key))::text,
		true, _audience.audience_id, NULL, 'members',
		array_agg(_source_id ORDER BY c.contact_key), array_agg(c.contact_key ORDER BY c.contact_key),
		array_agg(c.email_hash ORDER BY c.contact_key), array_agg(c.version ORDER BY c.contact_key),
		array_agg(c.desired_hash ORDER BY c.contact_key))::mailchimp_sync.work
	FROM chosen c
	LEFT JOIN mailchimp_sync.list l ON l.connection = _audience.connection AND l.list_id = _audience.list_id
	GROUP BY l.double_optin
$$;

CREATE FUNCTION mailchimp_sync.push_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(d.due, a.at))
		FROM mailchimp_sync.due_source a
		CROSS JOIN LATERAL mailchimp_sync.guard_room(a.audience_id, 'subscribe') AS room
		CROSS JOIN LATERAL (
			SELECT min(coalesce(c.next_attempt_at, '-infinity')) AS due
			FROM mailchimp_sync.push_waiting(a.audience_id, a.source_id, room, 1) c HAVING count(*) > 0) AS d);
END
$$;
