/*
 * merge_tag.sql: merge tags in a campaign's subject and sender's name (R24, R109), and how a contact would
 * see them.
 *
 * We render what is a value of the contact: the merge fields of the list, EMAIL, and MERGE0, MERGE1 ... by
 * which a field goes, too. Everything else that Mailchimp knows (conditions, dates, the list's and the campaign's own
 * data) stays as it is. A tag that is neither is most probably a slip of the finger: Mailchimp would mail it as it stands.
 */

-- what stands between *| and |*, each once, as it comes
CREATE FUNCTION mailchimp_sync.merge_tags_in(_text text) RETURNS text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT m.match[1] FROM regexp_matches(_text, '\*\|([^|]+)\|\*', 'g') WITH ORDINALITY AS m(match, position)
		GROUP BY 1 ORDER BY min(m.position))
$$;

-- tags that are no fields: with a colon (IF:, DATE:, LIST:, TITLE:FNAME ...), or one of these
CREATE FUNCTION mailchimp_sync.is_system_tag(_tag text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT strpos(_tag, ':') > 0 OR _tag IN ('ARCHIVE', 'CURRENT_YEAR', 'DATE', 'EMAIL_UID', 'EUID', 'FORWARD', 'OPTIN_DATE',
		'OPTIN_IP', 'REWARDS', 'SUBJECT', 'TOC', 'UNIQID', 'UNSUB', 'UPDATE_PROFILE')
$$;

-- the merge fields that the list has or will have, by every name that they go by
CREATE FUNCTION mailchimp_sync.merge_tag_names(_c mailchimp_sync.campaign, OUT name text, OUT tag text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT n.name, 'EMAIL' FROM (VALUES ('EMAIL'), ('MERGE0')) AS n(name)
	UNION
	SELECT n.name, f.tag FROM mailchimp_sync.merge_field f
	CROSS JOIN LATERAL (VALUES (f.tag), ('MERGE' || f.merge_id)) AS n(name)
	WHERE f.connection = _c.connection AND f.list_id = _c.list_id
	UNION
	SELECT k.tag, k.tag FROM mailchimp_sync.audience_source x
	JOIN mailchimp_sync.source s USING (source_id)
	CROSS JOIN LATERAL jsonb_object_keys(s.field_exprs) AS k(tag)
	WHERE x.audience_id = _c.audience_id
$$;

-- tags of a text that Mailchimp will not know, as far as the list's fields were read
CREATE FUNCTION mailchimp_sync.unknown_merge_tags(_c mailchimp_sync.campaign, _text text) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT t.tag FROM unnest(mailchimp_sync.merge_tags_in(_text)) WITH ORDINALITY AS t(tag, position)
		WHERE NOT mailchimp_sync.is_system_tag(t.tag)
			AND t.tag NOT IN (SELECT n.name FROM mailchimp_sync.merge_tag_names(_c) n)
			AND EXISTS (SELECT FROM mailchimp_sync.merge_field f WHERE f.connection = _c.connection AND f.list_id = _c.list_id)
		ORDER BY t.position)
$$;

CREATE FUNCTION mailchimp_sync.merge_tag_problems(_c mailchimp_sync.campaign, OUT heading text, OUT detail text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('the list has no merge tag *|%s|*, which is in the %s', t.tag, x.place),
		concat_ws(' ', mailchimp_sync.nearest_names(t.tag, ARRAY(SELECT n.name FROM mailchimp_sync.merge_tag_names(_c) n
			WHERE n.name !~ '^MERGE[0-9]+$' ORDER BY 1)), 'mc_merge_field shows those that there are.')
	FROM (VALUES (1, 'subject', coalesce(_c.subject, _c.name)), (2, 'from_name', _c.from_name)) AS x(position, place, words)
	CROSS JOIN LATERAL unnest(mailchimp_sync.unknown_merge_tags(_c, x.words)) WITH ORDINALITY AS t(tag, position)
	ORDER BY x.position, t.position
$$;

/* ---- a contact's view ---- */

-- what a source says of contacts; one that cannot be read at all is an error
CREATE FUNCTION mailchimp_sync.look_at_source(_source_id integer, _keys text[]) RETURNS mailchimp_sync.evaluated[]
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_looked	mailchimp_sync.evaluated[];
BEGIN
	SELECT array_agg(ROW(l.*)::mailchimp_sync.evaluated) INTO _looked
	FROM mailchimp_sync.look_at_contacts(_source_id, _keys) l;
	IF _looked[1].error_state IS NOT NULL AND _looked[1].contact_key IS NULL THEN
		PERFORM mailchimp_sync.raise_unreadable(_source_id, _looked[1].error_message);
	END IF;
	RETURN _looked;
END
$$;

-- in one go: what a value brings in is no tag, whatever it looks like
CREATE FUNCTION mailchimp_sync.render_merge_tags(_text text, _values jsonb) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(concat(p.text, coalesce(_values ->> p.tag, '*|' || p.tag || '|*')), '' ORDER BY p.position)
	FROM unnest(regexp_split_to_array(_text, '\*\|[^|]+\|\*'),
		ARRAY(SELECT m.match[1] FROM regexp_matches(_text, '\*\|([^|]+)\|\*', 'g') WITH ORDINALITY AS m(match, position)
			ORDER BY m.position)) WITH ORDINALITY AS p(text, tag, position)
$$;

/*
 * What the tags stand for, by every name: what the mapping gives now, in fields that it does not fill what the
 * member was last seen with, and in empty ones the field's default. An address is an object, which Mailchimp writes out.
 */
CREATE FUNCTION mailchimp_sync.merge_tag_values(_c mailchimp_sync.campaign, _value jsonb, _email text) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_object_agg(n.name, coalesce(nullif(CASE
		WHEN n.tag = 'EMAIL' THEN _email
		WHEN _value -> 'fields' ? n.tag THEN _value -> 'fields' ->> n.tag
		ELSE coalesce(m.shown_fields, m.sent_fields) ->> n.tag END, ''), f.default_value, ''))
	FROM mailchimp_sync.merge_tag_names(_c) n
	LEFT JOIN mailchimp_sync.merge_field f ON f.connection = _c.connection AND f.list_id = _c.list_id AND f.tag = n.tag
	LEFT JOIN mailchimp_sync.member m ON m.audience_id = _c.audience_id
		AND m.email_hash = mailchimp_sync.email_hash(_email)
	WHERE coalesce(f.type, 'text') <> 'address'
$$;

CREATE FUNCTION @extschema@.mc_preview_campaign(campaign bigint, source text, contact_key text)
RETURNS TABLE (email text, subject text, from_name text, status text, skip_reason text, detail text, not_rendered text[],
	unknown_tags text[])
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_preview_campaign(bigint, text, text) IS
	'the subject and the sender''s name of a campaign as a contact would see them, and whether it would get the mail';
CREATE FUNCTION @extschema@.mc_preview_campaign(campaign bigint, source text, contact_key anyelement)
RETURNS TABLE (email text, subject text, from_name text, status text, skip_reason text, detail text, not_rendered text[],
	unknown_tags text[])
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_preview_campaign(bigint, text, anyelement) IS
	'the subject and the sender''s name of a campaign as a contact would see them, and whether it would get the mail';

/*
 * Why a contact would not get the mail, as it is now. Recipients that are fixed stay out for the reason that they have,
 * and who has the same address as another one is known by its row alone; what was sent was sent.
 */
CREATE FUNCTION mailchimp_sync.preview_verdict(_c mailchimp_sync.campaign, _source_id integer, _key text,
	_looked mailchimp_sync.evaluated[], OUT email text, OUT status text, OUT skip_reason text, OUT detail text)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT v.email, r.status, CASE WHEN w.by_row THEN r.skip_reason ELSE v.skip_reason END,
		CASE WHEN w.by_row THEN r.detail ELSE v.detail END
	FROM mailchimp_sync.recipient_verdicts(_c, _source_id, ARRAY[_key], _looked) v
	LEFT JOIN mailchimp_sync.recipient r ON r.campaign_id = _c.campaign_id AND r.source_id = _source_id
		AND r.contact_key = _key COLLATE "C"
	CROSS JOIN LATERAL (SELECT coalesce(NOT mailchimp_sync.campaign_is_unsent(_c.status)
		OR (r.status = 'skipped' AND _c.fixed_at IS NOT NULL)
		OR (r.skip_reason = 'duplicate' AND v.skip_reason IS NULL), false) AS by_row) w
$$;

CREATE FUNCTION mailchimp_sync.mc_preview_campaign(_campaign bigint, _source text, _contact_key text)
RETURNS TABLE (email text, subject text, from_name text, status text, skip_reason text, detail text, not_rendered text[],
	unknown_tags text[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.campaign_of(_campaign);
	_source_id	integer := mailchimp_sync.campaign_source_id(_c, _source);
	_key		text := (mailchimp_sync.normal_keys(_source_id, ARRAY[_contact_key]))[1];
	_subject	text := coalesce(_c.subject, _c.name);
	_words		text := concat_ws(E'\n', _subject, _c.from_name);
	_looked		mailchimp_sync.evaluated[] := mailchimp_sync.look_at_source(_source_id, ARRAY[_key]);
	_verdict	record;
	_values		jsonb;
BEGIN
	IF _key IS NULL THEN
		RETURN;
	END IF;
	_verdict := mailchimp_sync.preview_verdict(_c, _source_id, _key, _looked);
	_values := mailchimp_sync.merge_tag_values(_c, _looked[1].value, _verdict.email);
	RETURN QUERY SELECT _verdict.email,
		mailchimp_sync.render_merge_tags(_subject, _values), mailchimp_sync.render_merge_tags(_c.from_name, _values),
		_verdict.status, _verdict.skip_reason, _verdict.detail,
		ARRAY(SELECT t.tag FROM unnest(mailchimp_sync.merge_tags_in(_words)) WITH ORDINALITY AS t(tag, position)
			WHERE NOT _values ? t.tag AND t.tag <> ALL (u.tags) ORDER BY t.position), u.tags
	FROM (SELECT mailchimp_sync.unknown_merge_tags(_c, _words) AS tags) u;
END
$$;
