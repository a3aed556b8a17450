-- # 5. From now on it happens by itself
-- The background worker takes over. A superuser names the database; no restart is needed.

ALTER SYSTEM SET mailchimp_sync.databases = 'demo';
SELECT pg_reload_conf() AS reloaded;
