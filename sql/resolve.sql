/*
 * resolve.sql: targets become recipients, the first steps of a campaign's way (see target.sql, send.sql).
 *
 * A contact has the tags that the mapping gives it now, and those that people have put on it at Mailchimp, who
 * alone can tell: so the segments of the tags are walked first (API 3.0, tags and segments), and the list
 * itself where members without a contact are to be mailed. Then the rows of the sources are walked and
 * evaluated like in a comparison, page by page; whoever a target takes, and the audience's
 * rule or a hand, is a recipient, or skipped with the reason. Nobody is put into the audience by a target.
 *
 * Whoever was found once stays, until somebody changes the targets: then all are found anew, and who
 * is not found again goes (recipient.resolution).
 *
 * Races that are closed: a tag that the mapping does not give any more, and that is still on the member, or was while
 * the page was read, is nobody's but ours (member.sent_tags, pushes under way, tag.taken_at); rows that
 * leave a list while it is walked (pages overlap); opting out at any time (fix_recipients).
 */

CREATE FUNCTION mailchimp_sync.forget_resolving(_campaign_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.target_tag WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.target_segment WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.target_hand WHERE campaign_id = _campaign_id;
$$;

-- begins, where there are targets, or were, and those whom they bring are not fixed
CREATE FUNCTION mailchimp_sync.step_target(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.resolution r WHERE r.campaign_id = _c.campaign_id AND r.fixed)
		OR NOT EXISTS (SELECT FROM mailchimp_sync.target t WHERE t.campaign_id = _c.campaign_id
			UNION ALL SELECT FROM mailchimp_sync.resolution r WHERE r.campaign_id = _c.campaign_id) THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'decide');
		RETURN false;
	END IF;
	INSERT INTO mailchimp_sync.resolution AS r (campaign_id, number, begun_at) VALUES (_c.campaign_id, 1, mailchimp_sync.clock())
	ON CONFLICT (campaign_id) DO UPDATE SET number = r.number + 1, begun_at = excluded.begun_at;
	PERFORM mailchimp_sync.forget_resolving(_c.campaign_id);
	INSERT INTO mailchimp_sync.target_tag (campaign_id, tag, name, excluded, met)
	SELECT _c.campaign_id, k.tag, u.name, u.excluded, k.tag = ANY (mailchimp_sync.tag_keys(mailchimp_sync.known_tags(_c.audience_id)))
	FROM mailchimp_sync.target t
	CROSS JOIN LATERAL (SELECT unnest(t.include), false UNION ALL SELECT unnest(t.exclude), true) AS u(name, excluded)
	CROSS JOIN LATERAL (SELECT mailchimp_sync.tag_key(u.name)) AS k(tag)
	WHERE t.campaign_id = _c.campaign_id AND t.kind = 'tags';
	RETURN true;
END
$$;

-- how far a walk by offset goes at once: rows that leave before it move the others up, and none must be missed
CREATE FUNCTION mailchimp_sync.walk_stride() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.page_size() - 100
$$;

/* ---- the segments of the tags ---- */

-- all names, since it is not said how a search treats upper and lower case
CREATE FUNCTION mailchimp_sync.ask_find_tags(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/lists/%s/tag-search?fields=tags.id,tags.name&count=%s&offset=%s', _c.list_id,
		mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	WHERE EXISTS (SELECT FROM mailchimp_sync.target_tag t WHERE t.campaign_id = _c.campaign_id)
$$;

CREATE FUNCTION mailchimp_sync.find_tags_done(_campaign_id bigint, _ids text[], _names text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	WITH found AS (
		INSERT INTO mailchimp_sync.target_segment (campaign_id, segment_id, tag)
		SELECT _campaign_id, u.id::bigint, t.tag
		FROM unnest(_ids, _names) AS u(id, name)
		JOIN mailchimp_sync.target_tag t ON t.campaign_id = _campaign_id AND t.tag = mailchimp_sync.tag_key(u.name)
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.campaign o WHERE o.connection = _c.connection
			AND o.list_id = _c.list_id AND o.segment_id = u.id::bigint)
		ON CONFLICT DO NOTHING
		RETURNING tag
	)
	UPDATE mailchimp_sync.target_tag t SET met = true FROM found f
	WHERE t.campaign_id = _campaign_id AND t.tag = f.tag;
	IF cardinality(_ids) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_continue(_campaign_id, (coalesce(_c.cursor::integer, 0) + mailchimp_sync.walk_stride())::text);
	ELSE
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'tag_members');
	END IF;
