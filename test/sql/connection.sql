-- Connections without a network: options, plain DDL, rights, settings, pauses, the home stamp (R16, R17, N12, N14, N18).
-- What asks Mailchimp is in t/010_connect.pl.
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
DROP ROLE IF EXISTS regress_conn_super, regress_conn_admin, regress_conn_other, regress_conn_marketer, regress_conn_nobody;
CREATE ROLE regress_conn_super SUPERUSER;
CREATE ROLE regress_conn_admin;
CREATE ROLE regress_conn_other;
CREATE ROLE regress_conn_marketer;
CREATE ROLE regress_conn_nobody;
SELECT mc_grant('regress_conn_admin', 'admin');
SELECT mc_grant('regress_conn_marketer', 'marketer');
RESET client_min_messages;
SET ROLE regress_conn_super;

-- ---- the validator: which options there are, and what they may be ----
CREATE SERVER v FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (host 'us6');
CREATE SERVER v FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (api_key 'secret-us6');
CREATE SERVER v FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6.evil.example');
ALTER FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');

CREATE FUNCTION pg_temp.takes(option text, VARIADIC given text[]) RETURNS TABLE (value text, taken text)
LANGUAGE plpgsql AS $$
BEGIN
	FOREACH value IN ARRAY given LOOP
		BEGIN
			EXECUTE format('CREATE SERVER v FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (%I %L)', option, value);
			DROP SERVER v;
			taken := 'yes';
		EXCEPTION WHEN invalid_parameter_value THEN
			taken := CASE WHEN SQLERRM LIKE '%not encrypted' THEN 'not encrypted' ELSE 'no' END;
		END;
		RETURN NEXT;
	END LOOP;
END
$$;
SELECT * FROM pg_temp.takes('dc', 'us6', 'us21', 'eu1', 'abcde123', 'us', '6', 'u1', 'abcdef1', 'us1234', 'US6', 'us6 ', 'us6/', '');
SELECT * FROM pg_temp.takes('endpoint', 'https://proxy.example.org', 'https://proxy.example.org:8443', 'https://10.0.0.1:1',
	'https://[2001:db8::1]:443', 'http://localhost:8080', 'http://127.0.0.1:8080', 'http://127.200.1.2', 'http://[::1]:8080');
SELECT * FROM pg_temp.takes('endpoint', '', 'https://', 'proxy.example.org', 'ftp://localhost', 'HTTP://localhost',
	'https://proxy.example.org/', 'https://proxy.example.org/3.0', 'https://proxy.example.org?x', 'https://user@proxy.example.org',
	'https://proxy.example.org:', 'https://proxy.example.org:0', 'https://proxy.example.org:65536', 'https://proxy.example.org:8443x',
	'https://[::1', 'https://[nonsense]', 'https://a b', 'https://a#b', E'https://a\nb', 'https://' || repeat('a', 300));
SELECT * FROM pg_temp.takes('endpoint', 'http://proxy.example.org', 'http://10.0.0.1', 'http://localhost.example.org',
	'http://127.0.0.1.example.org', 'http://127.1', 'http://2130706433', 'http://[::2]', 'http://0.0.0.0');

-- ---- keys: printable ASCII, one of two ways ----
CREATE SERVER ddl FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (password 'x');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key '');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key 'two words');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key E'line\nX-Header: x');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key 'sleutel-é');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key_file '');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key 'x-us6', api_key_file '/x');
CREATE USER MAPPING FOR regress_conn_other SERVER ddl OPTIONS (api_key 'x-us6');

-- ---- the owner's mapping counts, nobody else's (design.md rule 8) ----
CREATE USER MAPPING FOR PUBLIC SERVER ddl OPTIONS (api_key 'y-us6');
SELECT connection, owner = current_user AS mine, datacenter, account_name, state, detail FROM mc_connection;
SELECT mc_refresh('ddl');
SELECT * FROM mc_check_connection('ddl');
CREATE USER MAPPING FOR CURRENT_USER SERVER ddl OPTIONS (api_key 'z-us6');
SELECT connection, datacenter, state, detail FROM mc_connection;

-- ---- what takes a superuser ----
SET ROLE regress_conn_admin;
CREATE SERVER v FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (endpoint 'https://proxy.example.org');
SELECT mc_connect('v', 'x-us6', endpoint => 'https://proxy.example.org');
SELECT mc_connect('v', api_key_file => '/etc/passwd');
CREATE SERVER mine FOREIGN DATA WRAPPER mailchimp_sync;
CREATE USER MAPPING FOR regress_conn_admin SERVER mine OPTIONS (api_key_file '/etc/passwd');
DROP SERVER mine;
SET ROLE regress_conn_super;

