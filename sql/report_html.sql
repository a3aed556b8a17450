/*
 * report_html.sql: the results of a campaign, and of all of them, as pages (N16).
 *
 * A page is one self-contained text: no script, no asset from elsewhere. The figures are those of mc_report, so they
 * are Mailchimp's own; what is drawn over time comes from our rows. Lists are cut to what somebody reads, whatever the
 * campaign's size, so that a page stays small; the drill-down functions give everything.
 */

/* ---- one campaign ---- */

CREATE FUNCTION mailchimp_sync.html_figure(_name text, _figure text, _detail text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<div><dt>%s</dt><dd>%s%s</dd></div>', _name, _figure, '<small>' || _detail || '</small>')
$$;

CREATE FUNCTION mailchimp_sync.report_head(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<header>\n<h1>%s</h1>\n<p>%s</p>\n<p class="soft">%s</p>\n</header>\n',
		mailchimp_sync.html_text(c.subject), format('from %s to %s', mailchimp_sync.html_text(concat_ws(' ', c.from_name,
			'<' || c.from_email || '>')), coalesce(mailchimp_sync.html_text(c.audience), 'an audience that was dropped')),
		concat_ws(' &middot; ', CASE WHEN c.name <> c.subject THEN mailchimp_sync.html_text(c.name) END,
			CASE WHEN c.sent_at IS NULL THEN format('not sent: %s', c.status)
				ELSE 'sent ' || mailchimp_sync.html_time(c.sent_at) END,
			mailchimp_sync.html_link(c.report_url, 'the report at Mailchimp')))
	FROM @extschema@.mc_campaign c WHERE c.campaign_id = _campaign
$$;

CREATE FUNCTION mailchimp_sync.report_figures(_r @extschema@.mc_report) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '<dl class="figures">' || concat(
		mailchimp_sync.html_figure('Sent', mailchimp_sync.html_number(_r.emails_sent), format('%s skipped', mailchimp_sync.html_number(_r.skipped))),
		mailchimp_sync.html_figure('Opened by', mailchimp_sync.html_number(_r.unique_opened),
			format('%s, %s opens', mailchimp_sync.html_percent(_r.open_rate), mailchimp_sync.html_number(_r.total_opened))),
		mailchimp_sync.html_figure('Clicked by', mailchimp_sync.html_number(_r.unique_clicked),
			format('%s, %s clicks', mailchimp_sync.html_percent(_r.click_rate), mailchimp_sync.html_number(_r.total_clicked))),
		mailchimp_sync.html_figure('Bounced', mailchimp_sync.html_number(_r.hard_bounces + _r.soft_bounces),
			format('%s for good', mailchimp_sync.html_number(_r.hard_bounces))),
		mailchimp_sync.html_figure('Unsubscribed', mailchimp_sync.html_number(_r.unsubscribed),
			format('%s complained', mailchimp_sync.html_number(_r.complaints))))
		|| E'</dl>\n'
$$;

-- sent, opened, clicked: persons, in percent of what was delivered
CREATE FUNCTION mailchimp_sync.report_funnel(_r @extschema@.mc_report) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Persons, and their share of the mails that left', ARRAY['step', '#persons', '#share', ''], array_agg(
		mailchimp_sync.html_row(s.step, '#' || mailchimp_sync.html_number(s.persons), '#' || mailchimp_sync.html_percent(s.share),
			mailchimp_sync.html_bar(s.share, s.class)) ORDER BY s.position))
	FROM (SELECT v.*, 100.0 * v.persons / nullif(_r.emails_sent, 0) AS share FROM (VALUES
		(1, 'sent', _r.emails_sent, 'sent'),
		(2, 'delivered', _r.emails_sent - _r.hard_bounces - _r.soft_bounces, 'sent'),
		(3, 'opened', _r.unique_opened, 'opens'),
		(4, 'clicked', _r.unique_clicked, 'clicks')) AS v(position, step, persons, class)) s
	WHERE _r.emails_sent > 0 AND _r.polled_at IS NOT NULL
$$;

/*
 * Opens and clicks over time: 48 pieces from the sending to the last of them, of a width that people know
 * (a quarter of an hour, an hour, ... weeks). Clicks are drawn before opens, on the same scale.
 */
