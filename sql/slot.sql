/*
 * slot.sql: the requests that are open at Mailchimp, or may be, in the whole
 * server. In use is a slot that a process holds (pid), or that a request
 * without an answer occupies until it cannot run any more (expires).
 */
CREATE FUNCTION mailchimp_sync.slot(OUT slot_user text, OUT pid integer, OUT expires timestamptz)
RETURNS SETOF record
LANGUAGE c VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'mc_slot';