END
$$;

-- the segment that is walked now
CREATE FUNCTION mailchimp_sync.unwalked_segment(_campaign_id bigint) RETURNS mailchimp_sync.target_segment
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT s FROM mailchimp_sync.target_segment s
	WHERE s.campaign_id = _campaign_id AND NOT s.walked ORDER BY s.segment_id LIMIT 1
$$;

CREATE FUNCTION mailchimp_sync.ask_tag_members(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/lists/%s/segments/%s/members?fields=members.id&count=%s&offset=%s', _c.list_id, s.segment_id,
		mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	FROM mailchimp_sync.unwalked_segment(_c.campaign_id) s
	WHERE s.segment_id IS NOT NULL
$$;

-- members that a push which is under way, or may still land, brings the tag
CREATE FUNCTION mailchimp_sync.tag_on_its_way(_audience_id integer, _tag text) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT f.email_hashes[x.ordinality]
	FROM mailchimp_sync.inflight f
	CROSS JOIN LATERAL jsonb_array_elements(f.body::jsonb -> 'members') WITH ORDINALITY AS x(member)
	WHERE f.audience_id = _audience_id AND f.kind = 'push' AND EXISTS (
		SELECT FROM jsonb_array_elements_text(x.member -> 'tags') AS t(tag) WHERE mailchimp_sync.tag_key(t.tag) = _tag)
$$;

/*
 * A page of members that have a tag: kept are those that have it by people's hands. Tags of ours were taken away
 * since the page was asked for: it may show them yet, and whose they were is not known any more, so once more.
 */
CREATE FUNCTION mailchimp_sync.tag_members_done(_campaign_id bigint, _asked_at timestamptz, _hashes text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_s	mailchimp_sync.target_segment := mailchimp_sync.unwalked_segment(_campaign_id);
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.tag t WHERE t.audience_id = _c.audience_id AND t.taken_at >= _asked_at
			AND mailchimp_sync.tag_key(t.tag) = _s.tag) THEN
		PERFORM mailchimp_sync.campaign_continue(_campaign_id, _c.cursor);
		RETURN;
	END IF;
	INSERT INTO mailchimp_sync.target_hand (campaign_id, tag, email_hash)
	SELECT _campaign_id, _s.tag, u.email_hash FROM unnest(_hashes) AS u(email_hash)
	LEFT JOIN mailchimp_sync.member m ON m.audience_id = _c.audience_id AND m.email_hash = u.email_hash COLLATE "C"
	WHERE _s.tag <> ALL (mailchimp_sync.tag_keys(m.sent_tags))
		AND u.email_hash NOT IN (SELECT w FROM mailchimp_sync.tag_on_its_way(_c.audience_id, _s.tag) AS w WHERE w IS NOT NULL)
	ON CONFLICT DO NOTHING;
	IF cardinality(_hashes) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_continue(_campaign_id, (coalesce(_c.cursor::integer, 0) + mailchimp_sync.walk_stride())::text);
	ELSE
		PERFORM mailchimp_sync.segment_walked(_campaign_id);
	END IF;
END
$$;

-- also one that is gone meanwhile: nobody has that tag
CREATE FUNCTION mailchimp_sync.segment_walked(_campaign_id bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.target_segment t SET walked = true
	FROM mailchimp_sync.unwalked_segment(_campaign_id) s
	WHERE t.campaign_id = s.campaign_id AND t.segment_id = s.segment_id;
	SELECT mailchimp_sync.campaign_continue(_campaign_id, NULL);
$$;

/* ---- members without a contact (D15) ---- */

CREATE FUNCTION mailchimp_sync.ask_foreign_members(_c mailchimp_sync.campaign) RETURNS mailchimp_sync.ask
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 'GET', format('/lists/%s/members?status=subscribed&sort_field=timestamp_opt&sort_dir=ASC'
			'&fields=members.id,members.email_address,members.contact_id&count=%s&offset=%s', _c.list_id,
		mailchimp_sync.page_size(), coalesce(_c.cursor, '0')), NULL::jsonb, NULL::integer[], NULL::text[], NULL
	FROM mailchimp_sync.target t
	WHERE t.campaign_id = _c.campaign_id AND t.foreign_members
$$;

/*
 * A page of subscribed members. Those that no contact stands behind, or ever did, are recipients, and known as members
 * from now on, so that it is heard when they unsubscribe (read.sql). Whose address a row of the sources
 * has, whom the rule does not take, is found out with that row.
 */
CREATE FUNCTION mailchimp_sync.foreign_members_done(_campaign_id bigint, _asked_at timestamptz, _ids text[], _emails text[],
	_contact_ids text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_hashes	text[];
BEGIN
	WITH shown AS MATERIALIZED (
		SELECT DISTINCT ON (1) lower(u.id) COLLATE "C" AS email_hash, u.email, u.contact_id
		FROM unnest(_ids, _emails, _contact_ids) AS u(id, email, contact_id)
		-- OFFSET: a lookup each, whatever the planner knows of the tables
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.member m
				WHERE m.audience_id = _c.audience_id AND m.email_hash = lower(u.id) COLLATE "C" AND m.ours OFFSET 0)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c
				WHERE c.audience_id = _c.audience_id AND c.email_hash = lower(u.id) COLLATE "C" OFFSET 0)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = lower(u.id) COLLATE "C" OFFSET 0)
	), known AS (
		INSERT INTO mailchimp_sync.member AS m (audience_id, email_hash, email, status, ours, mailchimp_id, read_at, inbound_at)
		SELECT _c.audience_id, s.email_hash, s.email, 'subscribed', false, s.contact_id, _asked_at,
			(SELECT mailchimp_sync.inbound_now(_c.audience_id))
		FROM shown s
		ON CONFLICT (audience_id, email_hash) DO UPDATE SET status = excluded.status,
			mailchimp_id = coalesce(excluded.mailchimp_id, m.mailchimp_id), read_at = excluded.read_at
		WHERE NOT m.ours AND coalesce(m.read_at <= excluded.read_at, true)
	), stored AS (
		INSERT INTO mailchimp_sync.recipient AS r (campaign_id, source_id, contact_key, email, email_hash, status, skip_reason,
			detail, resolution, added_at, added_by)
		SELECT _campaign_id, 0, s.email_hash, s.email, s.email_hash, CASE WHEN v.is_allowed THEN 'pending' ELSE 'skipped' END,
			CASE WHEN NOT v.is_allowed THEN 'not_allowed' END,
			CASE WHEN NOT v.is_allowed THEN 'is not among the addresses of the training connection' END,
			n.number, mailchimp_sync.clock(), _c.created_by
		FROM shown s
		JOIN mailchimp_sync.resolution n ON n.campaign_id = _campaign_id
		JOIN mailchimp_sync.connection k ON k.connection = _c.connection
		CROSS JOIN LATERAL (SELECT mailchimp_sync.is_allowed(k.only_addresses, s.email_hash) AS is_allowed) v
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.target_tag t
				JOIN mailchimp_sync.target_hand h ON h.campaign_id = t.campaign_id AND h.tag = t.tag
				WHERE t.campaign_id = _campaign_id AND t.excluded AND h.email_hash = s.email_hash)
			AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient_exclusion e
				WHERE e.campaign_id = _campaign_id AND e.source_id = 0 AND e.contact_key = s.email_hash)
		ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET email = excluded.email, status = excluded.status,
			skip_reason = excluded.skip_reason, detail = excluded.detail, resolution = excluded.resolution
		WHERE r.status IN ('pending', 'skipped')
		RETURNING r.email_hash
	)
	SELECT array_agg(s.email_hash) INTO _hashes FROM stored s;
	PERFORM mailchimp_sync.decide_duplicates(_c, _hashes);
	IF cardinality(_ids) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_continue(_campaign_id, (coalesce(_c.cursor::integer, 0) + mailchimp_sync.walk_stride())::text);
	ELSE
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'resolve');
	END IF;
