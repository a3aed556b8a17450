/*
 * reports_html.sql: all campaigns on a page, the way to find one of them (N16, R99).
 *
 * Those that are still to be sent, or failed, come first; then the sent ones with their rates. Of both the newest are
 * shown, and how many there are.
 */

-- the campaigns that the caller may see: sent, or waiting (null: neither, and over)
CREATE FUNCTION mailchimp_sync.reports_seen(OUT campaign_id bigint, OUT sent_at timestamptz, OUT is_sent boolean) RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.campaign_id, k.sent_at, CASE WHEN k.sent_at IS NOT NULL OR k.status IN ('sending', 'sent') THEN true
		WHEN k.status NOT IN ('canceled', 'deleted') THEN false END
	FROM mailchimp_sync.campaign k
	WHERE k.connection IN (SELECT p.connection FROM mailchimp_sync.connection_of_caller() p)
$$;

-- the newest of them, and how many there are
CREATE FUNCTION mailchimp_sync.reports_newest(_sent boolean, _limit integer) RETURNS TABLE (campaign_id bigint, total bigint, number bigint)
LANGUAGE sql STABLE ROWS 75
SET search_path = pg_catalog, pg_temp
AS $$
	WITH seen AS MATERIALIZED (SELECT s.campaign_id, s.sent_at FROM mailchimp_sync.reports_seen() s WHERE s.is_sent = _sent)
	SELECT n.campaign_id, (SELECT count(*) FROM seen), row_number() OVER (ORDER BY n.sent_at DESC NULLS FIRST, n.campaign_id DESC)
	FROM (SELECT s.* FROM seen s ORDER BY s.sent_at DESC NULLS FIRST, s.campaign_id DESC LIMIT _limit) n
$$;

CREATE FUNCTION mailchimp_sync.reports_waiting() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Drafts, campaigns that are to be sent, and those that failed; the newest first', ARRAY['campaign', 'state'],
			array_agg(mailchimp_sync.html_row(concat(mailchimp_sync.html_text(c.name, 80), format('<small>Campaign %s, made %s, %s</small>',
					c.campaign_id, mailchimp_sync.html_time(c.created_at), mailchimp_sync.html_count(c.recipients, 'recipient', 'recipients'))),
				concat(mailchimp_sync.report_state(c.status), CASE
					WHEN c.status = 'scheduled' THEN format('<small>for %s</small>', mailchimp_sync.html_time(c.scheduled_for))
					WHEN c.status = 'failed' THEN format('<small>%s</small>', mailchimp_sync.html_text(c.last_error, 200)) END)) ORDER BY n.number), 'waiting')
		|| mailchimp_sync.html_rest(count(*), min(n.total), 'mc_campaign')
	FROM mailchimp_sync.reports_newest(false, 20) n
	CROSS JOIN LATERAL (SELECT o.* FROM @extschema@.mc_campaign o WHERE o.campaign_id = n.campaign_id OFFSET 0) c
	HAVING count(*) > 0
$$;

-- the last 24 of them, from the first to the last
CREATE FUNCTION mailchimp_sync.reports_chart() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat('<p class="keys"><span class="key">opened</span>', CASE WHEN bool_or(r.human_open_rate IS NOT NULL) THEN
			'<span class="key machine">opened by a machine alone</span>' END,
		'<span class="key clicks">clicked</span></p>', mailchimp_sync.chart_columns('Rates of opening and clicking of the latest campaigns, which are in the table below',
			array_agg(to_char(c.sent_at, 'FMDD Mon YYYY') ORDER BY n.number DESC),
			array_agg(format('%s: %s opened, %s clicked', mailchimp_sync.html_escape(r.name, 60), mailchimp_sync.html_percent(r.open_rate),
				mailchimp_sync.html_percent(r.click_rate)) ORDER BY n.number DESC),
			array_agg(r.open_rate ORDER BY n.number DESC), array_agg(r.open_rate - r.human_open_rate ORDER BY n.number DESC),
			array_agg(r.click_rate ORDER BY n.number DESC), _unit => '&nbsp;%'))
	FROM mailchimp_sync.reports_newest(true, 24) n
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	CROSS JOIN LATERAL (SELECT o.name, o.open_rate, o.click_rate, o.human_open_rate FROM @extschema@.mc_report o
		WHERE o.campaign_id = n.campaign_id OFFSET 0) r
	HAVING count(r.open_rate) > 1
$$;

CREATE FUNCTION mailchimp_sync.reports_sent() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('The latest first', ARRAY['campaign', '#opened', '#clicked', '#mails', '#bounced', '#unsubscribed'],
			array_agg(mailchimp_sync.html_row(concat(mailchimp_sync.html_link(r.report_url, r.name),
					format('<small>Campaign %s, %s%s</small><small class="narrow">%s, %s bounced, %s unsubscribed</small>', n.campaign_id, mailchimp_sync.html_time(c.sent_at),
						', opened by people: ' || CASE WHEN r.human_open_rate < r.open_rate THEN mailchimp_sync.html_percent(r.human_open_rate) END,
						mailchimp_sync.html_count(r.emails_sent, 'mail', 'mails'),
						mailchimp_sync.html_number(r.hard_bounces + r.soft_bounces), mailchimp_sync.html_number(r.unsubscribed))),
				mailchimp_sync.chart_bar(mailchimp_sync.html_percent(r.open_rate), 'opens', r.open_rate),
				mailchimp_sync.chart_bar(mailchimp_sync.html_percent(r.click_rate), 'clicks', r.click_rate),
				'#' || mailchimp_sync.html_number(r.emails_sent),
				'#' || mailchimp_sync.html_number(r.hard_bounces + r.soft_bounces), '#' || mailchimp_sync.html_number(r.unsubscribed))
			ORDER BY n.number), 'wider')
		|| mailchimp_sync.html_rest(count(*), min(n.total), 'mc_report')
	FROM mailchimp_sync.reports_newest(true, 75) n
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	CROSS JOIN LATERAL (SELECT o.name, o.emails_sent, o.open_rate, o.human_open_rate, o.click_rate, o.hard_bounces, o.soft_bounces, o.unsubscribed, o.report_url
		FROM @extschema@.mc_report o WHERE o.campaign_id = n.campaign_id OFFSET 0) r
	HAVING count(*) > 0
$$;

CREATE FUNCTION @extschema@.mc_reports_html() RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_reports_html() IS
	'all campaigns, the sent ones with their figures, as one self-contained HTML page';

CREATE FUNCTION mailchimp_sync.mc_reports_html() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_page('Campaigns', concat(E'<header>\n<h1>Campaigns</h1>\n<p class="soft">',
		mailchimp_sync.html_number(n.sent), ' sent, ', mailchimp_sync.html_number(n.waiting), E' not sent yet</p>\n</header>\n<main>\n',
		mailchimp_sync.html_section('waiting', 'Not sent yet', mailchimp_sync.reports_waiting()),
		mailchimp_sync.html_section('rates', 'Opened and clicked', mailchimp_sync.reports_chart()),
		coalesce(mailchimp_sync.html_section('sent', 'Sent', mailchimp_sync.reports_sent()), E'<p class="note">No campaign was sent yet.</p>\n'),
		E'</main>\n<footer><p>Rates are persons in percent of the delivered mails. ', mailchimp_sync.html_zone(), E'</p></footer>\n'))
	FROM (SELECT count(*) FILTER (WHERE s.is_sent) AS sent, count(*) FILTER (WHERE NOT s.is_sent) AS waiting FROM mailchimp_sync.reports_seen() s) n
$$;
