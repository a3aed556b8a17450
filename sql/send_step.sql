/*
 * send_step.sql: the steps of a campaign that are taken in the database alone
 * (see send.sql): who gets it, with which data, and the fixing of recipients.
 *
 * The engine calls campaign_step(), which takes the next step of one campaign.
 * step_NAME(campaign) returns true when the step is done. What takes long goes by
 * pages, each in a transaction of its own; the cursor is in the campaign's row.
 */

-- a step in the database; what goes wrong is noted with the campaign and does not stop the others
CREATE FUNCTION mailchimp_sync.do_campaign_step(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
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
	_ready	record;
	_c		mailchimp_sync.campaign;
BEGIN
	SELECT r.campaign_id, r.step INTO _ready
	FROM mailchimp_sync.campaign_ready(NULL, true) r
	JOIN mailchimp_sync.campaign c ON c.campaign_id = r.campaign_id
		AND c.step IS NOT DISTINCT FROM CASE WHEN c.goal IS NOT NULL THEN r.step END
	WHERE r.at <= mailchimp_sync.clock()
	ORDER BY r.at, r.campaign_id LIMIT 1
	FOR NO KEY UPDATE OF c SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN mailchimp_sync.webhook_poll();
	END IF;
	SELECT * INTO STRICT _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _ready.campaign_id;
	_c.step := _ready.step;
	PERFORM mailchimp_sync.do_campaign_step(_c);
	RETURN 1;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_step_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN least((SELECT min(r.at) FROM mailchimp_sync.campaign_ready(NULL, true) r), mailchimp_sync.webhook_poll_due());
END
$$;

/* ---- the steps ---- */

-- the next page of recipients of one source after the cursor, without those that targets brought if need be; keys null: there are no more
CREATE FUNCTION mailchimp_sync.campaign_page(_c mailchimp_sync.campaign, _statuses text[],
	_named_only boolean DEFAULT false, OUT source_id integer, OUT keys text[], OUT cursor text)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off		-- in the order of the primary key and no further than the page, whatever the planner thinks
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
DECLARE
	_after_source	integer := coalesce(split_part(_c.cursor, ':', 1)::integer, -1);
	_after_key		text := substr(_c.cursor, strpos(_c.cursor, ':') + 1);
BEGIN
	SELECT r.source_id INTO campaign_page.source_id FROM mailchimp_sync.recipient r
	WHERE r.campaign_id = _c.campaign_id AND r.status = ANY (_statuses) AND r.source_id > 0
		AND (r.resolution IS NULL OR NOT _named_only)
		AND (r.source_id, r.contact_key) > (_after_source, coalesce(_after_key, '') COLLATE "C")
	ORDER BY r.source_id, r.contact_key LIMIT 1;
	SELECT array_agg(p.contact_key ORDER BY p.contact_key COLLATE "C") INTO campaign_page.keys FROM (
		SELECT r.contact_key FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.status = ANY (_statuses) AND r.source_id = campaign_page.source_id
			AND (r.resolution IS NULL OR NOT _named_only)
			AND (r.source_id, r.contact_key) > (_after_source, coalesce(_after_key, '') COLLATE "C")
		ORDER BY r.contact_key LIMIT 1000) p;
	campaign_page.cursor := campaign_page.source_id || ':' || campaign_page.keys[cardinality(campaign_page.keys)];
END
$$;

-- what everybody's row says now; whom targets have just brought is decided
CREATE FUNCTION mailchimp_sync.step_decide(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page		record;
	_trouble	text;
BEGIN
	_page := mailchimp_sync.campaign_page(_c, '{pending,skipped}', EXISTS (SELECT FROM mailchimp_sync.resolution r
		WHERE r.campaign_id = _c.campaign_id AND NOT r.fixed));
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

-- the numbers that these rows have: see hand.sql
CREATE FUNCTION mailchimp_sync.join_by_campaign(_c mailchimp_sync.campaign, _source_id integer, _keys text[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.hand_given AS g (audience_id, source_id, contact_key, hand_id, inside, put_by, put_at)
	SELECT _c.audience_id, _source_id, k.contact_key, coalesce(h.hand_id, 0), true, format('campaign %s', _c.campaign_id),
		mailchimp_sync.clock()
	FROM unnest(_keys) AS k(contact_key)
	JOIN mailchimp_sync.audience a ON a.audience_id = _c.audience_id AND a.recipients = 'join' AND a.direction <> 'pull'
	JOIN mailchimp_sync.audience_source x ON x.audience_id = a.audience_id AND x.source_id = _source_id
	LEFT JOIN LATERAL (SELECT o.hand_id, o.inside FROM mailchimp_sync.hand_given o
		WHERE o.audience_id = _c.audience_id AND o.source_id = _source_id AND o.contact_key = k.contact_key COLLATE "C"
		ORDER BY o.hand_id DESC LIMIT 1) AS h ON true
	WHERE h.inside IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c
		WHERE c.audience_id = _c.audience_id AND c.source_id = _source_id
			AND c.contact_key = k.contact_key COLLATE "C" AND c.state <> 'outside'
			-- the guard does not hold who joins for a campaign
			AND (c.queue IS DISTINCT FROM 'subscribe' OR NOT mailchimp_sync.guard_holds(_c.audience_id, 'subscribe')) OFFSET 0)
	ON CONFLICT (audience_id, source_id, contact_key, hand_id) DO UPDATE SET inside = excluded.inside,
		put_by = excluded.put_by, put_at = excluded.put_at
$$;

-- who was named to be mailed and is not in the audience is put in by hand; a target takes who is in it, and nobody whom the guard holds
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
	_page := mailchimp_sync.campaign_page(_c, '{pending}', true);
	IF _page.keys IS NULL THEN
		RETURN true;
	END IF;
	PERFORM mailchimp_sync.join_by_campaign(_c, _page.source_id, _page.keys);
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
	OUT email_hash text, OUT waits boolean, OUT differs boolean)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = on
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT r.source_id, r.contact_key, v.skip_reason,
		CASE WHEN v.skip_reason = 'not_member' AND c.state IS NULL THEN 'is not a member of the audience'
			WHEN v.skip_reason = 'not_member' AND r.resolution IS NOT NULL AND g.kind IS NOT NULL THEN 'is held by the mass-change guard'
			WHEN v.skip_reason = 'unsubscribed' THEN coalesce(c.detail, CASE m.status
				WHEN 'pending' THEN 'has not confirmed yet' ELSE format('%s at Mailchimp', m.status) END)
			WHEN v.skip_reason IN ('refused', 'duplicate', 'not_member', 'not_linked', 'not_allowed', 'no_email',
				'invalid_email') THEN c.detail END,
		c.email, c.email_hash,
		v.skip_reason IS NULL AND (m.status IS NULL OR (c.state <> 'in_sync' AND NOT t.is_up_to_date)),
		v.skip_reason IS NOT NULL OR (r.email_hash, r.email) IS DISTINCT FROM (c.email_hash, c.email)
	FROM unnest(_keys) AS k(contact_key)
	-- OFFSET: a lookup each, whatever the planner knows of the tables
	CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.recipient o WHERE o.campaign_id = _c.campaign_id
		AND o.source_id = _source_id AND o.contact_key = k.contact_key COLLATE "C" OFFSET 0) r
	LEFT JOIN LATERAL (SELECT o.* FROM mailchimp_sync.contact o WHERE o.audience_id = _c.audience_id
		AND o.source_id = _source_id AND o.contact_key = r.contact_key OFFSET 0) c ON true
	LEFT JOIN LATERAL (SELECT o.status, o.archived_by_us FROM mailchimp_sync.member o
		WHERE o.audience_id = _c.audience_id AND o.email_hash = c.email_hash OFFSET 0) m ON true
	LEFT JOIN LATERAL (SELECT o.inside FROM mailchimp_sync.hand o WHERE o.audience_id = _c.audience_id
		AND o.source_id = _source_id AND o.contact_key = r.contact_key OFFSET 0) h ON true
	LEFT JOIN mailchimp_sync.guard_stop g ON g.audience_id = _c.audience_id AND g.kind = 'subscribe' AND c.queue = g.kind
	-- a tag too many is no reason not to mail somebody
	CROSS JOIN LATERAL (SELECT coalesce(c.action = 'tag' OR (c.state = 'refused' AND c.sent_hash = c.desired_hash),
		false) AS is_up_to_date) t
	CROSS JOIN LATERAL (SELECT CASE
		WHEN c.state IN ('opted_out', 'not_linked', 'not_allowed') THEN c.state
		WHEN c.state = 'refused' AND NOT t.is_up_to_date THEN CASE WHEN c.email IS NULL THEN 'no_email'
			WHEN c.email_hash IS NULL THEN 'invalid_email' ELSE 'refused' END
		WHEN c.state = 'conflict' THEN 'duplicate'
		WHEN c.state IS NULL OR c.state = 'outside' OR c.action = 'leave'
			OR (c.state = 'inactive' AND h.inside IS FALSE)
			OR (r.resolution IS NOT NULL AND g.kind IS NOT NULL) THEN 'not_member'
		WHEN c.state = 'inactive' THEN 'unsubscribed'
		-- nobody is brought there
		WHEN m.status IS NULL AND EXISTS (SELECT FROM mailchimp_sync.audience a
			WHERE a.audience_id = _c.audience_id AND a.direction = 'pull') THEN 'not_member'
		WHEN m.status = 'pending' THEN 'unsubscribed'
		ELSE mailchimp_sync.member_skip_reason(m.status, m.archived_by_us)
	END AS skip_reason OFFSET 0) v
	WHERE r.status = 'pending';
END
$$;

-- recipients that cannot be mailed are skipped; returns how many are waited for
CREATE FUNCTION mailchimp_sync.settle_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[])
RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_nestloop = off		-- the planner takes arrays for small
AS $$
	WITH obstacle AS MATERIALIZED (
		SELECT * FROM mailchimp_sync.recipient_obstacles(_c, _source_id, _keys)
	), settled AS (
		UPDATE mailchimp_sync.recipient r SET email = coalesce(o.email, r.email),
			email_hash = CASE WHEN o.email IS NULL THEN r.email_hash ELSE o.email_hash END,
			status = CASE WHEN o.skip_reason IS NULL THEN 'pending' ELSE 'skipped' END,
			skip_reason = o.skip_reason, detail = o.detail
		FROM obstacle o
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = _source_id
			-- a page: its range is read by the index in any case
			AND r.contact_key BETWEEN _keys[1] AND _keys[cardinality(_keys)]
			AND r.contact_key = o.contact_key AND o.differs
	)
	SELECT count(*) FROM obstacle o WHERE o.waits
