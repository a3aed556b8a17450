/*
 * send_ready.sql: what has to be so at Mailchimp before anything is made there for a campaign (see send.sql; R4, R5, R25, R34).
 *
 * The first steps of the way: mail may be sent from the domain of the from address, and the template is there. What was fetched
 * within the last ten minutes and is fine is not asked again. What is not fine fails the campaign with what to do, before
 * anybody has joined its audience and before it has a segment. Where Mailchimp does not show it to the key's user,
 * its checklist has the last word.
 */

-- so long what was fetched is taken for what is
CREATE FUNCTION mailchimp_sync.fetched_lately(_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(_at > mailchimp_sync.clock() - interval '10 minutes', false)
$$;

/* ---- the list ---- */

CREATE FUNCTION mailchimp_sync.list_is_gone(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.refresh r
			WHERE r.connection = _c.connection AND r.what = 'lists' AND r.fetched_at IS NOT NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.list l WHERE l.connection = _c.connection AND l.list_id = _c.list_id)
$$;

CREATE FUNCTION mailchimp_sync.list_gone_words(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('The list %s%s was deleted at Mailchimp, with its members. Make an audience of another list (mc_create_audience) and '
		'a campaign for that; mc_delete_campaign(%s) ends this one', _c.list_id,
		(SELECT format(' of audience "%s"', a.audience) FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id),
		_c.campaign_id)
$$;

/* ---- the domain of the from address ---- */

CREATE TYPE mailchimp_sync.sender AS (
	name			text,		-- of the domain
	is_known		boolean,	-- Mailchimp shows us the account's domains
	verified		boolean,
	authenticated	boolean,
	is_free_mail	boolean
);

CREATE FUNCTION mailchimp_sync.sender_of(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.sender
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT x.name, EXISTS (SELECT FROM mailchimp_sync.domain d WHERE d.connection = _c.connection)
			OR EXISTS (SELECT FROM mailchimp_sync.refresh r
				WHERE r.connection = _c.connection AND r.what = 'domains' AND r.fetched_at IS NOT NULL),
		coalesce(d.verified, false), coalesce(d.authenticated, false),
		coalesce(d.is_free_mail, mailchimp_sync.is_free_mail(x.name))
	FROM (SELECT lower(split_part(_c.from_email, '@', 2)) AS name) x
	LEFT JOIN mailchimp_sync.domain d ON d.connection = _c.connection AND d.domain = x.name
$$;

-- why mail cannot be sent from there, and what to do; null: it can, as far as we know
CREATE FUNCTION mailchimp_sync.sender_problem(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('Mailchimp sends nothing from %s: %s. Or give a sender at another domain: mc_alter_campaign(%s, ''{"from_email": "..."}'')%s',
		_c.from_email, mailchimp_sync.domain_advice(s.name, s.verified, s.authenticated, s.is_free_mail), _c.campaign_id,
		(SELECT format('; verified: %s', string_agg(v.domain, ', ' ORDER BY v.domain))
			FROM (SELECT d.domain FROM mailchimp_sync.domain d
				WHERE d.connection = _c.connection AND d.verified AND NOT d.is_free_mail ORDER BY 1 LIMIT 5) v HAVING count(*) > 0))
	FROM mailchimp_sync.sender_of(_c) s
	WHERE s.is_known AND NOT s.verified
$$;

CREATE FUNCTION mailchimp_sync.ask_domain(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ask	mailchimp_sync.ask;
BEGIN
	IF mailchimp_sync.list_is_gone(_c) THEN
		PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'the list is gone', mailchimp_sync.list_gone_words(_c));
		_ask.elsewhere := '';
	ELSIF mailchimp_sync.sender_problem(_c) IS NOT NULL OR NOT mailchimp_sync.fetched_lately((SELECT r.fetched_at
			FROM mailchimp_sync.refresh r WHERE r.connection = _c.connection AND r.what = 'domains')) THEN
		_ask.method := 'GET';
		_ask.path := mailchimp_sync.part_path('domains', '', 0);
	END IF;
	RETURN _ask;
END
$$;

-- the account's domains were stored
CREATE FUNCTION mailchimp_sync.domain_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_problem	text := mailchimp_sync.sender_problem(_c);
BEGIN
	IF _problem IS NULL THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'template');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'the sender''s domain is not verified', _problem);
	END IF;
END
$$;

/* ---- the template ---- */

-- why it cannot be used, and what to do (R35, R36); null: it can, or its content is in the campaign already
CREATE FUNCTION mailchimp_sync.template_problem(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('template %s%s was deleted at Mailchimp. %s', _c.template_id,
		(SELECT format(' "%s"', t.name) FROM mailchimp_sync.template t
			WHERE t.connection = _c.connection AND t.template_id = _c.template_id), CASE
		WHEN mailchimp_sync.campaign_is_made(_c) THEN format('The campaign exists there already, so that it keeps its template: make '
			'another with mc_copy_campaign(%1$s), choose a template for it, and delete this one with mc_delete_campaign(%1$s)', _c.campaign_id)
		ELSE format('Choose another one: mc_alter_campaign(%s, ''{"template": "..."}''); mc_template lists them', _c.campaign_id) END)
	WHERE _c.template_id IS NOT NULL AND _c.content_at IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.template t
		WHERE t.connection = _c.connection AND t.template_id = _c.template_id AND t.active)
$$;

-- everything is ready: who gets it, if that is not decided, else with which data
CREATE FUNCTION mailchimp_sync.ready_next(_c mailchimp_sync.campaign) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _c.fixed_at IS NULL THEN 'target' ELSE 'join' END
$$;

CREATE FUNCTION mailchimp_sync.ask_template(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _c.content_at IS NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.template t
			WHERE t.connection = _c.connection AND t.template_id = _c.template_id AND t.active
				AND mailchimp_sync.fetched_lately(t.fetched_at)) THEN 'GET' END,
		format('/templates/%s?fields=id,name,type,active,date_edited', _c.template_id), NULL::jsonb, NULL::integer[],
		NULL::text[], mailchimp_sync.ready_next(_c)
$$;

-- what Mailchimp shows of it was stored
CREATE FUNCTION mailchimp_sync.template_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_problem	text := mailchimp_sync.template_problem(_c);
BEGIN
	IF _problem IS NULL THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, mailchimp_sync.ready_next(_c));
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'the template is gone', _problem);
	END IF;
