/*
 * worker.sql: starting and stopping the background worker of this database.
 */
CREATE FUNCTION @extschema@.mc_start_worker() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_start_worker() IS
	'starts the background worker of this database when this transaction commits; without shared_preload_libraries it lasts until the server stops';

CREATE FUNCTION @extschema@.mc_stop_worker() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_stop_worker() IS
	'stops the background worker of this database when this transaction commits, until mc_start_worker, over restarts of the server';

CREATE FUNCTION mailchimp_sync.start_worker() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_start_worker';

CREATE FUNCTION mailchimp_sync.stop_worker() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_stop_worker';

CREATE FUNCTION mailchimp_sync.mc_start_worker() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.worker;
	SELECT mailchimp_sync.start_worker()
$$;

CREATE FUNCTION mailchimp_sync.mc_stop_worker() RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.worker (stopped_at, stopped_by)
	VALUES (mailchimp_sync.clock(), mailchimp_sync.caller())
	ON CONFLICT DO NOTHING;
	SELECT mailchimp_sync.stop_worker()
$$;

-- the process that is the engine of this database; preloaded: there is a launcher; listed: which keeps a worker here
CREATE FUNCTION mailchimp_sync.engine(OUT pid integer, OUT is_worker boolean, OUT preloaded boolean, OUT listed boolean)
LANGUAGE c VOLATILE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_engine';

-- at the commit of CREATE EXTENSION: the launcher need not come by to find it
CREATE FUNCTION mailchimp_sync.announce() RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_announce';
SELECT mailchimp_sync.announce();
