/*
 * schema.sql: the private room of the extension.
 *
 * Public functions and views are named mc_* and live in the schema given to
 * CREATE EXTENSION. Everything else lives in the schema mailchimp_sync and is
 * granted to nobody. Every table that has to survive a dump is registered with
 * pg_extension_config_dump in the file that makes it, its identity sequence
 * too; "event" and "inflight" describe work of a running server and are not.
 *
 * No table is seeded: defaults live in functions, tables hold only what a site
 * has set, so a restore never meets a row that CREATE EXTENSION made.
 */
CREATE SCHEMA mailchimp_sync;
COMMENT ON SCHEMA mailchimp_sync IS 'internals of mailchimp_sync; use the functions and views named mc_*';