END
$$;

/* ---- no ---- */

-- what Mailchimp does not show is left to its checklist
CREATE FUNCTION mailchimp_sync.ready_unseen(_c mailchimp_sync.campaign, _step text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.campaign_go(_c.campaign_id, CASE _step WHEN 'domain' THEN 'template' ELSE mailchimp_sync.ready_next(_c) END)
$$;

-- a template that is not there any more
CREATE FUNCTION mailchimp_sync.ready_refused(_c mailchimp_sync.campaign, _step text, _status integer) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _step = 'template' AND _status = 404 THEN
		UPDATE mailchimp_sync.template t SET active = false
		WHERE t.connection = _c.connection AND t.template_id = _c.template_id;
		PERFORM mailchimp_sync.part_is_stale(_c.connection, 'templates');
		PERFORM mailchimp_sync.template_done(_c.campaign_id);
	ELSE
		PERFORM mailchimp_sync.ready_unseen(_c, _step);
	END IF;
END
$$;

-- was the answer to a look that it is not for the key's user to see?
CREATE FUNCTION mailchimp_sync.was_forbidden(_inflight_id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.inflight f
		JOIN mailchimp_sync.request r ON r.started_at >= f.sent_at AND r.inflight_id = f.inflight_id
		WHERE f.inflight_id = _inflight_id AND NOT f.writes AND r.status = 403 AND r.outcome = 'answered')
$$;

-- the key's user may not do what a step asks for
CREATE FUNCTION mailchimp_sync.campaign_forbidden(_c mailchimp_sync.campaign, _detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.part_is_stale(_c.connection, 'account');
	PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'not allowed', format('Mailchimp does not let the user of the key do that: %s '
		'Making and sending campaigns takes the role manager, admin or owner; whoever has one makes a key, for mc_connect(%L, ''...'')',
		_detail, _c.connection));
END
$$;

-- the template was refused when it was to be put into the campaign: it is asked for before the next attempt
CREATE FUNCTION mailchimp_sync.content_refused(_c mailchimp_sync.campaign, _title text, _detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.template t SET fetched_at = '-infinity'
	WHERE t.connection = _c.connection AND t.template_id = _c.template_id;
	PERFORM mailchimp_sync.part_is_stale(_c.connection, 'templates');
	PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, _title, format('%s. It is about template %s. If that cannot be used, make '
		'another campaign of this one with mc_copy_campaign(%3$s), choose a template for it, and delete this one with mc_delete_campaign(%3$s)',
		rtrim(_detail, '. '), _c.template_id, _c.campaign_id));
END
$$;

/* ---- for mc_check_campaign ---- */

-- R4, R5: sender, template and role, as of the last look; without records Mailchimp sends, so these are a warning
CREATE FUNCTION mailchimp_sync.sender_check(_c mailchimp_sync.campaign, OUT ok boolean, OUT heading text, OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s.verified OR NOT s.is_known, CASE
			WHEN NOT s.is_known THEN format('domain %s is not known to be verified', s.name)
			WHEN NOT s.verified THEN format('domain %s is not ready', s.name)
			WHEN s.is_free_mail THEN format('domain %s is of a provider of free mail', s.name)
			WHEN NOT s.authenticated THEN format('domain %s is verified, but not authenticated', s.name)
			ELSE format('domain %s is verified and authenticated', s.name) END,
		CASE WHEN NOT s.is_known THEN 'Mailchimp does not show the account''s domains to the user of the key.'
			WHEN s.verified AND NOT s.is_free_mail AND NOT s.authenticated THEN 'Mailchimp sends, and much of it may be taken for spam: '
				|| mailchimp_sync.domain_advice(s.name, s.verified, s.authenticated, s.is_free_mail)
			WHEN s.is_free_mail AND s.verified THEN mailchimp_sync.domain_advice(s.name, s.verified, s.authenticated, s.is_free_mail)
			WHEN NOT s.verified THEN mailchimp_sync.sender_problem(_c) END
	FROM mailchimp_sync.sender_of(_c) s WHERE s.name <> ''
	UNION ALL
	SELECT false, 'the template is gone', p FROM mailchimp_sync.template_problem(_c) AS p WHERE p IS NOT NULL
	UNION ALL
	SELECT false, format('the user of the key is %s', n.user_role),
		format('Making and sending campaigns takes the role manager, admin or owner; whoever has one makes a key, for mc_connect(%L, ''...'').', n.connection)
	FROM mailchimp_sync.connection n WHERE n.connection = _c.connection AND n.user_role IN ('author', 'viewer')
$$;
