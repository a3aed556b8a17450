/*
 * connection_alter.sql: what people do with a connection that is there: its settings, pausing and resuming, dropping it.
 */

CREATE FUNCTION @extschema@.mc_alter_connection(connection text, settings jsonb) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_alter_connection(text, jsonb) IS
	'changes max_connections, campaigns_every (import; 0: not by itself) or only_addresses (training: nobody else is pushed or mailed); null puts back the default';

CREATE FUNCTION mailchimp_sync.interval_or_null(_value jsonb) RETURNS interval
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN (_value #>> '{}')::interval;
EXCEPTION WHEN data_exception THEN
	RETURN NULL;
END
$$;

-- a setting of the wrong type or out of range says so by its name
CREATE FUNCTION mailchimp_sync.check_connection_setting(_key text, _value jsonb) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_wanted	text;
BEGIN
	IF _value = 'null' THEN
		RETURN;
	ELSIF _key = 'max_connections' THEN
		IF jsonb_typeof(_value) <> 'number' OR NOT (_value #>> '{}')::numeric IN (1, 2, 3, 4, 5, 6, 7, 8, 9, 10) THEN
			_wanted := 'a whole number from 1 to 10';
		END IF;
	ELSIF _key = 'only_addresses' THEN
		IF jsonb_typeof(_value) <> 'array'
			OR jsonb_path_exists(_value, 'strict $[*] ? (@.type() != "string" || !(@ like_regex "^[^@ ]+@[^@ ]+$"))') THEN
			_wanted := 'a list of e-mail addresses';
		END IF;
	ELSIF _key = 'campaigns_every' AND NOT coalesce(mailchimp_sync.interval_or_null(_value) = interval '0'
			OR mailchimp_sync.interval_or_null(_value) BETWEEN interval '1 minute' AND interval '100 years', false) THEN
		_wanted := 'an interval of a minute or more, or 0';
	END IF;
	IF _wanted IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('%s must be %s', _key, _wanted),
			HINT = 'Null puts back the default.';
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_alter_connection(_connection text, _settings jsonb) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_setting	record;
BEGIN
	PERFORM mailchimp_sync.require_connection(_connection);
	PERFORM mailchimp_sync.check_settings(_settings, ARRAY['max_connections', 'campaigns_every', 'only_addresses'], 'a connection');
	FOR _setting IN SELECT * FROM jsonb_each(_settings) LOOP
		PERFORM mailchimp_sync.check_connection_setting(_setting.key, _setting.value);
	END LOOP;
	INSERT INTO mailchimp_sync.connection (connection) VALUES (_connection) ON CONFLICT DO NOTHING;
	UPDATE mailchimp_sync.connection c
	SET max_connections = CASE WHEN _settings ? 'max_connections'
			THEN (_settings ->> 'max_connections')::integer ELSE c.max_connections END,
		campaigns_every = CASE WHEN _settings ? 'campaigns_every'
			THEN (_settings ->> 'campaigns_every')::interval ELSE c.campaigns_every END,
		only_addresses = CASE WHEN NOT _settings ? 'only_addresses' THEN c.only_addresses
			WHEN _settings -> 'only_addresses' <> 'null'
				THEN ARRAY(SELECT jsonb_array_elements_text(_settings -> 'only_addresses')) END
	WHERE c.connection = _connection;
	INSERT INTO mailchimp_sync.import (connection) SELECT _connection WHERE (_settings ->> 'campaigns_every')::interval > interval '0'
	ON CONFLICT DO NOTHING;
	IF _settings ? 'only_addresses' THEN
		PERFORM mailchimp_sync.compare_connection(_connection);
		-- whom Mailchimp is going to mail is decided anew
		UPDATE mailchimp_sync.campaign SET altered = true
		WHERE connection = _connection AND status = 'scheduled' AND NOT hold AND origin = 'local';
	END IF;
	PERFORM mailchimp_sync.wake();
END
$$;

-- a full comparison of the audiences that are switched on; null: of all connections
CREATE FUNCTION mailchimp_sync.compare_connection(_connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE mailchimp_sync.audience a SET compare_asked_at = mailchimp_sync.clock()
	WHERE a.active_since IS NOT NULL AND (_connection IS NULL OR a.connection = _connection);
END
$$;

CREATE FUNCTION @extschema@.mc_pause(connection text, audience text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_pause(text, text) IS
	'nothing is sent for the connection, or for one audience of it, until mc_resume; work is collected meanwhile';

CREATE FUNCTION @extschema@.mc_resume(connection text DEFAULT NULL, audience text DEFAULT NULL) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_resume(text, text) IS
	'ends a pause of a connection or an audience; without arguments lets a restored or copied database send, after comparing everything';

CREATE FUNCTION mailchimp_sync.set_audience_paused(_connection text, _audience text, _paused boolean) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	UPDATE mailchimp_sync.audience a SET paused = _paused
	WHERE a.audience = _audience AND (_connection IS NULL OR a.connection = _connection);
	IF NOT FOUND THEN
		PERFORM mailchimp_sync.raise_unknown('audience', _audience, ARRAY(
			SELECT a.audience FROM mailchimp_sync.audience a
			WHERE _connection IS NULL OR a.connection = _connection ORDER BY 1));
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.set_connection_paused(_connection text, _paused boolean) RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	SELECT mailchimp_sync.require_connection(_connection);
	INSERT INTO mailchimp_sync.connection AS c (connection, paused) VALUES (_connection, _paused)
	ON CONFLICT (connection) DO UPDATE SET paused = excluded.paused;
$$;

CREATE FUNCTION mailchimp_sync.mc_pause(_connection text, _audience text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF _audience IS NULL THEN
		PERFORM mailchimp_sync.set_connection_paused(_connection, true);
		PERFORM mailchimp_sync.warn_of_scheduled(_connection);
	ELSE
		PERFORM mailchimp_sync.require_connection(_connection);
		PERFORM mailchimp_sync.set_audience_paused(_connection, _audience, true);
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_resume(_connection text, _audience text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_paused	text;
BEGIN
	IF _connection IS NOT NULL AND _audience IS NULL THEN
		PERFORM mailchimp_sync.set_connection_paused(_connection, false);
	ELSIF _audience IS NOT NULL THEN
		PERFORM mailchimp_sync.set_audience_paused(_connection, _audience, false);
	ELSE
		-- what the other one has sent since, nobody knows here: all that should be at Mailchimp is sent once more
		IF NOT mailchimp_sync.is_home() THEN
			UPDATE mailchimp_sync.contact c SET sent_hash = NULL WHERE c.sent_hash IS NOT NULL;
			-- nor who has left: that is read before anything is sent (sending_audiences)
			UPDATE mailchimp_sync.audience a SET read_at = NULL,
				walk_asked_at = CASE WHEN a.direction <> 'push' THEN mailchimp_sync.clock() END
			WHERE a.read_at IS NOT NULL;
			PERFORM mailchimp_sync.campaigns_restored();
			PERFORM mailchimp_sync.recount_activity();
		END IF;
		PERFORM mailchimp_sync.stamp_home(true);
		PERFORM mailchimp_sync.compare_connection(NULL);
		-- what somebody paused by name is no business of a restore
		SELECT string_agg(format('"%s"', c.connection), ', ' ORDER BY c.connection) INTO _paused
		FROM mailchimp_sync.connection c WHERE c.paused;
		IF _paused IS NOT NULL THEN
			RAISE NOTICE USING MESSAGE = format('still paused: %s', _paused),
				HINT = 'mc_resume with the name of the connection ends that.';
		END IF;
	END IF;
	PERFORM mailchimp_sync.wake();
END
$$;

CREATE FUNCTION @extschema@.mc_disconnect(connection text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_disconnect(text) IS
	'drops the foreign server with its keys; touches nothing at Mailchimp, keeps audiences, campaigns and results';

CREATE FUNCTION mailchimp_sync.mc_disconnect(_connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_mapping	record;
BEGIN
	PERFORM mailchimp_sync.require_connection(_connection);
	PERFORM mailchimp_sync.warn_of_scheduled(_connection);
	PERFORM mailchimp_sync.notice_webhooks(ARRAY(SELECT a.audience_id FROM mailchimp_sync.audience a WHERE a.connection = _connection));
	FOR _mapping IN
		SELECT CASE WHEN m.umuser = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(m.umuser)) END AS role
		FROM pg_user_mapping m JOIN mailchimp_sync.known_connection k ON k.server = m.umserver
		WHERE k.connection = _connection
	LOOP
		EXECUTE format('DROP USER MAPPING FOR %s SERVER %I', _mapping.role, _connection);
	END LOOP;
	IF EXISTS (SELECT FROM mailchimp_sync.known_connection k WHERE k.connection = _connection AND k.server IS NOT NULL) THEN
		EXECUTE format('DROP SERVER %I', _connection);
	END IF;
	INSERT INTO mailchimp_sync.connection (connection) VALUES (_connection) ON CONFLICT DO NOTHING;
	PERFORM mailchimp_sync.forget_test_mails(_connection);
END
$$;