-- ---- mc_connect: what is refused without asking ----
SET ROLE regress_conn_admin;
SELECT mc_connect(NULL);
SELECT mc_connect('');
SELECT mc_connect(repeat('n', 64));
SELECT mc_connect('n', 'two words');
SELECT mc_connect('n', 'x-us6', 'file');
SELECT mc_connect('n', 'x', dc => 'us6/evil');
SELECT mc_connect('n', 'key without suffix');
SELECT mc_connect('n', 'key_without_suffix');
SELECT mc_connect('n', 'suffix-that-is-none');
SELECT mc_connect('ddl', 'x-us6');
SET ROLE regress_conn_super;
SELECT mc_connect('n', api_key_file => 'no_such_file');
SELECT mc_connect('n', api_key_file => 'base');
CREATE FOREIGN DATA WRAPPER regress_conn_wrapper;
CREATE SERVER regress_conn_stranger FOREIGN DATA WRAPPER regress_conn_wrapper;
SELECT mc_connect('regress_conn_stranger');
DROP SERVER regress_conn_stranger;
DROP FOREIGN DATA WRAPPER regress_conn_wrapper;
SELECT connection, state FROM mc_connection ORDER BY 1;

-- ---- without a key: made, nothing is asked (R17) ----
SET ROLE regress_conn_admin;
SELECT mc_connect('later') IS NULL AS made;
SELECT connection, owner, datacenter, account_name, state, detail, checked_at FROM mc_connection WHERE connection = 'later';
SELECT mc_connect('later', dc => 'us6') IS NULL AS changed;
SELECT datacenter FROM mc_connection WHERE connection = 'later';
SELECT * FROM mc_check_connection('later');
SELECT mc_refresh('later');
SET ROLE regress_conn_super;
SELECT srvname, srvowner::regrole, srvoptions FROM pg_foreign_server WHERE srvname = 'later';

-- ---- levels (N12): a marketer looks, an admin of another connection does not even learn the state ----
SELECT mc_grant('regress_conn_other', 'admin', 'ddl');
SET ROLE regress_conn_other;
SELECT connection, state FROM mc_connection;
SELECT mc_pause('later');
SELECT mc_alter_connection('later', '{"max_connections": 2}');
SELECT mc_disconnect('later');
SELECT mc_connect('later', 'x-us6');
SELECT mc_resume();
SET ROLE regress_conn_marketer;
SELECT connection, state FROM mc_connection ORDER BY 1;
SELECT mc_pause('later');
SELECT mc_connect('another');
SET ROLE regress_conn_nobody;
SELECT * FROM mc_connection;
SELECT mc_connect('another');
SELECT mc_check_connection('later');
SET ROLE regress_conn_super;

-- ---- settings ----
SET ROLE regress_conn_admin;
SELECT mc_alter_connection('later', '{"max_connections": 3, "only_addresses": ["Ann@Example.org", "bo@example.org"]}');
SELECT mc_alter_connection('later', '{}');
SET ROLE regress_conn_super;
SELECT max_connections, only_addresses FROM mailchimp_sync.connection WHERE connection = 'later';
SET ROLE regress_conn_admin;
SELECT mc_alter_connection('later', '{"max_connections": null, "only_addresses": []}');
SET ROLE regress_conn_super;
SELECT max_connections, only_addresses FROM mailchimp_sync.connection WHERE connection = 'later';
SET ROLE regress_conn_admin;
SELECT mc_alter_connection('later', '{"max_connections": 2, "max_conections": 2}');
SELECT mc_alter_connection('later', '{"max_connections": 0}');
SELECT mc_alter_connection('later', '{"max_connections": 11}');
SELECT mc_alter_connection('later', '{"max_connections": 2.5}');
SELECT mc_alter_connection('later', '{"max_connections": "2"}');
SELECT mc_alter_connection('later', '{"only_addresses": "ann@example.org"}');
SELECT mc_alter_connection('later', '{"only_addresses": ["ann@example.org", 1]}');
SELECT mc_alter_connection('later', '{"only_addresses": ["ann"]}');
SELECT mc_alter_connection('later', '[]');
SELECT mc_alter_connection('later', NULL);
SELECT mc_alter_connection('latre', '{}');

-- ---- pausing ----
SELECT mc_pause('later');
SELECT connection, state, detail FROM mc_connection WHERE connection = 'later';
SELECT mc_refresh('later');
-- a restore is no reason to end it
SELECT mc_resume();
SELECT state FROM mc_connection WHERE connection = 'later';
SELECT mc_resume('later');
SELECT state FROM mc_connection WHERE connection = 'later';
SELECT mc_pause('later', 'nobodys audience');
SELECT mc_pause('latre');
SELECT mc_resume('latre');
SELECT mc_resume(audience => 'nobodys audience');
SET ROLE regress_conn_super;
SET mailchimp_sync.send = off;
SELECT mc_refresh('ddl');
RESET mailchimp_sync.send;

