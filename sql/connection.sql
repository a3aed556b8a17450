/*
 * connection.sql: a Mailchimp account with its key.
 *
 * A connection is a FOREIGN SERVER of the foreign data wrapper mailchimp_sync;
 * its owner's USER MAPPING holds the key. The table below holds what we know
 * of the account behind it. It names the server instead of pointing to it by
 * oid, since a restore makes servers anew; a row whose server is gone has the
 * state "missing" and keeps the results that belong to it.
 */
CREATE TABLE mailchimp_sync.connection (
	connection		text PRIMARY KEY,
	dc				text,
	account_id		text,
	account_name	text,
	login_id		text,
	user_role		text,
	plan			text,
	-- what the last request said; mc_connection adds what follows from
	-- elsewhere (paused, restored, missing)
	state			text NOT NULL DEFAULT 'no_key'
					CHECK (state IN ('ok', 'no_key', 'auth_failed', 'throttled', 'unreachable')),
	detail			text,
	checked_at		timestamptz,
	paused			boolean NOT NULL DEFAULT false,
	-- backoff: how many requests in a row failed, and when to try again
	failures		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz,
	-- Mailchimp took no batch, or one did not do its work: contacts leave one by one until then
	no_batch_until	timestamptz,
	-- mc_alter_connection
	max_connections	integer CHECK (max_connections BETWEEN 1 AND 10),
	campaigns_every	interval CHECK (campaigns_every >= interval '0'),		-- 0: never by itself (import.sql)
	only_addresses	text[]
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.connection', '');

CREATE TABLE mailchimp_sync.list (
	connection		text NOT NULL,
	list_id			text NOT NULL,
	web_id			bigint,
	name			text NOT NULL,
	from_name		text,
	from_email		text,
	member_count	bigint,
	double_optin	boolean NOT NULL DEFAULT false,
	fetched_at		timestamptz NOT NULL,
	PRIMARY KEY (connection, list_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.list', '');

CREATE TABLE mailchimp_sync.merge_field (
	connection		text NOT NULL,
	list_id			text NOT NULL,
	tag				text NOT NULL,
	merge_id		integer NOT NULL,
	name			text NOT NULL,
	type			text NOT NULL,
	required		boolean NOT NULL DEFAULT false,
	default_value	text,					-- what mails show of who has no value
	fetched_at		timestamptz NOT NULL,
	changed_at		timestamptz NOT NULL,	-- it was new, or another one, when it was fetched then
	PRIMARY KEY (connection, list_id, tag)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.merge_field', '');

CREATE TABLE mailchimp_sync.template (
	connection		text NOT NULL,
	template_id		bigint NOT NULL,
	name			text NOT NULL,
	type			text,
	active			boolean NOT NULL,
	edited_at		timestamptz,
	fetched_at		timestamptz NOT NULL,
	PRIMARY KEY (connection, template_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.template', '');

CREATE TABLE mailchimp_sync.domain (
	connection		text NOT NULL,
	domain			text NOT NULL,
	verified		boolean NOT NULL,
	authenticated	boolean NOT NULL,
	status			text,
	is_free_mail	boolean NOT NULL DEFAULT false,		-- of a provider that anybody can have an address at
	fetched_at		timestamptz NOT NULL,
	PRIMARY KEY (connection, domain)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.domain', '');

-- what is fetched of each account, when, and how far a walk of several pages is (refresh.sql)
CREATE TABLE mailchimp_sync.refresh (
	connection		text NOT NULL,
	what			text NOT NULL CHECK (what IN ('account', 'lists', 'templates', 'domains', 'fields')),
	list_id			text NOT NULL DEFAULT '',	-- of fields
	fetched_at		timestamptz,				-- all of it
	stale_at		timestamptz,				-- since then it is known to be another one
	walk_begun_at	timestamptz,
	page_offset		bigint NOT NULL DEFAULT 0,
	seen			text[] NOT NULL DEFAULT '{}',	-- what the pages before have shown
	-- failures in a row
	attempts		integer NOT NULL DEFAULT 0,
	title			text,
	detail			text,
	first_failed_at	timestamptz,
	last_failed_at	timestamptz,
	next_attempt_at	timestamptz,
	PRIMARY KEY (connection, what, list_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.refresh', '');

/*
 * Which database this is (N14): written by the first mc_connect, rewritten only
 * by mc_resume. A logical copy finds another stamp and sends nothing.
 */
CREATE TABLE mailchimp_sync.home (
	singleton		boolean PRIMARY KEY DEFAULT true CHECK (singleton),
	system_id		bigint NOT NULL,
	database_oid	bigint NOT NULL,
	instance		text NOT NULL,
	stamped_at		timestamptz NOT NULL
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.home', '');

/* ---- the foreign data wrapper ---- */

CREATE FUNCTION mailchimp_sync.fdw_validator(text[], oid) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'mc_fdw_validator';

CREATE FOREIGN DATA WRAPPER mailchimp_sync NO HANDLER VALIDATOR mailchimp_sync.fdw_validator;
COMMENT ON FOREIGN DATA WRAPPER mailchimp_sync IS
	'connections to Mailchimp; a server has the options dc and endpoint, the user mapping of its owner api_key or api_key_file';

CREATE FUNCTION @extschema@.mc_connect(connection text, api_key text DEFAULT NULL, api_key_file text DEFAULT NULL,
	dc text DEFAULT NULL, endpoint text DEFAULT NULL, switch_account boolean DEFAULT false) RETURNS text
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_connect';
COMMENT ON FUNCTION @extschema@.mc_connect(text, text, text, text, text, boolean) IS
	'makes or changes a connection: asks Mailchimp whose key it is, fetches lists, templates and domains, returns the account''s name (null without a key)';

/* ---- which database this is ---- */

CREATE FUNCTION mailchimp_sync.identity(OUT system_id bigint, OUT database_oid bigint, OUT instance text)
	LANGUAGE c STABLE AS 'MODULE_PATHNAME', 'mc_identity';

/*
 * No stamp: nobody has connected yet, so it is no copy of anything. An account
 * without a stamp is a restore on its way, which a worker must not overtake.
 */
CREATE VIEW mailchimp_sync.at_home AS
SELECT coalesce(
	(SELECT (h.system_id, h.database_oid, h.instance) IS NOT DISTINCT FROM (i.system_id, i.database_oid, i.instance)
		FROM mailchimp_sync.home h, mailchimp_sync.identity() i),
	NOT EXISTS (SELECT FROM mailchimp_sync.connection c WHERE c.account_id IS NOT NULL)) AS at_home;

CREATE FUNCTION mailchimp_sync.is_home() RETURNS boolean
	LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
	SELECT h.at_home FROM mailchimp_sync.at_home h
$$;

CREATE FUNCTION mailchimp_sync.stamp_home(_again boolean) RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	INSERT INTO mailchimp_sync.home AS h (system_id, database_oid, instance, stamped_at)
	SELECT i.system_id, i.database_oid, i.instance, mailchimp_sync.clock() FROM mailchimp_sync.identity() i
	ON CONFLICT (singleton) DO UPDATE SET system_id = excluded.system_id, database_oid = excluded.database_oid,
		instance = excluded.instance, stamped_at = excluded.stamped_at
	WHERE _again
$$;

/* ---- may anything be sent? ---- */

/*
 * The connections that there are or were, and how they are. Only the mapping of a
 * server's owner counts; whether its key works is in the state.
 */
CREATE VIEW mailchimp_sync.connection_state AS
SELECT coalesce(s.connection, c.connection) AS connection, s.owner, coalesce(s.dc, c.dc) AS dc,
	c.account_name, c.next_attempt_at, c.checked_at, t.state,
	CASE t.state
		WHEN 'missing' THEN 'its foreign server is gone; mc_connect makes it again'
		WHEN 'restored' THEN 'this database is a copy of another one; mc_resume() lets it send'
		WHEN 'paused' THEN 'until mc_resume'
		WHEN 'no_key' THEN CASE WHEN s.has_key THEN 'its key was not tried yet; call mc_refresh'
			ELSE 'give a key to mc_connect' END
		ELSE c.detail
	END AS detail
FROM (
	SELECT fs.srvname::text COLLATE "default" AS connection, fs.srvowner AS owner,
		(SELECT o.option_value FROM pg_catalog.pg_options_to_table(fs.srvoptions) o
			WHERE o.option_name = 'dc') AS dc,
		EXISTS (SELECT FROM pg_catalog.pg_user_mapping m
			WHERE m.umserver = fs.oid AND m.umuser = fs.srvowner AND m.umoptions IS NOT NULL) AS has_key
	FROM pg_catalog.pg_foreign_server fs
	JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = fs.srvfdw
	WHERE w.fdwname = 'mailchimp_sync'
) s
FULL JOIN mailchimp_sync.connection c ON c.connection = s.connection
CROSS JOIN LATERAL (
	SELECT CASE
		WHEN s.connection IS NULL THEN 'missing'
		WHEN NOT h.at_home THEN 'restored'
		WHEN c.paused THEN 'paused'
		WHEN NOT s.has_key THEN 'no_key'
		ELSE coalesce(c.state, 'no_key')
	END AS state
	FROM mailchimp_sync.at_home h
) t;

CREATE FUNCTION mailchimp_sync.may_send() RETURNS boolean
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	RETURN coalesce(current_setting('mailchimp_sync.send', true)::boolean, true);
END
$$;

-- for KIND_next(): where a request may go out now
CREATE VIEW mailchimp_sync.usable_connection AS
SELECT s.connection
FROM mailchimp_sync.connection_state s
WHERE s.state IN ('ok', 'throttled', 'unreachable') AND mailchimp_sync.may_send()
	AND coalesce(s.next_attempt_at <= mailchimp_sync.clock(), true);

-- for KIND_due(): where one may go out later, and when
CREATE VIEW mailchimp_sync.waiting_connection AS
SELECT s.connection, s.next_attempt_at
FROM mailchimp_sync.connection_state s
WHERE s.state IN ('ok', 'throttled', 'unreachable') AND mailchimp_sync.may_send()
	AND s.next_attempt_at > mailchimp_sync.clock();

CREATE FUNCTION mailchimp_sync.require_connection(_connection text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.connection_state s WHERE s.connection = _connection) THEN
		PERFORM mailchimp_sync.raise_unknown('connection', _connection,
			ARRAY(SELECT s.connection FROM mailchimp_sync.connection_state s ORDER BY 1));
	END IF;
END
$$;

-- calls that ask Mailchimp now obey what stops the engine; mc_check_connection alone does not
CREATE FUNCTION mailchimp_sync.require_sending(_connection text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT mailchimp_sync.may_send() THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'nothing may be sent to Mailchimp',
			DETAIL = 'The setting mailchimp_sync.send is off.',
			HINT = 'A superuser can switch it on.';
	ELSIF NOT mailchimp_sync.is_home() THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = 'nothing may be sent to Mailchimp',
			DETAIL = 'This database is a copy of another one, which may still be sending.',
			HINT = 'Call mc_resume() if this one is to go on.';
	ELSIF (SELECT c.paused FROM mailchimp_sync.connection c WHERE c.connection = _connection) THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('connection "%s" is paused', _connection),
			HINT = format('SELECT mc_resume(%L);', _connection);
	END IF;
END
$$;

/* ---- what a reply says about the connection ---- */

/*
 * The one place where a reply changes a connection's state. Writes only if
 * something differs, so that a healthy request costs nothing. Of several
 * requests that fail at the same time only the first counts: the others were
 * out already when the waiting began. So were those that still succeed after a
 * 401: only a key that was asked for (store_account) ends auth_failed.
 */
CREATE FUNCTION mailchimp_sync.connection_replied(_connection text, _outcome text, _status integer, _detail text,
	_retry_after_s integer, _is_engine boolean DEFAULT true) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_now		timestamptz := mailchimp_sync.clock();
	_failures	integer;
	_state	text := CASE
		WHEN _outcome = 'refused' OR _status = 429 THEN 'throttled'
		WHEN _outcome <> 'answered' OR _status >= 500 THEN 'unreachable'
		WHEN _status = 401 THEN 'auth_failed'
		ELSE 'ok' END;
	-- an error that is about the account or its user, not about what was asked
	_words	text := CASE WHEN _state <> 'ok' OR _status = 403 THEN _detail END;
BEGIN
	IF _state IN ('ok', 'auth_failed') THEN
		UPDATE mailchimp_sync.connection c
		SET state = _state, detail = _words, failures = 0, next_attempt_at = NULL,
			checked_at = CASE WHEN c.state = 'auth_failed' THEN c.checked_at ELSE _now END		-- since when
		WHERE c.connection = _connection AND (c.state <> 'auth_failed' OR _state = 'auth_failed')
			AND (c.state, c.detail, c.failures, c.next_attempt_at) IS DISTINCT FROM (_state, _words, 0, NULL);
		IF _state = 'auth_failed' AND _is_engine THEN
			PERFORM mailchimp_sync.signal_auth_failed(_connection);
		END IF;
	ELSE
		UPDATE mailchimp_sync.connection c
		SET state = _state, detail = _words, failures = c.failures + 1, checked_at = _now,
			next_attempt_at = _now + greatest(mailchimp_sync.backoff(c.failures + 1),
				_retry_after_s * interval '1 second')
		WHERE c.connection = _connection AND c.state <> 'auth_failed' AND coalesce(c.next_attempt_at <= _now, true)
		RETURNING c.failures INTO _failures;
		IF _failures = mailchimp_sync.failing_for_long() AND _is_engine THEN
			PERFORM mailchimp_sync.signal('sync_failed', _connection, NULL, NULL,
				jsonb_build_object('reason', format('%s: %s', _state, _words)));
		END IF;
	END IF;
END
$$;

/* ---- whose key it is; what the account has is stored by refresh.sql ---- */

CREATE FUNCTION mailchimp_sync.check_account(_connection text, _account_id text) RETURNS void
	LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_known	mailchimp_sync.connection;
BEGIN
	SELECT * INTO _known FROM mailchimp_sync.connection c WHERE c.connection = _connection;
	IF _known.account_id <> _account_id THEN
		RAISE object_not_in_prerequisite_state USING
			MESSAGE = format('the key belongs to another account than that of connection "%s"', _connection),
			DETAIL = format('The connection is coupled to account "%s" (%s).', _known.account_name, _known.account_id),
			HINT = 'Give mc_connect switch_account => true to change over: members, segments and templates of the other account are forgotten then, and audiences wait for mc_sync_audience.';
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.store_account(_connection text, _dc text, _account_id text, _account_name text,
	_login_id text, _user_role text, _plan text, _switch_account boolean) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	IF NOT _switch_account THEN
		PERFORM mailchimp_sync.check_account(_connection, _account_id);
	ELSIF EXISTS (SELECT FROM mailchimp_sync.connection c
			WHERE c.connection = _connection AND c.account_id <> _account_id) THEN
		PERFORM mailchimp_sync.forget_remote(_connection);
	END IF;
	INSERT INTO mailchimp_sync.connection AS c (connection, dc, account_id, account_name, login_id, user_role, plan,
		state, checked_at)
	VALUES (_connection, _dc, _account_id, _account_name, _login_id, _user_role, _plan, 'ok', mailchimp_sync.clock())
	ON CONFLICT (connection) DO UPDATE SET dc = excluded.dc, account_id = excluded.account_id,
		account_name = excluded.account_name, login_id = excluded.login_id, user_role = excluded.user_role,
		plan = excluded.plan, state = 'ok', detail = NULL, checked_at = excluded.checked_at, failures = 0,
		next_attempt_at = NULL;
	PERFORM mailchimp_sync.stamp_home(false);
	PERFORM mailchimp_sync.grant_connection(_connection);
END
$$;

CREATE FUNCTION mailchimp_sync.store_no_key(_connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
	INSERT INTO mailchimp_sync.connection AS c (connection, state) VALUES (_connection, 'no_key')
	ON CONFLICT (connection) DO UPDATE SET state = 'no_key', detail = NULL, failures = 0, next_attempt_at = NULL;
	PERFORM mailchimp_sync.stamp_home(false);
	PERFORM mailchimp_sync.grant_connection(_connection);
END
$$;

-- fields as a reply shows them; where they are all that the list has, the others are gone
CREATE FUNCTION mailchimp_sync.store_merge_fields(_connection text, _list_id text, _tags text[], _merge_ids text[],
	_names text[], _types text[], _required text[], _defaults text[], _all boolean) RETURNS void
	LANGUAGE sql SET search_path = pg_catalog, pg_temp AS $$
	DELETE FROM mailchimp_sync.merge_field f
	WHERE _all AND f.connection = _connection AND f.list_id = _list_id AND f.tag <> ALL (_tags);
	INSERT INTO mailchimp_sync.merge_field AS f (connection, list_id, tag, merge_id, name, type, required, default_value,
		fetched_at, changed_at)
	SELECT DISTINCT ON (u.tag) _connection, _list_id, u.tag, u.merge_id::integer, coalesce(u.name, u.tag), u.type,
		coalesce(u.required::boolean, false), nullif(u.default_value, ''), mailchimp_sync.clock(), mailchimp_sync.clock()
	FROM unnest(_tags, _merge_ids, _names, _types, _required, _defaults) AS u(tag, merge_id, name, type, required, default_value)
	WHERE u.tag IS NOT NULL
	ON CONFLICT (connection, list_id, tag) DO UPDATE SET merge_id = excluded.merge_id, name = excluded.name,
		type = excluded.type, required = excluded.required, default_value = excluded.default_value,
		fetched_at = excluded.fetched_at,
		changed_at = CASE WHEN (f.merge_id, f.type) = (excluded.merge_id, excluded.type) THEN f.changed_at
			ELSE excluded.changed_at END;
$$;

/*
 * Another account: what Mailchimp's ids stood for is not there. Audiences are
 * switched off until somebody says mc_sync_audience again, for their lists are
 * the other account's; what a ghost may still do happens over there, too.
 * Campaigns that were sent stay with their results.
 */
CREATE FUNCTION mailchimp_sync.forget_remote(_connection text) RETURNS void
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_audiences	integer[] := ARRAY(SELECT a.audience_id FROM mailchimp_sync.audience a WHERE a.connection = _connection);
BEGIN
	PERFORM mailchimp_sync.warn_of_scheduled(_connection);
	DELETE FROM mailchimp_sync.inflight f WHERE f.connection = _connection AND f.doubt_at IS NOT NULL;
	DELETE FROM mailchimp_sync.batch b WHERE b.connection = _connection;
	DELETE FROM mailchimp_sync.failure f WHERE f.connection = _connection OR f.audience_id = ANY (_audiences);
	DELETE FROM mailchimp_sync.member m WHERE m.audience_id = ANY (_audiences);
	DELETE FROM mailchimp_sync.tag t WHERE t.audience_id = ANY (_audiences);
	UPDATE mailchimp_sync.contact c
	SET state = CASE WHEN c.state IN ('in_sync', 'refused') THEN 'pending' ELSE c.state END,
		action = NULL, stale_tags = NULL, member_hash = NULL, left_hash = NULL, taken_hash = NULL, aside_email = NULL,
		sent_hash = NULL, refused_hash = NULL, open_fields = NULL, agreed_hash = NULL, version = c.version + 1,
		attempts = 0, next_attempt_at = NULL, batch_limit = NULL, changed_at = mailchimp_sync.clock()
	WHERE c.audience_id = ANY (_audiences);
	UPDATE mailchimp_sync.audience_source x SET compare_phase = NULL, compare_from = NULL, compare_after = NULL
	WHERE x.audience_id = ANY (_audiences);
	DELETE FROM mailchimp_sync.reading r WHERE r.audience_id = ANY (_audiences);
	PERFORM mailchimp_sync.guard_forget(_audiences);
	DELETE FROM mailchimp_sync.webhook w WHERE w.audience_id = ANY (_audiences);
	DELETE FROM mailchimp_sync.webhook_hint h WHERE h.audience_id = ANY (_audiences);
	UPDATE mailchimp_sync.audience a
	SET active_since = NULL, detail = NULL, failures = 0, next_attempt_at = NULL, compare_asked_at = NULL,
		compared_at = NULL, read_at = NULL, read_begun_at = NULL, read_mark = NULL, read_mark_at = NULL, read_since = NULL,
		read_asked_at = NULL, walked_at = NULL, walk_asked_at = NULL,
		fields_read_at = NULL, fields_asked_at = NULL
	WHERE a.connection = _connection;
	-- N3: one that is on its way may still be sent over there, so it must never be sent here
	UPDATE mailchimp_sync.campaign c
	SET status = mailchimp_sync.campaign_leads_to('abandon', c.status), last_error = 'its connection was switched to another account'
	WHERE c.connection = _connection AND (c.status IN ('preparing', 'prepared', 'scheduled', 'sending')
		OR (c.status = 'failed' AND c.mailchimp_id IS NOT NULL));
	UPDATE mailchimp_sync.campaign c
	SET goal = NULL, step = NULL, begun_at = NULL, next_attempt_at = NULL, next_poll_at = NULL,
		segment_id = NULL, template_id = NULL
	WHERE c.connection = _connection AND c.status NOT IN ('sent', 'deleted');
	UPDATE mailchimp_sync.campaign c SET next_poll_at = NULL
	WHERE c.connection = _connection AND c.next_poll_at IS NOT NULL;
	-- the other account, asked for their other pages, would say that the campaigns are gone
	DELETE FROM mailchimp_sync.poll_page g USING mailchimp_sync.campaign c
	WHERE c.connection = _connection AND c.campaign_id = g.campaign_id;
	DELETE FROM mailchimp_sync.poll p USING mailchimp_sync.campaign c
	WHERE c.connection = _connection AND c.campaign_id = p.campaign_id;
	PERFORM mailchimp_sync.erasures_lost(_connection);
	PERFORM mailchimp_sync.forget_test_mails(_connection);
	DELETE FROM mailchimp_sync.merge_field f WHERE f.connection = _connection;
	DELETE FROM mailchimp_sync.list l WHERE l.connection = _connection;
	DELETE FROM mailchimp_sync.template t WHERE t.connection = _connection;
	DELETE FROM mailchimp_sync.domain d WHERE d.connection = _connection;
	DELETE FROM mailchimp_sync.refresh r WHERE r.connection = _connection;
	-- the campaigns of the other account are somebody's decision, too
	DELETE FROM mailchimp_sync.import i WHERE i.connection = _connection;
	UPDATE mailchimp_sync.connection c SET campaigns_every = NULL WHERE c.connection = _connection AND c.campaigns_every IS NOT NULL;
END
$$;
