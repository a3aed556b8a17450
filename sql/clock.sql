/*
 * clock.sql: the time that rests, tiers and schedules go by.
 */
CREATE FUNCTION mailchimp_sync.clock() RETURNS timestamptz
	LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_clock';
COMMENT ON FUNCTION mailchimp_sync.clock() IS
	'start of the transaction, moved by mailchimp_sync.clock_offset; nothing else reads the time';