-- ---- what replies do to the state (the engine calls this after each one) ----
CREATE FUNCTION pg_temp.pause_of(failures int) RETURNS interval LANGUAGE sql IMMUTABLE AS
	$$ SELECT least(300, 2 ^ (failures - 1)) * interval '1 second' $$;
CREATE FUNCTION pg_temp.replied(outcome text, status int, detail text DEFAULT NULL, retry_after_s int DEFAULT NULL)
RETURNS TABLE (state text, failures int, words text, waits interval, usable boolean) LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mailchimp_sync.connection_replied('ddl', outcome, status, detail, retry_after_s);
	RETURN QUERY SELECT c.state, c.failures, c.detail,
		-- spread by a quarter to either side
		CASE WHEN c.next_attempt_at - mailchimp_sync.clock()
				BETWEEN 0.7 * pg_temp.pause_of(c.failures) AND 1.3 * pg_temp.pause_of(c.failures)
			THEN pg_temp.pause_of(c.failures) ELSE c.next_attempt_at - mailchimp_sync.clock() END,
		EXISTS (SELECT FROM mailchimp_sync.usable_connection u WHERE u.connection = 'ddl')
	FROM mailchimp_sync.connection c WHERE c.connection = 'ddl';
END
$$;
SELECT mailchimp_sync.store_account('ddl', 'us6', 'account', 'Name', '77', 'owner', 'monthly', false);
SELECT * FROM pg_temp.replied('refused', 429, 'too busy');
-- requests that were out at the same time do not count
SELECT * FROM pg_temp.replied('refused', 429, 'too busy');
SET mailchimp_sync.clock_offset = '10 s';
SELECT * FROM pg_temp.replied('doubt', 0, 'timed out');
SELECT * FROM pg_temp.replied('answered', 200);
SELECT * FROM pg_temp.replied('answered', 500, 'internal');
SELECT * FROM pg_temp.replied('answered', 404, 'not found');
SELECT * FROM pg_temp.replied('answered', 429, 'too many', 3600);
SELECT connection, next_attempt_at - mailchimp_sync.clock() BETWEEN '59 min' AND '1 h' AS an_hour FROM mailchimp_sync.waiting_connection;
SELECT * FROM pg_temp.replied('answered', 204);
SELECT * FROM pg_temp.replied('not_sent', 0, 'no route');
SELECT * FROM pg_temp.replied('answered', 403, 'This account is disabled');
SELECT * FROM pg_temp.replied('answered', 200);
-- a healthy request writes nothing
SELECT xmin AS before FROM mailchimp_sync.connection WHERE connection = 'ddl' \gset
SELECT * FROM pg_temp.replied('answered', 200);
SELECT xmin = :'before' AS untouched FROM mailchimp_sync.connection WHERE connection = 'ddl';
-- at most 5 minutes
UPDATE mailchimp_sync.connection SET failures = 40 WHERE connection = 'ddl';
SELECT state, failures, waits BETWEEN '225 s' AND '375 s' AS five_minutes FROM pg_temp.replied('not_sent', 0, 'no route');
-- only a new key ends this, whatever was still under way
SELECT * FROM pg_temp.replied('answered', 401, 'bad key');
SELECT * FROM pg_temp.replied('answered', 200);
SELECT * FROM pg_temp.replied('not_sent', 0);
RESET mailchimp_sync.clock_offset;
-- another account is refused unless somebody says so
SELECT mailchimp_sync.store_account('ddl', 'us6', 'other', 'Other', '78', 'owner', 'monthly', false);

-- ---- disconnecting: the server goes, what we know stays ----
SET ROLE regress_conn_admin;
SELECT mc_disconnect('later');
SELECT mc_disconnect('ddl');
SELECT connection, owner, state, detail FROM mc_connection ORDER BY 1;
SELECT mc_disconnect('ddl');
-- and comes back
SELECT mc_connect('ddl') IS NULL AS made;
SELECT connection, owner, account_name, state FROM mc_connection ORDER BY 1;
SET ROLE regress_conn_other;
SELECT connection, state FROM mc_connection;
SET ROLE regress_conn_super;
SELECT srvname FROM pg_foreign_server JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw WHERE fdwname = 'mailchimp_sync';
SELECT count(*) FROM pg_user_mappings WHERE srvname IN ('ddl', 'later');

-- ---- which database this is (N14) ----
SELECT mailchimp_sync.is_home();
SELECT system_id = (SELECT system_identifier FROM pg_control_system()) AS system,
	database_oid = (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database, instance
FROM mailchimp_sync.home;

RESET ROLE;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP OWNED BY regress_conn_super;
DROP ROLE regress_conn_super, regress_conn_admin, regress_conn_other, regress_conn_marketer, regress_conn_nobody;
