/*
 * import.sql: campaigns that people made at Mailchimp (R90, R112), the kind of work "import".
 *
 * Mailchimp's list of campaigns tells of no changes, so a walk goes through all of it, the youngest first, in pages of a thousand:
 * ten requests a day for ten thousand campaigns. Where it is walked more often than once a day, the walks in between
 * read only those that were made since the youngest one that was seen, by Mailchimp's clock, and an hour more. The
 * first mc_pull_campaigns, or campaigns_every, switches that on; before that nothing is asked.
 *
 * Who is not ours is a row of "campaign" with the origin 'imported', and is what Mailchimp shows: by the walks, and by polls
 * (poll.sql), which find out soon what is sent and that one was deleted. Nothing of ours is touched: neither what we know by its
 * id, in whatever connection of the same account, nor what bears the marker of a campaign of ours whose creation is in doubt, or was the
 * work of the database that this is a copy of: its own way finds that (send.sql). A copy that people made of
 * one of ours bears its marker, too, and is theirs.
 *
 * Races that are closed here:
 *	- A page that set out before somebody did something with a campaign here, or before a poll found it gone, is old.
 *	  What was sent is never taken for unsent again.
 *	- A page of the account that the connection had until now is nobody's: forget_remote() ends the walk.
 *	- Who holds the row of a campaign is not waited for: the next walk brings it up to date.
 */
