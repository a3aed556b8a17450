/*
 * read.sql: what members did outside of campaigns, the kind of work "read".
 *
 * Every audience is asked once in read_every which of its members changed since
 * the last time (API 3.0: since_ leaves its own second out, archived members are in a
 * walk of their own). Their status is kept and evaluated anew; who unsubscribed joins the
 * opt-out group where the audience says so (D11).
 * Members that neither we nor a contact of the audience know are left alone (D15, R79), where Mailchimp's members are not
 * to come into the CRM; where they are, everything that is shown is kept, and all of them are read now and then (pull.sql).
 *
 * Instants are Mailchimp's own: a read begins where the changes that were shown last end, not where
 * our clock, which may be hours off, says that it asked. Of ours only the time that passed counts. Well
 * before that, in fact: a row that changed while the pages were read, one that Mailchimp shows late, and one that was left out
 * because a request of ours was under way are read once more, until nothing new was shown for
 * a while. A walk goes by the instants of the rows, since rows that change meanwhile move to its end and
 * the others would move up; only where more than a page changed in one second by their number.
 *
 * Archiving hides what a member was: who has unsubscribed, was cleaned, or archived by somebody else is
 * not to be told apart afterwards from who was subscribed until we archived it, and would be subscribed when it
 * comes back. So whoever is to leave, and whoever comes back from the archive, rests (contact.next_attempt_at is
 * infinity) until a read that began after that was decided has come to its end, a minute ago at most. While a batch archives
 * (batch.sql) there is a read every minute.
 */

-- a read under way; not dumped, it begins anew after a restore
CREATE TABLE mailchimp_sync.reading (
	audience_id		integer NOT NULL,
	since			timestamptz NOT NULL,
	whole			boolean NOT NULL,			-- all members, beside one of what changed (pull.sql)
	begun_at		timestamptz NOT NULL,		-- by our clock
	archived		boolean NOT NULL DEFAULT false,		-- the second walk
	page_since		timestamptz NOT NULL,
	page_offset		bigint NOT NULL DEFAULT 0,
	newest			timestamptz,				-- the last change that was shown
	rows_read		bigint NOT NULL DEFAULT 0,
	failures		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz,
	PRIMARY KEY (audience_id, whole)
);

-- contacts that rest until the statuses are read; what is under way to their addresses would leave them out
CREATE FUNCTION mailchimp_sync.resting_unread(_audience_id integer, _limit integer) RETURNS SETOF mailchimp_sync.contact
LANGUAGE plpgsql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT c.* FROM mailchimp_sync.audience_source x
	CROSS JOIN (VALUES ('leave'), ('subscribe'), ('push')) AS q(queue)
	CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.queue = q.queue AND o.source_id = x.source_id
			AND coalesce(o.next_attempt_at, '-infinity') = 'infinity'
			AND coalesce(o.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id), true)
			AND coalesce(o.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id), true)
		LIMIT _limit) AS c
	WHERE x.audience_id = _audience_id
	UNION ALL
	(SELECT o.* FROM mailchimp_sync.contact o
	WHERE o.audience_id = _audience_id AND o.action = 'rename' AND o.next_attempt_at = 'infinity'
		AND o.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
		AND o.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
	LIMIT _limit);
END
$$;

/*
 * A step of the engine: who could leave for a while already, and has not, is read once more. It has no due of its
 * own: whom it looks for is due as a leave (leave_due, batch_due), which wakes the engine, and its steps come before its requests.
 */
CREATE FUNCTION mailchimp_sync.reread() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH unread AS MATERIALIZED (	-- the guard is asked once, not for each contact
		SELECT a.audience_id FROM mailchimp_sync.audience a
		WHERE NOT mailchimp_sync.is_read(a) AND NOT mailchimp_sync.guard_holds(a.audience_id, 'leave')
	)
	UPDATE mailchimp_sync.contact c SET next_attempt_at = 'infinity'
	FROM unread a
	JOIN mailchimp_sync.audience_source x USING (audience_id)
	CROSS JOIN LATERAL (SELECT o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = a.audience_id AND o.queue = 'leave' AND o.source_id = x.source_id
			AND coalesce(o.next_attempt_at, '-infinity') <= mailchimp_sync.clock() OFFSET 0) AS l
	WHERE c.audience_id = a.audience_id AND c.source_id = x.source_id AND c.contact_key = l.contact_key;
	RETURN 0;
