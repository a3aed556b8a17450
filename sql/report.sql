/*
 * report.sql: the figures of campaigns.
 *
 * "report" holds Mailchimp's own totals as of the last poll; they, not our rows, are the figures
 * of mc_report, and what we recorded (activity.sql) stands beside them (D17). Who asks for all this,
 * and when, is in poll.sql.
 */
CREATE TABLE mailchimp_sync.report (
	campaign_id		bigint PRIMARY KEY,
	emails_sent		bigint NOT NULL,
	opens_total		bigint NOT NULL,
	unique_opens	bigint NOT NULL,
	clicks_total	bigint NOT NULL,
	unique_clickers	bigint NOT NULL,
	hard_bounces	bigint NOT NULL,
	soft_bounces	bigint NOT NULL,
	syntax_errors	bigint NOT NULL,
	unsubscribed	bigint NOT NULL,
	complaints		bigint NOT NULL,
	polled_at		timestamptz NOT NULL,
	-- opens without those that Mailchimp takes for a machine's, and the persons behind them; null: it did not say
	human_opens		bigint,
	human_openers	bigint,
	machine_clicks	bigint,				-- null: not asked yet (machine.sql)
	-- the pages behind the totals were read to the end when the totals were these
	read_figures	jsonb,
	-- these totals were higher than what the pages gave, and the pages were read once more
	short_figures	jsonb
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.report', '');

-- clicks per link as Mailchimp counts them
CREATE TABLE mailchimp_sync.report_link (
	campaign_id		bigint NOT NULL,
	link_id			text COLLATE "C" NOT NULL,
	url				text NOT NULL,
	clicks			bigint NOT NULL,
	unique_clicks	bigint NOT NULL,
	human_clicks	bigint,
	last_click		timestamptz,
	PRIMARY KEY (campaign_id, link_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.report_link', '');

/* ---- storing ---- */

CREATE FUNCTION mailchimp_sync.links_seen(_campaign_id bigint, _ids text[], _urls text[], _clicks bigint[],
	_unique_clicks bigint[], _last_clicks text[])
RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.report_link (campaign_id, link_id, url, clicks, unique_clicks, last_click)
	SELECT DISTINCT ON (u.id) _campaign_id, u.id, u.url, u.clicks, u.unique_clicks, nullif(u.last_click, '')::timestamptz
	FROM unnest(_ids, _urls, _clicks, _unique_clicks, _last_clicks) AS u(id, url, clicks, unique_clicks, last_click)
	ON CONFLICT (campaign_id, link_id) DO UPDATE SET url = excluded.url, clicks = excluded.clicks,
		unique_clicks = excluded.unique_clicks, last_click = excluded.last_click
$$;

/* ---- what people see ---- */

-- in percent, not rounded; delivered: neither bounced nor sent to what was no address
CREATE VIEW mailchimp_sync.report_rate AS
SELECT r.campaign_id,
	100.0 * r.unique_opens / nullif(d.delivered, 0) AS open_rate,
	100.0 * r.human_openers / nullif(d.delivered, 0) AS human_open_rate,
	100.0 * r.unique_clickers / nullif(d.delivered, 0) AS click_rate,
	100.0 * r.unsubscribed / nullif(d.delivered, 0) AS unsubscribe_rate,
	100.0 * (r.hard_bounces + r.soft_bounces) / nullif(r.emails_sent, 0) AS bounce_rate
FROM mailchimp_sync.report r
CROSS JOIN LATERAL (SELECT r.emails_sent - r.hard_bounces - r.soft_bounces - r.syntax_errors AS delivered) d;

CREATE VIEW @extschema@.mc_report WITH (security_barrier) AS
SELECT c.campaign_id, c.name, c.status, c.recipients, c.skipped, coalesce(r.emails_sent, c.emails_sent) AS emails_sent,
	r.opens_total AS total_opened, r.unique_opens AS unique_opened,
	r.clicks_total AS total_clicked, r.unique_clickers AS unique_clicked,
	r.soft_bounces, r.hard_bounces, r.unsubscribed, r.complaints,
	round(t.open_rate, 2) AS open_rate, round(t.click_rate, 2) AS click_rate,
	round(t.unsubscribe_rate, 2) AS unsubscribe_rate, round(t.bounce_rate, 2) AS bounce_rate,
	r.opens_total - r.human_opens AS machine_opened,
	CASE WHEN r.clicks_total = 0 THEN 0 ELSE r.machine_clicks END AS machine_clicked,
	r.human_openers AS human_opened, round(t.human_open_rate, 2) AS human_open_rate,
	n.opened AS recorded_opened, n.clicked AS recorded_clicked,
	nullif(concat_ws('; ',
		CASE WHEN n.opened > r.opens_total OR n.clicked > r.clicks_total
			THEN 'more is recorded than Mailchimp''s figures have: it came after them, or Mailchimp shows it no more' END,
		CASE WHEN n.opened >= r.opens_total AND n.clicked >= r.clicks_total THEN NULL
			WHEN NOT coalesce(r.read_figures -> 'activity' @> jsonb_build_object('opens', r.opens_total, 'clicks', r.clicks_total), false)
			THEN 'fewer are recorded than Mailchimp''s figures have: its lists are still being read, or were behind and are read again'
			WHEN c.sent_at < mailchimp_sync.clock() - nullif(current_setting('mailchimp_sync.activity_retention')::interval, interval '0')
			THEN 'fewer are recorded than Mailchimp''s figures have: what is older than mailchimp_sync.activity_retention is not kept'
			ELSE 'fewer are recorded than Mailchimp''s figures have: its lists lack them, such as those of erased persons and '
				'what goes beyond 1000 opens or clicks of one person' END), '') AS note,
	c.report_url, r.polled_at
FROM @extschema@.mc_campaign c
LEFT JOIN mailchimp_sync.report r USING (campaign_id)
LEFT JOIN mailchimp_sync.report_rate t USING (campaign_id)
LEFT JOIN LATERAL (SELECT coalesce(max(a.opened), 0) AS opened, coalesce(max(a.clicked), 0) AS clicked
	FROM mailchimp_sync.activity_count a WHERE a.campaign_id = c.campaign_id) n ON true
WHERE c.status IN ('sending', 'sent') OR r.campaign_id IS NOT NULL;
COMMENT ON VIEW @extschema@.mc_report IS
	'the figures of each campaign as Mailchimp reports them; null until they were fetched for the first time';
COMMENT ON COLUMN @extschema@.mc_report.emails_sent IS 'mails that left, bounced ones included';
COMMENT ON COLUMN @extschema@.mc_report.total_opened IS 'all opens, machines'' too; one person may open many times';
COMMENT ON COLUMN @extschema@.mc_report.unique_opened IS 'persons who opened at least once, or whose machine did';
COMMENT ON COLUMN @extschema@.mc_report.total_clicked IS 'all clicks on links, machines'' too; one person may click many times';
COMMENT ON COLUMN @extschema@.mc_report.unique_clicked IS 'persons who clicked at least once, or whose machine did';
COMMENT ON COLUMN @extschema@.mc_report.soft_bounces IS 'temporary bounces';
COMMENT ON COLUMN @extschema@.mc_report.hard_bounces IS 'permanent bounces';
COMMENT ON COLUMN @extschema@.mc_report.open_rate IS
	'unique_opened in percent of the delivered mails: emails_sent without hard and soft bounces and addresses that were no addresses';
COMMENT ON COLUMN @extschema@.mc_report.click_rate IS 'unique_clicked in percent of the delivered mails';
COMMENT ON COLUMN @extschema@.mc_report.unsubscribe_rate IS 'unsubscribed in percent of the delivered mails';
COMMENT ON COLUMN @extschema@.mc_report.bounce_rate IS 'hard and soft bounces in percent of emails_sent';
COMMENT ON COLUMN @extschema@.mc_report.machine_opened IS 'those of total_opened that Mailchimp takes for a machine''s: opens, not persons';
COMMENT ON COLUMN @extschema@.mc_report.machine_clicked IS 'those of total_clicked that Mailchimp takes for a machine''s: clicks, not persons';
COMMENT ON COLUMN @extschema@.mc_report.human_opened IS 'persons who opened at least once themselves';
COMMENT ON COLUMN @extschema@.mc_report.human_open_rate IS 'human_opened in percent of the delivered mails';
COMMENT ON COLUMN @extschema@.mc_report.recorded_opened IS 'rows of mc_activity of type opened; compare with total_opened';
COMMENT ON COLUMN @extschema@.mc_report.recorded_clicked IS 'rows of mc_activity of type clicked; compare with total_clicked';
COMMENT ON COLUMN @extschema@.mc_report.note IS 'why what is recorded differs from Mailchimp''s figures; null where it does not';
COMMENT ON COLUMN @extschema@.mc_report.report_url IS 'Mailchimp''s own report; log in there';
COMMENT ON COLUMN @extschema@.mc_report.polled_at IS 'when Mailchimp was asked for these figures';

-- a campaign beside those that its connection sent before it; of which nothing was delivered, none counts
CREATE VIEW @extschema@.mc_report_comparison WITH (security_barrier) AS
SELECT c.campaign_id, c.name, c.sent_at, round(t.open_rate, 2) AS open_rate, round(t.click_rate, 2) AS click_rate,
	round(t.unsubscribe_rate, 2) AS unsubscribe_rate, round(t.bounce_rate, 2) AS bounce_rate,
	count(t.open_rate) OVER earlier AS earlier_campaigns,
	round(avg(t.open_rate) OVER earlier, 2) AS earlier_open_rate, round(avg(t.click_rate) OVER earlier, 2) AS earlier_click_rate,
	round(avg(t.unsubscribe_rate) OVER earlier, 2) AS earlier_unsubscribe_rate,
	round(avg(t.bounce_rate) FILTER (WHERE t.open_rate IS NOT NULL) OVER earlier, 2) AS earlier_bounce_rate
FROM mailchimp_sync.campaign c
JOIN mailchimp_sync.permitted_connection p USING (connection)
JOIN mailchimp_sync.report_rate t USING (campaign_id)
WHERE c.sent_at IS NOT NULL
WINDOW earlier AS (PARTITION BY c.connection ORDER BY c.sent_at, c.campaign_id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING);
COMMENT ON VIEW @extschema@.mc_report_comparison IS
	'the rates of each campaign beside the mean of those that its connection sent before it';
COMMENT ON COLUMN @extschema@.mc_report_comparison.earlier_campaigns IS 'how many campaigns the means are of';
COMMENT ON COLUMN @extschema@.mc_report_comparison.earlier_open_rate IS
	'the mean of the open rates of the earlier campaigns, each of which counts the same';

/* ---- drill-downs ---- */

-- persons who did something of a type: how often, and how often it was a machine
CREATE FUNCTION mailchimp_sync.report_persons(_campaign bigint, _type text)
RETURNS TABLE (source text, contact_key text, email text, times bigint, machine bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	PERFORM mailchimp_sync.campaign_of(_campaign);
	RETURN QUERY
	SELECT s.source, g.contact_key, g.email, g.times, g.machine, g.first_at, g.last_at
	FROM (SELECT min(a.source_id) AS source_id, min(a.contact_key) AS contact_key, min(a.email) AS email, count(*) AS times,
			count(*) FILTER (WHERE a.machine) AS machine, min(a.occurred_at) AS first_at, max(a.occurred_at) AS last_at
		FROM mailchimp_sync.activity a
		WHERE a.campaign_id = _campaign AND a.type = _type GROUP BY a.email_hash) g
	LEFT JOIN mailchimp_sync.source s USING (source_id)
	ORDER BY g.times DESC, g.email;
END
$$;

CREATE FUNCTION @extschema@.mc_report_openers(campaign bigint)
RETURNS TABLE (source text, contact_key text, email text, opens bigint, machine bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_openers(bigint) IS
	'who opened a campaign: how often, and how many of these opens Mailchimp takes for a machine''s';

CREATE FUNCTION mailchimp_sync.mc_report_openers(_campaign bigint)
RETURNS TABLE (source text, contact_key text, email text, opens bigint, machine bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM mailchimp_sync.report_persons(_campaign, 'opened')
$$;

CREATE FUNCTION @extschema@.mc_report_clickers(campaign bigint)
RETURNS TABLE (source text, contact_key text, email text, clicks bigint, machine bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_clickers(bigint) IS
	'who clicked links of a campaign: how often, and how many of these clicks Mailchimp takes for a machine''s';

CREATE FUNCTION mailchimp_sync.mc_report_clickers(_campaign bigint)
RETURNS TABLE (source text, contact_key text, email text, clicks bigint, machine bigint, first_at timestamptz, last_at timestamptz)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM mailchimp_sync.report_persons(_campaign, 'clicked')
$$;

CREATE FUNCTION @extschema@.mc_report_links(campaign bigint)
RETURNS TABLE (url text, clicks bigint, unique_clicks bigint, last_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_links(bigint) IS
	'how often each link of a campaign was clicked, and by how many persons, as Mailchimp counts';

CREATE FUNCTION mailchimp_sync.mc_report_links(_campaign bigint)
RETURNS TABLE (url text, clicks bigint, unique_clicks bigint, last_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	PERFORM mailchimp_sync.campaign_of(_campaign);
	RETURN QUERY
	SELECT l.url, l.clicks, l.unique_clicks, l.last_click FROM mailchimp_sync.report_link l
	WHERE l.campaign_id = _campaign ORDER BY l.clicks DESC, l.url;
END
$$;

CREATE FUNCTION @extschema@.mc_report_bounces(campaign bigint, bounce_type text DEFAULT NULL)
RETURNS TABLE (source text, contact_key text, email text, bounce_type text, occurred_at timestamptz)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_bounces(bigint, text) IS
	'whose mail bounced: all, or with bounce_type hard (permanent) or soft (temporary)';

CREATE FUNCTION mailchimp_sync.mc_report_bounces(_campaign bigint, _bounce_type text)
RETURNS TABLE (source text, contact_key text, email text, bounce_type text, occurred_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	PERFORM mailchimp_sync.campaign_of(_campaign);
	IF _bounce_type NOT IN ('hard', 'soft') THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('bounce_type cannot be "%s"', _bounce_type), HINT = 'It takes one of: hard, soft.';
	END IF;
	RETURN QUERY
	SELECT s.source, a.contact_key, a.email, a.bounce_type, a.occurred_at
	FROM mailchimp_sync.activity a
	LEFT JOIN mailchimp_sync.source s USING (source_id)
	WHERE a.campaign_id = _campaign AND a.type = 'bounced' AND coalesce(a.bounce_type = _bounce_type, true)
	ORDER BY a.occurred_at, a.email;
END
$$;
