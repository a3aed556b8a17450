/*
 * target.sql: whom a campaign aims at: tags, or the whole audience (R38, R20).
 *
 * A target is what is wanted, stored with the campaign. Who that is, is found out when the recipients
 * are fixed (resolve.sql); then they are rows like those that somebody named, and stay. Both go together in one
 * campaign, and nobody gets two mails (D13). Tags that are left out are left out of all
 * that targets bring, not of those whom somebody named.
 */
CREATE TABLE mailchimp_sync.target (
	campaign_id		bigint NOT NULL,
	kind			text NOT NULL CHECK (kind IN ('tags', 'audience')),
	include			text[],
	exclude			text[],
	foreign_members	boolean,
	set_at			timestamptz NOT NULL,
	set_by			text NOT NULL,
	PRIMARY KEY (campaign_id, kind),
	CHECK ((kind = 'tags') = (include IS NOT NULL AND exclude IS NOT NULL)),
	CHECK ((kind = 'audience') = (foreign_members IS NOT NULL))
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.target', '');

-- how often the targets of a campaign were resolved, and whether those whom the last time brought are fixed
CREATE TABLE mailchimp_sync.resolution (
	campaign_id		bigint PRIMARY KEY,
	number			integer NOT NULL,
	begun_at		timestamptz NOT NULL,
	fixed			boolean NOT NULL DEFAULT false
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.resolution', '');

/*
 * While targets are resolved: the tags that matter, their segments at Mailchimp, and who has
 * them there by hand. Not dumped, a copy begins anew.
 */
CREATE TABLE mailchimp_sync.target_tag (
	campaign_id		bigint NOT NULL,
	tag				text COLLATE "C" NOT NULL,	-- its tag_key()
	name			text NOT NULL,				-- as it was given
	excluded		boolean NOT NULL,
	met				boolean NOT NULL,			-- it is no slip of the finger: some contact has it, or Mailchimp knows it
	PRIMARY KEY (campaign_id, tag)
);
CREATE TABLE mailchimp_sync.target_segment (
	campaign_id		bigint NOT NULL,
	segment_id		bigint NOT NULL,
	tag				text COLLATE "C" NOT NULL,
	walked			boolean NOT NULL DEFAULT false,
	PRIMARY KEY (campaign_id, segment_id)
);
CREATE TABLE mailchimp_sync.target_hand (
	campaign_id		bigint NOT NULL,
	tag				text COLLATE "C" NOT NULL,
	email_hash		text COLLATE "C" NOT NULL,
	PRIMARY KEY (campaign_id, tag, email_hash)
);

/* ---- tags ---- */

-- names that differ by case or by blanks around them alone are one tag to people
CREATE FUNCTION mailchimp_sync.tag_key(_tag text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT lower(btrim(_tag, E' \t\r\n')) COLLATE "C"
$$;

CREATE FUNCTION mailchimp_sync.tag_keys(_tags text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT DISTINCT mailchimp_sync.tag_key(t) FROM unnest(_tags) AS t ORDER BY 1)
$$;

-- tags as people give them, each once
CREATE FUNCTION mailchimp_sync.given_tags(_tags text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM unnest(_tags) AS t WHERE coalesce(mailchimp_sync.tag_key(t), '') = '') THEN
		RAISE EXCEPTION 'a tag must not be empty' USING ERRCODE = 'invalid_parameter_value';
	END IF;
	RETURN ARRAY(SELECT g.tag FROM (
		SELECT DISTINCT ON (mailchimp_sync.tag_key(t.tag)) btrim(t.tag, E' \t\r\n') AS tag, t.ordinality
		FROM unnest(_tags) WITH ORDINALITY AS t(tag, ordinality)
		ORDER BY mailchimp_sync.tag_key(t.tag), t.ordinality) g ORDER BY g.ordinality);
END
$$;

-- the tags that contacts of an audience were given, or may be by a rule; who puts tags on at Mailchimp may know others
CREATE FUNCTION mailchimp_sync.known_tags(_audience_id integer) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(
		SELECT t.tag FROM mailchimp_sync.tag t WHERE t.audience_id = _audience_id
		UNION
		SELECT k.tag COLLATE "C" FROM mailchimp_sync.audience_source x
		JOIN mailchimp_sync.source s USING (source_id)
		CROSS JOIN LATERAL jsonb_object_keys(s.tag_exprs) AS k(tag)
		WHERE x.audience_id = _audience_id
		ORDER BY 1)
$$;

-- no error: only Mailchimp can tell, and is asked when the recipients are fixed
CREATE FUNCTION mailchimp_sync.notice_unknown_tags(_audience_id integer, _tags text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_known	text[] := mailchimp_sync.known_tags(_audience_id);
	_keys	text[] := mailchimp_sync.tag_keys(_known);
	_tag	text;
BEGIN
	FOREACH _tag IN ARRAY _tags LOOP
		CONTINUE WHEN mailchimp_sync.tag_key(_tag) = ANY (_keys);
		RAISE NOTICE USING MESSAGE = format('no contact of the audience was given tag "%s" yet', _tag),
			DETAIL = 'Mailchimp is asked for it when the recipients are fixed; a tag that it does not know either fails the campaign.',
			HINT = coalesce(mailchimp_sync.nearest_names(_tag, _known), 'A tag that people put on at Mailchimp is known there alone.');
	END LOOP;
END
$$;

/* ---- targets ---- */

-- has it a target that takes somebody in?
CREATE FUNCTION mailchimp_sync.has_target(_campaign_id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.target t
		WHERE t.campaign_id = _campaign_id AND (t.kind = 'audience' OR t.include <> '{}'))
$$;

-- the recipients of a campaign are to be found anew
CREATE FUNCTION mailchimp_sync.target_changed(_campaign_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.resolution SET fixed = false WHERE campaign_id = _campaign_id AND fixed;
	UPDATE mailchimp_sync.campaign SET fixed_at = NULL WHERE campaign_id = _campaign_id AND fixed_at IS NOT NULL;
$$;

/*
 * How many contacts its targets would mail, as far as is stored: by their last states, and by the tags that
 * Mailchimp has shown on them. Who has not been pushed yet has no tags by that.
 */
CREATE FUNCTION mailchimp_sync.target_count(_c mailchimp_sync.campaign) RETURNS bigint
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH wanted AS MATERIALIZED (
		SELECT coalesce(bool_or(t.kind = 'audience'), false) AS is_all,
			mailchimp_sync.tag_keys((SELECT o.include FROM mailchimp_sync.target o WHERE (o.campaign_id, o.kind) = (_c.campaign_id, 'tags'))) AS include,
			mailchimp_sync.tag_keys((SELECT o.exclude FROM mailchimp_sync.target o WHERE (o.campaign_id, o.kind) = (_c.campaign_id, 'tags'))) AS exclude
		FROM mailchimp_sync.target t WHERE t.campaign_id = _c.campaign_id
	)
	SELECT count(DISTINCT c.email_hash)
	FROM wanted w
	JOIN mailchimp_sync.contact c ON c.audience_id = _c.audience_id AND c.state IN ('in_sync', 'pending')
		AND c.action IS DISTINCT FROM 'leave'
	LEFT JOIN mailchimp_sync.member m ON m.audience_id = c.audience_id AND m.email_hash = c.email_hash
	-- tag_key(), for a million contacts
	CROSS JOIN LATERAL (SELECT CASE WHEN NOT w.is_all OR w.exclude <> '{}'
		THEN ARRAY(SELECT lower(btrim(t, E' \t\r\n')) COLLATE "C" FROM unnest(m.sent_tags || m.shown_tags) AS t) ELSE '{}' END AS tags) g
	WHERE (w.is_all OR g.tags && w.include) AND NOT g.tags && w.exclude
		-- member_skip_reason(), and who has not confirmed
		AND (coalesce(m.status, 'subscribed') = 'subscribed' OR m.status = 'archived' AND m.archived_by_us)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient_exclusion e WHERE e.campaign_id = _c.campaign_id
			AND e.source_id = c.source_id AND e.contact_key = c.contact_key)
$$;

CREATE FUNCTION @extschema@.mc_target_tags(campaign bigint, include text[], exclude text[] DEFAULT '{}') RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_target_tags(bigint, text[], text[]) IS
	'aims a campaign at the contacts with any of the included tags and none of the excluded ones; returns how many that would be now, as far as is known';

CREATE FUNCTION mailchimp_sync.mc_target_tags(_campaign bigint, _include text[], _exclude text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'select');
	_in		text[] := mailchimp_sync.given_tags(_include);
	_out	text[] := mailchimp_sync.given_tags(_exclude);
	_both	text;
BEGIN
	SELECT t INTO _both FROM unnest(_in) AS t
	WHERE mailchimp_sync.tag_key(t) = ANY (mailchimp_sync.tag_keys(_out)) LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION 'tag "%" cannot be included and excluded', _both USING ERRCODE = 'invalid_parameter_value';
	END IF;
	DELETE FROM mailchimp_sync.target WHERE campaign_id = _campaign AND kind = 'tags';
	INSERT INTO mailchimp_sync.target (campaign_id, kind, include, exclude, set_at, set_by)
	SELECT _campaign, 'tags', _in, _out, mailchimp_sync.clock(), mailchimp_sync.caller()::text
	WHERE _in <> '{}' OR _out <> '{}';
	PERFORM mailchimp_sync.target_changed(_campaign);
	PERFORM mailchimp_sync.notice_unknown_tags(_c.audience_id, _in || _out);
	RETURN mailchimp_sync.target_count(_c);
END
$$;

CREATE FUNCTION @extschema@.mc_target_audience(campaign bigint, foreign_members boolean DEFAULT false) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_target_audience(bigint, boolean) IS
	'aims a campaign at its whole audience, with foreign_members also at members whom no contact stands behind; returns how many contacts that would be now';

CREATE FUNCTION mailchimp_sync.mc_target_audience(_campaign bigint, _foreign_members boolean) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'select');
BEGIN
	DELETE FROM mailchimp_sync.target WHERE campaign_id = _campaign AND kind = 'audience';
	INSERT INTO mailchimp_sync.target (campaign_id, kind, foreign_members, set_at, set_by)
	SELECT _campaign, 'audience', _foreign_members, mailchimp_sync.clock(), mailchimp_sync.caller()::text
	WHERE _foreign_members IS NOT NULL;
	PERFORM mailchimp_sync.target_changed(_campaign);
	RETURN mailchimp_sync.target_count(_c);
END
$$;

-- what a campaign aims at, and whom somebody took out of it, for another one
CREATE FUNCTION mailchimp_sync.copy_targets(_from bigint, _to bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.target (campaign_id, kind, include, exclude, foreign_members, set_at, set_by)
	SELECT _to, t.kind, t.include, t.exclude, t.foreign_members, mailchimp_sync.clock(), mailchimp_sync.caller()::text
	FROM mailchimp_sync.target t WHERE t.campaign_id = _from;
	INSERT INTO mailchimp_sync.recipient_exclusion (campaign_id, source_id, contact_key, excluded_at, excluded_by)
	SELECT _to, e.source_id, e.contact_key, e.excluded_at, e.excluded_by
	FROM mailchimp_sync.recipient_exclusion e WHERE e.campaign_id = _from;
$$;

/* ---- what people see ---- */

CREATE VIEW @extschema@.mc_campaign_target WITH (security_barrier) AS
SELECT t.campaign_id, t.kind, t.include, t.exclude, t.foreign_members,
	EXISTS (SELECT FROM mailchimp_sync.resolution r WHERE r.campaign_id = t.campaign_id AND r.fixed) AS resolved,
	t.set_at, t.set_by
FROM mailchimp_sync.target t
JOIN mailchimp_sync.campaign c USING (campaign_id)
JOIN mailchimp_sync.permitted_connection p USING (connection);
COMMENT ON VIEW @extschema@.mc_campaign_target IS
	'what campaigns aim at, and whether those are recipients already';

-- for mc_check_campaign
CREATE FUNCTION mailchimp_sync.target_check(_c mailchimp_sync.campaign, OUT ok boolean, OUT heading text, OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT true, format('its targets would take %s contacts, as far as is known', mailchimp_sync.target_count(_c)),
		'They become recipients when it is prepared or sent; mc_campaign_target shows the targets.'
	WHERE mailchimp_sync.has_target(_c.campaign_id) AND mailchimp_sync.campaign_is_unsent(_c.status)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.resolution r WHERE r.campaign_id = _c.campaign_id AND r.fixed)
$$;