END
$$;

CREATE FUNCTION mailchimp_sync.reread_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT NULL::timestamptz
$$;

CREATE VIEW mailchimp_sync.read_ready AS
SELECT a.connection, a.audience_id, a.list_id, false AS whole, greatest(a.next_attempt_at, CASE
		WHEN r.audience_id IS NOT NULL THEN coalesce(r.next_attempt_at, mailchimp_sync.clock())
		WHEN a.read_asked_at IS NOT NULL THEN mailchimp_sync.clock()
		-- a copy has to know who has left meanwhile before it sends anything
		WHEN a.read_at IS NULL AND a.active_since < (SELECT h.stamped_at FROM mailchimp_sync.home h)
			THEN mailchimp_sync.clock()
		WHEN EXISTS (SELECT FROM mailchimp_sync.resting_unread(a.audience_id, 1)) THEN mailchimp_sync.clock()
		ELSE least(coalesce(a.read_at, a.active_since) + least(a.read_every,
			CASE WHEN EXISTS (SELECT FROM mailchimp_sync.batch b WHERE (b.connection, b.list_id) = (a.connection, a.list_id)
				AND b.phase IN ('seek', 'look')) THEN interval '1 minute' END),
			mailchimp_sync.hinted_at(a.audience_id, a.read_begun_at, a.read_at)) END) AS at
FROM mailchimp_sync.audience a
LEFT JOIN mailchimp_sync.reading r ON r.audience_id = a.audience_id AND NOT r.whole
WHERE a.active_since IS NOT NULL AND NOT a.paused
	AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
		WHERE f.kind = 'read' AND f.audience_id = a.audience_id AND f.phase = 'members')
UNION ALL
SELECT a.connection, a.audience_id, a.list_id, true, greatest(a.next_attempt_at, CASE
		WHEN r.audience_id IS NOT NULL THEN coalesce(r.next_attempt_at, mailchimp_sync.clock())
		ELSE coalesce(a.walk_asked_at, a.walked_at + a.every, mailchimp_sync.clock()) END)
FROM mailchimp_sync.audience a
LEFT JOIN mailchimp_sync.reading r ON r.audience_id = a.audience_id AND r.whole
WHERE a.direction <> 'push' AND a.active_since IS NOT NULL AND NOT a.paused
	AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
		WHERE f.kind = 'read' AND f.audience_id = a.audience_id AND f.phase = 'walk');

CREATE FUNCTION mailchimp_sync.read_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ready	mailchimp_sync.read_ready;
BEGIN
	SELECT * INTO _ready FROM mailchimp_sync.read_ready r
	WHERE r.connection = _connection AND r.at <= mailchimp_sync.clock()
	ORDER BY r.at, r.audience_id LIMIT 1;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	PERFORM mailchimp_sync.read_begin(_ready.audience_id, _ready.whole);
	RETURN QUERY
	SELECT _connection, 'GET', format('/lists/%s/members?since_last_changed=%s%s&sort_field=last_changed'
			'&sort_dir=ASC&count=%s&offset=%s&fields=members.id,members.email_address,members.status,members.contact_id,'
			'members.unsubscribe_reason,members.last_changed%s', _ready.list_id, mailchimp_sync.query_instant(r.page_since),
			CASE WHEN r.archived THEN '&status=archived' END, mailchimp_sync.page_size(), r.page_offset,
			CASE WHEN a.direction <> 'push' THEN ',members.merge_fields' END),
		NULL::text, false, r.audience_id, NULL::bigint, CASE WHEN r.whole THEN 'walk' ELSE 'members' END, NULL::integer[],
		NULL::text[], NULL::text[], NULL::bigint[], NULL::bytea[]
	FROM mailchimp_sync.reading r
	JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE r.audience_id = _ready.audience_id AND r.whole = _ready.whole;
END
$$;