CREATE FUNCTION mailchimp_sync.report_timeline_rows(_campaign bigint, OUT begins_at timestamptz, OUT width interval,
	OUT opens bigint, OUT clicks bigint)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH span AS (
		SELECT date_trunc('hour', least(c.sent_at, min(a.occurred_at)), 'UTC') AS first_at, max(a.occurred_at) AS last_at
		FROM mailchimp_sync.campaign c
		JOIN mailchimp_sync.activity a ON a.campaign_id = c.campaign_id AND a.type IN ('opened', 'clicked')
		WHERE c.campaign_id = _campaign GROUP BY c.sent_at
	), piece AS (
		SELECT s.*, coalesce((SELECT min(w) FROM unnest('{15 minutes,1 hour,3 hours,6 hours,12 hours,1 day,2 days,7 days,14 days,28 days}'::interval[]) w
			WHERE (s.last_at - s.first_at) < 48 * w), (s.last_at - s.first_at) / 47) AS width FROM span s
	), counted AS (
		SELECT date_bin(p.width, a.occurred_at, p.first_at) AS begins_at, count(*) FILTER (WHERE a.type = 'opened') AS opens,
			count(*) FILTER (WHERE a.type = 'clicked') AS clicks
		FROM piece p
		JOIN mailchimp_sync.activity a ON a.campaign_id = _campaign AND a.type IN ('opened', 'clicked')
		GROUP BY 1
	)
	SELECT g.at, p.width, coalesce(n.opens, 0), coalesce(n.clicks, 0)
	FROM piece p
	CROSS JOIN LATERAL generate_series(p.first_at, p.last_at, p.width) AS g(at)
	LEFT JOIN counted n ON n.begins_at = g.at
	ORDER BY g.at
$$;

CREATE FUNCTION mailchimp_sync.html_column(_position bigint, _pieces bigint, _count bigint, _most bigint, _class text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<rect class="%s" x="%s%%" width="%s%%" y="%s" height="%s"/>', _class,
		to_char(100.0 * (_position - 1) / _pieces + CASE _class WHEN 'clicks' THEN 45.0 ELSE 8.0 END / _pieces, 'FM990.00'),
		to_char(CASE _class WHEN 'clicks' THEN 40.0 ELSE 37.0 END / _pieces, 'FM990.00'),
		to_char(150 - 150.0 * _count / _most, 'FM990.0'), to_char(150.0 * _count / _most, 'FM990.0'))
	WHERE _count > 0
$$;