$$;

-- once more when all are at Mailchimp, and what came of it, so that the recipients are up to date when they are fixed
CREATE FUNCTION mailchimp_sync.step_refold(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page	record := mailchimp_sync.campaign_page(_c, '{pending}');
BEGIN
	IF mailchimp_sync.step_fold(_c) THEN
		RETURN true;
	END IF;
	PERFORM mailchimp_sync.settle_recipients(_c, _page.source_id, _page.keys);
	RETURN false;
END
$$;

CREATE FUNCTION mailchimp_sync.settle_all(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_page	record;
BEGIN
	PERFORM mailchimp_sync.settle_foreign(_c);
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
	IF _waiting > 0 THEN
		UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = 'refused',
			detail = 'could not be brought up to date at Mailchimp within an hour'
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = _page.source_id
			AND r.contact_key BETWEEN _page.keys[1] AND _page.keys[cardinality(_page.keys)] AND r.contact_key = ANY (ARRAY(
				SELECT o.contact_key FROM mailchimp_sync.recipient_obstacles(_c, _page.source_id, _page.keys) o WHERE o.waits));
	END IF;
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

-- whoever is in the group now is not pending; for a large campaign it takes seconds
CREATE FUNCTION mailchimp_sync.skip_opted_out(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = 'opted_out', detail = NULL
	WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending'
		AND (EXISTS (SELECT FROM mailchimp_sync.opt_out o
				WHERE o.source_id = r.source_id AND o.contact_key = r.contact_key)
			OR EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = r.email_hash)
			OR r.segment_email IS DISTINCT FROM r.email AND EXISTS (SELECT FROM mailchimp_sync.opt_out o
				WHERE o.email_hash = mailchimp_sync.email_hash(r.segment_email)));
END
$$;

-- the pending recipients that rows of the group mean: by contact, by address, and by the one that is in the segment instead
CREATE FUNCTION mailchimp_sync.recipients_meant(_c mailchimp_sync.campaign, _source_ids integer[], _contact_keys text[],
	_email_hashes text[], OUT source_id integer, OUT contact_keys text[])
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT m.source_id, array_agg(m.contact_key ORDER BY m.contact_key) FROM (
		SELECT r.source_id, r.contact_key FROM unnest(_source_ids, _contact_keys) AS g(source_id, contact_key)
		-- OFFSET: a lookup each, whatever the planner knows of the table
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.recipient o WHERE o.campaign_id = _c.campaign_id
			AND o.source_id = g.source_id AND o.contact_key = g.contact_key COLLATE "C" AND o.status = 'pending' OFFSET 0) r
		UNION
		SELECT r.source_id, r.contact_key FROM unnest(_email_hashes) AS g(email_hash)
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.recipient o WHERE o.campaign_id = _c.campaign_id
			AND o.email_hash = g.email_hash COLLATE "C" AND o.status = 'pending' OFFSET 0) r
		UNION
		SELECT r.source_id, r.contact_key FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending'
			AND r.segment_email IS NOT NULL AND (r.status = 'skipped' OR r.segment_email IS DISTINCT FROM r.email)
			AND mailchimp_sync.email_hash(r.segment_email) = ANY (_email_hashes)) m
	GROUP BY m.source_id
