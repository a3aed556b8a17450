/*
 * campaign_check.sql: what is missing before a campaign can be sent.
 *
 * campaign_problems() is what can be told without Mailchimp, and what keeps a campaign from being
 * prepared; mc_check_campaign() shows that and what Mailchimp says.
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
			'all recipients are skipped', 'mc_campaign_recipient shows the reason of each.'),
		(6, NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id),
			'its audience was dropped', 'Delete it and make a new one.'),
		(7, EXISTS (SELECT FROM mailchimp_sync.audience a
				WHERE a.audience_id = _c.audience_id AND a.active_since IS NULL),
			'its audience is not switched on', (SELECT format('Switch it on with mc_sync_audience(%L).', a.audience)
				FROM mailchimp_sync.audience a WHERE a.audience_id = _c.audience_id))
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

CREATE FUNCTION @extschema@.mc_check_campaign(campaign bigint)
RETURNS TABLE (ok boolean, heading text, detail text)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_check_campaign(bigint) IS
	'what is still missing before a campaign can be sent, by our own checks and Mailchimp''s; asks Mailchimp now';

-- asks Mailchimp now (src/campaign_check.c)
CREATE FUNCTION mailchimp_sync.send_checklist(_connection text, _mailchimp_id text, OUT type text, OUT heading text,
	OUT details text)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_send_checklist';

CREATE FUNCTION mailchimp_sync.mc_check_campaign(_campaign bigint)
RETURNS TABLE (ok boolean, heading text, detail text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.campaign_of(_campaign);
	_theirs	jsonb := '[]';
BEGIN
	IF _c.mailchimp_id IS NOT NULL AND mailchimp_sync.campaign_is_unsent(_c.status) THEN
		SELECT coalesce(jsonb_agg(to_jsonb(l)), '[]') INTO _theirs
		FROM mailchimp_sync.send_checklist(_c.connection, _c.mailchimp_id) l;
	END IF;
	RETURN QUERY
	SELECT false, p.heading, p.detail FROM mailchimp_sync.campaign_problems(_c) p
	UNION ALL
	SELECT d.ok, d.heading, d.detail FROM mailchimp_sync.sender_check(_c) d
	UNION ALL
	SELECT false, 'the last attempt failed', _c.last_error WHERE _c.last_error IS NOT NULL
	UNION ALL
	SELECT t.ok, t.heading, t.detail FROM mailchimp_sync.target_check(_c) t
	UNION ALL
	SELECT true, format('%s recipients will get it', count(*) FILTER (WHERE r.status = 'pending')),
		format('%s are skipped; mc_campaign_recipient shows why.', count(*) FILTER (WHERE r.status = 'skipped'))
	FROM mailchimp_sync.recipient r WHERE r.campaign_id = _campaign HAVING count(*) > 0
	UNION ALL
	SELECT l.type <> 'error', l.heading, l.details
	FROM jsonb_to_recordset(_theirs) AS l(type text, heading text, details text);
END
$$;

-- R4, R5: the from address is on a domain that is verified and authenticated, as of the last refresh
CREATE FUNCTION mailchimp_sync.sender_check(_c mailchimp_sync.campaign, OUT ok boolean, OUT heading text, OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT v.advice IS NULL,
		CASE WHEN v.advice IS NULL THEN format('domain %s is verified and authenticated', x.domain)
			ELSE format('domain %s is not ready', x.domain) END,
		v.advice || '; then call mc_refresh'
	FROM (SELECT lower(split_part(_c.from_email, '@', 2)) AS domain) x
	LEFT JOIN mailchimp_sync.domain d ON d.connection = _c.connection AND lower(d.domain) = x.domain
	CROSS JOIN LATERAL (SELECT mailchimp_sync.domain_advice(x.domain, d.verified, d.authenticated) AS advice) v
	WHERE x.domain <> ''
$$;
