/*
 * adopt.sql: what people do with our campaigns at Mailchimp itself.
 *
 * A campaign that is looked at, on its way or by a poll of its state, is taken as Mailchimp shows it: sent or scheduled
 * there, its schedule taken back, its title, subject, sender or template edited. What its recipients are is ours to say: another
 * selection is put right before it is sent, and sent by somebody else it has gone to whom Mailchimp says.
 *
 * A look that set out before the campaign's last step is old, and nothing is taken from it.
 */
CREATE TYPE mailchimp_sync.shown AS (
	status			text,
	send_time		timestamptz,	-- when it was sent, or will be
	archive_url		text,
	emails_sent		bigint,
	recipient_count	bigint,
	segment_id		bigint,
	template_id		bigint,
	title			text,
	subject			text,
	from_name		text,
	from_email		text
);

CREATE FUNCTION mailchimp_sync.shown_fields() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'status,send_time,archive_url,emails_sent,recipients.recipient_count,recipients.segment_opts.saved_segment_id,'
		'settings.template_id,settings.title,settings.subject_line,settings.from_name,settings.reply_to'
$$;

-- in the order of shown_fields(); an empty text is none
CREATE FUNCTION mailchimp_sync.as_shown(_status text, _send_time text, _archive_url text, _emails_sent bigint,
	_recipient_count bigint, _segment_id bigint, _template_id bigint, _title text, _subject text, _from_name text,
	_from_email text) RETURNS mailchimp_sync.shown
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _status, nullif(_send_time, '')::timestamptz, _archive_url, _emails_sent, _recipient_count, _segment_id,
		nullif(_template_id, 0), nullif(_title, ''), nullif(_subject, ''), nullif(_from_name, ''), nullif(_from_email, '')
$$;

-- what was edited there; not what is about to be overwritten, or is the work of another database
CREATE FUNCTION mailchimp_sync.adopt_shown(_c mailchimp_sync.campaign, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET mailchimp_status = _shown.status, archive_url = coalesce(_shown.archive_url, archive_url)
	WHERE campaign_id = _c.campaign_id;
	UPDATE mailchimp_sync.campaign c SET name = n.name,
		subject = CASE WHEN coalesce(_shown.subject, c.subject, c.name) <> coalesce(c.subject, n.name) THEN _shown.subject
			ELSE c.subject END,
		from_name = coalesce(_shown.from_name, c.from_name), from_email = coalesce(_shown.from_email, c.from_email),
		template_id = coalesce(_shown.template_id, c.template_id)
	FROM (SELECT CASE WHEN _shown.title = mailchimp_sync.marked_name(_c) THEN _c.name
		ELSE coalesce(nullif(btrim(replace(_shown.title, format('[%s]', _c.marker), '')), ''), _c.name) END AS name) n
	WHERE c.campaign_id = _c.campaign_id AND mailchimp_sync.campaign_is_unsent(c.status) AND NOT c.altered
		AND c.restored_at IS NULL AND c.content_at IS NOT NULL
$$;

-- true: Mailchimp is sending it or has sent it, whoever did that; what was canceled there has gone to some
CREATE FUNCTION mailchimp_sync.adopt_sending(_c mailchimp_sync.campaign, _shown mailchimp_sync.shown) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.origin = 'imported' THEN
		RETURN mailchimp_sync.import_left(_c, _shown);
	ELSIF _c.status = 'sent' THEN
		RETURN false;
	ELSIF _shown.status IN ('sent', 'canceled') THEN
		PERFORM mailchimp_sync.campaign_sent(_c, _shown);
	ELSIF _shown.status IN ('sending', 'canceling') THEN
		PERFORM mailchimp_sync.campaign_leaving(_c);
	ELSE
		RETURN false;
	END IF;
	RETURN true;
END
$$;

-- by a poll: the campaign is prepared, scheduled or has failed, and nothing is to be done with it here
CREATE FUNCTION mailchimp_sync.adopt_state(_c mailchimp_sync.campaign, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_is_there	boolean := _c.status = 'scheduled' AND NOT _c.hold;
BEGIN
	PERFORM mailchimp_sync.adopt_shown(_c, _shown);
	IF mailchimp_sync.adopt_sending(_c, _shown) THEN
		RETURN;
	ELSIF _shown.status = 'schedule' AND NOT (_is_there AND _c.scheduled_for = _shown.send_time
			AND _shown.segment_id IS NOT DISTINCT FROM _c.segment_id) THEN
		UPDATE mailchimp_sync.campaign SET scheduled_for = _shown.send_time, told_for = _shown.send_time, hold = false,
			-- to be put right: aimed at others, or perhaps at the segment as it was before somebody left it
			altered = altered OR _shown.segment_id IS DISTINCT FROM segment_id OR count_last IS NULL
		WHERE campaign_id = _c.campaign_id;
		PERFORM mailchimp_sync.campaign_rests(_c.campaign_id, 'adopt schedule');
	ELSIF _shown.status IN ('save', 'paused') AND _is_there THEN
		UPDATE mailchimp_sync.campaign SET scheduled_for = NULL, told_for = NULL WHERE campaign_id = _c.campaign_id;
		PERFORM mailchimp_sync.campaign_rests(_c.campaign_id, 'adopt unschedule');
	END IF;
END
$$;

-- on its way it is found to be aimed at others than our segment
CREATE FUNCTION mailchimp_sync.campaign_aims_elsewhere(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.refusals < 4 THEN
		UPDATE mailchimp_sync.campaign SET altered = true, refusals = refusals + 1 WHERE campaign_id = _c.campaign_id;
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'settings');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'changed at Mailchimp',
			'its recipients are not those of its segment; mc_delete_campaign deletes it');
	END IF;
END
$$;