CREATE TABLE mailchimp_sync.import (
	connection		text PRIMARY KEY,
	asked_at		timestamptz,		-- somebody wants all of them
	pulled_at		timestamptz,		-- the last walk that came to its end began
	full_at			timestamptz,		-- and the last one through all of them
	newest_at		timestamptz,		-- when the youngest that they have shown was made
	-- the walk under way
	walk_begun_at	timestamptz,
	walk_since		timestamptz,		-- those that were made later; null: all
	walk_newest_at	timestamptz,
	page_at			timestamptz,		-- its last page was asked for
	page_offset		bigint NOT NULL DEFAULT 0,
	-- failures in a row
	attempts		integer NOT NULL DEFAULT 0,
	title			text,
	detail			text,
	first_failed_at	timestamptz,
	last_failed_at	timestamptz,
	next_attempt_at	timestamptz
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.import', '');

-- a campaign as Mailchimp shows it; null: not shown
CREATE TYPE mailchimp_sync.import_line AS (
	mailchimp_id		text,
	web_id				bigint,
	type				text,
	created_at			timestamptz,
	archive_url			text,
	mailchimp_status	text,
	emails_sent			bigint,
	send_time			timestamptz,
	list_id				text,
	recipient_count		bigint,
	segment_id			bigint,
	name				text,
	subject				text,
	from_name			text,
	from_email			text,
	template_id			bigint
);

-- each campaign once, its columns as in the page
CREATE FUNCTION mailchimp_sync.import_lines(_ids text[], _web_ids text[], _types text[], _create_times text[], _archive_urls text[],
	_statuses text[], _emails_sent text[], _send_times text[], _list_ids text[], _recipient_counts text[], _segment_ids text[],
	_titles text[], _subjects text[], _from_names text[], _from_emails text[], _template_ids text[]) RETURNS mailchimp_sync.import_line[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(ROW(u.id, u.web_id, u.type, mailchimp_sync.instant(u.create_time), nullif(u.archive_url, ''), u.status, u.emails_sent,
		mailchimp_sync.instant(u.send_time), nullif(u.list_id, ''), u.recipient_count, u.segment_id, nullif(btrim(u.title), ''),
		nullif(u.subject, ''), nullif(u.from_name, ''), nullif(u.from_email, ''), nullif(u.template_id, '0'))::mailchimp_sync.import_line
		ORDER BY u.position)
	FROM (SELECT DISTINCT ON (x.id) x.* FROM unnest(_ids, _web_ids, _types, _create_times, _archive_urls, _statuses, _emails_sent, _send_times,
			_list_ids, _recipient_counts, _segment_ids, _titles, _subjects, _from_names, _from_emails, _template_ids) WITH ORDINALITY
			AS x(id, web_id, type, create_time, archive_url, status, emails_sent, send_time, list_id, recipient_count, segment_id,
				title, subject, from_name, from_email, template_id, position)
		WHERE x.id IS NOT NULL AND x.status IS NOT NULL ORDER BY x.id, x.position) u
$$;

/* ---- what it is here ---- */

-- our word for a status there; one that was canceled on its way, or put aside, has been sent to some
CREATE FUNCTION mailchimp_sync.import_status(_mailchimp_status text, _emails_sent bigint) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _mailchimp_status IN ('save', 'paused') THEN 'prepared'
		WHEN _mailchimp_status = 'schedule' THEN 'scheduled'
		WHEN _mailchimp_status IN ('sending', 'canceling') THEN 'sending'
		WHEN _mailchimp_status = 'sent' OR _emails_sent > 0 THEN 'sent'
		ELSE 'canceled' END
$$;

-- of those that are not known yet: made by us, and its own way has to find it
CREATE FUNCTION mailchimp_sync.import_is_ours(_list_id text, _name text, _segment_id bigint) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM regexp_matches(_name, '\[([0-9a-f]{12})\]', 'g') AS m(words)
			JOIN mailchimp_sync.campaign c ON c.marker = m.words[1]
			WHERE c.mailchimp_id IS NULL OR c.restored_at IS NOT NULL)
		OR EXISTS (SELECT FROM mailchimp_sync.campaign c
			WHERE c.segment_id = _segment_id AND c.list_id = _list_id AND c.origin = 'local'
				AND (c.mailchimp_id IS NULL OR c.restored_at IS NOT NULL))
$$;
CREATE INDEX campaign_mailchimp_id ON mailchimp_sync.campaign (mailchimp_id);
CREATE INDEX campaign_segment ON mailchimp_sync.campaign (segment_id) WHERE segment_id IS NOT NULL;

-- the connections of one account
CREATE FUNCTION mailchimp_sync.same_account(_connection text) RETURNS SETOF text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT o.connection FROM mailchimp_sync.connection n JOIN mailchimp_sync.connection o USING (account_id) WHERE n.connection = _connection
	UNION
	SELECT _connection
$$;

/* ---- storing ---- */

/*
 * Campaigns that were imported before, as Mailchimp showed them to a request that set out at _started_at. Returns those whose next
 * poll is to be decided anew: what is not sent yet is polled by that look, too.
 */
CREATE FUNCTION mailchimp_sync.import_known(_connection text, _started_at timestamptz, _lines mailchimp_sync.import_line[],
	OUT campaign_ids bigint[])
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_sent_now	bigint[];
	_mended		bigint[];
BEGIN
	WITH shown AS MATERIALIZED (
		SELECT c.campaign_id, c.status AS old_status, c.next_poll_at AS old_poll_at, l.*, CASE WHEN _started_at > c.went_at OR c.went_at IS NULL
			THEN mailchimp_sync.imported_leads_to(c.status, mailchimp_sync.import_status(l.mailchimp_status, l.emails_sent))
			ELSE c.status END AS new_status
		FROM mailchimp_sync.campaign c JOIN unnest(_lines) l USING (mailchimp_id)
		WHERE c.connection = _connection AND c.origin = 'imported' AND c.goal IS NULL
		ORDER BY c.campaign_id FOR NO KEY UPDATE OF c SKIP LOCKED
	), wanted AS (
		SELECT s.campaign_id, n.* FROM shown s JOIN mailchimp_sync.campaign c USING (campaign_id)
		CROSS JOIN LATERAL (SELECT s.new_status AS status, s.mailchimp_status, coalesce(s.name, c.name) AS name,
			coalesce(s.subject, c.subject) AS subject, coalesce(s.from_name, c.from_name) AS from_name,
			coalesce(s.from_email, c.from_email) AS from_email, coalesce(s.template_id, c.template_id) AS template_id,
			coalesce(s.type, c.type) AS type, coalesce(s.list_id, c.list_id) AS list_id, coalesce(s.web_id, c.web_id) AS web_id,
			coalesce(s.archive_url, c.archive_url) AS archive_url, coalesce(s.emails_sent, c.emails_sent)::integer AS emails_sent,
			coalesce(s.recipient_count, c.count_last)::integer AS count_last,
			CASE WHEN s.new_status = 'scheduled' THEN s.send_time END AS scheduled_for,
			CASE WHEN s.new_status IN ('sending', 'sent') THEN coalesce(s.send_time, c.sent_at) END AS sent_at) n
	), taken AS (
		UPDATE mailchimp_sync.campaign c SET status = w.status, mailchimp_status = w.mailchimp_status, name = w.name, subject = w.subject,
			from_name = w.from_name, from_email = w.from_email, template_id = w.template_id, type = w.type, list_id = w.list_id,
			web_id = w.web_id, archive_url = w.archive_url, emails_sent = w.emails_sent, count_last = w.count_last,
			scheduled_for = w.scheduled_for, sent_at = w.sent_at, last_error = NULL,
			audience_id = (SELECT a.audience_id FROM mailchimp_sync.audience a WHERE a.connection = _connection AND a.list_id = w.list_id)
		FROM wanted w
		WHERE c.campaign_id = w.campaign_id
			AND (c.status, c.mailchimp_status, c.name, c.subject, c.from_name, c.from_email, c.template_id, c.type, c.list_id, c.web_id,
				c.archive_url, c.emails_sent, c.count_last, c.scheduled_for, c.sent_at, c.last_error) IS DISTINCT FROM
				(w.status, w.mailchimp_status, w.name, w.subject, w.from_name, w.from_email, w.template_id, w.type, w.list_id, w.web_id,
				w.archive_url, w.emails_sent, w.count_last, w.scheduled_for, w.sent_at, NULL)
	)
	SELECT array_agg(s.campaign_id) FILTER (WHERE s.new_status <> 'sent' OR s.old_status <> 'sent' OR s.old_poll_at IS NULL),
		array_agg(s.campaign_id) FILTER (WHERE s.new_status = 'sent' AND s.old_status IN ('prepared', 'scheduled', 'sending')),
		array_agg(s.campaign_id) FILTER (WHERE s.new_status <> 'failed' AND s.old_status = 'failed')
	INTO campaign_ids, _sent_now, _mended FROM shown s;
	-- what somebody wanted of it came to nothing, and it can be asked again
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'campaign' AND f.campaign_id = ANY (_mended);
	PERFORM mailchimp_sync.signal_campaign('campaign_sent', i.campaign_id) FROM unnest(_sent_now) AS i(campaign_id);
END
$$;

-- campaigns that nobody here has seen yet
CREATE FUNCTION mailchimp_sync.import_new(_connection text, _lines mailchimp_sync.import_line[], OUT campaign_ids bigint[])
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH account AS MATERIALIZED (
		SELECT mailchimp_sync.same_account(_connection) AS connection
	), made AS (
		INSERT INTO mailchimp_sync.campaign (connection, audience_id, list_id, origin, type, name, subject, template_id, from_name,
			from_email, status, created_at, created_by, mailchimp_id, web_id, mailchimp_status, archive_url, scheduled_for, sent_at,
			emails_sent, count_last, imported_at, linked_at)
		SELECT _connection, a.audience_id, l.list_id, 'imported', coalesce(l.type, 'regular'), coalesce(l.name, l.subject, l.mailchimp_id),
			l.subject, l.template_id, l.from_name, l.from_email, s.status, coalesce(l.created_at, mailchimp_sync.clock()), 'Mailchimp',
			l.mailchimp_id, l.web_id, l.mailchimp_status, l.archive_url, CASE WHEN s.status = 'scheduled' THEN l.send_time END,
			CASE WHEN s.status IN ('sending', 'sent') THEN l.send_time END, l.emails_sent::integer, l.recipient_count::integer,
			mailchimp_sync.clock(), mailchimp_sync.clock()
		FROM unnest(_lines) WITH ORDINALITY AS l(mailchimp_id, web_id, type, created_at, archive_url, mailchimp_status, emails_sent,
			send_time, list_id, recipient_count, segment_id, name, subject, from_name, from_email, template_id, position)
		CROSS JOIN LATERAL (SELECT mailchimp_sync.import_status(l.mailchimp_status, l.emails_sent) AS status) s
		LEFT JOIN mailchimp_sync.audience a ON a.connection = _connection AND a.list_id = l.list_id
		WHERE NOT EXISTS (SELECT FROM mailchimp_sync.campaign c
				WHERE c.mailchimp_id = l.mailchimp_id AND c.connection IN (SELECT k.connection FROM account k))
			AND NOT mailchimp_sync.import_is_ours(l.list_id, l.name, l.segment_id)
		-- the oldest has the lowest number
		ORDER BY l.created_at, l.position DESC
		ON CONFLICT (connection, mailchimp_id) DO NOTHING
		RETURNING campaign_id
	)
	SELECT array_agg(m.campaign_id) FROM made m
$$;

/*
 * When they are polled next. One that was sent within a week: now. Older ones one after the other from _position on, ten a minute: what
 * lies behind the figures of thousands of them shall not stand before a campaign that goes out today. What
 * is not sent yet was looked at just now; what is over is not polled.
 */
CREATE FUNCTION mailchimp_sync.import_polls(_campaign_ids bigint[], _position bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_now	timestamptz := mailchimp_sync.clock();
BEGIN
	UPDATE mailchimp_sync.campaign c SET next_poll_at = CASE WHEN c.sent_at <= _now - interval '7 days'
			THEN _now + (o.position / 10) * interval '1 minute' ELSE _now END, spread_poll_at = NULL
	FROM (SELECT s.campaign_id, _position + row_number() OVER (ORDER BY s.sent_at DESC, s.campaign_id) - 1 AS position
		FROM mailchimp_sync.campaign s WHERE s.campaign_id = ANY (_campaign_ids) AND s.status = 'sent') o
	WHERE c.campaign_id = o.campaign_id;
	UPDATE mailchimp_sync.campaign c SET last_polled_at = _now, next_poll_at = least(n.tier_at + n.spread, n.hour_at),
		spread_poll_at = n.tier_at + n.spread
	FROM mailchimp_sync.poll_times(_campaign_ids, _now, ARRAY(SELECT t FROM mailchimp_sync.tier t)) n
	WHERE c.campaign_id = n.campaign_id AND c.status IN ('prepared', 'scheduled', 'sending');
	UPDATE mailchimp_sync.campaign c SET next_poll_at = NULL
	WHERE c.campaign_id = ANY (_campaign_ids) AND c.status IN ('canceled', 'deleted') AND c.next_poll_at IS NOT NULL;
END
$$;

/* ---- the kind "import" ---- */

-- once in this time, null: only when somebody asks
CREATE FUNCTION mailchimp_sync.import_every(_campaigns_every interval) RETURNS interval
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT nullif(coalesce(_campaigns_every, interval '1 day'), interval '0')
$$;

-- the walks that there are to be, and when the next page of each is; asked all the time, so its plan is kept
CREATE FUNCTION mailchimp_sync.import_ready(_connection text, OUT connection text, OUT at timestamptz)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT i.connection, greatest(i.next_attempt_at, d.at)
	FROM mailchimp_sync.import i
	JOIN mailchimp_sync.connection c USING (connection)
	CROSS JOIN LATERAL (SELECT mailchimp_sync.import_every(c.campaigns_every) AS every) e
	CROSS JOIN LATERAL (SELECT coalesce(i.walk_begun_at, least(i.asked_at, coalesce(i.pulled_at + e.every,
		CASE WHEN e.every IS NOT NULL THEN mailchimp_sync.clock() END))) AS at) d
	WHERE d.at IS NOT NULL AND (_connection IS NULL OR i.connection = _connection)
		AND EXISTS (SELECT FROM mailchimp_sync.usable_connection u WHERE u.connection = i.connection)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'import' AND f.connection = i.connection);
END
$$;

CREATE FUNCTION mailchimp_sync.import_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(r.at) FROM mailchimp_sync.import_ready(NULL) r);
END
$$;

