/*
 * refresh.sql: what an account has, fetched by the worker and by whoever asks for it now.
 *
 * Who the key belongs to, lists, templates, sending domains and the merge fields of coupled lists are
 * parts, each fetched once a day, and sooner where something has shown that it is not what it was. mc_connect
 * and mc_refresh (src/account.c) fetch all of them at once; the kind "refresh" fetches what is due, a page at a time,
 * one request of a connection at a time, when nothing else is to be done. A part that fails rests with its
 * reason and does not keep the others; nothing of it holds up a push or a campaign.
 *
 * Pages are stored as they come. What is gone at Mailchimp goes here when a walk has seen every page, and only
 * then. A walk that was broken off a while ago, or by a failure, begins anew. A page that comes when somebody has
 * fetched the whole meanwhile is stored, too, and ends nothing.
 */

/* ---- storing what Mailchimp shows ---- */

CREATE FUNCTION mailchimp_sync.store_lists(_connection text, _ids text[], _web_ids text[], _names text[],
	_from_names text[], _from_emails text[], _member_counts text[], _double_optins text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.list (connection, list_id, web_id, name, from_name, from_email, member_count,
		double_optin, fetched_at)
	SELECT DISTINCT ON (u.id) _connection, u.id, u.web_id::bigint, coalesce(u.name, u.id), nullif(u.from_name, ''),
		nullif(u.from_email, ''), u.member_count::bigint, coalesce(u.double_optin::boolean, false), mailchimp_sync.clock()
	FROM unnest(_ids, _web_ids, _names, _from_names, _from_emails, _member_counts, _double_optins)
		AS u(id, web_id, name, from_name, from_email, member_count, double_optin)
	WHERE u.id IS NOT NULL
	ON CONFLICT (connection, list_id) DO UPDATE SET web_id = excluded.web_id, name = excluded.name,
		from_name = excluded.from_name, from_email = excluded.from_email, member_count = excluded.member_count,
		double_optin = excluded.double_optin, fetched_at = excluded.fetched_at
$$;

CREATE FUNCTION mailchimp_sync.store_list_fields(_connection text, _list_id text, _tags text[], _merge_ids text[],
	_names text[], _types text[], _required text[], _defaults text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.store_merge_fields(_connection, _list_id, _tags, _merge_ids, _names, _types, _required, _defaults, false);
	-- the engine tries again whom a field stood against (field.sql)
	UPDATE mailchimp_sync.audience a SET fields_asked_at = mailchimp_sync.clock()
	WHERE a.connection = _connection AND a.list_id = _list_id
		AND EXISTS (SELECT FROM mailchimp_sync.merge_field m
			WHERE m.connection = _connection AND m.list_id = _list_id AND m.changed_at = mailchimp_sync.clock())
		AND EXISTS (SELECT FROM mailchimp_sync.failure f WHERE f.work = 'push' AND f.audience_id = a.audience_id
			AND mailchimp_sync.is_about_field(f.field, f.detail))
$$;

CREATE FUNCTION mailchimp_sync.store_templates(_connection text, _ids text[], _names text[], _types text[],
	_active text[], _edited_at text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.template (connection, template_id, name, type, active, edited_at, fetched_at)
	SELECT DISTINCT ON (u.id) _connection, u.id::bigint, coalesce(u.name, u.id), u.type,
		coalesce(u.active::boolean, true), nullif(u.edited_at, '')::timestamptz, mailchimp_sync.clock()
	FROM unnest(_ids, _names, _types, _active, _edited_at) AS u(id, name, type, active, edited_at)
	WHERE u.id IS NOT NULL
	ON CONFLICT (connection, template_id) DO UPDATE SET name = excluded.name, type = excluded.type,
		active = excluded.active, edited_at = excluded.edited_at, fetched_at = excluded.fetched_at
$$;

CREATE FUNCTION mailchimp_sync.store_domains(_connection text, _domains text[], _verified text[],
	_authenticated text[], _statuses text[], _free_mail text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.domain (connection, domain, verified, authenticated, status, is_free_mail, fetched_at)
	SELECT DISTINCT ON (lower(u.domain)) _connection, lower(u.domain), coalesce(u.verified::boolean, false),
		coalesce(u.authenticated::boolean, false), u.status, coalesce(u.free_mail::boolean, false), mailchimp_sync.clock()
	FROM unnest(_domains, _verified, _authenticated, _statuses, _free_mail) AS u(domain, verified, authenticated, status, free_mail)
	WHERE u.domain IS NOT NULL
	ON CONFLICT (connection, domain) DO UPDATE SET verified = excluded.verified, authenticated = excluded.authenticated,
		status = excluded.status, is_free_mail = excluded.is_free_mail, fetched_at = excluded.fetched_at
$$;

/* ---- what was fetched ---- */

-- all of a part was seen: what is not among _ids is gone
CREATE FUNCTION mailchimp_sync.part_fetched(_connection text, _what text, _list_id text, _ids text[]) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.list l
	WHERE _what = 'lists' AND l.connection = _connection AND l.list_id <> ALL (array_remove(_ids, NULL));
	DELETE FROM mailchimp_sync.template t
	WHERE _what = 'templates' AND t.connection = _connection AND t.template_id::text <> ALL (array_remove(_ids, NULL));
	DELETE FROM mailchimp_sync.domain d
	WHERE _what = 'domains' AND d.connection = _connection
		AND d.domain <> ALL (ARRAY(SELECT lower(i.id) FROM unnest(_ids) AS i(id) WHERE i.id IS NOT NULL));
	DELETE FROM mailchimp_sync.merge_field f
	WHERE _what = 'fields' AND f.connection = _connection AND f.list_id = _list_id AND f.tag <> ALL (array_remove(_ids, NULL));
	INSERT INTO mailchimp_sync.refresh (connection, what, list_id, fetched_at)
	VALUES (_connection, _what, coalesce(_list_id, ''), mailchimp_sync.clock())
	ON CONFLICT (connection, what, list_id) DO UPDATE SET fetched_at = excluded.fetched_at, stale_at = NULL,
		walk_begun_at = NULL, page_offset = 0, seen = '{}', attempts = 0, title = NULL, detail = NULL, first_failed_at = NULL,
		last_failed_at = NULL, next_attempt_at = NULL
$$;

/*
 * A page of a part was stored. A short one ends the walk; one that is not the next of a walk (somebody has fetched the whole
 * since it was asked for) is only stored.
 */
CREATE FUNCTION mailchimp_sync.page_fetched(_connection text, _what text, _list_id text, _offset bigint, _ids text[],
	_is_last boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_seen	text[] := '{}';
BEGIN
	IF _offset > 0 THEN
		SELECT r.seen INTO _seen FROM mailchimp_sync.refresh r
		WHERE r.connection = _connection AND r.what = _what AND r.list_id = coalesce(_list_id, '') AND r.page_offset = _offset;
		IF NOT FOUND THEN
			RETURN;
		END IF;
	END IF;
	IF _is_last THEN
		PERFORM mailchimp_sync.part_fetched(_connection, _what, _list_id, _seen || _ids);
	ELSE
		INSERT INTO mailchimp_sync.refresh AS r (connection, what, list_id, walk_begun_at, page_offset, seen)
		VALUES (_connection, _what, coalesce(_list_id, ''), mailchimp_sync.clock(), mailchimp_sync.page_size(), _ids)
		ON CONFLICT (connection, what, list_id) DO UPDATE SET
			walk_begun_at = CASE WHEN _offset = 0 THEN excluded.walk_begun_at ELSE r.walk_begun_at END,
			page_offset = _offset + mailchimp_sync.page_size(), seen = _seen || _ids;
	END IF;
END
$$;

-- the account behind the key as it is now; another one than before raises
CREATE FUNCTION mailchimp_sync.account_fetched(_connection text, _account_id text, _account_name text, _user_role text,
	_plan text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.check_account(_connection, _account_id);
	UPDATE mailchimp_sync.connection c SET account_name = _account_name, user_role = _user_role, plan = _plan,
		checked_at = mailchimp_sync.clock()
	WHERE c.connection = _connection;
	PERFORM mailchimp_sync.part_fetched(_connection, 'account', NULL, '{}');
END
$$;

-- something has shown that a part is not what it was: it is fetched before its time, but not every other minute
CREATE FUNCTION mailchimp_sync.part_is_stale(_connection text, _what text) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.refresh r SET stale_at = mailchimp_sync.clock()
	WHERE r.connection = _connection AND r.what = _what AND r.stale_at IS NULL
$$;

/* ---- the kind "refresh" ---- */

-- how Mailchimp is asked for a part (src/account.c)
CREATE FUNCTION mailchimp_sync.part_path(_what text, _list_id text, _offset bigint) RETURNS text
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_part_path';

-- what is to be fetched, and when; the fields of a list that are to be read for a push are the business of the kind "field"
CREATE FUNCTION mailchimp_sync.refresh_ready(_connection text, OUT connection text, OUT what text, OUT audience_id integer,
	OUT list_id text, OUT page_offset bigint, OUT at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT u.connection, p.what, p.audience_id, p.list_id,
		CASE WHEN r.walk_begun_at > mailchimp_sync.clock() - interval '10 minutes' THEN r.page_offset ELSE 0 END,
		coalesce(r.next_attempt_at, CASE WHEN r.page_offset > 0 THEN mailchimp_sync.clock() END,
			least(greatest(r.fetched_at, p.read_at) + interval '1 day',
				CASE WHEN r.stale_at IS NOT NULL THEN greatest(r.stale_at, r.fetched_at + interval '1 hour') END),
			mailchimp_sync.clock())
	FROM mailchimp_sync.usable_connection u
	CROSS JOIN LATERAL (
		SELECT v.what, NULL::integer AS audience_id, ''::text AS list_id, NULL::timestamptz AS read_at
		FROM (VALUES ('account'), ('lists'), ('templates'), ('domains')) AS v(what)
		UNION ALL
		SELECT 'fields', a.audience_id, a.list_id, a.fields_read_at FROM mailchimp_sync.audience a
		WHERE a.connection = u.connection AND NOT a.paused
			AND (a.active_since IS NULL OR a.fields_read_at IS NOT NULL
				OR NOT EXISTS (SELECT FROM mailchimp_sync.missing_fields(a.audience_id)))
			AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
				WHERE f.kind = 'field' AND f.audience_id = a.audience_id AND f.doubt_at IS NULL)) p
	LEFT JOIN mailchimp_sync.refresh r ON r.connection = u.connection AND r.what = p.what AND r.list_id = p.list_id
	WHERE (_connection IS NULL OR u.connection = _connection)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f
			WHERE f.kind = 'refresh' AND f.connection = u.connection AND f.doubt_at IS NULL);
END
$$;

CREATE FUNCTION mailchimp_sync.refresh_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT r.connection, 'GET', mailchimp_sync.part_path(r.what, r.list_id, r.page_offset), NULL::text, false,
		r.audience_id, NULL::bigint, r.what, NULL::integer[], NULL::text[], NULL::text[], ARRAY[r.page_offset], NULL::bytea[]
	FROM mailchimp_sync.refresh_ready(_connection) r
	WHERE r.at <= mailchimp_sync.clock()
	ORDER BY r.at, r.what, r.list_id LIMIT 1;
END
$$;

CREATE FUNCTION mailchimp_sync.refresh_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(r.at) FROM mailchimp_sync.refresh_ready(NULL) r);
END
$$;

-- the part rests, longer each time; a walk begins anew
CREATE FUNCTION mailchimp_sync.refresh_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.refresh AS r (connection, what, list_id, attempts, title, detail, first_failed_at, last_failed_at,
		next_attempt_at)
	SELECT f.connection, f.phase, coalesce(a.list_id, ''), 1, _title, _detail, mailchimp_sync.clock(), mailchimp_sync.clock(),
		greatest(_retry_at, mailchimp_sync.clock() + interval '1 minute')
	FROM mailchimp_sync.inflight f LEFT JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE f.inflight_id = _inflight_id AND (f.audience_id IS NULL OR a.audience_id IS NOT NULL)
	ON CONFLICT (connection, what, list_id) DO UPDATE SET attempts = r.attempts + 1, title = excluded.title,
		detail = excluded.detail, first_failed_at = coalesce(r.first_failed_at, excluded.first_failed_at),
		last_failed_at = excluded.last_failed_at, walk_begun_at = NULL, page_offset = 0, seen = '{}',
		next_attempt_at = greatest(_retry_at,
			mailchimp_sync.clock() + least(interval '1 day', 2 ^ least(r.attempts, 11) * interval '1 minute'))
$$;
