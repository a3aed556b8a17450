/*
 * schedule.sql: a campaign that is sent at a given time (R28, D6).
 *
 * By Mailchimp: it goes the whole way and is scheduled there, at a quarter of an hour. Or by us (hold): nothing is
 * scheduled at Mailchimp, and at that time, any minute, the engine goes the way once more, so that the data are
 * fresh, and sends.
 *
 * Races that are closed here:
 *	- Mailchimp may freeze the segment when a campaign is scheduled. Whoever opts out after that (a skipped recipient
 *	  who is still in the segment) makes the engine take the schedule back, correct the segment and schedule anew; until that
 *	  is done nothing is sent. An opt-out that is open when the order to schedule leaves was waited for (last_look).
 *	- The hour comes meanwhile: Mailchimp refuses to take the schedule back, is read, and what is being sent is
 *	  adopted; who got it is what Mailchimp says. Or it was taken back in time: it is sent as soon as it is corrected.
 *	- Another time, or none, is wanted while the order is under way: the answer is compared with what is wanted by then.
 *	- A time that passed while nothing could be done (a stopped server, a paused audience) is not made up for a day later.
 *	- Somebody takes it back, or moves it, at Mailchimp, and that was not seen yet: it is looked at before it is corrected.
 *	- Its audience is paused: what Mailchimp has, or may have, scheduled is taken back all the same.
 */

-- so much too late a campaign still sets out, and as much later it is still sent
CREATE FUNCTION mailchimp_sync.schedule_grace() RETURNS interval
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT interval '1 hour' $$;

/* ---- for people ---- */

CREATE FUNCTION mailchimp_sync.check_schedule_time(_at timestamptz, _hold boolean) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_quarter	timestamptz;
BEGIN
	IF NOT coalesce(isfinite(_at), false) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'a campaign is scheduled for a certain time';
	ELSIF _at <= mailchimp_sync.clock() THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = format('%s is over', _at),
			HINT = 'mc_send_campaign sends it now.';
	ELSIF NOT _hold THEN
		_quarter := date_bin('15 minutes', _at, timestamptz 'epoch');
		IF _at <> _quarter THEN
			RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
				MESSAGE = format('Mailchimp sends at full quarters of an hour, not at %s', _at),
				HINT = format('The nearest are %s and %s; with hold => true this database sends it, at any time.', _quarter,
					_quarter + interval '15 minutes');
		END IF;
	END IF;
END
$$;

CREATE FUNCTION @extschema@.mc_schedule_campaign(campaign bigint, at timestamptz, hold boolean DEFAULT false) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_schedule_campaign(bigint, timestamptz, boolean) IS
	'prepares the campaign and has it sent at that time, by Mailchimp (quarters of an hour) or, with hold, by this database';

CREATE FUNCTION mailchimp_sync.mc_schedule_campaign(_campaign bigint, _at timestamptz, _hold boolean) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'schedule');
BEGIN
	_hold := coalesce(_hold, false);
	PERFORM mailchimp_sync.check_schedule_time(_at, _hold);
	PERFORM mailchimp_sync.campaign_check_complete(_c);
	UPDATE mailchimp_sync.campaign SET scheduled_for = _at, hold = _hold WHERE campaign_id = _campaign;
	PERFORM mailchimp_sync.campaign_wanted(_c, 'schedule');
END
$$;

CREATE FUNCTION @extschema@.mc_unschedule_campaign(campaign bigint) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_unschedule_campaign(bigint) IS
	'takes the schedule of a campaign back: it is prepared, and is not sent until that is asked for';

CREATE FUNCTION mailchimp_sync.mc_unschedule_campaign(_campaign bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'unschedule');
BEGIN
	UPDATE mailchimp_sync.campaign SET scheduled_for = NULL, hold = false WHERE campaign_id = _campaign;
	IF _c.status = 'preparing' THEN
		PERFORM mailchimp_sync.campaign_wanted(_c, 'prepare');
	ELSIF _c.hold THEN
		PERFORM mailchimp_sync.campaign_rests(_campaign, 'arrive');
	ELSE
		PERFORM mailchimp_sync.campaign_wanted(_c, 'unschedule');
	END IF;
END
$$;

/* ---- on the way ---- */

