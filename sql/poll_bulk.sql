/*
 * poll_bulk.sql: the totals of many old campaigns by one request (GET /reports).
 *
 * What happened with a mail of more than a week ago is mostly over: its polls find that nothing moved. Where many of such
 * campaigns are due, those that were sent one soon after the other are asked for together, by the time of sending, which is
 * all that Mailchimp lets choose by. Whose totals moved goes on to pages of its own, as after a request of its own.
 * Which the answer does not show (a page ends somewhere, a campaign may be deleted) is asked for alone, and so are all of
 * them when there is no answer that can be used.
 *
 * Ten at least: a page of hundreds of totals takes Mailchimp longer than one report, and fewer are asked one by one, several
 * at a time, before it is there. Not more than nine hundred known campaigns between the first and the last: that
 * leaves room in the page for campaigns of others, and what is spread more thinly is not worth a page.
 *
 * There is one such request at a time; until its answer all old campaigns of the connection wait, so it need not be known which
 * of them it asks for but by itself (inflight.versions: their ids). A crash forgets it, and it is made anew.
 */
CREATE INDEX campaign_sent_at ON mailchimp_sync.campaign (connection, sent_at) WHERE status = 'sent';

-- the ids of those that one request asks for now, and when the first and the last of them were sent; null: none
CREATE FUNCTION mailchimp_sync.poll_bulk(_connection text, OUT ids bigint[], OUT first_at timestamptz, OUT last_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_tenth_at	timestamptz;
	_too_many	timestamptz;
BEGIN
	-- where ten are nearest to each other, and from there on
	SELECT d.sent_at, d.tenth_at INTO first_at, _tenth_at
	FROM (SELECT r.sent_at, lead(r.sent_at, 9) OVER (ORDER BY r.sent_at) AS tenth_at
		FROM mailchimp_sync.poll_to_begin r
		WHERE r.connection = _connection AND r.at <= mailchimp_sync.clock() AND r.is_old) d
	WHERE d.tenth_at IS NOT NULL ORDER BY d.tenth_at - d.sent_at, d.sent_at LIMIT 1;
	SELECT c.sent_at INTO _too_many FROM mailchimp_sync.campaign c
	WHERE c.connection = _connection AND c.status = 'sent' AND c.sent_at >= first_at
	ORDER BY c.sent_at OFFSET mailchimp_sync.page_size() * 9 / 10 LIMIT 1;
	IF _too_many <= _tenth_at THEN
		RETURN;
	END IF;
	SELECT array_agg(r.campaign_id ORDER BY r.campaign_id), max(r.sent_at) INTO ids, last_at FROM mailchimp_sync.poll_to_begin r
	WHERE r.connection = _connection AND r.at <= mailchimp_sync.clock() AND r.is_old
		AND r.sent_at >= first_at AND r.sent_at < coalesce(_too_many, 'infinity');
END
$$;

-- the request; no row: they are asked for one by one
CREATE FUNCTION mailchimp_sync.poll_bulk_work(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _connection, 'GET',
		-- since is exclusive there, before is not; each with a second to spare
		format('/reports?count=%s&offset=0&since_send_time=%s&before_send_time=%s&fields=reports.id,reports.emails_sent,'
			'reports.abuse_reports,reports.unsubscribed,reports.bounces,reports.opens,reports.clicks', mailchimp_sync.page_size(),
			mailchimp_sync.query_instant(b.first_at - interval '2 seconds'), mailchimp_sync.query_instant(b.last_at + interval '1 second')),
		NULL::text, false, NULL::integer, NULL::bigint, 'reports', NULL::integer[], NULL::text[], NULL::text[], b.ids, NULL::bytea[]
	FROM mailchimp_sync.poll_bulk(_connection) b WHERE b.ids IS NOT NULL
$$;

-- asked for by itself from now on, until that has succeeded
CREATE FUNCTION mailchimp_sync.poll_alone(_campaign_id bigint, _started_at timestamptz, _at timestamptz) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.poll (campaign_id, started_at, figures, next_attempt_at) VALUES (_campaign_id, _started_at, '{}', _at);
	INSERT INTO mailchimp_sync.poll_page (campaign_id, walk, page_offset) VALUES (_campaign_id, 'report', 0);
$$;

-- those of a request that are still to be polled; whoever holds a campaign's row is not waited for, it is due as before
CREATE FUNCTION mailchimp_sync.poll_bulk_asked(_inflight_id bigint) RETURNS SETOF mailchimp_sync.campaign
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.* FROM mailchimp_sync.campaign c
	WHERE c.campaign_id = ANY (ARRAY(SELECT unnest(f.versions) FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id))
		AND c.status = 'sent' AND c.goal IS NULL AND c.next_poll_at IS NOT NULL
		AND NOT EXISTS (SELECT FROM mailchimp_sync.poll p WHERE p.campaign_id = c.campaign_id)
	ORDER BY c.campaign_id FOR NO KEY UPDATE OF c SKIP LOCKED
$$;

-- each is polled by what the page shows of it; they stay as far apart as they were due
CREATE FUNCTION mailchimp_sync.reports_seen(_inflight_id bigint, _started_at timestamptz, _ids text[], _emails_sent text[],
	_unsubscribed text[], _complaints text[], _bounces text[], _opens text[], _clicks text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM CASE WHEN s.emails_sent IS NULL THEN mailchimp_sync.poll_alone(a.campaign_id, _started_at, NULL)
		ELSE mailchimp_sync.report_seen(a.campaign_id, _started_at, s.emails_sent::bigint, s.unsubscribed::bigint,
			s.complaints::bigint, s.bounces::jsonb, s.opens::jsonb, s.clicks::jsonb, a.first_at) END
	FROM (SELECT c.campaign_id, c.mailchimp_id, min(c.next_poll_at) FILTER (WHERE mailchimp_sync.is_poll_in_turn(c)) OVER () AS first_at
		FROM mailchimp_sync.poll_bulk_asked(_inflight_id) c) a
	LEFT JOIN unnest(_ids, _emails_sent, _unsubscribed, _complaints, _bounces, _opens, _clicks)
		AS s(id, emails_sent, unsubscribed, complaints, bounces, opens, clicks) ON s.id = a.mailchimp_id;
END
$$;

-- no page: each alone. _at: not before
CREATE FUNCTION mailchimp_sync.reports_refused(_inflight_id bigint, _at timestamptz) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.poll_alone(c.campaign_id, mailchimp_sync.clock(), _at) FROM mailchimp_sync.poll_bulk_asked(_inflight_id) c
$$;