-- if none is under way; who asks from now on asks for another
CREATE FUNCTION mailchimp_sync.read_begin(_audience_id integer, _whole boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.reading r WHERE r.audience_id = _audience_id AND r.whole = _whole) THEN
		RETURN;
	END IF;
	INSERT INTO mailchimp_sync.reading (audience_id, whole, since, begun_at, page_since)
	SELECT a.audience_id, _whole, x.since, mailchimp_sync.clock(), x.since
	FROM mailchimp_sync.audience a
	CROSS JOIN LATERAL (SELECT CASE WHEN _whole THEN '1970-01-01 00:00:00Z'::timestamptz
		-- before anything was shown: no clock is a day off
		ELSE coalesce(a.read_since, a.active_since - interval '1 day') END AS since) x
	WHERE a.audience_id = _audience_id;
	IF NOT _whole THEN
		PERFORM mailchimp_sync.take_hints(_audience_id);
	END IF;
	UPDATE mailchimp_sync.audience a SET read_asked_at = CASE WHEN _whole THEN a.read_asked_at END,
		walk_asked_at = CASE WHEN NOT _whole THEN a.walk_asked_at END
	WHERE a.audience_id = _audience_id AND CASE WHEN _whole THEN a.walk_asked_at ELSE a.read_asked_at END IS NOT NULL;
END
$$;

CREATE FUNCTION mailchimp_sync.read_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(r.at) FROM mailchimp_sync.usable_connection u JOIN mailchimp_sync.read_ready r USING (connection));
END
$$;

CREATE FUNCTION mailchimp_sync.read_rests(_audience_id integer, _whole boolean, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH resting AS (
		UPDATE mailchimp_sync.reading r SET failures = r.failures + 1,
			next_attempt_at = greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(r.failures + 1))
		WHERE r.audience_id = _audience_id AND r.whole = _whole
		RETURNING r.*
	)
	SELECT mailchimp_sync.note_failure('pull', a.connection, _title, _detail, r.next_attempt_at, r.audience_id,
		_attempts => r.failures)
	FROM resting r JOIN mailchimp_sync.audience a USING (audience_id);

	-- where it is not the whole audience's failure, or the connection's
	SELECT mailchimp_sync.signal('sync_failed', a.connection, a.audience_id, NULL,
		jsonb_build_object('reason', concat_ws(': ', _title, _detail)))
	FROM mailchimp_sync.reading r
	JOIN mailchimp_sync.audience a USING (audience_id)
	JOIN mailchimp_sync.connection c USING (connection)
	JOIN mailchimp_sync.failure f ON f.work = 'pull' AND f.audience_id = r.audience_id AND f.contact_key = ''
	WHERE r.audience_id = _audience_id AND r.whole = _whole AND r.failures >= mailchimp_sync.failing_for_long() AND a.failures = 0 AND c.failures = 0
		AND NOT EXISTS (SELECT FROM mailchimp_sync.signal s
			WHERE s.kind = 'sync_failed' AND s.audience_id = r.audience_id AND s.at >= f.first_failed_at);
$$;

CREATE FUNCTION mailchimp_sync.read_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.read_rests(f.audience_id, f.phase = 'walk', coalesce(_title, _outcome), _detail, _retry_at)
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id
$$;

-- 404: the list is gone or not ours
CREATE FUNCTION mailchimp_sync.read_refused(_audience_id integer, _whole boolean, _status integer, _title text, _detail text)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.audience_failed(_audience_id, concat_ws(': ', _title, _detail)) WHERE _status = 404;
	SELECT mailchimp_sync.read_rests(_audience_id, _whole, _title, _detail, NULL);
$$;

-- somebody of whom a page tells news
CREATE TYPE mailchimp_sync.seen_member AS (
	email_hash		text,
	old_status		text,		-- null: not known until now
	status			text,
	reason			text,
	changed_at		timestamptz,
	is_status		boolean,	-- the status is news
	old_fields		jsonb,
	fields			jsonb,
	is_moved		boolean		-- was known under another address
);

/*
 * A page of members: those that we know get the status that is shown, and where they are to come into the CRM (_pulls)
 * everybody does, with address and fields. Not where a request of ours to the address is or was under way since the
 * page was asked for, nor where we know a later change. A batch takes its time, and whoever unsubscribes meanwhile is
 * heard: of those that it carries only the archived ones are left out. Returns those of whom something is news,
 * _moved: that they have another address now.
 */
CREATE FUNCTION mailchimp_sync.store_statuses(_audience_id integer, _pulls boolean, _asked_at timestamptz, _ids text[],
	_emails text[], _statuses text[], _contact_ids text[], _reasons text[], _last_changed text[], _fields text[], _moved text[],
	OUT email_hash text, OUT old_status text, OUT status text, OUT reason text, OUT changed_at timestamptz,
	OUT is_status boolean, OUT old_fields jsonb, OUT fields jsonb, OUT is_moved boolean)
