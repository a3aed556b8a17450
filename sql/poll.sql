/*
 * poll.sql: results are fetched (R49, D1), the kind of work "poll". When is in poll_tier.sql.
 *
 * A poll of a sent campaign asks for the report's totals first: one request, and it
 * is over where they have not moved. Else the pages behind those that moved are read,
 * each page a unit of its own, several at once. A poll under way is rows: which pages there
 * are and which of them are done. After a crash the others are read, and a page
 * that was stored and not noted is stored again, which changes nothing. What was read is
 * noted with the last page, in the same transaction (report.read_figures).
 *
 * A campaign that is prepared, scheduled or has failed is asked for its state alone: somebody may have sent,
 * scheduled, edited or deleted it at Mailchimp (adopt.sql); so is an imported one that is being sent (import.sql).
 */

/* ---- polls under way ---- */

-- not dumped, like requests in flight: a poll begins anew after a restore
CREATE TABLE mailchimp_sync.poll (
	campaign_id		bigint PRIMARY KEY,
	started_at		timestamptz NOT NULL,
	figures			jsonb NOT NULL,		-- as Mailchimp showed them at the start
	next_attempt_at	timestamptz
);

CREATE TABLE mailchimp_sync.poll_page (
	campaign_id		bigint NOT NULL,
	walk			text NOT NULL CHECK (walk IN ('report', 'state', 'activity', 'unsubscribed', 'abuse', 'links',
						'opens', 'human_links', 'human_clicks')),
	page_offset		bigint NOT NULL,
	since			timestamptz,		-- events up to here are known
	is_done			boolean NOT NULL DEFAULT false,
	PRIMARY KEY (campaign_id, walk, page_offset)
);