END
$$;

-- recipients without a contact whose status at Mailchimp is not what it was
CREATE FUNCTION mailchimp_sync.settle_foreign(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.recipient r SET status = 'skipped', skip_reason = v.skip_reason, detail = format('%s at Mailchimp', m.status)
	FROM mailchimp_sync.member m
	CROSS JOIN LATERAL mailchimp_sync.member_skip_reason(m.status, m.archived_by_us) AS v(skip_reason)
	WHERE r.campaign_id = _c.campaign_id AND r.source_id = 0 AND r.status = 'pending'
		AND m.audience_id = _c.audience_id AND m.email_hash = r.email_hash AND v.skip_reason IS NOT NULL
$$;

/* ---- contacts ---- */

-- which of these contacts the targets take
CREATE FUNCTION mailchimp_sync.targeted_keys(_c mailchimp_sync.campaign, _source_id integer,
	_values mailchimp_sync.evaluated[]) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH contact AS MATERIALIZED (
		SELECT v.contact_key, h.email_hash,
			-- tag_key(), for a million contacts
			ARRAY(SELECT lower(btrim(t, E' \t\r\n')) COLLATE "C" FROM unnest(g.tags || CASE WHEN m.status = 'archived'
					OR m.pushed_at >= (SELECT n.begun_at FROM mailchimp_sync.resolution n WHERE n.campaign_id = _c.campaign_id)
				-- no segment shows who is in the archive, where tags are kept, or was when it was read
				THEN ARRAY(SELECT unnest(m.shown_tags) EXCEPT SELECT unnest(m.sent_tags)) END) AS t) AS tags
		FROM unnest(_values) AS v
		CROSS JOIN LATERAL (SELECT mailchimp_sync.email_hash(nullif(btrim(v.value ->> 'email'), '')) AS email_hash) h
		CROSS JOIN LATERAL (SELECT ARRAY(SELECT jsonb_array_elements_text(v.value -> 'tags')) AS tags) g
		LEFT JOIN LATERAL (SELECT o.status, o.shown_tags, o.sent_tags, o.pushed_at FROM mailchimp_sync.member o
			WHERE o.audience_id = _c.audience_id AND o.email_hash = h.email_hash OFFSET 0) m ON true
		LEFT JOIN LATERAL (SELECT o.inside FROM mailchimp_sync.hand o WHERE o.audience_id = _c.audience_id
			AND o.source_id = _source_id AND o.contact_key = v.contact_key COLLATE "C" OFFSET 0) i ON true
		WHERE coalesce(i.inside, (v.value -> 'rules' ->> _c.audience_id::text)::boolean,
				-- it cannot be evaluated: as it was when it could
				EXISTS (SELECT FROM mailchimp_sync.contact c WHERE c.audience_id = _c.audience_id AND c.source_id = _source_id
					AND c.contact_key = v.contact_key COLLATE "C" AND c.state <> 'outside'))
			AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient_exclusion e WHERE e.campaign_id = _c.campaign_id
				AND e.source_id = _source_id AND e.contact_key = v.contact_key COLLATE "C")
	)
	SELECT array_agg(k.contact_key) FROM contact k
	CROSS JOIN LATERAL (SELECT coalesce(bool_or(NOT t.excluded), false) AS included, coalesce(bool_or(t.excluded), false) AS excluded
		FROM mailchimp_sync.target_tag t
		WHERE t.campaign_id = _c.campaign_id AND (t.tag = ANY (k.tags) OR EXISTS (SELECT FROM mailchimp_sync.target_hand h
			WHERE h.campaign_id = _c.campaign_id AND h.tag = t.tag AND h.email_hash = k.email_hash OFFSET 0))) t
	WHERE NOT t.excluded AND (t.included OR EXISTS (SELECT FROM mailchimp_sync.target a
		WHERE a.campaign_id = _c.campaign_id AND a.kind = 'audience'))