$$;

-- the same for what came into the group, or was changed there, since all transactions before this one were over
CREATE FUNCTION mailchimp_sync.skip_opted_out_since(_c mailchimp_sync.campaign, _since xid) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_new	record;
	_meant	record;
BEGIN
	SELECT array_agg(o.source_id) AS source_ids, array_agg(o.contact_key) AS contact_keys, array_agg(o.email_hash) AS email_hashes
	INTO _new FROM mailchimp_sync.opt_out o WHERE age(o.xmin) <= age(_since);
	IF _new.source_ids IS NULL THEN
		RETURN;
	END IF;
	FOR _meant IN SELECT * FROM mailchimp_sync.recipients_meant(_c, _new.source_ids, _new.contact_keys, _new.email_hashes) LOOP
		UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = 'opted_out', detail = NULL
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = _meant.source_id
			AND r.contact_key BETWEEN _meant.contact_keys[1] AND _meant.contact_keys[cardinality(_meant.contact_keys)]
			AND r.contact_key = ANY (_meant.contact_keys) AND r.status = 'pending';
	END LOOP;
END
$$;

/*
 * The guarantee (N2): waits for every transaction that is opting somebody out,
 * then nobody of the group is pending. New opt-outs wait for us from the lock to the end of the transaction, so
 * everybody is looked at before it, and behind it only what that look cannot have seen: the rows of transactions that were
 * not over when it began (the lock has been waited for, so all that it waited for is seen now). False, and the reason is
 * noted: somebody keeps a transaction open; asked again after a growing pause, lest new opt-outs queue
 * behind us for longer than a second.
 */
