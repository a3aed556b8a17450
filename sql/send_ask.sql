/*
 * send_ask.sql: what each step of a campaign asks of Mailchimp (see send.sql).
 *
 * ask_STEP(campaign) makes the request, or none where nothing is left to ask.
 */
CREATE TYPE mailchimp_sync.ask AS (
	method			text,		-- null: nothing to ask
	path			text,
	body			jsonb,
	source_ids		integer[],	-- the recipients that it carries
	contact_keys	text[],
	-- without a method: where to go instead of the next step; '': nowhere, it has been noted when to ask again
	elsewhere		text
);

-- how people and we recognise what is ours at Mailchimp; names there have 100 characters at most
CREATE FUNCTION mailchimp_sync.marked_name(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s [%s]', left(_c.name, 80), _c.marker)
$$;

CREATE FUNCTION mailchimp_sync.ask_segment(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'POST', format('/lists/%s/segments', _c.list_id),
		jsonb_build_object('name', mailchimp_sync.marked_name(_c), 'static_segment', '[]'::jsonb),
		NULL::integer[], NULL::text[], NULL
	WHERE _c.segment_id IS NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_find_segment(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/lists/%s/segments?type=static&fields=segments.id,segments.name&count=%s&offset=%s', _c.list_id,
		mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
$$;

-- members out of the segment: those that are skipped, and addresses that were changed
CREATE FUNCTION mailchimp_sync.ask_remove(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'POST', format('/lists/%s/segments/%s', _c.list_id, _c.segment_id),
		jsonb_build_object('members_to_remove', jsonb_agg(p.segment_email ORDER BY p.source_id, p.contact_key)),
		array_agg(p.source_id ORDER BY p.source_id, p.contact_key), array_agg(p.contact_key ORDER BY p.source_id, p.contact_key),
		NULL
	FROM mailchimp_sync.leaving_recipients(_c.campaign_id, 500) p
	HAVING count(*) > 0
$$;

/*
 * Members into the segment. From here on they may be in it, whatever becomes of
 * the answer: segment_email says so, and whoever is skipped now is taken out again.
 */
CREATE FUNCTION mailchimp_sync.ask_fill(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH coming AS MATERIALIZED (
		SELECT n.* FROM mailchimp_sync.coming_recipients(_c.campaign_id, 500) n
	), going AS (
		-- all of them are there already: so they are looked up by the primary key, whatever the planner thinks of the table
		INSERT INTO mailchimp_sync.recipient AS r (campaign_id, source_id, contact_key, email, email_hash, status,
			added_at, added_by)
		SELECT n.campaign_id, n.source_id, n.contact_key, n.email, n.email_hash, n.status, n.added_at, n.added_by FROM coming n
		ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET segment_email = r.email
		WHERE r.status = 'pending' AND NOT r.filled
		RETURNING r.*
	)
	SELECT 'POST', format('/lists/%s/segments/%s', _c.list_id, _c.segment_id),
		jsonb_build_object('members_to_add', jsonb_agg(g.segment_email ORDER BY g.source_id, g.contact_key)),
		array_agg(g.source_id ORDER BY g.source_id, g.contact_key),
		array_agg(g.contact_key ORDER BY g.source_id, g.contact_key), NULL
	FROM going g
	HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.campaign_body(_c mailchimp_sync.campaign) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'recipients', jsonb_build_object('list_id', _c.list_id,
			'segment_opts', jsonb_build_object('saved_segment_id', _c.segment_id)),
		'settings', jsonb_build_object('subject_line', coalesce(_c.subject, _c.name),
			'title', mailchimp_sync.marked_name(_c), 'from_name', _c.from_name, 'reply_to', _c.from_email))
$$;

CREATE FUNCTION mailchimp_sync.ask_create(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ask	mailchimp_sync.ask;
BEGIN
	IF mailchimp_sync.campaign_is_empty(_c) THEN
		_ask.elsewhere := '';
	ELSIF _c.mailchimp_id IS NULL THEN
		_ask.method := 'POST';
		_ask.path := '/campaigns';
		_ask.body := jsonb_build_object('type', _c.type) || mailchimp_sync.campaign_body(_c);
	END IF;
	RETURN _ask;
END
$$;

-- the newest come first; ours is as old as the doubt, or as the copy that looks for it. Looked for before it is made, too
CREATE FUNCTION mailchimp_sync.ask_find_campaign(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _c.mailchimp_id IS NULL THEN 'GET' END,
		format('/campaigns?list_id=%s&sort_field=create_time&sort_dir=DESC&count=%s&offset=%s'
			'&fields=campaigns.id,campaigns.web_id,campaigns.status,campaigns.settings.title,'
			'campaigns.recipients.segment_opts.saved_segment_id',
			_c.list_id, mailchimp_sync.page_size(), coalesce(_c.cursor, '0')),
		NULL::jsonb, NULL::integer[], NULL::text[], CASE WHEN _c.mailchimp_id IS NOT NULL AND _c.restored_at IS NOT NULL THEN 'look' END
$$;

CREATE FUNCTION mailchimp_sync.ask_settings(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'PATCH', format('/campaigns/%s', _c.mailchimp_id), mailchimp_sync.campaign_body(_c),
		NULL::integer[], NULL::text[], NULL
	WHERE _c.altered
$$;

-- once: people may have edited it at Mailchimp since
CREATE FUNCTION mailchimp_sync.ask_content(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'PUT', format('/campaigns/%s/content', _c.mailchimp_id),
		jsonb_build_object('template', jsonb_build_object('id', _c.template_id)), NULL::integer[], NULL::text[], NULL
	WHERE _c.content_at IS NULL
$$;

-- the campaign as Mailchimp shows it
CREATE FUNCTION mailchimp_sync.ask_look(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/campaigns/%s?fields=%s', _c.mailchimp_id, mailchimp_sync.shown_fields()), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	WHERE _c.mailchimp_id IS NOT NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_count(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ask	mailchimp_sync.ask := mailchimp_sync.ask_look(_c);
BEGIN
	IF (mailchimp_sync.ask_remove(_c)).method IS NOT NULL THEN
		_ask.method := NULL;
		_ask.elsewhere := 'remove';
	ELSIF _c.segment_expected IS NULL THEN
		UPDATE mailchimp_sync.campaign SET segment_expected = (SELECT count(*) FROM mailchimp_sync.recipient r
			WHERE r.campaign_id = _c.campaign_id AND r.status = 'pending' AND r.filled)
		WHERE campaign_id = _c.campaign_id;
	END IF;
	RETURN _ask;
END
$$;

CREATE FUNCTION mailchimp_sync.ask_sent(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.ask_look(_c)
$$;

CREATE FUNCTION mailchimp_sync.ask_recall(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.ask_look(_c)
$$;

CREATE FUNCTION mailchimp_sync.ask_walk(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/lists/%s/segments/%s/members?fields=members.id&count=%s&offset=%s', _c.list_id, _c.segment_id,
		mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_checklist(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/campaigns/%s/send-checklist', _c.mailchimp_id), NULL::jsonb, NULL::integer[], NULL::text[], NULL
$$;

-- the newest event of the campaign's sources, up to the one that the cursor names
CREATE FUNCTION mailchimp_sync.open_event(_c mailchimp_sync.campaign) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT max(e.event_id) FROM mailchimp_sync.audience_source x
	CROSS JOIN LATERAL (SELECT o.event_id FROM mailchimp_sync.event o
		WHERE o.source_id = x.source_id AND o.event_id <= coalesce(_c.cursor::bigint, 9223372036854775807)
		ORDER BY o.event_id DESC LIMIT 1) e
	WHERE x.audience_id = _c.audience_id
$$;

/*
 * Fixed once more, in the transaction that commits the sending, or the scheduling, as begun: whoever
 * has opted out by now goes out of the segment first. Where it is the CRM that says so, an
 * event tells, or the evaluation that came just before: events that are open when we get here are
 * folded first (not those that come later, there is no end to them), and what was evaluated a while ago is evaluated anew.
 * Null: nothing stands against it; else where to go (see ask.elsewhere).
 */
CREATE FUNCTION mailchimp_sync.last_look(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_open	bigint;
BEGIN
	IF coalesce(_c.rechecked_at < mailchimp_sync.clock() - interval '1 minute', true) THEN
		RETURN 'recheck';
	END IF;
	-- before what takes long, which would be in vain, and once more behind the lock: what came in while it was awaited is seen, too
	_open := mailchimp_sync.open_event(_c);
	IF _open IS NULL THEN
		PERFORM mailchimp_sync.settle_all(_c);
		IF NOT mailchimp_sync.fix_recipients(_c) THEN
			RETURN '';
		END IF;
		_open := mailchimp_sync.open_event(_c);
	END IF;
	IF _open IS NOT NULL THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, 'changes in the CRM are looked at first',
			coalesce(_c.cursor, _open::text), '0.2 seconds');
		RETURN '';
	ELSIF mailchimp_sync.campaign_is_empty(_c) THEN
		RETURN '';
	ELSIF EXISTS (SELECT FROM mailchimp_sync.leaving_recipients(_c.campaign_id, 1))
			OR EXISTS (SELECT FROM mailchimp_sync.coming_recipients(_c.campaign_id, 1)) THEN
		RETURN 'remove';
	END IF;
	RETURN NULL;
END
$$;

CREATE FUNCTION mailchimp_sync.ask_send(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ask	mailchimp_sync.ask;
BEGIN
	_ask.elsewhere := coalesce(mailchimp_sync.not_to_be_sent_now(_c), mailchimp_sync.last_look(_c));
	IF _ask.elsewhere IS NULL THEN
		_ask.method := 'POST';
		_ask.path := format('/campaigns/%s/actions/send', _c.mailchimp_id);
		UPDATE mailchimp_sync.campaign SET status = mailchimp_sync.campaign_leads_to('leave', _c.status)
		WHERE campaign_id = _c.campaign_id;
	END IF;
	RETURN _ask;
END
$$;

-- nobody is in the segment any more: whom the database that this is a copy of has put in is not known here
CREATE FUNCTION mailchimp_sync.ask_renew(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'PATCH', format('/lists/%s/segments/%s', _c.list_id, _c.segment_id),
		jsonb_build_object('name', mailchimp_sync.marked_name(_c), 'static_segment', '[]'::jsonb),
		NULL::integer[], NULL::text[], NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_sent_to(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/reports/%s/sent-to?fields=sent_to.email_id,sent_to.email_address&count=%s&offset=%s',
		_c.mailchimp_id, mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_drop_campaign(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'DELETE', format('/campaigns/%s', _c.mailchimp_id), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	WHERE _c.mailchimp_id IS NOT NULL
$$;

CREATE FUNCTION mailchimp_sync.ask_drop_segment(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'DELETE', format('/lists/%s/segments/%s', _c.list_id, _c.segment_id), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	WHERE _c.segment_id IS NOT NULL
$$;