$$;

-- a page of a source's rows
CREATE FUNCTION mailchimp_sync.resolve_page(_c mailchimp_sync.campaign, _source_id integer, _page mailchimp_sync.compare_page)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_number	integer := (SELECT r.number FROM mailchimp_sync.resolution r WHERE r.campaign_id = _c.campaign_id);
BEGIN
	PERFORM mailchimp_sync.store_recipients(_c, _source_id,
		mailchimp_sync.targeted_keys(_c, _source_id, _page.values), _page.values, _c.created_by, _number);
	UPDATE mailchimp_sync.target_tag t SET met = true
	WHERE t.campaign_id = _c.campaign_id AND NOT t.met AND t.tag = ANY (mailchimp_sync.tag_keys(ARRAY(
		SELECT DISTINCT g.tag FROM unnest(_page.values) AS v
		CROSS JOIN LATERAL jsonb_array_elements_text(v.value -> 'tags') AS g(tag))));
	-- somebody of the CRM, taken or not, is no foreign member
	UPDATE mailchimp_sync.recipient r SET resolution = 0
	WHERE r.campaign_id = _c.campaign_id AND r.source_id = 0 AND r.resolution = _number
		AND r.contact_key IN (SELECT mailchimp_sync.email_hash(nullif(btrim(v.value ->> 'email'), '')) FROM unnest(_page.values) AS v);
