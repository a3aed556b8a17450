/*
 * name.sql: names that do not exist.
 */
CREATE FUNCTION mailchimp_sync.raise_unknown(_kind text, _name text, _candidates text[]) RETURNS void
	LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mc_raise_unknown';
COMMENT ON FUNCTION mailchimp_sync.raise_unknown(text, text, text[]) IS
	'raises undefined_object with the nearest of the candidates as a hint; null_value_not_allowed for no name at all';