CREATE FUNCTION mailchimp_sync.import_path(_since timestamptz, _offset bigint) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('/campaigns?sort_field=create_time&sort_dir=DESC&count=%s&offset=%s%s&fields=campaigns.id,campaigns.web_id,campaigns.type,'
		'campaigns.create_time,campaigns.archive_url,campaigns.status,campaigns.emails_sent,campaigns.send_time,campaigns.recipients.list_id,'
		'campaigns.recipients.recipient_count,campaigns.recipients.segment_opts.saved_segment_id,campaigns.settings.title,'
		'campaigns.settings.subject_line,campaigns.settings.from_name,campaigns.settings.reply_to,campaigns.settings.template_id',
		mailchimp_sync.page_size(), _offset, '&since_create_time=' || mailchimp_sync.query_instant(_since))
$$;

-- the next page of a walk; one that was broken off a while ago begins anew, since its pages have moved
CREATE FUNCTION mailchimp_sync.import_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_i	mailchimp_sync.import;
BEGIN
	PERFORM FROM mailchimp_sync.import_ready(_connection) r WHERE r.at <= mailchimp_sync.clock();
	IF NOT FOUND THEN
		RETURN;
	END IF;
	SELECT i.* INTO _i FROM mailchimp_sync.import i WHERE i.connection = _connection FOR UPDATE SKIP LOCKED;
	IF NOT FOUND THEN
		RETURN;
	END IF;
	IF coalesce(_i.page_at <= mailchimp_sync.clock() - interval '10 minutes', true) OR _i.walk_begun_at IS NULL THEN
		_i.walk_begun_at := mailchimp_sync.clock();
		_i.walk_since := CASE WHEN _i.asked_at IS NULL AND _i.full_at > mailchimp_sync.clock() - interval '1 day'
			THEN _i.newest_at - interval '1 hour' END;
		_i.walk_newest_at := NULL;
		_i.page_offset := 0;
	END IF;
	UPDATE mailchimp_sync.import i SET walk_begun_at = _i.walk_begun_at, walk_since = _i.walk_since,
		walk_newest_at = _i.walk_newest_at, page_offset = _i.page_offset, page_at = mailchimp_sync.clock()
	WHERE i.connection = _connection;
	RETURN QUERY
	SELECT _connection, 'GET', mailchimp_sync.import_path(_i.walk_since, _i.page_offset), NULL::text, false, NULL::integer, NULL::bigint,
		'campaigns', NULL::integer[], NULL::text[], NULL::text[], ARRAY[_i.page_offset], NULL::bytea[];
