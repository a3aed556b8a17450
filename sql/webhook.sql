/*
 * webhook.sql: Mailchimp tells at once that something has happened (API 3.0, webhooks).
 *
 * Whatever it tells is a hint and nothing more: that the audience's statuses are to be read now (read.sql), or a campaign is to
 * be polled. What has changed is read from Mailchimp itself, so nobody can subscribe, unsubscribe or change anybody by a webhook, and it
 * does not matter if one comes twice, late, in any order or not at all. Hints are only ever inserted by who receives them, so that
 * no open transaction there keeps the engine; one that waits stands for all that come after it, and reads keep a distance,
 * so that a flood of them costs no more than one.
 *
 * Who tells has to prove it twice: by the secret in the address that Mailchimp was given (kept as a hash), and by a signature
 * over the body, with a secret that Mailchimp shows once. What fails stores nothing.
 */

-- one of each audience; dumped with its signing secret, which cannot be asked for again
CREATE TABLE mailchimp_sync.webhook (
	audience_id		integer PRIMARY KEY,
	webhook_id		text NOT NULL,			-- Mailchimp's
	url				text NOT NULL,			-- without its secret
	secret_hash		bytea NOT NULL UNIQUE,	-- of that
	signing_secret	text NOT NULL,
	registered_at	timestamptz NOT NULL,
	received_at		timestamptz				-- the last hint that was taken
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.webhook', '');

-- not dumped: a copy reads everything
CREATE TABLE mailchimp_sync.webhook_hint (
	webhook_hint_id	bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	audience_id		integer NOT NULL,
	campaign_id		bigint,					-- null: of members
	at				timestamptz NOT NULL
);

/* ---- receiving ---- */

-- a signature that proves who sent the body, and when that was; null: it does not (src/webhook.c)
CREATE FUNCTION mailchimp_sync.webhook_signed_at(_body text, _signature text, _signing_secret text) RETURNS timestamptz
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_webhook_signed_at';

-- values of a form by their names; null: there is none, or one beyond printable ASCII, which no name or id of Mailchimp's is
CREATE FUNCTION mailchimp_sync.form_values(_body text, _names text[]) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_form_values';

-- the largest body: 80 merge fields of 255 bytes take less
CREATE FUNCTION mailchimp_sync.webhook_limit() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 262144
$$;

CREATE FUNCTION mailchimp_sync.refuse_webhook(_detail text, _hint text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE invalid_authorization_specification USING MESSAGE = 'the webhook is refused', DETAIL = _detail, HINT = _hint;
END
$$;

-- one that waits is enough; an unknown campaign, or another list's webhook, is nothing to us
CREATE FUNCTION mailchimp_sync.leave_hint(_audience_id integer, _type text, _list_id text, _campaign text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO mailchimp_sync.webhook_hint (audience_id, campaign_id, at)
	SELECT a.audience_id, c.campaign_id, mailchimp_sync.clock()
	FROM mailchimp_sync.audience a
	LEFT JOIN mailchimp_sync.campaign c ON _type = 'campaign' AND c.connection = a.connection AND c.mailchimp_id = _campaign
	WHERE a.audience_id = _audience_id AND a.list_id = _list_id AND a.active_since IS NOT NULL
		AND (_type IN ('subscribe', 'unsubscribe', 'profile', 'upemail', 'cleaned') OR c.campaign_id IS NOT NULL)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.webhook_hint h
			WHERE h.audience_id = a.audience_id AND h.campaign_id IS NOT DISTINCT FROM c.campaign_id);
	IF FOUND THEN
		PERFORM mailchimp_sync.wake();
	END IF;
END
$$;

CREATE FUNCTION @extschema@.mc_receive_webhook(body text, signature text, secret text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate_hidden';
COMMENT ON FUNCTION @extschema@.mc_receive_webhook(text, text, text) IS
	'takes what Mailchimp told a webhook: the body as it came, the header X-Mailchimp-Signature and the secret of the URL; what is not signed rightly is refused';

CREATE FUNCTION mailchimp_sync.mc_receive_webhook(_body text, _signature text, _secret text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_w		mailchimp_sync.webhook;
	_at		timestamptz;
	_values	text[];
BEGIN
	IF octet_length(_body) > mailchimp_sync.webhook_limit() THEN
		RAISE program_limit_exceeded USING MESSAGE = 'the webhook is too large',
			DETAIL = format('It has %s bytes; no more than %s are read.', octet_length(_body), mailchimp_sync.webhook_limit());
	END IF;
	SELECT w.* INTO _w FROM mailchimp_sync.webhook w JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE w.secret_hash = sha256(convert_to(_secret, 'UTF8')) AND mailchimp_sync.caller_has('webhook', a.connection);
	_at := mailchimp_sync.webhook_signed_at(_body, _signature, _w.signing_secret);
	IF _at IS NULL THEN
		PERFORM mailchimp_sync.refuse_webhook('Its secret or its signature is not right.',
			'The body has to arrive byte by byte as it was sent. mc_register_webhook makes new secrets.');
	ELSIF abs(extract(epoch FROM mailchimp_sync.clock() - _at)) > 300 THEN
		PERFORM mailchimp_sync.refuse_webhook('It was signed more than five minutes before or after the time of this server.',
			'Either it was held up and will be sent again, or the clock of this server is wrong.');
	END IF;
	_values := mailchimp_sync.form_values(_body, ARRAY['type', 'data[list_id]', 'data[id]']);
	PERFORM mailchimp_sync.leave_hint(_w.audience_id, _values[1], _values[2], _values[3]);
END
$$;

CREATE FUNCTION @extschema@.mc_webhook(text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate_hidden';
COMMENT ON FUNCTION @extschema@.mc_webhook(text) IS
	'mc_receive_webhook for PostgREST: the raw body, with the headers X-Mailchimp-Signature and X-Webhook-Secret of the request';

CREATE FUNCTION mailchimp_sync.mc_webhook(_body text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_headers	jsonb := nullif(current_setting('request.headers', true), '');
BEGIN
	PERFORM mailchimp_sync.mc_receive_webhook(_body, _headers ->> 'x-mailchimp-signature', _headers ->> 'x-webhook-secret');
END
$$;

/* ---- what a hint leads to ---- */

-- the statuses of an audience are to be read from then on; never more than a fifth of the time, or every five seconds
CREATE FUNCTION mailchimp_sync.hinted_at(_audience_id integer, _begun_at timestamptz, _read_at timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT greatest(min(h.at), _read_at + greatest(interval '5 seconds', 4 * (_read_at - _begun_at)))
		FROM mailchimp_sync.webhook_hint h WHERE h.audience_id = _audience_id AND h.campaign_id IS NULL
		HAVING count(*) > 0);
END
$$;

-- a read begins, which will see what they are about
CREATE FUNCTION mailchimp_sync.take_hints(_audience_id integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_at	timestamptz;
BEGIN
	WITH taken AS (
		DELETE FROM mailchimp_sync.webhook_hint h WHERE h.audience_id = _audience_id AND h.campaign_id IS NULL RETURNING h.at
	)
	SELECT max(t.at) INTO _at FROM taken t;
	IF _at IS NOT NULL THEN
		UPDATE mailchimp_sync.webhook w SET received_at = _at
		-- somebody registers another just now, and may take long to commit
		WHERE w.audience_id = (SELECT o.audience_id FROM mailchimp_sync.webhook o WHERE o.audience_id = _audience_id
			FOR NO KEY UPDATE SKIP LOCKED);
	END IF;
END
$$;

/*
 * Campaigns that Mailchimp has sent or canceled are looked at now, each once a minute at most; part of a step of the engine
 * (campaign_step). One that somebody holds is left for later: nobody's transaction keeps the engine, or mc_run.
 */
CREATE FUNCTION mailchimp_sync.webhook_poll() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_now	timestamptz := mailchimp_sync.clock();
	_ids	bigint[] := ARRAY(SELECT h.campaign_id FROM mailchimp_sync.webhook_hint h
		WHERE h.campaign_id IS NOT NULL AND h.at <= _now);
	_free	bigint[];
BEGIN
	IF _ids = '{}' THEN
		RETURN 0;
	END IF;
	_free := ARRAY(SELECT c.campaign_id FROM mailchimp_sync.campaign c WHERE c.campaign_id = ANY (_ids)
		FOR NO KEY UPDATE SKIP LOCKED);
	DELETE FROM mailchimp_sync.webhook_hint h WHERE h.campaign_id = ANY (_free);
	UPDATE mailchimp_sync.webhook_hint h SET at = _now + interval '10 seconds' WHERE h.campaign_id = ANY (_ids);
	UPDATE mailchimp_sync.campaign c
	SET next_poll_at = least(c.next_poll_at, greatest(_now, c.last_polled_at + interval '1 minute'))
	WHERE c.campaign_id = ANY (_free) AND c.status IN ('prepared', 'scheduled', 'failed', 'sent');
	-- one on its way is looked at until it is sent
	UPDATE mailchimp_sync.campaign c SET next_attempt_at = least(c.next_attempt_at, _now)
	WHERE c.campaign_id = ANY (_free) AND c.status = 'sending' AND c.step = 'sent';
	RETURN cardinality(_free);
END
$$;

CREATE FUNCTION mailchimp_sync.webhook_poll_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(h.at) FROM mailchimp_sync.webhook_hint h WHERE h.campaign_id IS NOT NULL);
END
$$;

/* ---- registering ---- */

-- an address without the secret in its query
CREATE FUNCTION mailchimp_sync.webhook_base(_url text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT regexp_replace(regexp_replace(_url, '([?&])secret=[^&#]*(&|$)', '\1'), '[?&]$', '')
$$;

-- what Mailchimp is to call: https, but for an address of this machine, where nothing is on a wire
CREATE FUNCTION mailchimp_sync.check_webhook_url(_url text) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _url !~ '^https://[^/?#@\\]+([/?]|$)' AND _url !~ '^http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?([/?]|$)'
		OR _url ~ '[^!-~]|#' OR length(_url) > 1000 THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'that is no URL for a webhook',
			HINT = 'Give the https address under which Mailchimp reaches you, without a user, as in https://crm.example.org/mailchimp.';
	ELSIF _url ~ '[?&]secret=' AND _url !~ '[?&]secret=[A-Za-z0-9_.~-]{16,128}(&|$)' THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'the secret in the URL is too short or has other characters than letters, digits and _.~-',
			HINT = 'Leave it out, and one is made.';
	END IF;
END
$$;

-- what mc_register_webhook goes by; no address: the webhook is to be removed
CREATE FUNCTION mailchimp_sync.webhook_target(_audience text, _url text, OUT audience_id integer, OUT connection text,
	OUT list_id text, OUT webhook_id text, OUT base text, OUT url text, OUT body text)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	audience_id := mailchimp_sync.audience_id(_audience);
	SELECT a.connection, a.list_id, w.webhook_id, w.url INTO connection, list_id, webhook_id, base
	FROM mailchimp_sync.audience a LEFT JOIN mailchimp_sync.webhook w USING (audience_id)
	WHERE a.audience = _audience;
	PERFORM mailchimp_sync.require_sending(connection);
	IF _url IS NULL THEN
		IF webhook_id IS NULL THEN
			RAISE object_not_in_prerequisite_state USING MESSAGE = format('audience "%s" has no webhook', _audience);
		END IF;
		RETURN;
	END IF;
	PERFORM mailchimp_sync.check_webhook_url(_url);
	base := mailchimp_sync.webhook_base(_url);
	url := CASE WHEN _url ~ '[?&]secret=' THEN _url
		ELSE base || CASE WHEN base ~ '\?' THEN '&' ELSE '?' END || 'secret=' || replace(gen_random_uuid()::text, '-', '') END;
	-- not the API's: our own changes are no news
	body := jsonb_build_object('url', url, 'sources', '{"user": true, "admin": true, "api": false}'::jsonb,
		'events', '{"subscribe": true, "unsubscribe": true, "profile": true, "cleaned": true, "upemail": true, "campaign": true}'::jsonb);
END
$$;

-- webhooks of a list that the new one replaces: the one that we know, and those of the same address
CREATE FUNCTION mailchimp_sync.replaced_webhooks(_webhook_id text, _base text, _url text, _ids text[], _urls text[],
	OUT id text, OUT is_same boolean)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.id, coalesce(u.url = _url, false)
	FROM unnest(_ids, _urls) AS u(id, url)
	WHERE u.id = _webhook_id OR mailchimp_sync.webhook_base(u.url) = _base
	ORDER BY u.id
$$;

CREATE FUNCTION mailchimp_sync.webhook_registered(_audience text, _webhook_id text, _base text, _url text,
	_signing_secret text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	INSERT INTO mailchimp_sync.webhook (audience_id, webhook_id, url, secret_hash, signing_secret, registered_at)
	VALUES (mailchimp_sync.audience_id(_audience), _webhook_id, _base,
		sha256(convert_to(substring(_url FROM '[?&]secret=([^&]*)'), 'UTF8')), _signing_secret, mailchimp_sync.clock())
	ON CONFLICT (audience_id) DO UPDATE SET webhook_id = excluded.webhook_id, url = excluded.url,
		secret_hash = excluded.secret_hash, signing_secret = excluded.signing_secret, registered_at = excluded.registered_at,
		received_at = NULL;
	RAISE NOTICE USING MESSAGE = format('Mailchimp tells %s of changes in audience "%s"', _base, _audience),
		DETAIL = 'A ROLLBACK does not undo that.';
END
$$;

CREATE FUNCTION mailchimp_sync.webhook_removed(_audience text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM mailchimp_sync.webhook w WHERE w.audience_id = mailchimp_sync.audience_id(_audience);
	RAISE NOTICE USING MESSAGE = format('the webhook of audience "%s" is removed at Mailchimp', _audience),
		DETAIL = 'A ROLLBACK does not undo that.';
END
$$;

CREATE FUNCTION @extschema@.mc_register_webhook(audience text, url text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate_hidden';
COMMENT ON FUNCTION @extschema@.mc_register_webhook(text, text) IS
	'has Mailchimp tell this URL of changes in the audience, in place of the webhook before; null removes it';

-- src/webhook_register.c
CREATE FUNCTION mailchimp_sync.mc_register_webhook(_audience text, _url text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_register_webhook';

-- what stays at Mailchimp when audiences go, or their connection
CREATE FUNCTION mailchimp_sync.notice_webhooks(_audience_ids integer[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_w	record;
BEGIN
	FOR _w IN SELECT w.url, a.audience FROM mailchimp_sync.webhook w JOIN mailchimp_sync.audience a USING (audience_id)
		WHERE w.audience_id = ANY (_audience_ids) ORDER BY a.audience
	LOOP
		RAISE NOTICE USING MESSAGE = format('the webhook of audience "%s" stays at Mailchimp: %s', _w.audience, _w.url),
			DETAIL = 'What it tells is refused from now on, or has no effect.',
			HINT = format('Remove it there. Before, SELECT mc_register_webhook(%L, NULL) would do so.', _w.audience);
	END LOOP;
END
$$;