CREATE FUNCTION mailchimp_sync.report_timeline(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat('<p><span class="key">opens</span><span class="key clicks">clicks</span></p>',
		format(E'\n<svg class="chart" width="100%%" height="150" role="img" aria-label="Opens and clicks over time, at most %s in %s">',
			max(t.most), min(t.width)),
		string_agg(concat(mailchimp_sync.html_column(t.position, t.pieces, t.opens, t.most, 'opens'),
			mailchimp_sync.html_column(t.position, t.pieces, t.clicks, t.most, 'clicks')), '' ORDER BY t.position),
		E'</svg>\n<div class="axis"><span>', mailchimp_sync.html_time(min(t.begins_at)), '</span><span>',
		mailchimp_sync.html_time(max(t.begins_at) + min(t.width)), E'</span></div>\n<details><summary>Opens and clicks as a table</summary>',
		mailchimp_sync.html_table(format('In pieces of %s', min(t.width)), ARRAY['from', '#opens', '#clicks'], array_agg(
			mailchimp_sync.html_row(mailchimp_sync.html_time(t.begins_at), '#' || mailchimp_sync.html_number(t.opens),
				'#' || mailchimp_sync.html_number(t.clicks)) ORDER BY t.position) FILTER (WHERE t.opens + t.clicks > 0)),
		'</details>')
	FROM (SELECT r.*, row_number() OVER (ORDER BY r.begins_at) AS position, count(*) OVER () AS pieces,
			max(greatest(r.opens, r.clicks)) OVER () AS most
		FROM mailchimp_sync.report_timeline_rows(_campaign) r) t
	HAVING count(*) > 0
$$;

-- what a list leaves out
CREATE FUNCTION mailchimp_sync.html_rest(_shown bigint, _total bigint, _where text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<p class="soft">%s more: %s</p>', mailchimp_sync.html_number(_total - _shown), _where) WHERE _total > _shown
$$;

CREATE FUNCTION mailchimp_sync.report_links(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Clicks on each link, and by how many persons', ARRAY['link', '#clicks', '#persons', ''], array_agg(
			mailchimp_sync.html_row(mailchimp_sync.html_link(l.url), '#' || mailchimp_sync.html_number(l.clicks),
				'#' || mailchimp_sync.html_number(l.unique_clicks), mailchimp_sync.html_bar(100.0 * l.clicks / nullif(l.most, 0), 'clicks'))
			ORDER BY l.position))
		|| coalesce(mailchimp_sync.html_rest(count(*), min(l.total), format('mc_report_links(%s)', _campaign)), '')
	FROM (SELECT n.*, max(n.clicks) OVER () AS most, count(*) OVER () AS total,
			row_number() OVER (ORDER BY n.clicks DESC, n.url) AS position
		FROM mailchimp_sync.report_link n WHERE n.campaign_id = _campaign) l
	WHERE l.position <= 25 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_bounces(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Bounced mails by the domain of the address', ARRAY['domain', '#hard', '#soft', ''], array_agg(
			mailchimp_sync.html_row(mailchimp_sync.html_text(b.domain, 100), '#' || mailchimp_sync.html_number(b.hard),
				'#' || mailchimp_sync.html_number(b.soft), mailchimp_sync.html_bar(100.0 * (b.hard + b.soft) / b.most, 'bad'))
			ORDER BY b.position))
		|| coalesce(mailchimp_sync.html_rest(count(*), min(b.total), format('mc_report_bounces(%s)', _campaign)), '')
	FROM (SELECT n.*, max(n.hard + n.soft) OVER () AS most, count(*) OVER () AS total,
			row_number() OVER (ORDER BY n.hard + n.soft DESC, n.domain) AS position
		FROM (SELECT coalesce(lower(split_part(a.email, '@', 2)), 'erased') AS domain,
				count(*) FILTER (WHERE a.bounce_type = 'hard') AS hard, count(*) FILTER (WHERE a.bounce_type = 'soft') AS soft
			FROM mailchimp_sync.activity a WHERE a.campaign_id = _campaign AND a.type = 'bounced' GROUP BY 1) n) b
	WHERE b.position <= 20 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_unsubscribed(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Who unsubscribed, the latest first', ARRAY['address', 'when', 'reason'], array_agg(
			mailchimp_sync.html_row(coalesce(mailchimp_sync.html_text(u.email, 100), 'erased'), mailchimp_sync.html_time(u.occurred_at),
				coalesce(mailchimp_sync.html_text(u.reason, 160), '')) ORDER BY u.position))
		|| coalesce(mailchimp_sync.html_rest(count(*), min(u.total), 'mc_activity'), '')
	FROM (SELECT a.*, count(*) OVER () AS total, row_number() OVER (ORDER BY a.occurred_at DESC, a.email) AS position
		FROM mailchimp_sync.activity a WHERE a.campaign_id = _campaign AND a.type = 'unsubscribed') u
	WHERE u.position <= 50 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_skipped(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Selected, and not mailed', ARRAY['why', '#persons', ''], array_agg(
		mailchimp_sync.html_row(coalesce(w.words, s.skip_reason), '#' || mailchimp_sync.html_number(s.count),
			mailchimp_sync.html_bar(100.0 * s.count / s.most, 'sent')) ORDER BY s.count DESC, s.skip_reason))
	FROM (SELECT r.skip_reason, count(*) AS count, max(count(*)) OVER () AS most FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _campaign AND r.status = 'skipped' GROUP BY 1) s
	LEFT JOIN (VALUES ('opted_out', 'opted out'), ('no_email', 'has no address'), ('invalid_email', 'the address is not valid'),
		('duplicate', 'another recipient has the address'), ('refused', 'Mailchimp refused the address'),
		('not_linked', 'is not to be at Mailchimp'), ('not_member', 'is not a member of the audience'),
		('not_allowed', 'not among the addresses of a training connection'), ('unsubscribed', 'unsubscribed, or bounced before'))
		AS w(skip_reason, words) USING (skip_reason)
	HAVING count(*) > 0
