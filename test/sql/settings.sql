-- The settings: names, defaults, units and who may set them (design "Settings", N10, N14).
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
RESET client_min_messages;
CREATE EXTENSION mailchimp_sync;

SELECT name, boot_val, unit, min_val, max_val, context
FROM pg_settings WHERE name LIKE 'mailchimp_sync.%' ORDER BY name;

SET mailchimp_sync.batch_size = 501;
SET mailchimp_sync.max_connections = 11;
-- 17 shows the limits with their units
\set VERBOSITY sqlstate
SET mailchimp_sync.request_timeout = '131 s';
\set VERBOSITY default
SET mailchimp_sync.bath_size = 100;

-- names of databases are taken as they are written
SET mailchimp_sync.databases = 'crm';
ALTER SYSTEM SET mailchimp_sync.databases = 'crm,,other';
ALTER SYSTEM SET mailchimp_sync.databases = 'crm, "Other one"';
ALTER SYSTEM RESET mailchimp_sync.databases;

-- the clock: everything but HTTP timeouts goes by it (N10)
SELECT mailchimp_sync.clock() = now() AS same;
SET mailchimp_sync.clock_offset = '1 day 02:03:04';
SELECT mailchimp_sync.clock() - now() AS ahead;
SET mailchimp_sync.clock_offset = 'P-2W';
SELECT mailchimp_sync.clock() - now() AS ahead;
-- days and months are added in UTC, whatever the session's time zone (half a year leads into or out of summer time)
SET mailchimp_sync.clock_offset = '6 months';
SELECT count(DISTINCT (SELECT mailchimp_sync.clock() FROM set_config('timezone', zone, false))) AS instants
FROM unnest(ARRAY['UTC', 'Europe/Amsterdam', 'Pacific/Kiritimati']) AS zone;
RESET timezone;
SELECT (mailchimp_sync.clock() AT TIME ZONE 'UTC') = (now() AT TIME ZONE 'UTC') + interval '6 months' AS same;

-- a value that cannot be added is refused and changes nothing
SET mailchimp_sync.clock_offset = 'yesterday';
SET mailchimp_sync.clock_offset = '300000 years';
SET mailchimp_sync.clock_offset = '99999999999999999999 years';
SHOW mailchimp_sync.clock_offset;
RESET mailchimp_sync.clock_offset;

-- a restored database is fenced, and the clock moved, by superusers alone
CREATE ROLE regress_mc_somebody;
SET ROLE regress_mc_somebody;
SET mailchimp_sync.send = on;
SET mailchimp_sync.instance = 'copy';
SET mailchimp_sync.clock_offset = '1 day';
SET mailchimp_sync.max_connections = 10;
SET mailchimp_sync.store_ip = on;
SHOW mailchimp_sync.request_timeout;
RESET ROLE;
SELECT format('ALTER DATABASE %I SET mailchimp_sync.send = off', current_database()) \gexec
\c
SHOW mailchimp_sync.send;
SELECT format('ALTER DATABASE %I RESET mailchimp_sync.send', current_database()) \gexec
DROP ROLE regress_mc_somebody;
DROP EXTENSION mailchimp_sync;