END
$$;

-- a page of the source at the cursor (its place in the audience, and the last key)
CREATE FUNCTION mailchimp_sync.step_resolve(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_position	integer := coalesce(split_part(_c.cursor, ':', 1)::integer, 0);
	_after		text := nullif(substr(_c.cursor, strpos(_c.cursor, ':') + 1), '');
	_x			mailchimp_sync.audience_source;
	_page		mailchimp_sync.compare_page;
BEGIN
	IF _after IS NULL THEN
		_position := _position + 1;
	END IF;
	SELECT x.* INTO _x FROM mailchimp_sync.audience_source x
	WHERE x.audience_id = _c.audience_id AND x.position >= _position
		AND mailchimp_sync.has_target(_c.campaign_id) ORDER BY x.position LIMIT 1;
	IF NOT FOUND THEN
		RETURN mailchimp_sync.resolved(_c);
	END IF;
	_page := mailchimp_sync.compare_page(_c.audience_id, _x.source_id, 'rows', CASE WHEN _x.position = _position THEN _after END);
	IF mailchimp_sync.follow_key_type(_x.source_id, coalesce(_page.error_state, (SELECT min(v.error_state) FROM unnest(_page.values) v))) THEN
		RETURN false;
	ELSIF _page.error_state IS NOT NULL THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, 'the recipients cannot be read: ' || _page.error_message, _c.cursor);
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.resolve_page(_c, _x.source_id, _page);
	PERFORM mailchimp_sync.campaign_continue(_c.campaign_id, format('%s:%s', _x.position, CASE WHEN NOT _page.is_last THEN _page.last_key END));
	RETURN false;
END
$$;

/*
 * All rows were seen. Whom no target brings any more goes; who is in the segment already has to be taken out first,
 * and is skipped. A tag that nobody and nothing knows is a slip of the finger: somebody would get the mail
 * who should not, or the other way round.
 */
CREATE FUNCTION mailchimp_sync.resolved(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hashes	text[];
	_tags	text;
	_hint	text;
BEGIN
	SELECT string_agg(format('"%s"', t.name), ', ' ORDER BY t.name), min(mailchimp_sync.nearest_names(t.name,
		mailchimp_sync.known_tags(_c.audience_id)))
	INTO _tags, _hint FROM mailchimp_sync.target_tag t WHERE t.campaign_id = _c.campaign_id AND NOT t.met;
	IF _tags IS NOT NULL THEN
		PERFORM mailchimp_sync.forget_resolving(_c.campaign_id);
		PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'unknown tag', concat_ws(' ', format(
			'no contact of the audience has %s, and Mailchimp does not know it; aim again with mc_target_tags.', _tags), _hint));
		RETURN false;
	END IF;
	WITH stale AS MATERIALIZED (
		SELECT r.source_id, r.contact_key, r.segment_email IS NOT NULL AS is_in
		FROM mailchimp_sync.recipient r
		JOIN mailchimp_sync.resolution n USING (campaign_id)
		WHERE r.campaign_id = _c.campaign_id AND r.resolution < n.number AND r.status IN ('pending', 'skipped')
			AND (r.segment_email IS NULL OR r.resolution > 0 OR r.status = 'pending')
		LIMIT 5000
	), gone AS (
		DELETE FROM mailchimp_sync.recipient r USING stale s
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = s.source_id AND r.contact_key = s.contact_key AND NOT s.is_in
		RETURNING r.email_hash
	), out AS (
		UPDATE mailchimp_sync.recipient r SET resolution = 0, status = 'skipped', skip_reason = 'not_member',
			detail = 'the campaign does not aim at it any more'
		FROM stale s
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = s.source_id AND r.contact_key = s.contact_key AND s.is_in
		RETURNING r.email_hash
	)
	SELECT array_agg(u.email_hash) INTO _hashes FROM (SELECT g.email_hash FROM gone g UNION ALL SELECT o.email_hash FROM out o) u;
	IF _hashes IS NOT NULL THEN
		PERFORM mailchimp_sync.decide_duplicates(_c, _hashes);
		RETURN false;
	END IF;
	PERFORM mailchimp_sync.forget_resolving(_c.campaign_id);
	IF NOT EXISTS (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _c.campaign_id) THEN
		PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'nobody is left to mail', 'its targets take nobody of the audience');
		RETURN false;
	END IF;
	RETURN true;
END
$$;