RETURNS SETOF record
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off		-- see activity.sql
SET enable_mergejoin = off
AS $$
	WITH shown AS (
		SELECT DISTINCT ON (1) lower(u.id) COLLATE "C" AS email_hash, u.email, u.status, u.contact_id,
			nullif(u.reason, '') AS reason, mailchimp_sync.instant(u.last_changed) AS last_changed,
			CASE WHEN _pulls AND starts_with(u.fields, '{') THEN u.fields::jsonb END AS fields
		FROM unnest(_ids, _emails, _statuses, _contact_ids, _reasons, _last_changed, _fields)
			AS u(id, email, status, contact_id, reason, last_changed, fields)
		WHERE u.status IN ('subscribed', 'unsubscribed', 'cleaned', 'pending', 'transactional', 'archived')
	), known AS (
		-- of who was archived by us: what it was until then
		SELECT s.*, m.status AS old_status, CASE WHEN m.status = 'archived' AND m.archived_by_us THEN m.status_before
			ELSE m.status END AS last_status, m.read_fields AS old_fields
		FROM shown s
		LEFT JOIN mailchimp_sync.member m ON m.audience_id = _audience_id AND m.email_hash = s.email_hash
		WHERE (m.email_hash IS NOT NULL OR _pulls OR EXISTS (SELECT FROM mailchimp_sync.contact c
				WHERE c.audience_id = _audience_id AND c.email_hash = s.email_hash))
			AND coalesce(m.read_at <= _asked_at, true) AND coalesce(m.last_changed <= s.last_changed, true)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = s.email_hash)
			-- known under another address, to which or from which it could not move (pull.sql)
			AND NOT (_pulls AND EXISTS (SELECT FROM mailchimp_sync.member o
				WHERE o.audience_id = _audience_id AND o.mailchimp_id = s.contact_id AND o.read_fields IS NOT NULL
					AND o.email_hash <> s.email_hash))
			-- NOT IN: hashed once
			AND s.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b
				WHERE b.audience_id = _audience_id AND b.kind <> 'batch')
			AND (s.status <> 'archived' OR s.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.batch_address b
				WHERE b.audience_id = _audience_id))
	), stored AS (
		INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, ours, mailchimp_id, unsubscribe_reason,
			last_changed, read_fields, read_at, inbound_at)
		SELECT _audience_id, k.email_hash, k.email, k.status, false, k.contact_id, k.reason, k.last_changed, k.fields, _asked_at,
			(SELECT mailchimp_sync.inbound_now(_audience_id))
		FROM known k
		ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status,
			email = CASE WHEN _pulls THEN excluded.email ELSE m.email END,
			-- a report says it better (activity.sql)
			unsubscribed_at = CASE WHEN excluded.status <> 'unsubscribed' OR m.status = 'unsubscribed' THEN m.unsubscribed_at
				ELSE excluded.last_changed END,
			unsubscribe_reason = CASE WHEN excluded.status <> 'unsubscribed' THEN m.unsubscribe_reason
				ELSE mailchimp_sync.better_reason(CASE WHEN m.status = 'unsubscribed' THEN m.unsubscribe_reason END,
					excluded.unsubscribe_reason) END,
			mailchimp_id = coalesce(excluded.mailchimp_id, m.mailchimp_id),
			-- where nothing else has changed that was a request of ours: who changed it last is weighed by this (conflict.sql)
			last_changed = CASE WHEN m.last_changed IS NOT NULL AND excluded.status = m.status AND excluded.status <> 'archived'
					AND excluded.read_fields = m.read_fields THEN m.last_changed
				ELSE coalesce(excluded.last_changed, m.last_changed) END, read_at = excluded.read_at,
			read_fields = coalesce(excluded.read_fields, m.read_fields),
			-- archived once more: somebody had it out of the archive meanwhile, and nobody knows as what
			archived_by_us = m.archived_by_us AND excluded.status = 'archived'
				AND coalesce(excluded.last_changed <= m.last_changed, true),
			status_before = CASE WHEN excluded.status = 'archived' OR excluded.status = 'unsubscribed'
				AND mailchimp_sync.is_unsubscribed_by_us(m) THEN m.status_before END
	)
	SELECT k.email_hash, k.last_status, k.status, k.reason, k.last_changed, k.old_status IS DISTINCT FROM k.status,
		k.old_fields, k.fields, k.email_hash = ANY (_moved)
	FROM known k WHERE k.old_status IS DISTINCT FROM k.status OR k.old_fields IS DISTINCT FROM coalesce(k.fields, k.old_fields)
		OR k.email_hash = ANY (_moved)
