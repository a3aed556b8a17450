/*
 * run.sql: the engine in the caller's session.
 */
CREATE PROCEDURE @extschema@.mc_run()
LANGUAGE c AS 'MODULE_PATHNAME', 'mc_run';
COMMENT ON PROCEDURE @extschema@.mc_run() IS
	'does all work that is due, commits as it goes and reports its progress; with a worker running it wakes that one and watches';