-- an instant in a query string, where a plus sign would be a blank
CREATE FUNCTION mailchimp_sync.query_instant(_at timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- what has to move before the pages behind it are read, by walk; human_clicks, which no report shows, joins them at the end
CREATE FUNCTION mailchimp_sync.poll_figures(_unsubscribed bigint, _complaints bigint, _bounces jsonb, _opens jsonb,
	_clicks jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object(
		'activity', jsonb_build_object(
			'opens', coalesce((_opens ->> 'opens_total')::bigint, 0), 'last_open', coalesce(_opens ->> 'last_open', ''),
			'clicks', coalesce((_clicks ->> 'clicks_total')::bigint, 0), 'last_click', coalesce(_clicks ->> 'last_click', ''),
			'hard', coalesce((_bounces ->> 'hard_bounces')::bigint, 0),
			'soft', coalesce((_bounces ->> 'soft_bounces')::bigint, 0)),
		'unsubscribed', coalesce(_unsubscribed, 0),
		'abuse', coalesce(_complaints, 0),
		-- those of machines
		'opens', coalesce((_opens ->> 'opens_total')::bigint - (_opens ->> 'proxy_excluded_opens')::bigint, 0),
		'links', jsonb_build_object(
			'clicks', coalesce((_clicks ->> 'clicks_total')::bigint, 0),
			'unique', coalesce((_clicks ->> 'unique_clicks')::bigint, 0), 'last', coalesce(_clicks ->> 'last_click', '')))
$$;

-- all events up to this instant were there when these figures were shown; with room for those that come late
CREATE FUNCTION mailchimp_sync.activity_known_until(_figures jsonb) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT greatest(nullif(_figures #>> '{activity,last_open}', '')::timestamptz,
		nullif(_figures #>> '{activity,last_click}', '')::timestamptz) - interval '10 minutes'
$$;

-- the request of a walk; 'report' and 'state' have one page
CREATE FUNCTION mailchimp_sync.poll_path(_mailchimp_id text, _walk text, _offset bigint, _since timestamptz) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE _walk
		WHEN 'report' THEN format('/reports/%s?fields=emails_sent,abuse_reports,unsubscribed,bounces,opens,clicks', _mailchimp_id)
		WHEN 'state' THEN format('/campaigns/%s?fields=%s', _mailchimp_id, mailchimp_sync.shown_fields())
		WHEN 'activity' THEN format('/reports/%s/email-activity?%s%s&fields=emails.email_id,emails.email_address,emails.activity',
			_mailchimp_id, p.page, p.since)
		WHEN 'unsubscribed' THEN format('/reports/%s/unsubscribed?%s&fields=unsubscribes.email_id,unsubscribes.email_address,'
			'unsubscribes.timestamp,unsubscribes.reason', _mailchimp_id, p.page)
		-- not in pages
		WHEN 'abuse' THEN format('/reports/%s/abuse-reports?fields=abuse_reports.email_id,abuse_reports.email_address,'
			'abuse_reports.date', _mailchimp_id)
		WHEN 'links' THEN format('/reports/%s/click-details?%s&fields=urls_clicked.id,urls_clicked.url,'
			'urls_clicked.total_clicks,urls_clicked.unique_clicks,urls_clicked.last_click', _mailchimp_id, p.page)
		WHEN 'opens' THEN format('/reports/%s/open-details?%s%s&fields=members.email_id,members.opens', _mailchimp_id, p.page, p.since)
		WHEN 'human_links' THEN format('/reports/%s/click-details?%s&filter_bots=true&fields=urls_clicked.id,'
			'urls_clicked.total_clicks', _mailchimp_id, p.page)
		WHEN 'human_clicks' THEN format('/reports/%s/email-activity?%s%s&filter_bots=true&fields=emails.email_id,emails.activity',
			_mailchimp_id, p.page, p.since)
	END
	FROM (SELECT format('count=%s&offset=%s', mailchimp_sync.page_size(), _offset) AS page,
		'&since=' || mailchimp_sync.query_instant(_since) AS since) p
$$;

/* ---- the kind "poll" ---- */

-- pages of polls under way that may be asked for now or later
CREATE VIEW mailchimp_sync.poll_page_ready AS
SELECT c.connection, c.campaign_id, c.mailchimp_id, g.walk, g.page_offset, g.since,
	coalesce(p.next_attempt_at, p.started_at) AS at
FROM mailchimp_sync.poll p
JOIN mailchimp_sync.poll_page g USING (campaign_id)
JOIN mailchimp_sync.campaign c USING (campaign_id)
WHERE NOT g.is_done AND c.status = 'sent' AND c.mailchimp_id IS NOT NULL
	AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'poll' AND f.campaign_id = c.campaign_id
		AND f.phase = g.walk AND f.versions[1] = g.page_offset);

-- polls that may begin now or later, of any number of campaigns: in the order of the index, read no further than need be
CREATE VIEW mailchimp_sync.poll_to_begin AS
SELECT c.connection, c.campaign_id, c.mailchimp_id, CASE c.status WHEN 'sent' THEN 'report' ELSE 'state' END AS walk,
	c.next_poll_at AS at, c.sent_at, o.is_old
FROM mailchimp_sync.campaign c
CROSS JOIN LATERAL (SELECT c.status = 'sent' AND c.sent_at <= mailchimp_sync.clock() - interval '7 days' AS is_old) o
WHERE c.next_poll_at IS NOT NULL AND c.status IN ('prepared', 'scheduled', 'failed', 'sending', 'sent') AND c.goal IS NULL
	AND c.mailchimp_id IS NOT NULL
	AND NOT EXISTS (SELECT FROM mailchimp_sync.poll p WHERE p.campaign_id = c.campaign_id)
	AND NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'poll'
		-- or many of the old ones are asked for just now (poll_bulk.sql)
		AND (f.campaign_id = c.campaign_id OR f.phase = 'reports' AND f.connection = c.connection AND o.is_old));
CREATE INDEX campaign_poll_due ON mailchimp_sync.campaign (connection, next_poll_at, campaign_id)
	WHERE next_poll_at IS NOT NULL AND status IN ('prepared', 'scheduled', 'failed', 'sending', 'sent') AND goal IS NULL
		AND mailchimp_id IS NOT NULL;

CREATE VIEW mailchimp_sync.poll_first AS
SELECT u.connection, b.at
FROM mailchimp_sync.usable_connection u
CROSS JOIN LATERAL (SELECT r.at FROM mailchimp_sync.poll_to_begin r WHERE r.connection = u.connection
	ORDER BY r.at, r.campaign_id LIMIT 1) b;

/*
 * No poll delays a campaign that is on its way. While there is one, there is one request of a poll at a time, and none goes
 * before contacts that a campaign waits for (at "settle") while none of them are on their way. Polls are never many beside
 * it by slots either, which they leave to it and to its contacts (src/engine.h).
 */
CREATE FUNCTION mailchimp_sync.poll_gives_way(_connection text) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.campaign c WHERE c.goal IS NOT NULL AND c.connection = _connection)
		AND (EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'poll' AND f.connection = _connection)
			OR NOT EXISTS (SELECT FROM mailchimp_sync.inflight f WHERE f.kind = 'push' AND f.connection = _connection)
				AND EXISTS (SELECT FROM mailchimp_sync.campaign c
					JOIN mailchimp_sync.due_source d USING (audience_id)
					CROSS JOIN LATERAL mailchimp_sync.push_waiting(d.audience_id, d.source_id,
						mailchimp_sync.guard_room(d.audience_id, 'subscribe'), 1) w
					WHERE c.goal IS NOT NULL AND c.connection = _connection AND c.step = 'settle'
						AND coalesce(greatest(d.at, w.next_attempt_at) <= mailchimp_sync.clock(), true)
						-- nothing goes there before the statuses are read, which may not work
						AND d.audience_id IN (SELECT a.audience_id FROM mailchimp_sync.sending_audiences(_connection) a)
						AND NOT EXISTS (SELECT FROM mailchimp_sync.missing_fields(d.audience_id))));
END
$$;

-- the first that may begin now, its campaign locked: whose row somebody holds could not be answered
CREATE FUNCTION mailchimp_sync.poll_first_due(_connection text) RETURNS mailchimp_sync.poll_to_begin
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_sort = off		-- by the index, whatever the planner thinks of the table
AS $$
DECLARE
	_b	mailchimp_sync.poll_to_begin;
BEGIN
	SELECT * INTO _b FROM mailchimp_sync.poll_to_begin r
	WHERE r.connection = _connection AND r.at <= mailchimp_sync.clock()
	ORDER BY r.at, r.campaign_id LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED;
	RETURN _b;
END
$$;

CREATE FUNCTION mailchimp_sync.poll_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_b	mailchimp_sync.poll_to_begin := mailchimp_sync.poll_first_due(_connection);
	_g	mailchimp_sync.poll_page_ready;
BEGIN
	SELECT r.* INTO _g FROM mailchimp_sync.poll_page_ready r JOIN mailchimp_sync.campaign c USING (campaign_id)
	WHERE r.connection = _connection AND r.at <= coalesce(_b.at, mailchimp_sync.clock())
	ORDER BY r.at, r.campaign_id, r.walk, r.page_offset LIMIT 1 FOR NO KEY UPDATE OF c SKIP LOCKED;
	IF coalesce(_g.campaign_id, _b.campaign_id) IS NULL OR mailchimp_sync.poll_gives_way(_connection) THEN
		RETURN;
	ELSIF _g.campaign_id IS NOT NULL THEN
		RETURN QUERY SELECT * FROM mailchimp_sync.poll_work(_g.connection, _g.campaign_id, _g.mailchimp_id, _g.walk, _g.page_offset, _g.since);
		RETURN;
	ELSIF _b.is_old THEN
		RETURN QUERY SELECT * FROM mailchimp_sync.poll_bulk_work(_connection);
		IF FOUND THEN
			RETURN;
		END IF;
	END IF;
	RETURN QUERY SELECT * FROM mailchimp_sync.poll_work(_b.connection, _b.campaign_id, _b.mailchimp_id, _b.walk, 0, NULL);
END
$$;

CREATE FUNCTION mailchimp_sync.poll_work(_connection text, _campaign_id bigint, _mailchimp_id text, _walk text, _offset bigint,
	_since timestamptz) RETURNS mailchimp_sync.work
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _connection, 'GET', mailchimp_sync.poll_path(_mailchimp_id, _walk, _offset, _since), NULL::text, false,
		NULL::integer, _campaign_id, _walk, NULL::integer[], NULL::text[], NULL::text[], ARRAY[_offset], NULL::bytea[]
$$;

CREATE FUNCTION mailchimp_sync.poll_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE		-- asked all the time, so its plan is kept
SET search_path = pg_catalog, pg_temp
SET enable_sort = off
AS $$
BEGIN
	RETURN least((SELECT min(f.at) FROM mailchimp_sync.poll_first f),
		(SELECT min(r.at) FROM mailchimp_sync.usable_connection u JOIN mailchimp_sync.poll_page_ready r USING (connection)));
END
$$;

-- it did not come about: later again, with the reason; whoever holds the campaign's row is not waited for
CREATE FUNCTION mailchimp_sync.poll_rests(_campaign_id bigint, _title text, _detail text, _retry_at timestamptz)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
	_at	timestamptz;
BEGIN
	SELECT * INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id FOR NO KEY UPDATE SKIP LOCKED;
	_at := greatest(_retry_at, mailchimp_sync.clock() + mailchimp_sync.backoff(coalesce(_c.poll_failures, 0) + 1));
	UPDATE mailchimp_sync.poll SET next_attempt_at = _at WHERE campaign_id = _campaign_id;
	-- one that is not polled any more, as after a change of the account, is not polled again for that
	IF _c.next_poll_at IS NULL THEN
		RETURN;
	END IF;
	UPDATE mailchimp_sync.campaign SET poll_failures = poll_failures + 1,
		next_poll_at = greatest(_at, next_poll_at)
	WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.note_failure('poll', _c.connection, _title, _detail, _at, coalesce(_c.audience_id, 0), _campaign_id);
END
$$;

CREATE FUNCTION mailchimp_sync.poll_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN f.phase <> 'reports' THEN mailchimp_sync.poll_rests(f.campaign_id, coalesce(_title, _outcome), _detail, _retry_at)
		-- not at all, or not now: the connection rests, and they are asked for together again
		WHEN _outcome NOT IN ('not_sent', 'refused') AND NOT EXISTS (SELECT FROM mailchimp_sync.connection c
			WHERE c.connection = f.connection AND c.state = 'throttled') THEN mailchimp_sync.reports_refused(_inflight_id, _retry_at) END
	FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id
$$;

/* ---- answers ---- */

-- the poll that is due was due by the spread, and has come in time (poll_tier.sql)
CREATE FUNCTION mailchimp_sync.is_poll_in_turn(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(_c.next_poll_at = _c.spread_poll_at
		AND _c.next_poll_at > mailchimp_sync.clock() - current_setting('mailchimp_sync.poll_spread')::interval, false)
$$;

/*
 * It succeeded; somebody may have asked for another one meanwhile. Of many that succeed at once the first fell due
 * at _first_at: they keep their distances.
 */
CREATE FUNCTION mailchimp_sync.poll_succeeded(_campaign_id bigint, _started_at timestamptz, _first_at timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	DELETE FROM mailchimp_sync.poll_page WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.poll WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.failure f WHERE f.work = 'poll' AND f.campaign_id = _campaign_id;
	PERFORM mailchimp_sync.import_link(_campaign_id);
	UPDATE mailchimp_sync.campaign c SET last_polled_at = mailchimp_sync.clock(), poll_failures = 0,
		next_poll_at = coalesce(n.asked_at, n.spread_at), spread_poll_at = CASE WHEN n.asked_at IS NULL THEN n.spread_at END
	FROM (SELECT CASE WHEN o.poll_failures = 0 AND o.next_poll_at > _started_at THEN o.next_poll_at END AS asked_at,
			mailchimp_sync.poll_next_at(_campaign_id, mailchimp_sync.clock(), CASE WHEN mailchimp_sync.is_poll_in_turn(o)
				THEN greatest(o.next_poll_at - _first_at, interval '0') END) AS spread_at
		FROM mailchimp_sync.campaign o WHERE o.campaign_id = _campaign_id OFFSET 0) n	-- computed once
	WHERE c.campaign_id = _campaign_id AND c.next_poll_at IS NOT NULL;		-- else it is not polled any more
END
$$;

/*
 * The pages to be read next behind figures that moved since they were read to the end; true: there are some.
 * Marks of machines (machine.sql) need the rows that they go onto, and who clicked by machine is asked only if
 * the links say that somebody did.
 */
CREATE FUNCTION mailchimp_sync.poll_goes_on(_campaign_id bigint, _figures jsonb) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH known AS (
		-- a campaign with which nothing has happened yet has nothing to be read
		SELECT r.emails_sent, r.unsubscribed, r.unique_opens, coalesce(r.machine_clicks, 0) AS machine_clicks,
			coalesce(r.read_figures, mailchimp_sync.poll_figures(0, 0, '{}', '{}', '{}')) AS read
		FROM mailchimp_sync.report r WHERE r.campaign_id = _campaign_id
	), wanted AS (
		SELECT w.phase, w.walk, s.since, CASE WHEN w.walk = 'opens' AND s.since IS NOT NULL THEN 0 ELSE w.lines END AS lines
		FROM known k
		CROSS JOIN LATERAL (VALUES (1, 'activity', 'activity', k.emails_sent), (1, 'unsubscribed', 'unsubscribed', k.unsubscribed),
			(1, 'abuse', 'abuse', 0), (1, 'links', 'links', 0), (2, 'opens', 'opens', k.unique_opens),
			(2, 'human_links', 'links', 0), (3, 'human_clicks', 'human_clicks', k.emails_sent)) AS w(phase, walk, figure, lines)
		CROSS JOIN LATERAL (SELECT CASE WHEN w.walk IN ('activity', 'opens', 'human_clicks') AND k.read ? w.walk
			THEN mailchimp_sync.activity_known_until(k.read) END AS since) s
		WHERE (_figures || jsonb_build_object('human_clicks', k.machine_clicks)) -> w.figure
				IS DISTINCT FROM ('{"human_clicks": 0}' || k.read) -> w.figure
			AND NOT EXISTS (SELECT FROM mailchimp_sync.poll_page g WHERE g.campaign_id = _campaign_id AND g.walk = w.walk)
	)
	INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset, since)
	SELECT _campaign_id, w.walk, o.page_offset, w.since
	FROM wanted w
	CROSS JOIN LATERAL generate_series(0, w.lines, mailchimp_sync.page_size()) AS o(page_offset)
	WHERE w.phase = (SELECT min(x.phase) FROM wanted x);
	RETURN FOUND;
END
$$;

-- the totals: stored, and the pages behind those that moved are to be read
CREATE FUNCTION mailchimp_sync.report_seen(_campaign_id bigint, _started_at timestamptz, _emails_sent bigint,
	_unsubscribed bigint, _complaints bigint, _bounces jsonb, _opens jsonb, _clicks jsonb, _first_at timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_figures	jsonb := mailchimp_sync.poll_figures(_unsubscribed, _complaints, _bounces, _opens, _clicks);
BEGIN
	INSERT INTO mailchimp_sync.report AS r (campaign_id, emails_sent, opens_total, unique_opens, clicks_total,
		unique_clickers, hard_bounces, soft_bounces, syntax_errors, unsubscribed, complaints, polled_at, human_opens, human_openers)
	VALUES (_campaign_id, _emails_sent, coalesce((_opens ->> 'opens_total')::bigint, 0),
		coalesce((_opens ->> 'unique_opens')::bigint, 0), coalesce((_clicks ->> 'clicks_total')::bigint, 0),
		coalesce((_clicks ->> 'unique_subscriber_clicks')::bigint, 0), coalesce((_bounces ->> 'hard_bounces')::bigint, 0),
		coalesce((_bounces ->> 'soft_bounces')::bigint, 0), coalesce((_bounces ->> 'syntax_errors')::bigint, 0),
		coalesce(_unsubscribed, 0), coalesce(_complaints, 0), _started_at,
		(_opens ->> 'proxy_excluded_opens')::bigint, (_opens ->> 'proxy_excluded_unique_opens')::bigint)
	ON CONFLICT (campaign_id) DO UPDATE SET emails_sent = excluded.emails_sent, opens_total = excluded.opens_total,
		unique_opens = excluded.unique_opens, clicks_total = excluded.clicks_total, unique_clickers = excluded.unique_clickers,
		hard_bounces = excluded.hard_bounces, soft_bounces = excluded.soft_bounces, syntax_errors = excluded.syntax_errors,
		unsubscribed = excluded.unsubscribed, complaints = excluded.complaints, polled_at = excluded.polled_at,
		human_opens = excluded.human_opens, human_openers = excluded.human_openers;

	-- the page that it is, where it is one (poll_alone)
	DELETE FROM mailchimp_sync.poll_page WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.poll WHERE campaign_id = _campaign_id;
	-- an answer of the account that the connection had until now leads to no requests to the one that it has
	IF _c.next_poll_at IS NOT NULL AND mailchimp_sync.poll_goes_on(_campaign_id, _figures) THEN
		INSERT INTO mailchimp_sync.poll (campaign_id, started_at, figures) VALUES (_campaign_id, _started_at, _figures);
	ELSE
		PERFORM mailchimp_sync.poll_succeeded(_campaign_id, _started_at, _first_at);
	END IF;
END
$$;

-- a page is stored; a full one has another one behind it, and the last one ends the poll
CREATE FUNCTION mailchimp_sync.page_seen(_campaign_id bigint, _walk text, _offset bigint, _rows bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_poll	mailchimp_sync.poll;
BEGIN
	UPDATE mailchimp_sync.poll_page SET is_done = true
	WHERE campaign_id = _campaign_id AND walk = _walk AND page_offset = _offset;
	IF _rows >= mailchimp_sync.page_size() AND _walk <> 'abuse' THEN
		INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset, since)
		SELECT g.campaign_id, g.walk, g.page_offset + mailchimp_sync.page_size(), g.since FROM mailchimp_sync.poll_page g
		WHERE g.campaign_id = _campaign_id AND g.walk = _walk AND g.page_offset = _offset ON CONFLICT DO NOTHING;
	END IF;
	SELECT * INTO _poll FROM mailchimp_sync.poll p WHERE p.campaign_id = _campaign_id;
	IF NOT FOUND THEN
		RETURN;		-- it was given up meanwhile
	END IF;
	IF EXISTS (SELECT FROM mailchimp_sync.poll_page g WHERE g.campaign_id = _campaign_id AND NOT g.is_done)
		OR mailchimp_sync.poll_goes_on(_campaign_id, _poll.figures) THEN
		UPDATE mailchimp_sync.poll SET next_attempt_at = NULL WHERE campaign_id = _campaign_id;
		RETURN;
	END IF;
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	UPDATE mailchimp_sync.report r SET
		read_figures = CASE WHEN r.short_figures = f.figures THEN f.figures ELSE f.figures - s.walks END,
		short_figures = CASE WHEN s.walks <> '{}' THEN f.figures END
	FROM (SELECT x.campaign_id, _poll.figures || jsonb_build_object('human_clicks', coalesce(x.machine_clicks, 0)) AS figures
		FROM mailchimp_sync.report x WHERE x.campaign_id = _campaign_id) f
	CROSS JOIN LATERAL (SELECT mailchimp_sync.short_walks(_campaign_id, f.figures) AS walks) s
	WHERE r.campaign_id = f.campaign_id;
	PERFORM mailchimp_sync.poll_succeeded(_campaign_id, _poll.started_at);
END
$$;

/*
 * The walks that gave less than the totals promise: Mailchimp's figures may be ahead of its lists, and the order of
 * pages is its own. The next poll reads all of it once more, even if nothing moved;
 * what is missing then will not come.
 */
CREATE FUNCTION mailchimp_sync.short_walks(_campaign_id bigint, _figures jsonb) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(array_agg(w.walk), '{}')
	-- one row, of zeros where there is nothing
	FROM (SELECT coalesce(max(a.opened), 0) AS opened, coalesce(max(a.clicked), 0) AS clicked, coalesce(max(a.bounced), 0) AS bounced,
			coalesce(max(a.unsubscribed), 0) AS unsubscribed, coalesce(max(a.complained), 0) AS complained,
			coalesce(max(a.machine_opened), 0) AS machine_opened, coalesce(max(a.machine_clicked), 0) AS machine_clicked
		FROM mailchimp_sync.activity_count a WHERE a.campaign_id = _campaign_id) n
	JOIN mailchimp_sync.campaign c ON c.campaign_id = _campaign_id
	-- what is too old was not kept
	CROSS JOIN LATERAL (SELECT coalesce(c.sent_at >= mailchimp_sync.activity_kept_since(), true) AS is_kept) k
	CROSS JOIN LATERAL (VALUES
		('activity', k.is_kept AND (n.opened < (_figures #>> '{activity,opens}')::bigint
			OR n.clicked < (_figures #>> '{activity,clicks}')::bigint
			OR n.bounced < (_figures #>> '{activity,hard}')::bigint + (_figures #>> '{activity,soft}')::bigint)),
		('opens', k.is_kept AND n.machine_opened < (_figures ->> 'opens')::bigint),
		-- found by way of the links
		('links', k.is_kept AND n.machine_clicked < (_figures ->> 'human_clicks')::bigint),
		('human_clicks', k.is_kept AND n.machine_clicked < (_figures ->> 'human_clicks')::bigint),
		('unsubscribed', n.unsubscribed < (_figures ->> 'unsubscribed')::bigint),
		('abuse', n.complained < (_figures ->> 'abuse')::bigint)) AS w(walk, is_short)
	WHERE w.is_short
$$;

-- the campaign as Mailchimp shows it: what somebody did there is adopted
CREATE FUNCTION mailchimp_sync.state_seen(_campaign_id bigint, _started_at timestamptz, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	IF _c.status = 'sent' THEN
		-- it was asked because its report was not found
		DELETE FROM mailchimp_sync.poll_page WHERE campaign_id = _campaign_id;
		DELETE FROM mailchimp_sync.poll WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.poll_rests(_campaign_id, 'no report',
			format('the campaign is "%s" at Mailchimp and has no report there', _shown.status), NULL);
		RETURN;
	END IF;
	PERFORM mailchimp_sync.poll_succeeded(_campaign_id, _started_at);
	-- whoever wants something of it, or had it done since, has looked or will look on that way
	IF _c.origin = 'imported' THEN
		PERFORM mailchimp_sync.import_state_seen(_c, _started_at, _shown);
	ELSIF _c.goal IS NULL AND _c.status IN ('prepared', 'scheduled', 'failed') AND coalesce(_started_at > _c.went_at, true) THEN
		PERFORM mailchimp_sync.adopt_state(_c, _shown);
	END IF;
END
$$;

/*
 * Mailchimp answered no. No report: is the campaign itself gone? Then there is
 * nothing left to be polled.
 */
CREATE FUNCTION mailchimp_sync.poll_refused(_campaign_id bigint, _walk text, _started_at timestamptz, _status integer,
	_title text, _detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	IF _c.next_poll_at IS NULL THEN
		RETURN;		-- by the account that the connection had until now, or of a campaign that is no more
	ELSIF _status <> 404 THEN
		PERFORM mailchimp_sync.poll_rests(_campaign_id, _title, _detail, NULL);
		RETURN;
	END IF;
	DELETE FROM mailchimp_sync.poll_page WHERE campaign_id = _campaign_id;
	DELETE FROM mailchimp_sync.poll WHERE campaign_id = _campaign_id;
	IF _walk <> 'state' THEN
		INSERT INTO mailchimp_sync.poll (campaign_id, started_at, figures) VALUES (_campaign_id, _started_at, '{}');
		INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset) VALUES (_campaign_id, 'state', 0);
	ELSIF _c.goal IS NULL AND (_c.origin = 'imported' OR mailchimp_sync.campaign_leads_to('vanish', _c.status) IS NOT NULL) THEN
		-- an imported one comes back if a later look finds it there
		UPDATE mailchimp_sync.campaign SET status = 'deleted', went_at = mailchimp_sync.clock(), next_poll_at = NULL, last_error = 'it was deleted at Mailchimp'
		WHERE campaign_id = _campaign_id;
		DELETE FROM mailchimp_sync.failure f WHERE f.work = 'poll' AND f.campaign_id = _campaign_id;
	END IF;
END
$$;
