/*
 * reports_html.sql: all campaigns on a page, the way to find one of them (N16, R99).
 *
 * Those that are still to be sent, or failed, come first; then the sent ones with their rates. Of both the newest are
 * shown, and how many there are.
 */

-- the campaigns that the caller may see, a page's part of them; sent: those that were, else those that were not and still may be
CREATE FUNCTION mailchimp_sync.reports_newest(_sent boolean, _limit integer) RETURNS TABLE (campaign_id bigint, total bigint, number bigint)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.campaign_id, count(*) OVER () AS total,
		row_number() OVER (ORDER BY k.sent_at DESC NULLS FIRST, k.campaign_id DESC) AS number
	FROM mailchimp_sync.campaign k
	JOIN mailchimp_sync.connection_of_caller() p USING (connection)
	WHERE CASE WHEN _sent THEN k.status IN ('sending', 'sent') OR k.sent_at IS NOT NULL
		ELSE k.status NOT IN ('sending', 'sent', 'canceled', 'deleted') AND k.sent_at IS NULL END
	ORDER BY number LIMIT _limit
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
	JOIN @extschema@.mc_campaign c USING (campaign_id)
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
			array_agg(r.click_rate ORDER BY n.number DESC), '&nbsp;%'))
	FROM mailchimp_sync.reports_newest(true, 24) n
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	CROSS JOIN LATERAL (SELECT o.name, o.open_rate, o.click_rate, o.human_open_rate FROM @extschema@.mc_report o
		WHERE o.campaign_id = n.campaign_id) r
	HAVING count(r.open_rate) > 1
$$;

CREATE FUNCTION mailchimp_sync.reports_sent() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('The latest first', ARRAY['campaign', '#opened', '#clicked', '#mails', '#bounced', '#unsubscribed'],
			array_agg(mailchimp_sync.html_row(concat(mailchimp_sync.html_link(r.report_url, r.name),
					format('<small>Campaign %s, %s</small><small class="narrow">%s, %s bounced, %s unsubscribed</small>', n.campaign_id, mailchimp_sync.html_time(c.sent_at),
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
	CROSS JOIN LATERAL (SELECT o.name, o.emails_sent, o.open_rate, o.click_rate, o.hard_bounces, o.soft_bounces, o.unsubscribed, o.report_url
		FROM @extschema@.mc_report o WHERE o.campaign_id = n.campaign_id) r
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
	FROM (SELECT coalesce((SELECT w.total FROM mailchimp_sync.reports_newest(true, 1) w), 0) AS sent,
		coalesce((SELECT w.total FROM mailchimp_sync.reports_newest(false, 1) w), 0) AS waiting) n
$$;
