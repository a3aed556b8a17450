/*
 * guard.sql: nobody empties or floods a list by mistake (N6).
 *
 * Of each audience that is switched on, and of removals ("leave") and new
 * subscriptions ("subscribe") apart: when those that wait, and those done in the
 * last 24 hours, are together more than 50 and more than a fifth of the members
 * that the audience had 24 hours ago, all that wait are held until mc_approve, or until
 * they are fewer. Everything else goes on. Whom somebody put in by hand, or by a
 * campaign, is neither counted nor held (contact.queue), and opt-outs go another
 * way (carry.sql).
 *
 * What mc_approve approved is a number: as many go, and more than that many are held
 * again; once none is left it is written off and counting starts anew. The
 * first fill is approved by switching the audience on, until the first comparison has
 * come to its end and nobody waits any more.
 *
 * Two lines of defence. The step guard() stops an audience; it looks before any
 * request starts, but only at what was evaluated by then, and a mass change is
 * evaluated page by page. So KIND_next() takes no more than guard_room() allows:
 * what is done, what is under way and what starts now never exceed the limit.
 *
 * Only the engine writes "guard" and "guard_done"; people insert approvals, so that
 * nobody's open transaction is in its way.
 */
CREATE TABLE mailchimp_sync.guard (
	audience_id		integer NOT NULL,
	kind			text NOT NULL CHECK (kind IN ('subscribe', 'leave')),
	-- the first fill: nothing is held
	filling			boolean NOT NULL,
	-- how many wait: counted when it matters, in between never fewer than there are
	waiting			bigint NOT NULL DEFAULT 0,
	-- our members 24 hours ago, and when that was found out; null: before it mattered
	base			bigint,
	base_at			timestamptz,
	-- how many more may go because they were approved; null: nothing is approved
	approved		bigint,
	-- since when they are held, how many there were at the last count, and why; null: they go
	stopped_at		timestamptz,
	stopped			bigint,
	detail			text,
	-- to be looked at from then on; while they are held not again before
	check_at		timestamptz,
	check_after		timestamptz NOT NULL DEFAULT '-infinity',
	PRIMARY KEY (audience_id, kind)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.guard', '');

-- what was done and is not written off
CREATE TABLE mailchimp_sync.guard_done (
	audience_id		integer NOT NULL,
	kind			text NOT NULL,
	minute			timestamptz NOT NULL,
	done			bigint NOT NULL,
	PRIMARY KEY (audience_id, kind, minute)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.guard_done', '');

-- approvals that the engine has not seen yet: how many were shown to who approved
CREATE TABLE mailchimp_sync.guard_approval (
	audience_id		integer NOT NULL,
	kind			text NOT NULL,
	approved		bigint NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.guard_approval', '');

-- what is held, for people: an approval that the engine has not seen yet counts
CREATE VIEW mailchimp_sync.guard_stop AS
SELECT g.audience_id, g.kind, g.stopped_at, g.stopped, g.detail
FROM mailchimp_sync.guard g
WHERE g.stopped_at IS NOT NULL
	AND NOT EXISTS (SELECT FROM mailchimp_sync.guard_approval a
		WHERE a.audience_id = g.audience_id AND a.kind = g.kind AND a.approved >= g.stopped);

/* ---- the arithmetic ---- */

-- the most that are done within 24 hours without anybody's approval
CREATE FUNCTION mailchimp_sync.guard_limit(_base bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN greatest(50, coalesce(_base, 0) / 5);
END
$$;

-- minutes that have begun count in full
CREATE FUNCTION mailchimp_sync.guard_span() RETURNS interval
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT interval '24 hours 1 minute'
$$;

CREATE FUNCTION mailchimp_sync.guard_done(_audience_id integer, _kind text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT coalesce(sum(d.done), 0)::bigint FROM mailchimp_sync.guard_done d
		WHERE d.audience_id = _audience_id AND d.kind = _kind
			AND d.minute > mailchimp_sync.clock() - mailchimp_sync.guard_span());
END
$$;

-- those that are there now, without those who came and with those who went since then
CREATE FUNCTION mailchimp_sync.guard_base(_audience_id integer) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN greatest(0, (SELECT count(*) FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.ours AND m.status IN ('subscribed', 'pending'))
		- mailchimp_sync.guard_done(_audience_id, 'subscribe') + mailchimp_sync.guard_done(_audience_id, 'leave'));
END
$$;

-- how many wait that the guard has a say in
CREATE FUNCTION mailchimp_sync.guard_waiting(_audience_id integer, _kind text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off		-- by the index of the queue, whatever the statistics say
AS $$
BEGIN
	RETURN (SELECT count(*) FROM mailchimp_sync.contact c WHERE c.audience_id = _audience_id AND c.queue = _kind);
END
$$;

-- is there one among them that was not tried in vain?
CREATE FUNCTION mailchimp_sync.guard_goes_on(_audience_id integer, _kind text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off		-- by the index of the queue, whatever the statistics say
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience_id AND c.queue = _kind AND c.attempts = 0);
END
$$;

/* ---- what others tell and ask ---- */

-- an audience was switched on
CREATE FUNCTION mailchimp_sync.guard_begin(_audience_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.guard (audience_id, kind, filling)
	SELECT _audience_id, k.kind, k.kind = 'subscribe' FROM (VALUES ('subscribe'), ('leave')) AS k(kind)
	ON CONFLICT DO NOTHING
$$;

CREATE FUNCTION mailchimp_sync.guard_forget(_audience_ids integer[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.guard WHERE audience_id = ANY (_audience_ids);
	DELETE FROM mailchimp_sync.guard_done WHERE audience_id = ANY (_audience_ids);
	DELETE FROM mailchimp_sync.guard_approval WHERE audience_id = ANY (_audience_ids);
$$;

/*
 * So many were done, of which so many had been waiting. What is approved is taken from the approval, and the first
 * fill is not counted.
 */
CREATE FUNCTION mailchimp_sync.guard_went(_audience_id integer, _kind text, _done bigint, _waited bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.guard_done AS d (audience_id, kind, minute, done)
	SELECT g.audience_id, g.kind, date_trunc('minute', mailchimp_sync.clock()), _done
	FROM mailchimp_sync.guard g
	WHERE g.audience_id = _audience_id AND g.kind = _kind AND _done > 0 AND NOT g.filling AND g.approved IS NULL
	ON CONFLICT (audience_id, kind, minute) DO UPDATE SET done = d.done + excluded.done;

	UPDATE mailchimp_sync.guard g SET waiting = greatest(0, g.waiting - _waited),
		approved = CASE WHEN g.approved > _done THEN g.approved - _done WHEN g.approved IS NOT NULL THEN 0 END,
		check_at = greatest(mailchimp_sync.clock(), g.check_after)
	WHERE g.audience_id = _audience_id AND g.kind = _kind AND (_done > 0 OR _waited > 0)
$$;

/*
 * How many may be asked for now, besides those under way. Of pushes these are
 * looked at one by one only where it matters.
 */
CREATE FUNCTION mailchimp_sync.guard_room(_audience_id integer, _kind text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_g		mailchimp_sync.guard;
	_room	bigint;
	_under_way	bigint;
BEGIN
	SELECT * INTO _g FROM mailchimp_sync.guard g WHERE g.audience_id = _audience_id AND g.kind = _kind;
	IF _g.filling THEN
		RETURN 9223372036854775807;
	ELSIF _g.audience_id IS NULL OR _g.stopped_at IS NOT NULL THEN
		RETURN 0;
	END IF;
	_room := coalesce(_g.approved,
		mailchimp_sync.guard_limit(_g.base) - mailchimp_sync.guard_done(_audience_id, _kind));
	SELECT coalesce(sum(cardinality(f.contact_keys)), 0) INTO _under_way FROM mailchimp_sync.inflight f
	WHERE f.audience_id = _audience_id AND f.kind = CASE _kind WHEN 'subscribe' THEN 'push' ELSE _kind END;
	IF _kind = 'leave' THEN
		_under_way := _under_way + (SELECT count(*) FROM mailchimp_sync.batch_address b WHERE b.audience_id = _audience_id);
	END IF;
	IF _kind = 'subscribe' AND _room - _under_way < current_setting('mailchimp_sync.batch_size')::integer THEN
		SELECT count(DISTINCT u.email_hash) INTO _under_way
		FROM mailchimp_sync.inflight f
		CROSS JOIN LATERAL unnest(f.source_ids, f.contact_keys, f.email_hashes) AS u(source_id, contact_key, email_hash)
		LEFT JOIN mailchimp_sync.member m ON m.audience_id = _audience_id AND m.email_hash = u.email_hash
		LEFT JOIN mailchimp_sync.contact c ON c.audience_id = _audience_id AND c.source_id = u.source_id
			AND c.contact_key = u.contact_key
		WHERE f.audience_id = _audience_id AND f.kind = 'push'
			AND coalesce(m.status, 'archived') = 'archived' AND c.by_hand IS NOT TRUE;
	END IF;
	RETURN greatest(0, _room - _under_way);
END
$$;

CREATE FUNCTION mailchimp_sync.guard_holds(_audience_id integer, _kind text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN mailchimp_sync.guard_room(_audience_id, _kind) = 0;
END
$$;

/* ---- the step ---- */

/*
 * What was approved is through when as many have gone; it, and the first fill, also when nobody
 * waits any more. Those that were tried in vain and are within the limit do not keep it open.
 */
CREATE FUNCTION mailchimp_sync.guard_is_through(_g mailchimp_sync.guard) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_waiting	bigint;
	_limit		bigint;
BEGIN
	IF _g.approved = 0 THEN
		RETURN true;
	ELSIF _g.filling AND NOT EXISTS (SELECT FROM mailchimp_sync.audience a
			WHERE a.audience_id = _g.audience_id AND a.compared_at IS NOT NULL
				AND NOT EXISTS (SELECT FROM mailchimp_sync.audience_source x
					WHERE x.audience_id = a.audience_id AND x.compare_from IS NOT NULL)) THEN
		RETURN false;
	ELSIF mailchimp_sync.guard_goes_on(_g.audience_id, _g.kind) THEN
		RETURN false;
	END IF;
	_waiting := mailchimp_sync.guard_waiting(_g.audience_id, _g.kind);
	RETURN _waiting <= mailchimp_sync.guard_limit(CASE WHEN _waiting > mailchimp_sync.guard_limit(0)
		THEN mailchimp_sync.guard_base(_g.audience_id) END);
END
$$;

CREATE FUNCTION mailchimp_sync.guard_words(_kind text, _stopped bigint, _done bigint, _base bigint, _approved bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('the mass-change guard holds %s %s: ', _stopped,
			CASE _kind WHEN 'leave' THEN 'removals' ELSE 'new subscriptions' END)
		|| CASE WHEN _approved IS NOT NULL THEN format('of those that were approved %s are left', _approved)
			ELSE format('with the %s of the last 24 hours they are more than %s, the limit for %s members', _done,
				mailchimp_sync.guard_limit(_base), _base) END
$$;

/*
 * One audience, one kind. Counting takes long where many wait, so it is done when more than
 * allowed may be waiting, and of those that are held no more often than its share of the time.
 */
CREATE FUNCTION mailchimp_sync.guard_look(_g mailchimp_sync.guard) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_now		timestamptz := mailchimp_sync.clock();
	_done		bigint := mailchimp_sync.guard_done(_g.audience_id, _g.kind);
	_allowed	bigint;
BEGIN
	IF (_g.filling OR _g.approved IS NOT NULL) AND mailchimp_sync.guard_is_through(_g) THEN
		_g.filling := false;
		_g.approved := NULL;
		_g.base_at := NULL;
		UPDATE mailchimp_sync.guard g SET base_at = NULL WHERE g.audience_id = _g.audience_id AND g.kind <> _g.kind;
	END IF;
	IF _g.filling THEN
		UPDATE mailchimp_sync.guard g SET check_at = NULL
		WHERE g.audience_id = _g.audience_id AND g.kind = _g.kind AND g.check_at IS NOT NULL;
		RETURN;
	END IF;
	IF _g.approved IS NULL AND _g.waiting + _done > mailchimp_sync.guard_limit(0)
		AND coalesce(_now NOT BETWEEN _g.base_at AND _g.base_at + interval '1 hour', true) THEN
		_g.base := mailchimp_sync.guard_base(_g.audience_id);
		_g.base_at := _now;
	END IF;
	_allowed := coalesce(_g.approved, mailchimp_sync.guard_limit(_g.base) - _done);
	IF _g.waiting > _allowed THEN
		_g.waiting := mailchimp_sync.guard_waiting(_g.audience_id, _g.kind);
	END IF;
	IF _g.waiting > _allowed THEN
		_g.stopped := _g.waiting;
		_g.detail := mailchimp_sync.guard_words(_g.kind, _g.stopped, _done, _g.base, _g.approved);
		IF _g.stopped_at IS NULL THEN
			_g.stopped_at := _now;
			PERFORM mailchimp_sync.signal('guard_stopped', a.connection, a.audience_id, NULL,
				jsonb_build_object('action', _g.kind, 'held', _g.stopped, 'reason', _g.detail))
			FROM mailchimp_sync.audience a WHERE a.audience_id = _g.audience_id;
		END IF;
	ELSE
		_g.stopped_at := NULL;
		_g.stopped := NULL;
		_g.detail := NULL;
	END IF;
	UPDATE mailchimp_sync.guard g SET filling = false, waiting = _g.waiting, base = _g.base, base_at = _g.base_at,
		approved = _g.approved, stopped_at = _g.stopped_at, stopped = _g.stopped, detail = _g.detail,
		-- what was done grows old, and the base with it
		check_at = CASE WHEN _g.stopped_at IS NOT NULL THEN _now + interval '15 minutes' END,
		check_after = _now + least(interval '4 seconds', coalesce(_g.stopped, 0) * interval '10 microseconds')
	WHERE g.audience_id = _g.audience_id AND g.kind = _g.kind;
END
$$;

-- approvals count for what is held; what was done before is written off with them
CREATE FUNCTION mailchimp_sync.guard_approve() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH given AS (
		DELETE FROM mailchimp_sync.guard_approval RETURNING *
	), taken AS (
		UPDATE mailchimp_sync.guard g SET approved = a.approved, check_at = mailchimp_sync.clock()
		FROM (SELECT x.audience_id, x.kind, max(x.approved) AS approved FROM given x GROUP BY 1, 2) a
		WHERE g.audience_id = a.audience_id AND g.kind = a.kind AND g.stopped_at IS NOT NULL
		RETURNING g.audience_id, g.kind
	)
	DELETE FROM mailchimp_sync.guard_done d USING taken t WHERE d.audience_id = t.audience_id AND d.kind = t.kind;
END
$$;

CREATE FUNCTION mailchimp_sync.guard() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_g		mailchimp_sync.guard;
	_count	bigint := 0;
BEGIN
	PERFORM mailchimp_sync.guard_approve();
	FOR _g IN SELECT * FROM mailchimp_sync.guard g
		WHERE g.check_at <= mailchimp_sync.clock() OR g.filling ORDER BY g.audience_id, g.kind
	LOOP
		PERFORM mailchimp_sync.guard_look(_g);
		_count := _count + coalesce((_g.check_at <= mailchimp_sync.clock())::integer, 0);
	END LOOP;
	DELETE FROM mailchimp_sync.guard_done d WHERE d.minute <= mailchimp_sync.clock() - mailchimp_sync.guard_span();
	RETURN _count;
END
$$;

CREATE FUNCTION mailchimp_sync.guard_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT least((SELECT min(g.check_at) FROM mailchimp_sync.guard g),
			(SELECT mailchimp_sync.clock() FROM mailchimp_sync.guard_approval LIMIT 1)));
END
$$;

/* ---- for people ---- */

CREATE FUNCTION @extschema@.mc_approve(audience text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_approve(text) IS
	'lets go what the mass-change guard holds of an audience, as many as mc_audience shows now';

CREATE FUNCTION mailchimp_sync.mc_approve(_audience text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_id	integer := mailchimp_sync.audience_id(_audience);
BEGIN
	INSERT INTO mailchimp_sync.guard_approval (audience_id, kind, approved)
	SELECT g.audience_id, g.kind, g.stopped FROM mailchimp_sync.guard_stop g WHERE g.audience_id = _id;
	IF NOT FOUND THEN
		RAISE NOTICE 'the mass-change guard holds nothing of audience "%"', _audience;
	END IF;
	PERFORM mailchimp_sync.wake();
END
$$;
