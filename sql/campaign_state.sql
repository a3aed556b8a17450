/*
 * campaign_state.sql: the states of a campaign, who may do what in which of them,
 * and where it leads. The guide draws the same (States of a campaign), and a test
 * compares the two.
 */

-- everything that changes a status asks here; people's verbs first, the engine's after them
CREATE FUNCTION mailchimp_sync.campaign_transitions(OUT verb text, OUT from_status text, OUT to_status text)
RETURNS SETOF record
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	VALUES
		-- people
		('alter', 'draft', 'draft'),
		('alter', 'prepared', 'preparing'),
		('alter', 'failed', 'failed'),
		('select', 'draft', 'draft'),
		('select', 'failed', 'failed'),
		('prepare', 'draft', 'preparing'),
		('prepare', 'prepared', 'preparing'),
		('prepare', 'failed', 'preparing'),
		('send', 'draft', 'preparing'),
		('send', 'preparing', 'preparing'),
		('send', 'prepared', 'preparing'),
		('send', 'scheduled', 'preparing'),
		('send', 'failed', 'preparing'),
		('schedule', 'draft', 'preparing'),
		('schedule', 'preparing', 'preparing'),
		('schedule', 'prepared', 'preparing'),
		('schedule', 'scheduled', 'preparing'),
		('schedule', 'failed', 'preparing'),
		('unschedule', 'preparing', 'preparing'),
		('unschedule', 'scheduled', 'preparing'),
		('cancel', 'draft', 'canceled'),
		('cancel', 'preparing', 'preparing'),
		('cancel', 'prepared', 'preparing'),
		('cancel', 'scheduled', 'preparing'),
		('cancel', 'failed', 'preparing'),
		('delete', 'draft', 'deleted'),
		('delete', 'preparing', 'preparing'),
		('delete', 'prepared', 'preparing'),
		('delete', 'scheduled', 'preparing'),
		('delete', 'failed', 'preparing'),
		('delete', 'canceled', 'canceled'),
		('delete', 'sent', 'sent'),
		('test', 'prepared', 'prepared'),
		('test', 'scheduled', 'scheduled'),
		('test', 'failed', 'failed'),
		('poll', 'prepared', 'prepared'),
		('poll', 'scheduled', 'scheduled'),
		('poll', 'sending', 'sending'),
		('poll', 'sent', 'sent'),
		('poll', 'failed', 'failed'),
		-- the engine
		('arrive', 'preparing', 'prepared'),
		('arrive', 'scheduled', 'prepared'),
		('wait', 'preparing', 'scheduled'),
		('correct', 'scheduled', 'preparing'),
		('release', 'scheduled', 'preparing'),
		('leave', 'preparing', 'sending'),
		('leave', 'prepared', 'sending'),
		('leave', 'scheduled', 'sending'),
		('leave', 'failed', 'sending'),
		('leave', 'canceled', 'sending'),
		('stay', 'sending', 'preparing'),
		('trace', 'draft', 'preparing'),
		('trace', 'preparing', 'preparing'),
		('trace', 'prepared', 'preparing'),
		('trace', 'scheduled', 'preparing'),
		('trace', 'failed', 'preparing'),
		('fail', 'preparing', 'failed'),
		('fail', 'prepared', 'failed'),
		('fail', 'scheduled', 'failed'),
		('fail', 'sending', 'failed'),
		('fail', 'sent', 'sent'),
		('fail', 'canceled', 'canceled'),
		('end', 'sending', 'sent'),
		('end', 'preparing', 'sent'),
		('end', 'prepared', 'sent'),
		('end', 'scheduled', 'sent'),
		('end', 'failed', 'sent'),
		('end', 'canceled', 'sent'),
		('end cancel', 'preparing', 'canceled'),
		('end delete', 'preparing', 'deleted'),
		('end delete', 'canceled', 'deleted'),
		('end delete', 'sent', 'deleted'),
		('abandon', 'preparing', 'canceled'),
		('abandon', 'prepared', 'canceled'),
		('abandon', 'scheduled', 'canceled'),
		('abandon', 'sending', 'canceled'),
		('abandon', 'failed', 'canceled'),
		-- what was done at Mailchimp itself
		('adopt schedule', 'prepared', 'scheduled'),
		('adopt schedule', 'scheduled', 'scheduled'),
		('adopt schedule', 'failed', 'scheduled'),
		('adopt unschedule', 'scheduled', 'prepared'),
		('vanish', 'prepared', 'deleted'),
		('vanish', 'scheduled', 'deleted'),
		('vanish', 'failed', 'deleted'),
		('vanish', 'sent', 'deleted');
END
$$;

