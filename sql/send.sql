/*
 * send.sql: the way of a campaign from "prepare" to "sent", at most once (rule 6).
 *
 * The way is the table campaign_steps(). A step in the database is a function
 * step_NAME(campaign), which returns true when it is done; the engine runs one in a
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
 *	- People who hold rows of a campaign in an open transaction (they opted somebody out, say): the engine waits for a
 *	  second at most, and goes on with others.
 */

-- next: where to go when it is done; look: what to do first after doubt (null: repeat)
CREATE FUNCTION mailchimp_sync.campaign_steps(OUT step text, OUT is_local boolean, OUT next text, OUT look text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	VALUES
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
		-- prepared; to send goes on
		('arrive',			true,	'recheck',			NULL),
		('recheck',			true,	'send',				NULL),
		('send',			false,	'sent',				'look'),
		('look',			false,	'sent',				NULL),
		('sent',			false,	NULL,				NULL),
		-- cancel, delete
		('recall',			false,	'drop_campaign',	NULL),
		('drop_campaign',	false,	'drop_segment',		NULL),
		('drop_segment',	false,	'gone',				NULL),
		('gone',			true,	NULL,				NULL),
		-- after a restore: find_segment, find_campaign, look, and from there on
		('trace',			true,	'find_segment',		NULL),
		('renew',			false,	'decide',			NULL),
		('sent_to',			false,	NULL,				NULL)
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
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET
		step = CASE WHEN c.goal IN ('cancel', 'delete')
				AND n.step NOT IN ('recall', 'drop_campaign', 'drop_segment', 'gone')
				AND NOT (c.restored_at IS NOT NULL AND n.step IN ('trace', 'find_segment', 'find_campaign', 'look')) THEN 'recall'
			WHEN c.goal IS NOT NULL THEN n.step END,
		cursor = NULL, begun_at = NULL, attempts = 0, last_error = NULL,
		next_attempt_at = mailchimp_sync.clock() + _pause
	FROM (SELECT coalesce(_next, (SELECT s.next FROM mailchimp_sync.campaign c2
			JOIN mailchimp_sync.campaign_steps() s USING (step) WHERE c2.campaign_id = _campaign_id)) AS step) n
	WHERE c.campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'campaign' AND f.campaign_id = _campaign_id;
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
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET cursor = _cursor, begun_at = NULL, attempts = 0, next_attempt_at = NULL,
		last_error = NULL
	WHERE campaign_id = _campaign_id
$$;

CREATE FUNCTION mailchimp_sync.note_campaign_failure(_campaign_id bigint, _title text, _detail text,
	_retry_at timestamptz) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.failure AS f (work, audience_id, campaign_id, connection, title, detail, attempts,
		first_failed_at, last_failed_at, next_attempt_at)
	SELECT 'campaign', coalesce(c.audience_id, 0), c.campaign_id, c.connection, _title, _detail, 1,
		mailchimp_sync.clock(), mailchimp_sync.clock(), _retry_at
	FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id
	ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET title = excluded.title,
		detail = excluded.detail, attempts = f.attempts + 1, last_failed_at = excluded.last_failed_at,
		next_attempt_at = excluded.next_attempt_at
$$;

-- it cannot go on by itself; mc_send_campaign takes it up again
CREATE FUNCTION mailchimp_sync.campaign_fail(_campaign_id bigint, _title text, _detail text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET status = mailchimp_sync.campaign_leads_to('fail', c.status), goal = NULL,
		step = NULL, begun_at = NULL, cursor = NULL, next_attempt_at = NULL, last_error = concat_ws(': ', _title, _detail)
	WHERE c.campaign_id = _campaign_id;
	SELECT mailchimp_sync.note_campaign_failure(_campaign_id, _title, _detail, NULL);
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

-- the campaign, locked for the answer to one of its requests; gives up soon, so that nobody's open transaction halts the engine
CREATE FUNCTION mailchimp_sync.answered_campaign(_campaign_id bigint) RETURNS mailchimp_sync.campaign
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO STRICT _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id FOR NO KEY UPDATE;
	RETURN _c;
END
$$;

/* ---- steps in the database ---- */

-- the next page of recipients of one source after the cursor; keys null: there are no more
CREATE FUNCTION mailchimp_sync.campaign_page(_c mailchimp_sync.campaign, _statuses text[], OUT source_id integer,
	OUT keys text[], OUT cursor text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_after_source	integer := coalesce(split_part(_c.cursor, ':', 1)::integer, -1);
	_after_key		text := substr(_c.cursor, strpos(_c.cursor, ':') + 1);
BEGIN
	SELECT r.source_id INTO campaign_page.source_id FROM mailchimp_sync.recipient r
	WHERE r.campaign_id = _c.campaign_id AND r.status = ANY (_statuses) AND r.source_id > 0
		AND (r.source_id, r.contact_key) > (_after_source, coalesce(_after_key, '') COLLATE "C")
	ORDER BY r.source_id, r.contact_key LIMIT 1;
	SELECT array_agg(p.contact_key ORDER BY p.contact_key COLLATE "C") INTO campaign_page.keys FROM (
		SELECT r.contact_key FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.status = ANY (_statuses) AND r.source_id = campaign_page.source_id
			AND (r.source_id, r.contact_key) > (_after_source, coalesce(_after_key, '') COLLATE "C")
		ORDER BY r.contact_key LIMIT 1000) p;
	campaign_page.cursor := campaign_page.source_id || ':' || campaign_page.keys[cardinality(campaign_page.keys)];
END
$$;

-- what everybody's row says now
CREATE FUNCTION mailchimp_sync.step_decide(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page		record;
	_trouble	text;
BEGIN
	_page := mailchimp_sync.campaign_page(_c, '{pending,skipped}');
	IF _page.keys IS NULL THEN
		RETURN true;
	END IF;
	_trouble := mailchimp_sync.decide_recipients(_c, _page.source_id, _page.keys, _c.created_by);
	IF _trouble IS NULL THEN
		PERFORM mailchimp_sync.campaign_continue(_c.campaign_id, _page.cursor);
	ELSE
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, 'the recipients cannot be read: ' || _trouble, _c.cursor);
	END IF;
	RETURN false;
END
$$;

-- who is to be mailed and is not in the audience is put in by hand
CREATE FUNCTION mailchimp_sync.step_join(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page	record;
BEGIN
	IF _c.cursor IS NULL THEN
		UPDATE mailchimp_sync.campaign SET count_since = mailchimp_sync.clock() WHERE campaign_id = _c.campaign_id;
	END IF;
	_page := mailchimp_sync.campaign_page(_c, '{pending}');
	IF _page.keys IS NULL THEN
		RETURN true;
	END IF;
	INSERT INTO mailchimp_sync.hand (audience_id, source_id, contact_key, inside, put_by, put_at)
	SELECT _c.audience_id, _page.source_id, k.contact_key, true, format('campaign %s', _c.campaign_id), mailchimp_sync.clock()
	FROM unnest(_page.keys) AS k(contact_key)
	JOIN mailchimp_sync.audience a ON a.audience_id = _c.audience_id AND a.recipients = 'join'
	WHERE NOT EXISTS (SELECT FROM mailchimp_sync.contact c
		WHERE c.audience_id = _c.audience_id AND c.source_id = _page.source_id
			AND c.contact_key = k.contact_key COLLATE "C" AND c.state <> 'outside')
	ON CONFLICT DO NOTHING;
	PERFORM mailchimp_sync.campaign_continue(_c.campaign_id, _page.cursor);
	RETURN false;
END
$$;

/*
 * Evaluates and stores everybody's data, whether an event says so or not: a
 * view's changes make none (R32), and opt_out and linked must be what they are now.
 */
CREATE FUNCTION mailchimp_sync.step_fold(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page	record;
BEGIN
	_page := mailchimp_sync.campaign_page(_c, '{pending}');
	IF _page.keys IS NULL THEN
		RETURN true;
	END IF;
	IF mailchimp_sync.fold_contacts(_page.source_id, _page.keys) IS NOT NULL THEN
		PERFORM mailchimp_sync.campaign_continue(_c.campaign_id, _page.cursor);
	ELSE
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, (SELECT format('source "%s" cannot be read: %s', s.source, s.detail)
			FROM mailchimp_sync.source s WHERE s.source_id = _page.source_id), _c.cursor);
	END IF;
	RETURN false;
END
$$;

CREATE FUNCTION mailchimp_sync.step_refold(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.step_fold(_c)
$$;

CREATE FUNCTION mailchimp_sync.step_recheck(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT mailchimp_sync.step_fold(_c) THEN
		RETURN false;
	END IF;
	UPDATE mailchimp_sync.campaign SET rechecked_at = mailchimp_sync.clock() WHERE campaign_id = _c.campaign_id;
	RETURN true;
END
$$;

-- why recipients cannot be mailed, by the state of their contacts and members; null: they can, or will be able to
CREATE FUNCTION mailchimp_sync.recipient_obstacles(_c mailchimp_sync.campaign, _source_id integer, _keys text[],
	OUT source_id integer, OUT contact_key text, OUT skip_reason text, OUT detail text, OUT email text,
	OUT email_hash text, OUT waits boolean)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.source_id, r.contact_key, v.skip_reason,
		CASE WHEN v.skip_reason = 'not_member' AND c.state IS NULL THEN 'is not a member of the audience'
			WHEN v.skip_reason = 'unsubscribed' THEN coalesce(c.detail, CASE m.status
				WHEN 'pending' THEN 'has not confirmed yet' ELSE format('%s at Mailchimp', m.status) END)
			WHEN v.skip_reason IN ('refused', 'duplicate', 'not_member', 'not_linked', 'not_allowed', 'no_email',
				'invalid_email') THEN c.detail END,
		c.email, c.email_hash,
		v.skip_reason IS NULL AND (c.state <> 'in_sync' OR m.status IS NULL)
	FROM unnest(_keys) AS k(contact_key)
	JOIN mailchimp_sync.recipient r ON r.campaign_id = _c.campaign_id AND r.source_id = _source_id
		AND r.contact_key = k.contact_key COLLATE "C"
	LEFT JOIN mailchimp_sync.contact c ON c.audience_id = _c.audience_id AND c.source_id = r.source_id
		AND c.contact_key = r.contact_key
	LEFT JOIN mailchimp_sync.member m ON m.audience_id = _c.audience_id AND m.email_hash = c.email_hash
	LEFT JOIN mailchimp_sync.hand h ON h.audience_id = _c.audience_id AND h.source_id = r.source_id
		AND h.contact_key = r.contact_key
	CROSS JOIN LATERAL (SELECT CASE
		WHEN c.state IN ('opted_out', 'not_linked', 'not_allowed') THEN c.state
		WHEN c.state = 'refused' THEN CASE WHEN c.email IS NULL THEN 'no_email'
			WHEN c.email_hash IS NULL THEN 'invalid_email' ELSE 'refused' END
		WHEN c.state = 'conflict' THEN 'duplicate'
		WHEN c.state IS NULL OR c.state = 'outside' OR c.action = 'leave'
			OR (c.state = 'inactive' AND h.inside IS FALSE) THEN 'not_member'
		WHEN c.state = 'inactive' THEN 'unsubscribed'
		WHEN m.status = 'pending' THEN 'unsubscribed'
		ELSE mailchimp_sync.member_skip_reason(m.status, m.archived_by_us)
	END AS skip_reason) v
	WHERE r.status = 'pending'
$$;

-- recipients that cannot be mailed are skipped; returns how many are waited for
CREATE FUNCTION mailchimp_sync.settle_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[])
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH obstacle AS MATERIALIZED (
		SELECT * FROM mailchimp_sync.recipient_obstacles(_c, _source_id, _keys)
	), settled AS (
		UPDATE mailchimp_sync.recipient r SET email = coalesce(o.email, r.email),
			email_hash = CASE WHEN o.email IS NULL THEN r.email_hash ELSE o.email_hash END,
			status = CASE WHEN o.skip_reason IS NULL THEN 'pending' ELSE 'skipped' END,
			skip_reason = o.skip_reason, detail = o.detail
		FROM obstacle o
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = o.source_id AND r.contact_key = o.contact_key
			AND (o.skip_reason IS NOT NULL OR r.email_hash IS DISTINCT FROM o.email_hash OR r.email IS DISTINCT FROM o.email)
	)
	SELECT count(*) FROM obstacle o WHERE o.waits
$$;

CREATE FUNCTION mailchimp_sync.settle_all(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page	record;
BEGIN
	_c.cursor := NULL;
	LOOP
		_page := mailchimp_sync.campaign_page(_c, '{pending}');
		EXIT WHEN _page.keys IS NULL;
		PERFORM mailchimp_sync.settle_recipients(_c, _page.source_id, _page.keys);
		_c.cursor := _page.cursor;
	END LOOP;
END
$$;

/*
 * Waits until everybody's data is at Mailchimp. One contact that does not get
 * there stops the others for an hour at most.
 */
CREATE FUNCTION mailchimp_sync.step_settle(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page		record;
	_waiting	bigint;
BEGIN
	_page := mailchimp_sync.campaign_page(_c, '{pending}');
	IF _page.keys IS NULL THEN
		RETURN true;
	END IF;
	_waiting := mailchimp_sync.settle_recipients(_c, _page.source_id, _page.keys);
	IF _waiting > 0 AND mailchimp_sync.clock() < _c.count_since + interval '1 hour' THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, 'waiting until its contacts are up to date at Mailchimp',
			_c.cursor, '2 seconds', '100 milliseconds');
		RETURN false;
	END IF;
	UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = 'refused',
		detail = 'could not be brought up to date at Mailchimp within an hour'
	FROM mailchimp_sync.recipient_obstacles(_c, _page.source_id, _page.keys) o
	WHERE _waiting > 0 AND o.waits
		AND r.campaign_id = _c.campaign_id AND r.source_id = o.source_id AND r.contact_key = o.contact_key;
	PERFORM mailchimp_sync.campaign_continue(_c.campaign_id, _page.cursor);
	RETURN false;
END
$$;

-- whom a lock that was not to be had is waiting for, as far as that can be told
CREATE FUNCTION mailchimp_sync.opting_out() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'waiting for open transactions that opt somebody out: process '
		|| string_agg(DISTINCT coalesce(l.pid::text, 'of a prepared transaction'), ', ')
	FROM pg_locks l
	WHERE l.locktype = 'relation' AND l.relation = 'mailchimp_sync.opt_out'::regclass
		AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
		AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
		AND l.mode IN ('RowExclusiveLock', 'ShareUpdateExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock',
			'AccessExclusiveLock')
$$;

/*
 * The guarantee (N2): waits for every transaction that is opting somebody out,
 * then nobody of the group is pending. False, and the reason is noted: somebody
 * keeps a transaction open; asked again after a growing pause, lest new opt-outs queue
 * behind us for longer than a second.
 */
CREATE FUNCTION mailchimp_sync.fix_recipients(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_transaction_state',
			MESSAGE = 'recipients can be fixed in a transaction of level read committed only';
	END IF;
	BEGIN
		LOCK TABLE mailchimp_sync.opt_out IN SHARE MODE;
	EXCEPTION WHEN lock_not_available THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, coalesce(mailchimp_sync.opting_out(), SQLERRM));
		RETURN false;
	END;
	-- the lock was awaited: this statement sees all that it waited for
	UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = 'opted_out', detail = NULL
	WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending'
		AND (EXISTS (SELECT FROM mailchimp_sync.opt_out o
				WHERE o.source_id = r.source_id AND o.contact_key = r.contact_key)
			OR EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = r.email_hash)
			OR EXISTS (SELECT FROM mailchimp_sync.opt_out o
				WHERE o.email_hash = mailchimp_sync.email_hash(r.segment_email)));
	UPDATE mailchimp_sync.campaign SET fixed_at = mailchimp_sync.clock() WHERE campaign_id = _c.campaign_id;
	RETURN true;
END
$$;

CREATE FUNCTION mailchimp_sync.step_fix(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	-- what takes its time comes before the lock, for which new opt-outs wait; these pass by rows that we hold
	PERFORM mailchimp_sync.settle_all(_c);
	IF NOT mailchimp_sync.fix_recipients(_c) THEN
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.segment_changed(_c.campaign_id);
	PERFORM mailchimp_sync.decide_duplicates(_c, ARRAY(SELECT r.email_hash FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending' GROUP BY r.email_hash HAVING count(*) > 1));
	RETURN NOT mailchimp_sync.campaign_is_empty(_c);
END
$$;

-- fails a campaign that nobody would get
CREATE FUNCTION mailchimp_sync.campaign_is_empty(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending') THEN
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'nobody is left to mail', (SELECT string_agg(
			format('%s %s', n.count, n.skip_reason), ', ' ORDER BY n.skip_reason)
		FROM (SELECT r.skip_reason, count(*) AS count FROM mailchimp_sync.recipient r
			WHERE r.campaign_id = _c.campaign_id GROUP BY 1) n));
	RETURN true;
END
$$;

CREATE FUNCTION mailchimp_sync.step_arrive(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.goal = 'prepare' THEN
		UPDATE mailchimp_sync.campaign SET status = mailchimp_sync.campaign_leads_to('arrive', _c.status), goal = NULL,
			next_poll_at = mailchimp_sync.poll_next_at(campaign_id)
		WHERE campaign_id = _c.campaign_id;
	END IF;
	RETURN true;
END
$$;

CREATE FUNCTION mailchimp_sync.step_gone(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET goal = NULL, next_poll_at = NULL, restored_at = NULL,
		status = mailchimp_sync.campaign_leads_to('end ' || _c.goal, _c.status)
	WHERE campaign_id = _c.campaign_id;
	SELECT true;
$$;

/* ---- after a restore ---- */

-- mc_resume in a copy: what became of campaigns that are not over here is to be found out before anything is done with them
CREATE FUNCTION mailchimp_sync.campaigns_restored() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET restored_at = mailchimp_sync.clock(), begun_at = NULL, cursor = NULL, attempts = 0,
		next_attempt_at = NULL, step = CASE WHEN c.goal IS NOT NULL THEN 'trace' END
	WHERE c.origin = 'local' AND c.status IN ('draft', 'preparing', 'prepared', 'scheduled', 'sending', 'failed')
$$;

-- a search begins; one that begins when nothing of the other database's can land any more is the last one
CREATE FUNCTION mailchimp_sync.step_trace(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET restored_at = '-infinity'
	WHERE campaign_id = _c.campaign_id AND restored_at + mailchimp_sync.ghost_life() <= mailchimp_sync.clock();
	SELECT true;
$$;

-- the campaigns whose next step may be done now, and which one that is
CREATE FUNCTION mailchimp_sync.campaign_ready(_connection text, _is_local boolean, OUT campaign_id bigint, OUT step text,
	OUT at timestamptz)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.campaign_id, s.step, coalesce(c.next_attempt_at, mailchimp_sync.clock())
	FROM mailchimp_sync.usable_connection u
	JOIN (
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, o.next_attempt_at, o.step
		FROM mailchimp_sync.campaign o WHERE o.goal IS NOT NULL
		UNION ALL
		-- who opted out leaves the segment of a prepared campaign at once (D12)
		SELECT o.campaign_id, o.connection, o.audience_id, o.status, o.next_attempt_at, 'remove'
		FROM mailchimp_sync.campaign o
		WHERE o.status = 'prepared' AND o.goal IS NULL AND EXISTS (SELECT FROM mailchimp_sync.recipient r
			WHERE r.campaign_id = o.campaign_id AND r.status = 'skipped' AND r.segment_email IS NOT NULL)
	) c USING (connection)
	JOIN mailchimp_sync.campaign_steps() s ON s.step = c.step AND s.is_local = _is_local
	WHERE (_connection IS NULL OR c.connection = _connection)
		-- what has left already is seen to its end
		AND (c.status = 'sending' OR NOT EXISTS (SELECT FROM mailchimp_sync.audience a
			WHERE a.audience_id = c.audience_id AND a.paused))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'campaign' AND f.campaign_id = c.campaign_id AND f.doubt_at IS NULL)
	ORDER BY 3, 1
$$;

-- a step in the database; what goes wrong is noted with the campaign and does not stop the others
CREATE FUNCTION mailchimp_sync.do_campaign_step(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	_done	boolean;
BEGIN
	EXECUTE format('SELECT mailchimp_sync.%I($1)', 'step_' || _c.step) INTO _done USING _c;
	IF _done THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id);
	END IF;
EXCEPTION WHEN lock_not_available THEN
	PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, coalesce(mailchimp_sync.opting_out(), SQLERRM), _c.cursor);
WHEN OTHERS THEN
	PERFORM mailchimp_sync.campaign_trouble(_c.campaign_id, _c.step, _c.cursor, SQLERRM);
END
$$;

-- one step in the database of one campaign
CREATE FUNCTION mailchimp_sync.campaign_step() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT c.* INTO _c
	FROM mailchimp_sync.campaign_ready(NULL, true) r
	JOIN mailchimp_sync.campaign c USING (campaign_id, step)
	WHERE r.at <= mailchimp_sync.clock()
	ORDER BY r.at, c.campaign_id LIMIT 1
	FOR NO KEY UPDATE OF c SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN 0;
	END IF;
	PERFORM mailchimp_sync.do_campaign_step(_c);
	RETURN 1;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_step_due() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(r.at) FROM mailchimp_sync.campaign_ready(NULL, true) r
$$;

/* ---- the kind "campaign" ---- */

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
SET lock_timeout = '1s'
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
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(r.at) FROM mailchimp_sync.campaign_ready(NULL, false) r
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
BEGIN
	SELECT c.campaign_id, greatest(_retry_at, mailchimp_sync.clock()
			+ least(300, 2 ^ least(c.attempts, 10)) * interval '1 second'), f.writes,
		f.phase = 'send' AND _outcome = 'not_sent'
	INTO _id, _wait, _writes, _unsent
	FROM mailchimp_sync.inflight f
	JOIN mailchimp_sync.campaign c ON c.campaign_id = f.campaign_id
	WHERE f.inflight_id = _inflight_id FOR NO KEY UPDATE OF c SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE mailchimp_sync.campaign c SET attempts = c.attempts + 1, next_attempt_at = _wait,
		last_error = concat_ws(': ', _title, _detail),
		begun_at = CASE WHEN c.begun_at IS NULL OR NOT _writes THEN c.begun_at
			WHEN _outcome = 'not_sent' THEN NULL
			WHEN _outcome IN ('refused', 'answered') THEN '-infinity'
			ELSE c.begun_at END,
		status = CASE WHEN _unsent THEN mailchimp_sync.campaign_leads_to('stay', c.status) ELSE c.status END,
		step = CASE WHEN _unsent THEN 'recheck' ELSE c.step END
	WHERE c.campaign_id = _id;
	PERFORM mailchimp_sync.note_campaign_failure(_id, _title, _detail, _wait);
END
$$;
