/*
 * api.sql: mc_api, a request of one's own; how a request that somebody waits for gets into the log.
 *
 * It goes past all that the rest knows: what it changes is found by the next read or poll, like what people change on Mailchimp's
 * pages. So it is an admin's, it leaves our campaigns' sending to the functions that send once and never to who opted out, and on a
 * connection for training, where nobody can tell from a body whom it reaches, it only reads.
 */

-- what was asked now, by a function that somebody called; an error takes it along
CREATE FUNCTION mailchimp_sync.log_asked(_connection text, _kind text, _audience_id integer, _method text, _path text,
	_status integer, _outcome text, _title text, _detail text, _started_at timestamptz, _seconds double precision)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.request (inflight_id, connection, kind, method, path, status, outcome, detail, attempt,
		audience_id, contacts, started_at, duration)
	VALUES (0, _connection, _kind, _method, mailchimp_sync.mask(_path), nullif(_status, 0), _outcome,
		mailchimp_sync.mask_words(concat_ws(': ', _title, _detail)), 1, _audience_id, 0, _started_at, _seconds * interval '1 second')
$$;

-- the path below /3.0, with its query: one that can lead nowhere else
CREATE FUNCTION mailchimp_sync.api_path(_path text) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_full	text := '/' || ltrim(_path, '/');
	_below	text := split_part(_full, '?', 1);
BEGIN
	IF coalesce(_path ~ '^//', true) OR _full ~ '[^!-~]' OR _full ~ '[#\\]' OR _below ~ '//' OR _below || '/' ~* '/(\.|%2e){1,2}/'
		OR length(_full) > 4000 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('"%s" is no path of the API', coalesce(_path, 'null')),
			HINT = 'Give what follows /3.0, as in /lists?count=100, without a host; blanks, %2B for a plus sign and letters beyond ASCII are percent-encoded.';
	END IF;
	RETURN _full;
END
$$;

CREATE FUNCTION mailchimp_sync.api_method(_method text, _body jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF NOT coalesce(upper(_method) IN ('GET', 'POST', 'PUT', 'PATCH', 'DELETE'), false) THEN
		RAISE invalid_parameter_value USING
			MESSAGE = format('"%s" is no method of the API', coalesce(_method, 'null')),
			HINT = 'It takes one of: GET, POST, PUT, PATCH, DELETE.';
	ELSIF upper(_method) = 'GET' AND _body IS NOT NULL THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'GET takes no body',
			HINT = 'What it asks for belongs into the path, behind a question mark.';
	END IF;
	RETURN upper(_method);
END
$$;

/*
 * What may be read but not changed this way. The actions of a campaign of ours may stand in the path, whatever of it is
 * percent-encoded, or in the operations of a batch.
 */
CREATE FUNCTION mailchimp_sync.api_may_write(_connection text, _path text, _body jsonb) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_campaign_id	bigint;
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.connection c WHERE c.connection = _connection AND c.only_addresses IS NOT NULL) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('connection "%s" is for training', _connection),
			DETAIL = 'Nobody but only_addresses is to be reached, and mc_api cannot tell whom a request reaches.',
			HINT = format('GET works; SELECT mc_alter_connection(%L, ''{"only_addresses": null}'') ends the training.', _connection);
	END IF;
	IF split_part(_path, '?', 1) ~* '%(2d|2e|5f|7e|3[0-9]|[46][1-9a-f]|[57][0-9a])' THEN
		RAISE invalid_parameter_value USING MESSAGE = format('"%s" hides letters', _path),
			HINT = 'Of the path only what is neither a letter nor a digit is percent-encoded.';
	END IF;
	SELECT c.campaign_id INTO _campaign_id FROM mailchimp_sync.campaign c
	WHERE c.connection = _connection AND c.origin = 'local' AND CASE WHEN _path ~* '^/batches'
		THEN strpos(lower(_body::text), c.mailchimp_id || '/actions/') > 0
		ELSE c.mailchimp_id = (regexp_match(lower(_path), '^/campaigns/([^/?]+)/actions/'))[1] END;
	IF FOUND THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('that is campaign %s, which has functions of its own', _campaign_id),
			DETAIL = 'They send once, and to nobody who opted out.',
			HINT = 'See mc_send_campaign, mc_schedule_campaign, mc_unschedule_campaign, mc_cancel_campaign, mc_test_campaign and mc_copy_campaign.';
	END IF;
END
$$;

-- the request itself (src/api.c); null: an answer without a body
CREATE FUNCTION mailchimp_sync.ask_api(_connection text, _method text, _path text, _body text) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_ask_api';

CREATE FUNCTION @extschema@.mc_api(connection text, method text, path text, body jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_api(text, text, text, jsonb) IS
	'one request to Mailchimp''s API and its answer, for what no other function does; what it changes there is not undone by ROLLBACK';

CREATE FUNCTION mailchimp_sync.mc_api(_connection text, _method text, _path text, _body jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_verb	text := mailchimp_sync.api_method(_method, _body);
	_full	text := mailchimp_sync.api_path(_path);
	_answer	jsonb;
BEGIN
	PERFORM mailchimp_sync.require_connection(_connection);
	PERFORM mailchimp_sync.require_sending(_connection);
	IF _verb <> 'GET' THEN
		PERFORM mailchimp_sync.api_may_write(_connection, _full, _body);
	END IF;
	_answer := mailchimp_sync.ask_api(_connection, _verb, _full, _body::text);
	IF _verb <> 'GET' THEN
		RAISE NOTICE USING MESSAGE = format('Mailchimp has done it: %s %s', _verb, mailchimp_sync.mask(_full)),
			DETAIL = 'A ROLLBACK does not undo that.';
	END IF;
	RETURN _answer;
END
$$;