$$;

CREATE FUNCTION @extschema@.mc_report_html(campaign bigint) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_html(bigint) IS
	'the results of a campaign as one self-contained HTML page with charts';

CREATE FUNCTION mailchimp_sync.mc_report_html(_campaign bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.campaign_of(_campaign);
	_r	@extschema@.mc_report;
BEGIN
	SELECT * INTO _r FROM @extschema@.mc_report r WHERE r.campaign_id = _campaign;
	RETURN mailchimp_sync.html_page(_c.name, concat(
		mailchimp_sync.report_head(_campaign),
		E'<main>\n', CASE WHEN _r.campaign_id IS NOT NULL THEN mailchimp_sync.report_figures(_r) END,
		mailchimp_sync.html_section('funnel', 'From the mail to the click', mailchimp_sync.report_funnel(_r)),
		mailchimp_sync.html_section('time', 'Opens and clicks over time', mailchimp_sync.report_timeline(_campaign)),
		mailchimp_sync.html_section('links', 'Links', mailchimp_sync.report_links(_campaign)),
		mailchimp_sync.html_section('bounces', 'Bounces', mailchimp_sync.report_bounces(_campaign)),
		mailchimp_sync.html_section('unsubscribed', 'Unsubscribed', mailchimp_sync.report_unsubscribed(_campaign)),
		mailchimp_sync.html_section('skipped', 'Not mailed', mailchimp_sync.report_skipped(_campaign)),
		E'</main>\n<footer class="soft">', CASE
			WHEN _r.polled_at IS NOT NULL THEN format('Figures as Mailchimp gave them at %s. Rates are percent of the delivered mails.', mailchimp_sync.html_time(_r.polled_at))
			ELSE 'Mailchimp has not been asked for figures yet.' END,
		E' Times are in the time zone ', mailchimp_sync.html_escape(current_setting('TimeZone'), 60), E'.</footer>\n'));
END
$$;

/* ---- all campaigns ---- */

CREATE FUNCTION @extschema@.mc_reports_html() RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_reports_html() IS
	'the campaigns that were sent, with their figures, as one self-contained HTML page';

CREATE FUNCTION mailchimp_sync.mc_reports_html() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_page('Campaigns', concat(E'<header><h1>Campaigns</h1></header>\n<main>\n', coalesce(
		mailchimp_sync.html_table('Sent campaigns, the latest first; rates in percent of the delivered mails',
			ARRAY['campaign', 'sent', '#mails', '#opened by', '', '#clicked by', '', '#bounced', '#unsubscribed'], array_agg(
			mailchimp_sync.html_row(mailchimp_sync.html_link(c.report_url, c.name), mailchimp_sync.html_time(c.sent_at),
				'#' || mailchimp_sync.html_number(c.emails_sent),
				'#' || mailchimp_sync.html_percent(c.open_rate), mailchimp_sync.html_bar(c.open_rate, 'opens'),
				'#' || mailchimp_sync.html_percent(c.click_rate), mailchimp_sync.html_bar(c.click_rate, 'clicks'),
				'#' || mailchimp_sync.html_number(c.hard_bounces + c.soft_bounces), '#' || mailchimp_sync.html_number(c.unsubscribed))
			ORDER BY c.position))
		|| coalesce(mailchimp_sync.html_rest(count(*), min(c.total), 'mc_report'), ''), '<p>No campaign was sent yet.</p>'),
		E'\n</main>\n'))
	FROM (SELECT r.*, l.sent_at, l.total, row_number() OVER (ORDER BY l.sent_at DESC NULLS LAST, l.campaign_id DESC) AS position
		FROM (SELECT k.campaign_id, k.sent_at, count(*) OVER () AS total
			FROM mailchimp_sync.campaign k JOIN mailchimp_sync.connection_of_caller() p USING (connection)
			WHERE k.status IN ('sending', 'sent') ORDER BY k.sent_at DESC NULLS LAST, k.campaign_id DESC LIMIT 100) l
		CROSS JOIN LATERAL (SELECT * FROM @extschema@.mc_report o WHERE o.campaign_id = l.campaign_id) r) c
$$;
