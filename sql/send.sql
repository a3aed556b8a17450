/*
 * send.sql: the way of a campaign from "prepare" to "sent", at most once (rule 6).
 *
 * The way is the table campaign_steps(). A step in the database is a function
 * step_NAME(campaign) in send_step.sql, which returns true when it is done; the engine runs one in a
 * transaction of its own. A step that asks Mailchimp is a function ask_NAME(campaign), which
 * makes the request or returns nothing where nothing is left to ask (send_ask.sql), and a function
 * that applies the answer and says where to go (send_answer.sql, table in src/campaign.c).
 *
 * Every step looks at what there is and does only what is missing, so the way
 * can be walked again from its start at any time: after a failure, after a crash,
 * for a campaign that was prepared last week.
 *
 * Races that are closed here:
 *	- Opting out while a campaign is prepared: fix_recipients() waits for every
 *	  open opt-out, and runs again in the very transaction that commits "send" as begun.
 *	- A crash or a lost answer: begun_at was committed before the request. Steps
 *	  that must not be repeated blindly (making a segment or a campaign, sending) first look at what
 *	  Mailchimp has; only if it has nothing and the old request can no longer land they begin again.
 *	- An old request that lands late: no request that changes something leaves
 *	  while another one of the campaign may still land, so that nobody who was taken out of
 *	  the segment is put back behind our back.
 *	- A copy of a database that was told to go on (mc_resume): its original may have
 *	  gone any part of the way since. Before anything else the campaign and its segment are looked for at
 *	  Mailchimp, once more when no request of the original can land any more; what was sent is adopted, what was
 *	  not is taken over, with an empty segment. The same where files were taken back to an earlier state, which
 *	  nothing in them tells: the campaign is found there before it was made.
 *	- Opting out when Mailchimp has it scheduled (schedule.sql), and what people do at Mailchimp meanwhile (adopt.sql).
 *	- People who hold rows of a campaign in an open transaction (they opted somebody out, say): the engine waits for a
 *	  second at most, and goes on with others.
 */