CREATE FUNCTION mailchimp_sync.fix_recipients(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '1s'
AS $$
DECLARE
	_since	xid;
BEGIN
	IF current_setting('transaction_isolation') <> 'read committed' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_transaction_state',
			MESSAGE = 'recipients can be fixed in a transaction of level read committed only';
	END IF;
	_since := pg_snapshot_xmin(pg_current_snapshot())::xid;
	PERFORM mailchimp_sync.skip_opted_out(_c);
	BEGIN
		LOCK TABLE mailchimp_sync.opt_out IN SHARE MODE;
	EXCEPTION WHEN lock_not_available THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, coalesce(mailchimp_sync.opting_out(), SQLERRM));
		RETURN false;
	END;
	PERFORM mailchimp_sync.skip_opted_out_since(_c, _since);
	UPDATE mailchimp_sync.campaign SET fixed_at = mailchimp_sync.clock() WHERE campaign_id = _c.campaign_id;
	RETURN true;
END
$$;

CREATE FUNCTION mailchimp_sync.step_fix(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_shared	text[];
BEGIN
	-- what takes its time comes before the lock, for which new opt-outs wait; these pass by rows that we hold
	PERFORM mailchimp_sync.settle_foreign(_c);
	_shared := ARRAY(SELECT r.email_hash FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending' GROUP BY r.email_hash HAVING count(*) > 1);
	IF _shared <> '{}' THEN
		PERFORM mailchimp_sync.skip_opted_out(_c);
		PERFORM mailchimp_sync.decide_duplicates(_c, _shared);
	END IF;
	IF NOT mailchimp_sync.fix_recipients(_c) THEN
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.segment_changed(_c.campaign_id);
	IF mailchimp_sync.campaign_is_empty(_c) THEN
		RETURN false;
	END IF;
	UPDATE mailchimp_sync.resolution SET fixed = true WHERE campaign_id = _c.campaign_id;
	RETURN true;
END
$$;

-- fails a campaign that nobody would get; who gets it is decided anew then
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
	PERFORM mailchimp_sync.target_changed(_c.campaign_id);
	RETURN true;
END
$$;

CREATE FUNCTION mailchimp_sync.step_arrive(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.goal IN ('prepare', 'unschedule') THEN
		PERFORM mailchimp_sync.campaign_rests(_c.campaign_id, 'arrive');
		PERFORM mailchimp_sync.signal_campaign('campaign_prepared', _c.campaign_id) WHERE _c.goal = 'prepare';
	ELSIF _c.goal = 'schedule' AND _c.hold THEN
		PERFORM mailchimp_sync.campaign_rests(_c.campaign_id, 'wait');
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
