-- The functions of unit.c; :module is its path.
CREATE FUNCTION unit_serial(requests text[], body integer DEFAULT -1, timeout_ms integer DEFAULT 60000,
	max_response integer DEFAULT 67108864) RETURNS text LANGUAGE c AS :'module';
CREATE FUNCTION unit_parallel(requests text[], raise_after integer DEFAULT 0)
	RETURNS text LANGUAGE c AS :'module';
CREATE FUNCTION unit_latch(request text) RETURNS boolean LANGUAGE c AS :'module';
CREATE FUNCTION unit_files() RETURNS integer LANGUAGE c AS :'module';
CREATE FUNCTION unit_clock(seconds integer) RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_take(slot_user text, max integer, bulk boolean DEFAULT false) RETURNS integer LANGUAGE c AS :'module';
CREATE FUNCTION unit_release(slot integer) RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_haunt(slot integer, seconds integer) RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_ghost(slot_user text, seconds integer) RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_engine(is_worker boolean) RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_launcher() RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_launcher_wake() RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_launcher_asked() RETURNS boolean LANGUAGE c AS :'module';
CREATE FUNCTION unit_engine_of(database oid) RETURNS text LANGUAGE c AS :'module';
CREATE FUNCTION unit_wake_at_commit() RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_wait() RETURNS void LANGUAGE c AS :'module';
CREATE FUNCTION unit_is_woken() RETURNS boolean LANGUAGE c AS :'module';
CREATE SCHEMA mailchimp_sync;
CREATE FUNCTION mailchimp_sync.slot(OUT slot_user text, OUT pid integer, OUT expires timestamptz)
	RETURNS SETOF record LANGUAGE c AS :'module', 'mc_slot';
