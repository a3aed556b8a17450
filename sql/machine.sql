/*
 * machine.sql: opens and clicks that Mailchimp takes for a machine's (D17).
 *
 * A mail proxy opens every mail right after delivery, and scanners follow every link. They are rows of activity
 * like all others, and marked. Of opens, open-details says of each whether it came from a
 * proxy. Of clicks, no list says it: what email-activity and click-details leave out
 * with filter_bots is a machine's.
 *
 * The marks go onto rows that are there, so these pages are asked for when those of activity are stored
 * (poll_goes_on), and only if the figures say that there is something to mark. Of several events
 * in one second the last ones are the machine's, so the marks are the same each time.
 */

-- a page of open-details
CREATE FUNCTION mailchimp_sync.opens_seen(_campaign_id bigint, _ids text[], _opens text[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off		-- see activity.sql
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
	WITH person AS MATERIALIZED (
		SELECT coalesce(m.email_hash, lower(u.id)) COLLATE "C" AS email_hash, u.opens
		FROM unnest(_ids, _opens) AS u(id, opens)
		LEFT JOIN mailchimp_sync.recipient_shown(_campaign_id, lower(u.id)) m ON true
	), marked AS (
		UPDATE mailchimp_sync.activity a SET machine = NOT a.machine
		-- what else could change the row meanwhile leaves it about the same open
		WHERE a.ctid = ANY (ARRAY(
			SELECT x.ctid FROM person p
			CROSS JOIN LATERAL (
				SELECT o.ctid
				FROM (SELECT e.timestamp::timestamptz AS occurred_at, count(*) AS times,
						count(*) FILTER (WHERE NOT coalesce(e.is_proxy_open, false)) AS human
					FROM json_to_recordset(p.opens::json) AS e("timestamp" text, is_proxy_open boolean) GROUP BY 1) s
				JOIN mailchimp_sync.activity o ON o.campaign_id = _campaign_id AND o.email_hash = p.email_hash AND o.type = 'opened'
					AND o.occurred_at = s.occurred_at AND o.ordinal <= s.times
				WHERE o.machine <> (o.ordinal > s.human)
				OFFSET 0) x))
		RETURNING a.machine
	)
	UPDATE mailchimp_sync.activity_count c SET machine_opened = c.machine_opened + m.more
	FROM (SELECT 2 * count(*) FILTER (WHERE k.machine) - count(*) AS more FROM marked k) m
	WHERE c.campaign_id = _campaign_id AND m.more <> 0
$$;

-- a page of click-details without those of machines: of each link that is known by now
CREATE FUNCTION mailchimp_sync.human_links_seen(_campaign_id bigint, _ids text[], _clicks bigint[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.report_link l SET human_clicks = u.clicks
	FROM unnest(_ids, _clicks) AS u(id, clicks)
	WHERE l.campaign_id = _campaign_id AND l.link_id = u.id AND l.human_clicks IS DISTINCT FROM u.clicks;
	-- a click between the two lists is in the second alone
	UPDATE mailchimp_sync.report r SET machine_clicks = (
		SELECT coalesce(sum(greatest(l.clicks - l.human_clicks, 0)), 0) FROM mailchimp_sync.report_link l WHERE l.campaign_id = _campaign_id)
	WHERE r.campaign_id = _campaign_id
$$;

-- a page of email-activity without the events of machines, since the instant for which it was asked: the clicks that it lacks are theirs
CREATE FUNCTION mailchimp_sync.human_clicks_seen(_campaign_id bigint, _offset bigint, _ids text[], _activities text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	_since	timestamptz;
BEGIN
	SELECT g.since INTO _since FROM mailchimp_sync.poll_page g
	WHERE g.campaign_id = _campaign_id AND g.walk = 'human_clicks' AND g.page_offset = _offset;
	IF NOT FOUND THEN
		RETURN;		-- it was given up meanwhile
	END IF;
	WITH person AS MATERIALIZED (
		SELECT coalesce(m.email_hash, lower(u.id)) COLLATE "C" AS email_hash, u.activity
		FROM unnest(_ids, _activities) AS u(id, activity)
		LEFT JOIN mailchimp_sync.recipient_shown(_campaign_id, lower(u.id)) m ON true
	), marked AS (
		UPDATE mailchimp_sync.activity a SET machine = NOT a.machine
		WHERE a.ctid = ANY (ARRAY(
			SELECT x.ctid FROM person p
			CROSS JOIN LATERAL (
				SELECT c.ctid
				FROM mailchimp_sync.activity c
				LEFT JOIN (SELECT e.timestamp::timestamptz AS occurred_at, md5(coalesce(e.url, '')) AS sub_key, count(*) AS times
					FROM json_to_recordset(p.activity::json) AS e(action text, "timestamp" text, url text)
					WHERE e.action = 'click' GROUP BY 1, 2) s ON s.occurred_at = c.occurred_at AND s.sub_key = c.sub_key
				WHERE c.campaign_id = _campaign_id AND c.email_hash = p.email_hash AND c.type = 'clicked'
					AND coalesce(c.occurred_at > _since, true) AND c.machine <> (c.ordinal > coalesce(s.times, 0))
				OFFSET 0) x))
		RETURNING a.machine
	)
	UPDATE mailchimp_sync.activity_count c SET machine_clicked = c.machine_clicked + m.more
	FROM (SELECT 2 * count(*) FILTER (WHERE k.machine) - count(*) AS more FROM marked k) m
	WHERE c.campaign_id = _campaign_id AND m.more <> 0;
END
$$;
