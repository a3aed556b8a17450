/*
 * campaign_check.sql: what is missing before a campaign can be sent, and how it is in whatever state.
 *
 * campaign_problems() is what keeps a campaign from being prepared, told without Mailchimp. mc_check_campaign()
 * puts everything together that bears upon the campaign, with what to do about each; it never fails for what it
 * finds, nor for Mailchimp not answering.
 */

-- what must be there before anything is asked of Mailchimp (R23, R25)
CREATE FUNCTION mailchimp_sync.campaign_problems(_c mailchimp_sync.campaign, OUT heading text, OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT p.heading, p.detail FROM (
		VALUES
		(1, _c.template_id IS NULL, 'no template is chosen',
			format('Choose one: mc_alter_campaign(%s, ''{"template": "..."}''); mc_template lists them.', _c.campaign_id)),
		(2, coalesce(_c.from_email, '') = '', 'no from_email is given',
			format('Give the sender''s address: mc_alter_campaign(%s, ''{"from_email": "..."}'').', _c.campaign_id)),
		(3, coalesce(_c.from_name, '') = '', 'no from_name is given',
			format('Give the sender''s name: mc_alter_campaign(%s, ''{"from_name": "..."}'').', _c.campaign_id)),
		(4, NOT mailchimp_sync.has_target(_c.campaign_id)
				AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _c.campaign_id),
			'it has no recipients', 'Add some with mc_add_recipients, or aim it with mc_target_tags or mc_target_audience.'),
		(5, NOT mailchimp_sync.has_target(_c.campaign_id) AND EXISTS (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _c.campaign_id)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient r
				WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending'),
			'all recipients are skipped', 'mc_campaign_recipient shows the reason of each; mc_add_recipients adds others.'),
		(6, NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id),
			'its audience was dropped', 'Delete it and make a new one.'),
		(7, EXISTS (SELECT FROM mailchimp_sync.audience a
				WHERE a.audience_id = _c.audience_id AND a.active_since IS NULL),
			'its audience is not switched on', (SELECT format('Switch it on with mc_sync_audience(%L).', a.audience)
				FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id)),
		(8, mailchimp_sync.list_is_gone(_c), 'its list was deleted at Mailchimp', mailchimp_sync.list_gone_words(_c) || '.')
	) AS p(position, is_so, heading, detail)
	WHERE p.is_so ORDER BY p.position
$$;