-- it has arrived where nothing is to be done with it for now: prepared, or waiting for its hour
CREATE FUNCTION mailchimp_sync.campaign_rests(_campaign_id bigint, _verb text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET status = mailchimp_sync.campaign_leads_to(_verb, status), goal = NULL
	WHERE campaign_id = _campaign_id;
	UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.poll_next_at(campaign_id) WHERE campaign_id = _campaign_id;
	SELECT mailchimp_sync.campaign_go(_campaign_id);
$$;

CREATE FUNCTION mailchimp_sync.campaign_too_late(_c mailchimp_sync.campaign, _grace interval) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.scheduled_for >= mailchimp_sync.clock() - _grace THEN
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'too late',
		format('it was to be sent at %s, and could not be; mc_send_campaign sends it now, mc_schedule_campaign at another time',
			to_char(_c.scheduled_for AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI "UTC"')));
	RETURN true;
END
$$;

/*
 * What is wanted of a campaign that is ready to go: null: send it. It may have been something else when it set out.
 * Else where to go (see ask.elsewhere).
 */
CREATE FUNCTION mailchimp_sync.not_to_be_sent_now(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN CASE
		WHEN _c.goal = 'send' AND NOT _c.hold THEN NULL
		WHEN _c.goal NOT IN ('send', 'schedule') OR (_c.goal = 'schedule' AND _c.hold) THEN 'arrive'
		WHEN _c.goal = 'schedule' AND _c.scheduled_for > mailchimp_sync.clock() THEN 'schedule'
		WHEN mailchimp_sync.campaign_too_late(_c, 2 * mailchimp_sync.schedule_grace()) THEN ''
	END;
END
$$;

CREATE FUNCTION mailchimp_sync.ask_schedule(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ask	mailchimp_sync.ask;
BEGIN
	_ask.elsewhere := coalesce(mailchimp_sync.not_to_be_sent_now(_c), 'send');
	IF _ask.elsewhere <> 'schedule' THEN
		RETURN _ask;
	END IF;
	_ask.elsewhere := mailchimp_sync.last_look(_c);
	IF _ask.elsewhere IS NULL THEN
		_ask.method := 'POST';
		_ask.path := format('/campaigns/%s/actions/schedule', _c.mailchimp_id);
		_ask.body := jsonb_build_object('schedule_time', mailchimp_sync.query_instant(_c.scheduled_for));
		UPDATE mailchimp_sync.campaign SET told_for = _c.scheduled_for WHERE campaign_id = _c.campaign_id;
	END IF;
	RETURN _ask;
END
$$;

-- Mailchimp has it; that may no longer be what is wanted
CREATE FUNCTION mailchimp_sync.schedule_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	PERFORM mailchimp_sync.forget_ghosts(_campaign_id, 'schedule');
	UPDATE mailchimp_sync.campaign SET mailchimp_status = 'schedule' WHERE campaign_id = _campaign_id;
	IF _c.goal = 'schedule' AND NOT _c.hold AND _c.scheduled_for = _c.told_for THEN
		PERFORM mailchimp_sync.campaign_rests(_campaign_id, 'wait');
	ELSE
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'unschedule');
	END IF;
END
$$;

-- the account's plan has no scheduling, or Mailchimp says no again and again (and gives no reason)
CREATE FUNCTION mailchimp_sync.schedule_refused(_c mailchimp_sync.campaign, _title text, _detail text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.campaign_fail(_c.campaign_id, _title, format(
		'%s Mailchimp''s plans with scheduling are Essentials and higher; mc_schedule_campaign(%s, ''%s'', hold => true) has it sent at '
		'that time by this database', _detail, _c.campaign_id,
		to_char(_c.scheduled_for AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI"Z"')))
$$;

/* ---- scheduled ---- */

/*
 * Who cuts the engine off from Mailchimp leaves there what is scheduled: it will be sent all the same, also to people who
 * opt out meanwhile, whom nobody takes out of it any more.
 */
CREATE FUNCTION mailchimp_sync.warn_of_scheduled(_connection text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_count		bigint;
	_earliest	text;
BEGIN
	SELECT count(*), string_agg(format('%s "%s" at %s', e.campaign_id, e.name, e.scheduled_for), ', ' ORDER BY e.place)
		FILTER (WHERE e.place <= 5) INTO _count, _earliest
	FROM (SELECT c.*, row_number() OVER (ORDER BY c.scheduled_for, c.campaign_id) AS place
		FROM mailchimp_sync.campaign c
		WHERE c.connection = _connection AND c.status = 'scheduled' AND NOT c.hold) e;
	IF _count > 0 THEN
		RAISE WARNING USING MESSAGE = format('campaigns that stay scheduled at Mailchimp: %s', _count),
			DETAIL = format('The earliest: %s.', _earliest),
			HINT = 'Mailchimp sends them, also to who opts out from now on. mc_unschedule_campaign takes one back; it needs the connection. At Mailchimp it can be done by hand.';
	END IF;
END
$$;

-- the hour of a campaign that we hold has come, unless somebody has taken it back at this very moment
CREATE FUNCTION mailchimp_sync.step_release(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.status <> 'scheduled' OR NOT _c.hold THEN
		RETURN false;
	ELSIF NOT mailchimp_sync.campaign_too_late(_c, mailchimp_sync.schedule_grace()) THEN
		PERFORM mailchimp_sync.campaign_sets_out(_c, 'release', 'send', 'domain');
	END IF;
	RETURN false;
END
$$;

/*
 * Somebody who opted out is in the segment of a campaign that Mailchimp is going to send (D12), or something else of it
 * (altered) is not what it should be there. It is looked at first: people may have taken its schedule back, or given it another time.
 */
CREATE FUNCTION mailchimp_sync.ask_correct(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.ask_look(_c)
$$;

CREATE FUNCTION mailchimp_sync.correct_done(_campaign_id bigint, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	IF _c.goal IS NOT NULL OR _c.status <> 'scheduled' THEN
		RETURN;		-- somebody wants something else of it by now
	END IF;
	PERFORM mailchimp_sync.adopt_state(_c, _shown);
	SELECT * INTO STRICT _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id;
	IF _c.status = 'scheduled' AND NOT _c.hold THEN
		PERFORM mailchimp_sync.campaign_sets_out(_c, 'correct', 'schedule', 'unschedule');
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_sets_out(_c mailchimp_sync.campaign, _verb text, _goal text, _step text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET status = mailchimp_sync.campaign_leads_to(_verb, status), goal = _goal, refusals = 0
	WHERE campaign_id = _c.campaign_id;
	SELECT mailchimp_sync.campaign_go(_c.campaign_id, CASE WHEN _c.restored_at IS NULL THEN _step ELSE 'trace' END);
$$;

CREATE FUNCTION mailchimp_sync.ask_unschedule(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'POST', format('/campaigns/%s/actions/unschedule', _c.mailchimp_id), NULL::jsonb, NULL::integer[], NULL::text[], NULL
$$;

CREATE FUNCTION mailchimp_sync.unschedule_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	PERFORM mailchimp_sync.forget_ghosts(_campaign_id, 'unschedule');
	-- save or paused, the next look shows which
	UPDATE mailchimp_sync.campaign SET told_for = NULL, mailchimp_status = NULL WHERE campaign_id = _campaign_id;
	IF _c.goal = 'unschedule' AND _c.restored_at IS NULL THEN
		PERFORM mailchimp_sync.campaign_rests(_campaign_id, 'arrive');
	ELSE
		PERFORM mailchimp_sync.campaign_go(_campaign_id, CASE WHEN _c.restored_at IS NOT NULL THEN 'look'
			ELSE mailchimp_sync.ready_next(_c) END);
	END IF;
END
$$;

-- it is not scheduled there, or is being sent already: read before anything else is done
CREATE FUNCTION mailchimp_sync.unschedule_refused(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET begun_at = '-infinity', refusals = refusals + 1, next_attempt_at = NULL
	WHERE campaign_id = _c.campaign_id
$$;

/*
 * Mailchimp shows it as scheduled, to be sent at _at. If that is what was asked for, it is there. Else it is taken back: it
 * could not be changed. A schedule that people made there while it was being prepared is what is wanted from then on.
 */
CREATE FUNCTION mailchimp_sync.campaign_shown_scheduled(_c mailchimp_sync.campaign, _looked_at timestamptz, _at timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.step = 'schedule' AND _c.begun_at IS NOT NULL AND _at = _c.told_for THEN
		PERFORM mailchimp_sync.schedule_done(_c.campaign_id);
	ELSIF _c.step = 'unschedule' AND NOT mailchimp_sync.doubt_is_over(_c, _looked_at) THEN
		PERFORM mailchimp_sync.look_again(_c);
	ELSE
		UPDATE mailchimp_sync.campaign SET status = coalesce(mailchimp_sync.campaign_leads_to('stay', status), status)
		WHERE campaign_id = _c.campaign_id;
		IF _c.goal = 'prepare' AND _at IS DISTINCT FROM _c.told_for THEN
			UPDATE mailchimp_sync.campaign SET goal = 'schedule', scheduled_for = _at, hold = false
			WHERE campaign_id = _c.campaign_id;
		END IF;
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'unschedule');
	END IF;
END
$$;