END
$$;

-- a page is stored; a short one ends the walk
CREATE FUNCTION mailchimp_sync.import_page_seen(_inflight_id bigint, _started_at timestamptz, _lines mailchimp_sync.import_line[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_i		mailchimp_sync.import;
	_polls	bigint[];
BEGIN
	SELECT i.* INTO _i FROM mailchimp_sync.inflight f JOIN mailchimp_sync.import i USING (connection)
	WHERE f.inflight_id = _inflight_id AND i.walk_begun_at IS NOT NULL AND i.page_offset = f.versions[1] FOR UPDATE OF i;
	IF NOT FOUND THEN
		RETURN;		-- of the account that the connection had until now
	END IF;
	_polls := mailchimp_sync.import_known(_i.connection, _started_at, _lines) || mailchimp_sync.import_new(_i.connection, _lines);
	PERFORM mailchimp_sync.import_polls(_polls, _i.page_offset);
	_i.walk_newest_at := greatest(_i.walk_newest_at, (SELECT max(l.created_at) FROM unnest(_lines) l));
	IF cardinality(_lines) >= mailchimp_sync.page_size() THEN
		UPDATE mailchimp_sync.import i SET walk_newest_at = _i.walk_newest_at, page_offset = i.page_offset + mailchimp_sync.page_size()
		WHERE i.connection = _i.connection;
	ELSE
		UPDATE mailchimp_sync.import i SET pulled_at = i.walk_begun_at, newest_at = greatest(i.newest_at, _i.walk_newest_at),
			full_at = CASE WHEN i.walk_since IS NULL THEN i.walk_begun_at ELSE i.full_at END,
			asked_at = CASE WHEN i.asked_at > i.walk_begun_at THEN i.asked_at END,
			walk_begun_at = NULL, attempts = 0, title = NULL, detail = NULL, first_failed_at = NULL, last_failed_at = NULL, next_attempt_at = NULL
		WHERE i.connection = _i.connection;
	END IF;
END
$$;

-- the walk rests, longer each time, and begins anew
CREATE FUNCTION mailchimp_sync.import_failed(_inflight_id bigint, _outcome text, _title text, _detail text, _retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.import i SET attempts = i.attempts + 1, title = coalesce(_title, _outcome), detail = _detail,
		first_failed_at = coalesce(i.first_failed_at, mailchimp_sync.clock()), last_failed_at = mailchimp_sync.clock(),
		page_at = NULL, next_attempt_at = greatest(_retry_at,
			mailchimp_sync.clock() + least(interval '1 day', 2 ^ least(i.attempts, 11) * interval '1 minute'))
	FROM mailchimp_sync.inflight f
	WHERE f.inflight_id = _inflight_id AND i.connection = f.connection
$$;

/* ---- for people ---- */

CREATE FUNCTION @extschema@.mc_pull_campaigns(connection text) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_pull_campaigns(text) IS
	'asks for all campaigns of the account to be imported now; from the first time on it is done daily, or every campaigns_every (mc_alter_connection)';

CREATE FUNCTION mailchimp_sync.mc_pull_campaigns(_connection text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.require_connection(_connection);
	INSERT INTO mailchimp_sync.connection (connection) VALUES (_connection) ON CONFLICT DO NOTHING;
	INSERT INTO mailchimp_sync.import (connection, asked_at) VALUES (_connection, mailchimp_sync.clock())
	ON CONFLICT (connection) DO UPDATE SET asked_at = excluded.asked_at, next_attempt_at = NULL;
	PERFORM mailchimp_sync.wake();
END
$$;
