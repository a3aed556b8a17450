/*
 * template.sql: which template somebody means (R3, R25).
 *
 * By its id or by its name, in which blanks count for little: nobody sees how many there are. The wrong one
 * would be mailed to thousands, so nothing is guessed: what may be several is refused with all of them.
 */

-- blanks around a name and several between its words are not seen
CREATE FUNCTION mailchimp_sync.seen_name(_name text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT btrim(regexp_replace(_name, '[[:space:]]+', ' ', 'g'))
$$;

-- the templates that are meant: the one with that id and those with that name; if there are none, those with another case
CREATE FUNCTION mailchimp_sync.meant_templates(_connection text, _template text, _active boolean) RETURNS bigint[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH named AS (
		SELECT t.template_id, t.template_id::text = btrim(_template)
			OR mailchimp_sync.seen_name(t.name) = mailchimp_sync.seen_name(_template) AS is_exact
		FROM mailchimp_sync.template t
		WHERE t.connection = _connection AND t.active = _active
			AND (t.template_id::text = btrim(_template)
				OR lower(mailchimp_sync.seen_name(t.name)) = lower(mailchimp_sync.seen_name(_template)))
	)
	SELECT array_agg(n.template_id ORDER BY n.template_id) FROM named n
	WHERE n.is_exact OR NOT EXISTS (SELECT FROM named e WHERE e.is_exact)
$$;

-- what people see of templates
CREATE FUNCTION mailchimp_sync.show_templates(_connection text, _ids bigint[]) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(format('%s "%s"%s', t.template_id, t.name, ', edited on ' || to_char(t.edited_at, 'YYYY-MM-DD')), '; '
		ORDER BY t.template_id)
	FROM mailchimp_sync.template t WHERE t.connection = _connection AND t.template_id = ANY (_ids)
$$;

-- there is none that could be meant: one that was deleted, or the nearest names
CREATE FUNCTION mailchimp_sync.raise_no_template(_connection text, _template text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_deleted	bigint[] := mailchimp_sync.meant_templates(_connection, _template, false);
	_nearest	text;
BEGIN
	IF _template IS NULL THEN
		RAISE null_value_not_allowed USING MESSAGE = 'template must not be null';
	ELSIF _deleted IS NOT NULL THEN
		RAISE undefined_object USING MESSAGE = format('template "%s" does not exist', _template),
			DETAIL = format('It was deleted at Mailchimp: %s.', mailchimp_sync.show_templates(_connection, _deleted)),
			HINT = 'Choose another one; mc_template lists them.';
	END IF;
	_nearest := mailchimp_sync.nearest_names(_template, ARRAY(SELECT t.name
		FROM mailchimp_sync.template t WHERE t.connection = _connection AND t.active ORDER BY 1));
	RAISE undefined_object USING MESSAGE = format('template "%s" does not exist', _template),
		HINT = concat_ws(' ', _nearest, format('If it is new at Mailchimp, SELECT mc_refresh(%L) fetches it.', _connection));
END
$$;

-- the template of the connection that is meant by an id or a name
CREATE FUNCTION mailchimp_sync.find_template(_connection text, _template text) RETURNS bigint
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ids	bigint[] := mailchimp_sync.meant_templates(_connection, _template, true);
BEGIN
	IF _ids IS NULL THEN
		PERFORM mailchimp_sync.raise_no_template(_connection, _template);
	ELSIF cardinality(_ids) > 1 THEN
		RAISE EXCEPTION USING ERRCODE = 'ambiguous_alias',
			MESSAGE = format('template name "%s" is ambiguous', _template),
			DETAIL = format('It may be one of these: %s.', mailchimp_sync.show_templates(_connection, _ids)),
			HINT = CASE
				WHEN btrim(_template) = ANY (_ids::text[]) THEN 'It is the id of one and the name of another; use the name of the one, or the id of the other.'
				ELSE format('Use one of these template ids: %s.', array_to_string(_ids, ', ')) END;
	END IF;
	RETURN _ids[1];
END
$$;