$$;

CREATE FUNCTION mailchimp_sync.read_seen(_audience_id integer, _whole boolean, _asked_at timestamptz, _ids text[],
	_emails text[], _statuses text[], _contact_ids text[], _reasons text[], _last_changed text[], _fields text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.members_shown(_audience_id, _whole, _asked_at, _ids, _emails, _statuses, _contact_ids, _reasons,
		_last_changed, _fields);
	PERFORM mailchimp_sync.read_page_done(_audience_id, _whole, cardinality(_ids),
		(SELECT max(x.at) FROM unnest(_last_changed) AS u(last_changed)
			CROSS JOIN LATERAL mailchimp_sync.instant(u.last_changed) AS x(at)
			-- nothing that nobody can have seen yet: no clock is a day off
			WHERE x.at < mailchimp_sync.clock() + interval '1 day'));
END
$$;

-- stores what Mailchimp shows of members, and tells who it concerns
CREATE FUNCTION mailchimp_sync.members_shown(_audience_id integer, _whole boolean, _asked_at timestamptz, _ids text[],
	_emails text[], _statuses text[], _contact_ids text[], _reasons text[], _last_changed text[], _fields text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_a		mailchimp_sync.audience;
	_moved	text[] := '{}';
	_seen	mailchimp_sync.seen_member[];
	_hashes	text[];
	_news	text[];
BEGIN
	SELECT * INTO _a FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id;
	IF _a.direction <> 'push' THEN
		_moved := mailchimp_sync.follow_moves(_audience_id, _asked_at, _ids, _emails, _contact_ids, _last_changed);
	END IF;
	SELECT array_agg(ROW(s.*)::mailchimp_sync.seen_member) INTO _seen
	FROM mailchimp_sync.store_statuses(_audience_id, _a.direction <> 'push', _asked_at, _ids, _emails, _statuses, _contact_ids,
		_reasons, _last_changed, _fields, _moved) s;
	IF _whole THEN
		PERFORM mailchimp_sync.left_out(_audience_id, _asked_at, _ids, _contact_ids);
		PERFORM mailchimp_sync.keep_statistics();
	END IF;
	PERFORM mailchimp_sync.opt_outs_explained(_ids, _reasons);
	SELECT array_agg(s.email_hash), array_agg(s.status) INTO _hashes, _news FROM unnest(_seen) s WHERE s.is_status;
	IF _a.direction <> 'push' AND _seen IS NOT NULL THEN
		PERFORM mailchimp_sync.signal_pulled(_a, _seen);
	END IF;
	IF _hashes IS NOT NULL THEN
		PERFORM mailchimp_sync.statuses_changed(_audience_id, _seen);
		PERFORM mailchimp_sync.members_seen(_audience_id, _hashes, _news);
	END IF;
	SELECT array_agg(s.email_hash) INTO _hashes FROM unnest(_seen) s;
	IF _hashes IS NOT NULL AND _a.direction = 'both' THEN
		PERFORM mailchimp_sync.pushes_landed(_audience_id, _hashes);
	END IF;
	IF _hashes IS NOT NULL THEN
		INSERT INTO mailchimp_sync.event (source_id, contact_key)
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience_id AND c.email_hash = ANY (_hashes)
		UNION
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience_id AND c.member_hash = ANY (_hashes)
		UNION
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience_id AND c.left_hash = ANY (_hashes);
	END IF;
END
$$;

-- whose status is news: those who are to hear of it do, and who unsubscribed joins the opt-out group
CREATE FUNCTION mailchimp_sync.statuses_changed(_audience_id integer, _seen mailchimp_sync.seen_member[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.signal_statuses(_audience_id, array_agg(s.email_hash), array_agg(s.old_status), array_agg(s.status),
		array_agg(s.reason), array_agg(s.changed_at))
	FROM unnest(_seen) s WHERE s.is_status;

	-- contacts that were not pushed yet, too, those that left and have another address by now, and who was brought into the CRM
	SELECT mailchimp_sync.opt_out_add(c.source_id, c.contact_key, (m.member).email, 'mailchimp', s.reason, 'Mailchimp')
	FROM unnest(_seen) s
	JOIN mailchimp_sync.audience a ON a.audience_id = _audience_id AND a.on_unsubscribe = 'opt_out'
	-- OFFSET: a lookup each, whatever the planner knows of the table
	CROSS JOIN LATERAL (SELECT o AS member FROM mailchimp_sync.member o
		WHERE o.audience_id = _audience_id AND o.email_hash = s.email_hash OFFSET 0) m
	JOIN LATERAL (
		SELECT o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.email_hash = s.email_hash AND o.state <> 'conflict'
		UNION
		SELECT o.source_id, o.contact_key FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.left_hash = s.email_hash
		UNION
		SELECT (m.member).inbound_source_id, (m.member).inbound_key WHERE (m.member).inbound_source_id IS NOT NULL) AS c ON true
	WHERE s.is_status AND s.status = 'unsubscribed' AND NOT mailchimp_sync.is_unsubscribed_by_us(m.member)
		AND NOT mailchimp_sync.is_opted_out(c.source_id, c.contact_key, NULL);
$$;

-- a short page ends a walk; the second walk ends the read
CREATE FUNCTION mailchimp_sync.read_page_done(_audience_id integer, _whole boolean, _rows integer, _newest timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_r		mailchimp_sync.reading;
	_full	boolean := _rows >= mailchimp_sync.page_size();
	_next	timestamptz := _newest - interval '1 second';
BEGIN
	UPDATE mailchimp_sync.reading r SET newest = greatest(r.newest, _newest), rows_read = r.rows_read + _rows,
		failures = 0, next_attempt_at = NULL
	WHERE r.audience_id = _audience_id AND r.whole = _whole RETURNING * INTO _r;
	IF _full THEN
		UPDATE mailchimp_sync.reading r SET page_since = greatest(r.page_since, _next),
			page_offset = CASE WHEN _next > r.page_since THEN 0 ELSE r.page_offset + mailchimp_sync.page_size() END
		WHERE r.audience_id = _audience_id AND r.whole = _whole;
	ELSIF NOT _r.archived THEN
		UPDATE mailchimp_sync.reading r SET archived = true, page_since = r.since, page_offset = 0
		WHERE r.audience_id = _audience_id AND r.whole = _whole;
	ELSIF _whole THEN
		PERFORM mailchimp_sync.walk_done(_r);
	ELSE
		PERFORM mailchimp_sync.read_done(_r);
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.read_over(_r mailchimp_sync.reading) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.reading r WHERE r.audience_id = _r.audience_id AND r.whole = _r.whole;
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'pull' AND f.audience_id = _r.audience_id AND f.contact_key = ''
		AND NOT EXISTS (SELECT FROM mailchimp_sync.reading r WHERE r.audience_id = _r.audience_id AND r.failures > 0);
	SELECT mailchimp_sync.audience_works(_r.audience_id);
$$;

/*
 * Something new was shown: all that had changed before the read began is known, and the next one looks at the
 * time since then again, and at ten minutes more. Nothing new, ten minutes after the last: nothing before that will come.
 */
CREATE FUNCTION mailchimp_sync.read_done(_r mailchimp_sync.reading) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.audience a SET read_at = mailchimp_sync.clock(), read_begun_at = _r.begun_at,
		read_mark = greatest(a.read_mark, _r.newest),
		read_mark_at = CASE WHEN n.is_news THEN mailchimp_sync.clock() ELSE a.read_mark_at END,
		read_since = CASE
			WHEN n.is_news THEN _r.newest - interval '10 minutes' - greatest(mailchimp_sync.clock() - _r.begun_at, '0')
			WHEN _r.begun_at >= a.read_mark_at + interval '10 minutes' THEN a.read_mark
			ELSE a.read_since END
	FROM (SELECT coalesce(_r.newest > x.read_mark, _r.newest IS NOT NULL) AS is_news
		FROM mailchimp_sync.audience x WHERE x.audience_id = _r.audience_id) n
	WHERE a.audience_id = _r.audience_id;
	UPDATE mailchimp_sync.contact c SET next_attempt_at = NULL
	FROM mailchimp_sync.resting_unread(_r.audience_id, NULL) u
	WHERE c.audience_id = _r.audience_id AND c.source_id = u.source_id AND c.contact_key = u.contact_key
		AND c.changed_at < _r.begun_at;
	SELECT mailchimp_sync.read_over(_r);
$$;