-- null: not in that state
CREATE FUNCTION mailchimp_sync.campaign_leads_to(_verb text, _status text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.to_status FROM mailchimp_sync.campaign_transitions() t
	WHERE t.verb = _verb AND t.from_status = _status
$$;

-- an imported campaign is what Mailchimp shows, but what was sent stays so
CREATE FUNCTION mailchimp_sync.imported_leads_to(_from_status text, _shown text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _from_status = 'sent' AND _shown <> 'deleted' THEN _from_status ELSE _shown END
$$;

-- nobody gets round the table
CREATE FUNCTION mailchimp_sync.campaign_status_guard() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.campaign_transitions() t
			WHERE t.from_status = OLD.status AND t.to_status = NEW.status)
		AND NOT (NEW.origin = 'imported' AND NEW.status IN ('prepared', 'scheduled', 'sending', 'sent', 'canceled', 'deleted')
			AND NEW.status = mailchimp_sync.imported_leads_to(OLD.status, NEW.status)) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('campaign %s cannot become %s: it is %s', OLD.campaign_id, coalesce(NEW.status, 'nothing'), OLD.status);
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER status_guard BEFORE UPDATE OF status ON mailchimp_sync.campaign
	FOR EACH ROW WHEN (OLD.status IS DISTINCT FROM NEW.status) EXECUTE FUNCTION mailchimp_sync.campaign_status_guard();

-- whom an imported campaign goes to is decided at Mailchimp, past our opt-outs: nothing is sent or changed from here
CREATE FUNCTION mailchimp_sync.is_for_imported(_verb text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _verb NOT IN ('alter', 'select', 'prepare', 'send', 'schedule')
$$;

/*
 * May this be asked of it? One that is on its way can be given another end as long as that only says what is to
 * happen once it is there: send it or schedule it after all, or neither.
 */
CREATE FUNCTION mailchimp_sync.campaign_allows(_c mailchimp_sync.campaign, _verb text) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.campaign_leads_to(_verb, _c.status) IS NOT NULL
		AND (_c.origin = 'local' OR mailchimp_sync.is_for_imported(_verb)) AND CASE
		WHEN _c.goal IS NULL THEN true
		WHEN _verb IN ('alter', 'select', 'prepare') THEN false
		WHEN _verb IN ('send', 'schedule') THEN _c.goal IN ('prepare', 'schedule')
		WHEN _verb = 'unschedule' THEN _c.goal = 'schedule'
		ELSE true
	END
$$;

-- nothing has gone out yet: opting out still helps
CREATE FUNCTION mailchimp_sync.campaign_is_unsent(_status text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _status IN ('draft', 'preparing', 'prepared', 'scheduled', 'failed')
$$;
CREATE INDEX campaign_unsent ON mailchimp_sync.campaign (campaign_id) WHERE mailchimp_sync.campaign_is_unsent(status) AND origin = 'local';

-- the campaign as it is, in whatever state
CREATE FUNCTION mailchimp_sync.campaign_of(_campaign bigint) RETURNS mailchimp_sync.campaign
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign;
	IF NOT FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'undefined_object',
			MESSAGE = format('campaign %s does not exist', coalesce(_campaign::text, 'null')),
			HINT = 'mc_campaign lists the campaigns.';
	END IF;
	RETURN _c;
END
$$;

-- the campaign, locked for somebody who wants to do something with it
CREATE FUNCTION mailchimp_sync.campaign_for(_campaign bigint, _verb text) RETURNS mailchimp_sync.campaign
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign FOR NO KEY UPDATE;
	IF NOT FOUND THEN
		_c := mailchimp_sync.campaign_of(_campaign);
	END IF;
	IF NOT mailchimp_sync.campaign_allows(_c, _verb) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('cannot %s campaign %s: it is %s',
				CASE _verb WHEN 'select' THEN 'change the recipients of' ELSE _verb END, _campaign,
				CASE WHEN _c.origin = 'local' OR mailchimp_sync.is_for_imported(_verb) THEN _c.status ELSE 'imported' END),
			HINT = CASE
				WHEN NOT (_c.origin = 'local' OR mailchimp_sync.is_for_imported(_verb)) THEN format('It belongs to who made it at Mailchimp, and so do '
					'its recipients: go on with it there (edit_url of mc_campaign), or make one of your own with mc_copy_campaign(%s).', _campaign)
				WHEN _c.status = 'sending' THEN 'Mailchimp is sending it; wait until it is sent.'
				WHEN _c.status = 'sent' THEN 'A campaign is sent once; make a new one for another mail.'
				WHEN _c.status IN ('canceled', 'deleted') THEN 'Make a new one with mc_create_campaign.'
				WHEN _c.status = 'scheduled' THEN 'Take it back first with mc_unschedule_campaign.'
				WHEN _c.status = 'preparing' THEN 'Wait until it is prepared, or stop it with mc_cancel_campaign.'
				WHEN _verb = 'test' THEN format('Make it at Mailchimp first: mc_prepare_campaign(%s).', _campaign)
				WHEN _verb = 'select' THEN 'Its recipients are fixed; cancel it and make a new one.'
				ELSE format('That can be done with a campaign that is %s.', (SELECT string_agg(t.from_status, ', ')
					FROM mailchimp_sync.campaign_transitions() t WHERE t.verb = _verb))
			END;
	END IF;
	RETURN _c;
END
$$;