CREATE FUNCTION mailchimp_sync.campaign_check_complete(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_headings	text;
	_hints		text;
BEGIN
	SELECT string_agg(p.heading, '; '), string_agg(p.detail, ' ') INTO _headings, _hints
	FROM mailchimp_sync.campaign_problems(_c) p
	WHERE p.heading <> 'all recipients are skipped' OR _c.status = 'draft';
	IF _headings IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('campaign %s cannot be prepared: %s', _c.campaign_id, _headings), HINT = _hints;
	END IF;
END
$$;

/* ---- what there is to say ---- */

CREATE TYPE mailchimp_sync.finding AS (
	ok			boolean,
	heading		text,
	detail		text
);

-- how it is, and the way on or out (R35)
CREATE FUNCTION mailchimp_sync.check_status(_c mailchimp_sync.campaign) RETURNS SETOF mailchimp_sync.finding
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _c.status <> 'failed', format('it is %s', _c.status), CASE _c.status
		WHEN 'draft' THEN 'Everything about it can still be changed.'
		WHEN 'preparing' THEN coalesce(_c.last_error || '.', 'It is on its way; mc_progress shows how far.')
		WHEN 'prepared' THEN CASE _c.origin WHEN 'imported' THEN format('It was made at Mailchimp, and is sent there (edit_url of mc_campaign). '
			'mc_copy_campaign(%s) makes one of your own of it.', _c.campaign_id) ELSE format('mc_test_campaign shows it to colleagues, mc_send_campaign(%1$s) sends it. Another template is '
			'another campaign: mc_copy_campaign(%1$s), mc_delete_campaign(%1$s).', _c.campaign_id) END
		WHEN 'scheduled' THEN format('It is sent at %s; mc_unschedule_campaign(%s) takes that back.', _c.scheduled_for, _c.campaign_id)
		WHEN 'sending' THEN 'Mailchimp is sending it.'
		WHEN 'sent' THEN format('%s mails at %s; mc_report shows the results.', _c.emails_sent, _c.sent_at)
		WHEN 'failed' THEN concat(_c.last_error, format('. When that is mended, mc_send_campaign(%1$s) takes it up again; or delete '
			'it and make another: mc_copy_campaign(%1$s), mc_delete_campaign(%1$s).', _c.campaign_id))
		ELSE concat_ws('. ', _c.last_error, format('Recipients and results are kept here; mc_copy_campaign(%s) makes another one of it.',
			_c.campaign_id)) END
	UNION ALL
	SELECT false, 'the last test mail failed', f.detail FROM mailchimp_sync.failure f
	WHERE f.work = 'campaign' AND f.campaign_id = _c.campaign_id AND f.contact_key = 'test mail'
$$;

-- what stands in the way of everything, and of this audience
CREATE FUNCTION mailchimp_sync.check_surroundings(_c mailchimp_sync.campaign) RETURNS SETOF mailchimp_sync.finding
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT false, 'nothing is sent to Mailchimp', 'The setting mailchimp_sync.send is off; a superuser can switch it on.'
	WHERE NOT mailchimp_sync.may_send()
	UNION ALL
	SELECT false, format('connection %s is %s', s.connection, s.state), s.detail
	FROM mailchimp_sync.connection_state s WHERE s.connection = _c.connection AND s.state <> 'ok'
	UNION ALL
	SELECT true, format('connection %s is for training', n.connection),
		format('Only its %s addresses are mailed; mc_alter_connection changes that.', cardinality(n.only_addresses))
	FROM mailchimp_sync.connection n WHERE n.connection = _c.connection AND n.only_addresses IS NOT NULL
	UNION ALL
	SELECT false, 'its audience is paused', format('mc_resume(audience => %L) lets it go on.', a.audience)
	FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id AND a.paused
	UNION ALL
	SELECT false, format('the guard holds %s', CASE g.kind WHEN 'leave' THEN 'removals' ELSE 'new subscriptions' END),
		format('%s; recipients are not held. mc_approve(%L) lets them go.', g.detail, a.audience)
	FROM mailchimp_sync.guard_stop g JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE a.audience_id = _c.audience_id
	UNION ALL
	SELECT false, format('source %s cannot be read', s.source), s.detail
	FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
	WHERE x.audience_id = _c.audience_id AND s.state <> 'ok'
$$;

-- who gets it or got it, and why the others do not
CREATE FUNCTION mailchimp_sync.check_recipients(_c mailchimp_sync.campaign) RETURNS SETOF mailchimp_sync.finding
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH counted AS (
		SELECT r.skip_reason, count(*) AS count FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id GROUP BY r.skip_reason
	)
	SELECT true, format('%s recipients %s', coalesce(sum(k.count) FILTER (WHERE k.skip_reason IS NULL), 0), CASE
			WHEN mailchimp_sync.campaign_is_unsent(_c.status) THEN 'will get it'
			WHEN _c.sent_at IS NOT NULL THEN 'got it' WHEN _c.status = 'sending' THEN 'are getting it'
			ELSE 'would have got it' END),
		format('%s skipped: %s; mc_campaign_recipient shows each.', sum(k.count) FILTER (WHERE k.skip_reason IS NOT NULL),
			string_agg(format('%s %s', k.count, k.skip_reason), ', ' ORDER BY k.count DESC, k.skip_reason)
				FILTER (WHERE k.skip_reason IS NOT NULL))
	FROM counted k HAVING count(*) > 0
$$;

/*
 * What has changed since the recipients were fixed, or since it was sent. Who opts out before it is
 * sent does not get it, and data are refreshed before that; who opts out later has got it (N2).
 */
CREATE FUNCTION mailchimp_sync.check_changes(_c mailchimp_sync.campaign) RETURNS SETOF mailchimp_sync.finding
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH since AS (
		SELECT coalesce(_c.sent_at, _c.fixed_at) AS at, _c.sent_at IS NOT NULL AS sent
		WHERE _c.sent_at IS NOT NULL OR (_c.fixed_at IS NOT NULL AND _c.status IN ('prepared', 'scheduled', 'failed'))
	)
	SELECT true, format('recipients who opted out after it was %s: %s', CASE WHEN s.sent THEN 'sent' ELSE 'prepared' END, count(*)),
		CASE WHEN s.sent THEN 'They had got it before.' ELSE 'They are taken out of it.' END
	FROM since s
	JOIN mailchimp_sync.recipient r ON r.campaign_id = _c.campaign_id
		AND (CASE WHEN s.sent THEN r.status <> 'skipped' ELSE r.skip_reason = 'opted_out' END)
	WHERE EXISTS (SELECT FROM mailchimp_sync.opt_out o
			WHERE o.source_id = r.source_id AND o.contact_key = r.contact_key AND o.added_at > s.at)
		OR EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = r.email_hash AND o.added_at > s.at)
	GROUP BY s.sent
	UNION ALL
	SELECT true, format('recipients whose data changed after it was prepared: %s', count(*)),
		'They are refreshed before it is sent.'
	FROM since s
	JOIN mailchimp_sync.recipient r ON r.campaign_id = _c.campaign_id AND r.status = 'pending' AND NOT s.sent
	JOIN mailchimp_sync.contact k ON k.audience_id = _c.audience_id AND k.source_id = r.source_id
		AND k.contact_key = r.contact_key AND k.changed_at > s.at
	HAVING count(*) > 0