-- next: where to go when it is done; look: what to do first after doubt (null: repeat)
CREATE FUNCTION mailchimp_sync.campaign_steps(OUT step text, OUT is_local boolean, OUT next text, OUT look text)
RETURNS SETOF record
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	VALUES
		-- may it be sent at all
		('domain',			false,	'template',			NULL),
		('template',		false,	'target',			NULL),
		-- whom its targets take (resolve.sql)
		('target',			true,	'find_tags',		NULL),
		('find_tags',		false,	'tag_members',		NULL),
		('tag_members',		false,	'foreign_members',	NULL),
		('foreign_members',	false,	'resolve',			NULL),
		('resolve',			true,	'decide',			NULL),
		-- who gets it, with the newest data
		('decide',			true,	'join',				NULL),
		('join',			true,	'fold',				NULL),
		('fold',			true,	'settle',			NULL),
		('settle',			true,	'refold',			NULL),
		('refold',			true,	'fix',				NULL),
		('fix',				true,	'segment',			NULL),
		-- at Mailchimp
		('segment',			false,	'remove',			'find_segment'),
		('find_segment',	false,	'remove',			NULL),
		('remove',			false,	'fill',				NULL),
		('fill',			false,	'find_campaign',	NULL),
		('create',			false,	'settings',			'find_campaign'),
		('find_campaign',	false,	'create',			NULL),
		('settings',		false,	'content',			NULL),
		('content',			false,	'count',			NULL),
		('count',			false,	'checklist',		NULL),
		('walk',			false,	'remove',			NULL),
		('checklist',		false,	'arrive',			NULL),
		-- prepared; to send or to schedule goes on
		('arrive',			true,	'recheck',			NULL),
		('recheck',			true,	'send',				NULL),
		('schedule',		false,	NULL,				'look'),
		('send',			false,	'sent',				'look'),
		('look',			false,	'sent',				NULL),
		('sent',			false,	NULL,				NULL),
		-- scheduled: the hour of one that we hold, something that is to be put right, another wish
		('release',			true,	'domain',			NULL),
		('correct',			false,	'unschedule',		NULL),
		('unschedule',		false,	'join',				'look'),
		-- cancel, delete
		('recall',			false,	'drop_campaign',	NULL),
		('drop_campaign',	false,	'drop_segment',		NULL),
		('drop_segment',	false,	'gone',				NULL),
		('gone',			true,	NULL,				NULL),
		-- after a restore: find_segment, find_campaign, look, and from there on
		('trace',			true,	'find_segment',		NULL),
		('renew',			false,	'domain',			NULL),
		('sent_to',			false,	NULL,				NULL);
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_look(_step text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.look FROM mailchimp_sync.campaign_steps() s WHERE s.step = _step
$$;

/* ---- going ---- */

/*
 * On to the next step (null: the one in the table). Whoever wanted it undone in
 * the meantime gets that instead, as soon as nothing is in doubt.
 */
CREATE FUNCTION mailchimp_sync.campaign_go(_campaign_id bigint, _next text DEFAULT NULL,
	_pause interval DEFAULT NULL) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.campaign c SET
		step = CASE WHEN c.goal IN ('cancel', 'delete')
				AND n.step NOT IN ('unschedule', 'recall', 'drop_campaign', 'drop_segment', 'gone')
				AND NOT (c.restored_at IS NOT NULL AND n.step IN ('trace', 'find_segment', 'find_campaign', 'look')) THEN 'recall'
			WHEN c.goal IS NOT NULL THEN n.step END,
		cursor = NULL, begun_at = NULL, attempts = 0, last_error = NULL, went_at = mailchimp_sync.clock(),
		next_attempt_at = mailchimp_sync.clock() + _pause
	FROM (SELECT coalesce(_next, (SELECT s.next FROM mailchimp_sync.campaign c2
			JOIN mailchimp_sync.campaign_steps() s USING (step) WHERE c2.campaign_id = _campaign_id)) AS step) n
	WHERE c.campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'campaign' AND f.campaign_id = _campaign_id AND f.contact_key = '';
END
$$;

-- the step is not done: again after a pause, which doubles up to a limit
CREATE FUNCTION mailchimp_sync.campaign_stay(_campaign_id bigint, _why text, _cursor text DEFAULT NULL,
	_limit interval DEFAULT '30 seconds', _first interval DEFAULT '1 second') RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET attempts = c.attempts + 1, last_error = _why, cursor = _cursor,
		next_attempt_at = mailchimp_sync.clock()
			+ least(_limit, 2 ^ least(c.attempts, 10) * _first)
	WHERE c.campaign_id = _campaign_id
$$;

-- the step is done in part
CREATE FUNCTION mailchimp_sync.campaign_continue(_campaign_id bigint, _cursor text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.campaign SET cursor = _cursor, begun_at = NULL, attempts = 0, next_attempt_at = NULL,
		last_error = NULL
	WHERE campaign_id = _campaign_id;
END
$$;

CREATE FUNCTION mailchimp_sync.note_campaign_failure(_campaign_id bigint, _title text, _detail text,
	_retry_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.note_failure('campaign', c.connection, _title, _detail, _retry_at, coalesce(c.audience_id, 0),
		c.campaign_id)
	FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id
$$;

-- it cannot go on by itself; mc_send_campaign takes it up again
CREATE FUNCTION mailchimp_sync.campaign_fail(_campaign_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET status = mailchimp_sync.campaign_leads_to('fail', c.status), goal = NULL,
		step = NULL, begun_at = NULL, cursor = NULL, next_attempt_at = NULL, last_error = concat_ws(': ', _title, _detail),
		-- somebody may mend and send it there
		next_poll_at = CASE WHEN c.mailchimp_id IS NOT NULL THEN mailchimp_sync.poll_next_at(_campaign_id) END
	WHERE c.campaign_id = _campaign_id;
	SELECT mailchimp_sync.note_campaign_failure(_campaign_id, _title, _detail, NULL);
	-- what was sent or canceled stays so
	SELECT mailchimp_sync.signal_campaign('campaign_failed', c.campaign_id) FROM mailchimp_sync.campaign c
	WHERE c.campaign_id = _campaign_id AND c.status = 'failed';
$$;

-- a step raised an error
CREATE FUNCTION mailchimp_sync.campaign_trouble(_campaign_id bigint, _step text, _cursor text, _error text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.campaign_stay(_campaign_id, format('%s: %s', _step, _error), _cursor, '5 minutes');
	SELECT mailchimp_sync.note_campaign_failure(_campaign_id, _step, _error, c.next_attempt_at)
	FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id;
$$;

-- the campaign, locked for the answer to one of its requests
CREATE FUNCTION mailchimp_sync.answered_campaign(_campaign_id bigint) RETURNS mailchimp_sync.campaign
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO STRICT _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id FOR NO KEY UPDATE;
	RETURN _c;
END
$$;

/* ---- the kind "campaign" ---- */

-- the campaigns whose next step may be done now, and which one that is; asked all the time, so its plan is kept
CREATE FUNCTION mailchimp_sync.campaign_ready(_connection text, _is_local boolean, OUT campaign_id bigint, OUT step text,
	OUT at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT c.campaign_id, s.step, coalesce(c.next_attempt_at, mailchimp_sync.clock())
	FROM mailchimp_sync.usable_connection u
	JOIN (
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, o.next_attempt_at, o.step, o.begun_at
		FROM mailchimp_sync.campaign o WHERE o.goal IS NOT NULL
		UNION ALL
		-- who opted out leaves the segment of a prepared or scheduled campaign at once (D12)
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, o.next_attempt_at,
			CASE WHEN o.status = 'prepared' OR o.hold THEN 'remove' ELSE 'correct' END, NULL
		FROM mailchimp_sync.campaign o
		-- not asked where it is not wanted: that is a lookup for each campaign that waits
		WHERE NOT _is_local AND o.status IN ('prepared', 'scheduled') AND o.goal IS NULL AND o.origin = 'local'
			AND (o.altered AND o.status = 'scheduled' AND NOT o.hold
				OR EXISTS (SELECT FROM mailchimp_sync.leaving_recipients(o.campaign_id, 1)))
		UNION ALL
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, greatest(o.scheduled_for, o.next_attempt_at), 'release', NULL
		FROM mailchimp_sync.campaign o WHERE o.status = 'scheduled' AND o.goal IS NULL AND o.hold AND o.origin = 'local'
		UNION ALL
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, greatest(o.tidy_at, o.next_attempt_at), 'drop_segment', NULL
		FROM mailchimp_sync.usable_connection n CROSS JOIN LATERAL mailchimp_sync.campaign_to_tidy(n.connection) o
	) c USING (connection)
	JOIN mailchimp_sync.campaign_steps() s ON s.step = c.step AND s.is_local = _is_local
	WHERE (_connection IS NULL OR c.connection = _connection)
		-- what has left already is seen to its end, and what Mailchimp may be about to send is stopped in any case
		AND (c.status = 'sending' OR c.step IN ('correct', 'unschedule', 'recall') OR (c.step = 'schedule' AND c.begun_at IS NOT NULL)
			OR NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE a.audience_id = c.audience_id AND a.paused))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'campaign' AND f.campaign_id = c.campaign_id AND f.doubt_at IS NULL)
	ORDER BY 3, 1;
END
$$;

-- a request of the campaign that may still land, other than the step's own
CREATE FUNCTION mailchimp_sync.campaign_ghost(_campaign_id bigint, _step text) RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT max(f.ghost_until) FROM mailchimp_sync.inflight f
	WHERE f.kind = 'campaign' AND f.campaign_id = _campaign_id AND f.phase <> _step
		AND f.ghost_until > mailchimp_sync.clock()
$$;

-- the request for the step that the campaign is at; null: none now, and the campaign knows why
CREATE FUNCTION mailchimp_sync.campaign_request(_campaign_id bigint, _step text) RETURNS mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign;
	_ask	mailchimp_sync.ask;
	_ghost	timestamptz;
	_work	mailchimp_sync.work;
BEGIN
	LOOP
		SELECT * INTO STRICT _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id;
		_step := CASE WHEN _c.begun_at IS NOT NULL THEN coalesce(mailchimp_sync.campaign_look(_step), _step) ELSE _step END;
		EXECUTE format('SELECT * FROM mailchimp_sync.%I($1)', 'ask_' || _step) INTO _ask USING _c;
		EXIT WHEN _ask.method IS NOT NULL OR _ask.elsewhere = '';
		PERFORM mailchimp_sync.campaign_go(_campaign_id, coalesce(_ask.elsewhere,
			(SELECT s.next FROM mailchimp_sync.campaign_steps() s WHERE s.step = _step)));
		SELECT c.* INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id;
		_step := _c.step;
		IF EXISTS (SELECT FROM mailchimp_sync.campaign_steps() s WHERE s.step = _step AND s.is_local) THEN
			-- at once: an engine that found nothing to ask would look at it again after a while only
			PERFORM mailchimp_sync.do_campaign_step(_c);
			RETURN NULL;
		END IF;
		EXIT WHEN _step IS NULL;
	END LOOP;
	_ghost := CASE WHEN _ask.method <> 'GET' THEN mailchimp_sync.campaign_ghost(_campaign_id, _step) END;
	IF _ghost IS NOT NULL THEN
		UPDATE mailchimp_sync.campaign SET next_attempt_at = _ghost,
			last_error = 'waiting until an earlier request can no longer arrive at Mailchimp',
			status = _c.status
		WHERE campaign_id = _campaign_id;
		RETURN NULL;
	ELSIF _ask.method IS NULL THEN
		RETURN NULL;
	END IF;
	IF _ask.method <> 'GET' THEN
		UPDATE mailchimp_sync.campaign SET begun_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
	END IF;
	_work.connection := _c.connection;
	_work.method := _ask.method;
	_work.path := _ask.path;
	_work.body := _ask.body::text;
	_work.writes := _ask.method <> 'GET';
	_work.campaign_id := _campaign_id;
	_work.phase := _step;
	_work.source_ids := _ask.source_ids;
	_work.contact_keys := _ask.contact_keys;
	RETURN _work;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ready	record;
	_work	mailchimp_sync.work;
BEGIN
	FOR _ready IN
		SELECT r.* FROM mailchimp_sync.campaign_ready(_connection, false) r
		WHERE r.at <= mailchimp_sync.clock()
	LOOP
		PERFORM FROM mailchimp_sync.campaign c WHERE c.campaign_id = _ready.campaign_id
			AND c.step IS NOT DISTINCT FROM CASE WHEN c.goal IS NOT NULL THEN _ready.step END
			FOR NO KEY UPDATE SKIP LOCKED;
		CONTINUE WHEN NOT FOUND;
		BEGIN
			_work := mailchimp_sync.campaign_request(_ready.campaign_id, _ready.step);
		EXCEPTION WHEN lock_not_available THEN
			_work := NULL;
			PERFORM mailchimp_sync.campaign_stay(_ready.campaign_id, coalesce(mailchimp_sync.opting_out(), SQLERRM));
		WHEN OTHERS THEN
			_work := NULL;
			PERFORM mailchimp_sync.campaign_trouble(_ready.campaign_id, _ready.step, NULL, SQLERRM);
		END;
		IF _work.method IS NOT NULL THEN
			RETURN NEXT _work;
			RETURN;
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(r.at) FROM mailchimp_sync.campaign_ready(NULL, false) r);
END
$$;

/*
 * No usable answer. Not sent or refused: nothing happened, again later. An
 * answer that is about Mailchimp's health or ours: most probably nothing happened, but who must not
 * repeat looks first. Doubt, or an answer that could not be applied: begun_at
 * stays, and so it does where it was the look at an earlier request that came to nothing. A
 * campaign that was about to be sent may wait for long now, so its recipients are looked at
 * once more. A campaign whose row somebody holds is left as it is, which is the same as doubt.
 */
CREATE FUNCTION mailchimp_sync.campaign_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_id			bigint;
	_wait		timestamptz;
	_writes		boolean;
	_unsent		boolean;
	_step		text;
BEGIN
	SELECT c.campaign_id, greatest(_retry_at, mailchimp_sync.clock()
			+ least(300, 2 ^ least(c.attempts, 10)) * interval '1 second'), f.writes,
		f.phase IN ('send', 'schedule') AND _outcome = 'not_sent', f.phase
	INTO _id, _wait, _writes, _unsent, _step
	FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.campaign c ON c.campaign_id = f.campaign_id
	WHERE f.inflight_id = _inflight_id FOR NO KEY UPDATE OF c SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	ELSIF _step IN ('domain', 'template') AND mailchimp_sync.was_forbidden(_inflight_id) THEN
		PERFORM mailchimp_sync.ready_unseen(c, _step) FROM mailchimp_sync.campaign c WHERE c.campaign_id = _id;
		RETURN;
	END IF;
	UPDATE mailchimp_sync.campaign c SET attempts = c.attempts + 1, next_attempt_at = _wait,
		last_error = concat_ws(': ', _title, _detail),
		begun_at = CASE WHEN c.begun_at IS NULL OR NOT _writes THEN c.begun_at
			WHEN _outcome = 'not_sent' THEN NULL
			WHEN _outcome IN ('refused', 'answered') THEN '-infinity'
			ELSE c.begun_at END,
		status = coalesce(CASE WHEN _unsent THEN mailchimp_sync.campaign_leads_to('stay', c.status) END, c.status),
		-- others get their turn meanwhile
		tidy_at = CASE WHEN c.tidy_at < _wait THEN _wait ELSE c.tidy_at END,
		step = CASE WHEN _unsent THEN 'recheck' ELSE c.step END
	WHERE c.campaign_id = _id;
	PERFORM mailchimp_sync.note_campaign_failure(_id, _title, _detail, _wait);
END
$$;
