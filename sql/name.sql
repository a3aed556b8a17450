/*
 * name.sql: names that do not exist.
 */
CREATE FUNCTION mailchimp_sync.raise_unknown(_kind text, _name text, _candidates text[]) RETURNS void
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mc_raise_unknown';
COMMENT ON FUNCTION mailchimp_sync.raise_unknown(text, text, text[]) IS
	'raises undefined_object with the nearest of the candidates as a hint; null_value_not_allowed for no name at all';

-- the settings of something must be an object, and all of them ones that it has
CREATE FUNCTION mailchimp_sync.check_settings(_settings jsonb, _known text[], _of text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hint	text := format('The settings are: %s.', array_to_string(_known, ', '));
	_key	text;
BEGIN
	IF jsonb_typeof(_settings) IS DISTINCT FROM 'object' THEN
		RAISE invalid_parameter_value USING MESSAGE = 'settings must be a JSON object', HINT = _hint;
	END IF;
	SELECT k INTO _key FROM jsonb_object_keys(_settings) k WHERE k <> ALL (_known) ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		RAISE invalid_parameter_value USING MESSAGE = format('unknown setting "%s" of %s', _key, _of), HINT = _hint;
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.nearest_names(_name text, _candidates text[]) RETURNS text
	LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_nearest_names';
COMMENT ON FUNCTION mailchimp_sync.nearest_names(text, text[]) IS
	'what raise_unknown says in its hint; null: no candidate is near';