$$;

/* ---- what Mailchimp says ---- */

CREATE TYPE mailchimp_sync.campaign_there AS (
	status		text,		-- null: it is gone
	subject		text,
	from_name	text,
	reply_to	text,
	list_id		text,
	segment_id	text,
	-- of the checklist
	types		text[],
	headings	text[],
	details		text[]
);

-- asks Mailchimp now (src/campaign_check.c)
CREATE FUNCTION mailchimp_sync.look_there(_connection text, _mailchimp_id text) RETURNS mailchimp_sync.campaign_there
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_look_there';

-- what a marketer can do about an item of the checklist (R34, R35); null: its own words have to do
CREATE FUNCTION mailchimp_sync.checklist_advice(_c mailchimp_sync.campaign, _words text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(CASE
		WHEN _words ~* 'unsub' THEN 'Put the tag *|UNSUB|* into the template, then make another campaign of this one: '
			'mc_copy_campaign(%1$s), mc_delete_campaign(%1$s).'
		WHEN _words ~* 'verif|authentic|domain' THEN 'mc_domain says what to do about the domain; or give another sender: '
			'mc_alter_campaign(%1$s, ''{"from_email": "..."}'').'
		WHEN _words ~* 'reply|from.?(e-?mail|address)' THEN 'Give the sender''s address: mc_alter_campaign(%1$s, ''{"from_email": "..."}'').'
		WHEN _words ~* 'from.?name' THEN 'Give the sender''s name: mc_alter_campaign(%1$s, ''{"from_name": "..."}'').'
		WHEN _words ~* 'subject' THEN 'Give a subject: mc_alter_campaign(%1$s, ''{"subject": "..."}'').'
		WHEN _words ~* 'content|template|design' THEN 'Complete it on Mailchimp''s page (edit_url of mc_campaign). Or complete the '
			'template and make another campaign of this one, since this one keeps what it has: mc_copy_campaign(%1$s), mc_delete_campaign(%1$s).'
		WHEN _words ~* 'not ready|moment|counting' THEN 'Mailchimp is counting the recipients; look again in a minute.'
		WHEN _words ~* 'recipient|segment|audience|list' THEN 'mc_prepare_campaign(%1$s) goes through its recipients anew.'
	END, _c.campaign_id)
	WHERE _c.origin = 'local'
$$;

-- the campaign as it is there, next to what it is here; what was edited there is adopted (adopt.sql)
CREATE FUNCTION mailchimp_sync.check_there(_c mailchimp_sync.campaign, _there mailchimp_sync.campaign_there)
RETURNS SETOF mailchimp_sync.finding
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.ok, f.heading, f.detail
	FROM (SELECT _there.status IS NOT NULL AND _c.goal IS NULL AND NOT _c.altered AND _c.restored_at IS NULL AND _c.content_at IS NOT NULL AS settled) k
	CROSS JOIN LATERAL (VALUES
		(1, _there.status IS NULL, false, 'it is gone at Mailchimp',
			format('Somebody deleted it there. mc_copy_campaign(%1$s) makes another one of it, mc_delete_campaign(%1$s) ends this one.',
				_c.campaign_id)),
		(2, _c.goal IS NULL AND _there.status <> ALL (CASE WHEN _c.status = 'scheduled' AND NOT _c.hold THEN '{schedule}'::text[]
				ELSE '{save,paused}' END), false,
			format('it is "%s" at Mailchimp', _there.status),
			format('Somebody did that there; mc_poll_campaign(%s) takes it over now.', _c.campaign_id)),
		(3, k.settled AND (_there.list_id, _there.segment_id) IS DISTINCT FROM (_c.list_id, _c.segment_id::text), false,
			'its recipients were changed at Mailchimp',
			'Sent from here it goes to those that were selected here; sent there, to those that are chosen there.'),
		(4, k.settled AND _there.subject IS DISTINCT FROM coalesce(_c.subject, _c.name), true, 'its subject was changed at Mailchimp',
			format('"%s" is taken over with the next look at it.', _there.subject)),
		(5, k.settled AND (_there.from_name, _there.reply_to) IS DISTINCT FROM (_c.from_name, _c.from_email), true,
			'its sender was changed at Mailchimp',
			format('%s <%s> is taken over with the next look at it.', _there.from_name, _there.reply_to))
	) AS f(position, is_so, ok, heading, detail)
	WHERE f.is_so
	UNION ALL
	SELECT i.type <> 'error', i.heading, concat_ws(' ', nullif(i.detail, ''), CASE WHEN i.type <> 'success'
		THEN mailchimp_sync.checklist_advice(_c, concat_ws(' ', i.heading, i.detail)) END)
	FROM unnest(_there.types, _there.headings, _there.details) AS i(type, heading, detail)
$$;

/* ---- for people ---- */

CREATE FUNCTION @extschema@.mc_check_campaign(campaign bigint)
RETURNS TABLE (ok boolean, heading text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_check_campaign(bigint) IS
	'how a campaign is and what is still missing, by our own checks and Mailchimp''s, with what to do; asks Mailchimp now';

-- not asked of what it does not know, or what is over
CREATE FUNCTION mailchimp_sync.mc_check_campaign(_campaign bigint)
RETURNS TABLE (ok boolean, heading text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.campaign_of(_campaign);
	_is_unsent	boolean := mailchimp_sync.campaign_is_unsent(_c.status);
	_is_ours	boolean := _c.origin = 'local';		-- of an imported one Mailchimp knows what it lacks, and who gets it
	_there		mailchimp_sync.campaign_there;
	_asked		boolean := false;
	_trouble	text;
	_more		text;
	_hint		text;
BEGIN
	IF _is_unsent AND _c.mailchimp_id IS NOT NULL THEN
		BEGIN
			PERFORM mailchimp_sync.require_sending(_c.connection);
			_there := mailchimp_sync.look_there(_c.connection, _c.mailchimp_id);
			_asked := true;
		EXCEPTION WHEN OTHERS THEN
			GET STACKED DIAGNOSTICS _more = PG_EXCEPTION_DETAIL, _hint = PG_EXCEPTION_HINT;
			_trouble := concat_ws(' ', SQLERRM || '.', nullif(_more, ''), nullif(_hint, ''));
		END;
	END IF;
	RETURN QUERY
	SELECT * FROM mailchimp_sync.check_status(_c)
	UNION ALL
	SELECT false, p.heading, p.detail FROM mailchimp_sync.campaign_problems(_c) p WHERE _is_unsent AND _is_ours
	UNION ALL
	SELECT false, p.heading, p.detail FROM mailchimp_sync.merge_tag_problems(_c) p WHERE _is_unsent AND _is_ours
	UNION ALL
	SELECT d.ok, d.heading, d.detail FROM mailchimp_sync.sender_check(_c) d WHERE _is_unsent AND _is_ours
	UNION ALL
	SELECT t.ok, t.heading, t.detail FROM mailchimp_sync.target_check(_c) t
	UNION ALL
	SELECT * FROM mailchimp_sync.check_surroundings(_c) WHERE _is_unsent OR _c.status = 'sending'
	UNION ALL
	SELECT * FROM mailchimp_sync.check_recipients(_c) WHERE _is_ours
	UNION ALL
	SELECT * FROM mailchimp_sync.check_changes(_c) WHERE _is_ours
	UNION ALL
	SELECT * FROM mailchimp_sync.check_there(_c, _there) WHERE _asked
	UNION ALL
	SELECT _trouble IS NULL, 'Mailchimp was not asked', CASE
		WHEN _trouble IS NOT NULL THEN _trouble
		WHEN _is_unsent THEN format('It does not know the campaign yet; mc_prepare_campaign(%s) makes it there.', _campaign)
		ELSE 'There is nothing left to be checked there.' END
	WHERE NOT _asked;
END
$$;
