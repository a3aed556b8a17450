/*
 * report_html.sql: the results of a campaign as a page (N16).
 *
 * A page is one self-contained text: no script, no asset from elsewhere. The figures are those of mc_report, so they
 * are Mailchimp's own; what is drawn over time comes from our rows. Lists are cut to what somebody reads, whatever the
 * campaign's size, so that a page stays small; the drill-down functions give everything.
 */

/* ---- head and figures ---- */

-- how far a campaign is, in a word
CREATE FUNCTION mailchimp_sync.report_state(_status text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<span class="state %s">%s</span>', _status, coalesce(w.words, _status))
	FROM (SELECT) x LEFT JOIN (VALUES ('preparing', 'being prepared'), ('prepared', 'ready to be sent'), ('sending', 'being sent'))
		AS w(status, words) ON w.status = _status
$$;

-- what there is to say of a campaign that was not sent; words of others in last_error
CREATE FUNCTION mailchimp_sync.report_unsent(_c @extschema@.mc_campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN _c.status = 'failed' THEN format(E'<p class="note failed">It was not sent: %s</p>\n',
			coalesce(mailchimp_sync.html_text(_c.last_error, 1500), 'the reason is not known'))
		WHEN _c.status = 'scheduled' THEN format(E'<p class="note">It is to be sent at %s.</p>\n', mailchimp_sync.html_time(_c.scheduled_for))
		WHEN _c.status = 'sending' OR _c.sent_at IS NOT NULL THEN E'<p class="note">Mailchimp has not been asked for its figures yet.</p>\n'
		WHEN _c.status IN ('canceled', 'deleted') THEN format(E'<p class="note">It was %s before it was sent.</p>\n', _c.status)
		ELSE E'<p class="note">It has not been sent yet. Figures come when it is.</p>\n' END
$$;

CREATE FUNCTION mailchimp_sync.report_head(_c @extschema@.mc_campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<header>\n<p class="over">%s Campaign %s%s</p>\n<h1>%s</h1>\n<p class="soft">%s</p>\n<p class="ways">%s</p>\n</header>\n',
		mailchimp_sync.report_state(_c.status), _c.campaign_id,
		CASE WHEN _c.name <> _c.subject THEN ' &middot; ' || mailchimp_sync.html_text(_c.name) END, mailchimp_sync.html_text(_c.subject),
		concat_ws(' &middot; ',
			'from ' || mailchimp_sync.html_text(nullif(concat_ws(' ', _c.from_name, '<' || _c.from_email || '>'), '')),
			coalesce('to ' || mailchimp_sync.html_text(_c.audience), 'to an audience that was dropped'),
			CASE WHEN _c.sent_at IS NOT NULL THEN 'sent ' || mailchimp_sync.html_time(_c.sent_at)
				ELSE 'made ' || mailchimp_sync.html_time(_c.created_at) END),
		(SELECT string_agg(mailchimp_sync.html_link(w.url, w.words), E'\n' ORDER BY w.words DESC) FROM (VALUES
			(_c.report_url, 'The report at Mailchimp'), (_c.archive_url, 'The mail'), (_c.edit_url, 'The campaign at Mailchimp')) AS w(url, words)
			WHERE w.url <> ''))
$$;

CREATE FUNCTION mailchimp_sync.report_figures(_r @extschema@.mc_report, _delivered bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '<dl class="figures">' || concat(
		mailchimp_sync.html_figure('sent', 'Delivered', mailchimp_sync.html_number(_delivered),
			format('of %s sent', mailchimp_sync.html_number(_r.emails_sent)), mailchimp_sync.html_number(_r.skipped) || ' not mailed'),
		mailchimp_sync.html_figure('opens', 'Opened', mailchimp_sync.html_percent(_r.open_rate),
			mailchimp_sync.html_count(_r.unique_opened, 'person', 'persons'), mailchimp_sync.html_count(_r.total_opened, 'open', 'opens'),
			CASE WHEN _r.machine_opened > 0 THEN 'people only: ' || mailchimp_sync.html_percent(_r.human_open_rate) END),
		mailchimp_sync.html_figure('clicks', 'Clicked', mailchimp_sync.html_percent(_r.click_rate),
			mailchimp_sync.html_count(_r.unique_clicked, 'person', 'persons'), mailchimp_sync.html_count(_r.total_clicked, 'click', 'clicks'),
			CASE WHEN _r.machine_clicked > 0 THEN 'people only: ' || mailchimp_sync.html_count(_r.total_clicked - _r.machine_clicked, 'click', 'clicks') END),
		mailchimp_sync.html_figure('hard', 'Bounced', mailchimp_sync.html_number(_r.hard_bounces + _r.soft_bounces),
			mailchimp_sync.html_number(_r.hard_bounces) || ' hard', mailchimp_sync.html_number(_r.soft_bounces) || ' soft'),
		mailchimp_sync.html_figure('warm', 'Unsubscribed', mailchimp_sync.html_number(_r.unsubscribed),
			mailchimp_sync.html_count(_r.complaints, 'complaint', 'complaints')))
		|| E'</dl>\n'
$$;

-- of a campaign without figures: whom it is for
CREATE FUNCTION mailchimp_sync.report_selection(_c @extschema@.mc_campaign) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '<dl class="figures">' || concat(
		mailchimp_sync.html_figure('sent', 'Recipients', mailchimp_sync.html_number(_c.recipients)),
		mailchimp_sync.html_figure('warm', 'Not mailed', mailchimp_sync.html_number(_c.skipped))) || E'</dl>\n'
$$;

/* ---- the funnel, and other campaigns ---- */

-- sent, delivered, opened, clicked: persons, each step in percent of the one before, drawn in percent of all
CREATE FUNCTION mailchimp_sync.report_funnel(_r @extschema@.mc_report, _delivered bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Persons, and their share of the step before', ARRAY['step', '#persons', '#share'], array_agg(
			mailchimp_sync.html_row(s.step, '#' || mailchimp_sync.html_number(s.persons), mailchimp_sync.chart_bar(
				mailchimp_sync.html_percent(100.0 * s.persons / nullif(s.before, 0)), s.class, 100.0 * (s.persons - s.machine) / _r.emails_sent,
				'machine', 100.0 * s.machine / _r.emails_sent)) ORDER BY s.position), 'funnel')
		|| CASE WHEN _r.machine_opened > 0 THEN format('<p class="keys"><span class="key machine">opened by a machine alone: %s; of the %s, %s by machines</span></p>',
			mailchimp_sync.html_number(max(s.machine)), mailchimp_sync.html_count(_r.total_opened, 'open', 'opens'),
			mailchimp_sync.html_number(_r.machine_opened)) ELSE '' END
	FROM (VALUES
		(1, 'sent', _r.emails_sent::bigint, NULL::bigint, 'sent', 0::bigint),
		(2, 'delivered', _delivered, _r.emails_sent, 'sent', 0),
		(3, 'opened', _r.unique_opened, _delivered, 'opens', coalesce(_r.unique_opened - _r.human_opened, 0)),
		(4, 'clicked', _r.unique_clicked, _r.unique_opened, 'clicks', 0)) AS s(position, step, persons, before, class, machine)
	WHERE _r.emails_sent > 0
$$;

CREATE FUNCTION mailchimp_sync.report_comparison(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table(format('This one beside the mean of %s before it', mailchimp_sync.html_count(min(c.earlier_campaigns), 'campaign', 'campaigns')),
		ARRAY['rate', '#this one', '#before', '#points'], array_agg(mailchimp_sync.html_row(s.name,
			mailchimp_sync.chart_bar(mailchimp_sync.html_percent(s.rate), s.class, 100 * s.rate / nullif(greatest(s.rate, s.before), 0)),
			mailchimp_sync.chart_bar(mailchimp_sync.html_percent(s.before), 'sent', 100 * s.before / nullif(greatest(s.rate, s.before), 0)),
			'#' || coalesce(to_char(round(s.rate, 1) - round(s.before, 1), 'FMSG990.0'), '&ndash;')) ORDER BY s.position))
	FROM @extschema@.mc_report_comparison c
	CROSS JOIN LATERAL (VALUES
		(1, 'opened', c.open_rate, c.earlier_open_rate, 'opens'), (2, 'clicked', c.click_rate, c.earlier_click_rate, 'clicks'),
		(3, 'bounced', c.bounce_rate, c.earlier_bounce_rate, 'hard'),
		(4, 'unsubscribed', c.unsubscribe_rate, c.earlier_unsubscribe_rate, 'warm')) AS s(position, name, rate, before, class)
	WHERE c.campaign_id = _campaign AND c.earlier_campaigns > 0
	HAVING count(*) > 0
$$;

/* ---- over time ---- */

/*
 * Opens and clicks over time, from the sending until 97 of 100 have come, three hours at least: at most 48 pieces of a width
 * that people know (a quarter of an hour, ... four weeks), and what came later in a last one that has no end. They begin at full
 * hours in the time zone of who asks, at midnight if they are days.
 */
CREATE FUNCTION mailchimp_sync.report_timeline_rows(_campaign bigint, OUT begins_at timestamptz, OUT width interval, OUT is_later boolean,
	OUT opens bigint, OUT clicks bigint, OUT machine_opens bigint, OUT machine_clicks bigint)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH span AS (
		SELECT least(c.sent_at, min(a.occurred_at)) AS first_at, greatest(least(c.sent_at, min(a.occurred_at)) + interval '3 hours',
			percentile_disc(0.97) WITHIN GROUP (ORDER BY a.occurred_at)) AS last_at
		FROM mailchimp_sync.campaign c
		JOIN mailchimp_sync.activity a ON a.campaign_id = c.campaign_id AND a.type IN ('opened', 'clicked')
		WHERE c.campaign_id = _campaign GROUP BY c.sent_at
	), sized AS (
		SELECT s.*, coalesce((SELECT min(w) FROM unnest('{15 minutes,30 minutes,1 hour,2 hours,3 hours,6 hours,12 hours,1 day,2 days,7 days,14 days,28 days}'::interval[]) w
			WHERE s.last_at - s.first_at < 43 * w), interval '1 day' * ceil(extract(epoch FROM s.last_at - s.first_at) / 86400 / 43)::integer) AS width
		FROM span s
	), piece AS (
		SELECT s.width, b.first_at, ceil(extract(epoch FROM s.last_at - b.first_at + interval '1 second') / extract(epoch FROM s.width))::integer AS pieces
		FROM sized s
		CROSS JOIN LATERAL (SELECT date_trunc(CASE WHEN s.width < '1 day' THEN 'hour' ELSE 'day' END, s.first_at) AS first_at) b
	), counted AS (
		SELECT least(floor(extract(epoch FROM a.occurred_at - p.first_at) / extract(epoch FROM p.width))::integer, p.pieces) AS n,
			count(*) FILTER (WHERE a.type = 'opened') AS opens, count(*) FILTER (WHERE a.type = 'clicked') AS clicks,
			count(*) FILTER (WHERE a.type = 'opened' AND a.machine) AS machine_opens, count(*) FILTER (WHERE a.type = 'clicked' AND a.machine) AS machine_clicks
		FROM piece p
		JOIN mailchimp_sync.activity a ON a.campaign_id = _campaign AND a.type IN ('opened', 'clicked')
		GROUP BY 1
	)
	SELECT p.first_at + n * extract(epoch FROM p.width) * interval '1 second', p.width, n = p.pieces, coalesce(k.opens, 0), coalesce(k.clicks, 0),
		coalesce(k.machine_opens, 0), coalesce(k.machine_clicks, 0)
	FROM piece p
	CROSS JOIN LATERAL generate_series(0, p.pieces) AS n
	LEFT JOIN counted k USING (n)
	WHERE n < p.pieces OR k.n IS NOT NULL
	ORDER BY n
$$;

-- the same, as what is drawn and said
CREATE FUNCTION mailchimp_sync.report_timeline_words(_campaign bigint, OUT begins_at timestamptz, OUT width interval, OUT is_later boolean,
	OUT opens bigint, OUT clicks bigint, OUT machine_opens bigint, OUT machine_clicks bigint, OUT machines bigint, OUT tick text, OUT words text)
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT r.*, (sum(r.machine_opens + r.machine_clicks) OVER ())::bigint,
		to_char(r.begins_at, CASE WHEN r.width < '1 day' THEN 'FMDD Mon HH24:MI' ELSE 'FMDD Mon YYYY' END),
		concat(to_char(r.begins_at, 'FMDD Mon YYYY, HH24:MI: '), mailchimp_sync.html_count(r.opens, 'open', 'opens'), ', ',
			mailchimp_sync.html_count(r.clicks, 'click', 'clicks'),
			CASE WHEN r.machine_opens + r.machine_clicks > 0 THEN format('; %s by machines', mailchimp_sync.html_number(r.machine_opens + r.machine_clicks)) END)
	FROM mailchimp_sync.report_timeline_rows(_campaign) r
$$;

CREATE FUNCTION mailchimp_sync.report_timeline(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat('<p class="keys"><span class="key">opens</span><span class="key clicks">clicks</span>',
		CASE WHEN sum(t.machine_opens) > 0 THEN '<span class="key machine">opens by machines</span>' END,
		CASE WHEN sum(t.machine_clicks) > 0 THEN '<span class="key scanner">clicks by machines</span>' END, '</p>',
		mailchimp_sync.chart_columns(format('Opens and clicks over time in pieces of %s; the first, %s', mailchimp_sync.html_span(min(t.width)),
				(array_agg(t.words ORDER BY t.begins_at))[1]),
			array_agg(t.tick ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later), array_agg(t.words ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later),
			array_agg(t.opens::numeric ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later),
			array_agg(t.machine_opens::numeric ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later),
			array_agg(t.clicks::numeric ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later),
			array_agg(t.machine_clicks::numeric ORDER BY t.begins_at) FILTER (WHERE NOT t.is_later)),
		E'\n<p class="soft">and later, from ' || max(t.words) FILTER (WHERE t.is_later) || '</p>',
		E'\n<details><summary>The same as a table</summary>',
		mailchimp_sync.html_table(format('Opens and clicks in pieces of %s', mailchimp_sync.html_span(min(t.width))),
			ARRAY['from', '#opens', '#clicks'] || CASE WHEN max(t.machines) > 0 THEN '{#by machines}'::text[] END,
			array_agg(mailchimp_sync.html_row(VARIADIC ARRAY[mailchimp_sync.html_time(t.begins_at) || CASE WHEN t.is_later THEN ' on' ELSE '' END,
					'#' || mailchimp_sync.html_number(t.opens), '#' || mailchimp_sync.html_number(t.clicks)]
				|| CASE WHEN t.machines > 0 THEN ARRAY['#' || mailchimp_sync.html_number(t.machine_opens + t.machine_clicks)] END)
				ORDER BY t.begins_at) FILTER (WHERE t.opens + t.clicks > 0)),
		'</details>')
	FROM mailchimp_sync.report_timeline_words(_campaign) t
	HAVING count(*) > 0
$$;

/* ---- lists ---- */

CREATE FUNCTION mailchimp_sync.report_links(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Clicks on each link, and by how many persons', ARRAY['link', '#clicks', '#persons', '#share'], array_agg(
			mailchimp_sync.html_row(mailchimp_sync.html_link(l.url), '#' || mailchimp_sync.html_number(l.clicks),
				'#' || mailchimp_sync.html_number(l.unique_clicks), mailchimp_sync.chart_bar(
					mailchimp_sync.html_percent(100.0 * l.clicks / nullif(l.all_clicks, 0)), 'clicks', 100.0 * l.clicks / nullif(l.all_clicks, 0)))
			ORDER BY l.position), 'links')
		|| mailchimp_sync.html_rest(count(*), min(l.total), format('mc_report_links(%s)', _campaign))
	FROM (SELECT n.*, sum(n.clicks) OVER () AS all_clicks, count(*) OVER () AS total,
			row_number() OVER (ORDER BY n.clicks DESC, n.url) AS position
		FROM mailchimp_sync.report_link n WHERE n.campaign_id = _campaign) l
	WHERE l.position <= 25 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_bounces(_r @extschema@.mc_report) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<p class="keys"><span class="key hard">%s hard: the address cannot be reached for good</span>'
			'<span class="key warm">%s soft: it could not be reached this time</span></p>', mailchimp_sync.html_number(_r.hard_bounces),
			mailchimp_sync.html_number(_r.soft_bounces))
		|| mailchimp_sync.html_table('By the domain of the address', ARRAY['domain', '#hard', '#soft', '#share'], array_agg(
			mailchimp_sync.html_row(coalesce(mailchimp_sync.html_text(b.domain, 80), 'erased'), '#' || mailchimp_sync.html_number(b.hard),
				'#' || mailchimp_sync.html_number(b.soft), mailchimp_sync.chart_bar(mailchimp_sync.html_percent(100.0 * (b.hard + b.soft) / b.bounces),
					'hard', 100.0 * b.hard / b.bounces, 'warm', 100.0 * b.soft / b.bounces))
			ORDER BY b.position))
		|| mailchimp_sync.html_rest(count(*), min(b.total), format('mc_report_bounces(%s)', _r.campaign_id))
	FROM (SELECT n.*, sum(n.hard + n.soft) OVER () AS bounces, count(*) OVER () AS total,
			row_number() OVER (ORDER BY n.hard + n.soft DESC, n.hard DESC, n.domain) AS position
		FROM (SELECT lower(substring(a.email FROM '@([^@]*)$')) AS domain,
				count(*) FILTER (WHERE a.bounce_type = 'hard') AS hard, count(*) FILTER (WHERE a.bounce_type = 'soft') AS soft
			FROM mailchimp_sync.activity a WHERE a.campaign_id = _r.campaign_id AND a.type = 'bounced' GROUP BY 1) n) b
	WHERE b.position <= 20 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_unsubscribed(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('The latest first', ARRAY['who', 'reason', 'when'], array_agg(
			mailchimp_sync.html_row(coalesce(mailchimp_sync.html_text(u.email, 100), 'erased') || coalesce(
					format('<small>%s</small>', mailchimp_sync.html_text(s.source || ' ' || u.contact_key, 50)), ''),
				coalesce(mailchimp_sync.html_text(u.reason, 150), '&ndash;'), mailchimp_sync.html_time(u.occurred_at)) ORDER BY u.position), 'who')
		|| mailchimp_sync.html_rest(count(*), min(u.total), format('mc_activity, campaign_id %s', _campaign))
	FROM (SELECT a.*, count(*) OVER () AS total, row_number() OVER (ORDER BY a.occurred_at DESC, a.email) AS position
		FROM mailchimp_sync.activity a WHERE a.campaign_id = _campaign AND a.type = 'unsubscribed') u
	LEFT JOIN mailchimp_sync.source s USING (source_id)
	WHERE u.position <= 40 HAVING count(*) > 0
$$;

CREATE FUNCTION mailchimp_sync.report_skipped(_campaign bigint) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.html_table('Selected, but not mailed', ARRAY['why', '#persons', '#share'], array_agg(
		mailchimp_sync.html_row(coalesce(w.words, s.skip_reason), '#' || mailchimp_sync.html_number(s.count), mailchimp_sync.chart_bar(
			mailchimp_sync.html_percent(100.0 * s.count / s.skipped), 'sent', 100.0 * s.count / s.skipped)) ORDER BY s.count DESC, s.skip_reason))
	FROM (SELECT r.skip_reason, count(*) AS count, sum(count(*)) OVER () AS skipped FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _campaign AND r.status = 'skipped' GROUP BY 1) s
	LEFT JOIN (VALUES ('opted_out', 'opted out'), ('no_email', 'no address'), ('invalid_email', 'the address is not valid'),
		('duplicate', 'another recipient has the address'), ('refused', 'Mailchimp refused the address'),
		('not_linked', 'is not to be at Mailchimp'), ('not_member', 'not a member of the audience'),
		('not_allowed', 'not among the addresses of a training connection'), ('unsubscribed', 'unsubscribed, or bounced before'))
		AS w(skip_reason, words) USING (skip_reason)
	HAVING count(*) > 0
$$;

/* ---- the page ---- */

CREATE FUNCTION @extschema@.mc_report_html(campaign bigint) RETURNS text
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_report_html(bigint) IS
	'the results of a campaign as one self-contained HTML page with charts';

CREATE FUNCTION mailchimp_sync.report_foot(_r @extschema@.mc_report) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat('<footer><p>', CASE WHEN _r.polled_at IS NOT NULL THEN
		format('Figures as Mailchimp gave them on %s. Rates of opening and clicking are persons in percent of the delivered mails. '
			'Who opens is noticed by an image in the mail, which some people never load and some mail programs load by themselves. ',
			mailchimp_sync.html_time(_r.polled_at)) END, mailchimp_sync.html_zone(), E'</p></footer>\n')
$$;

CREATE FUNCTION mailchimp_sync.mc_report_html(_campaign bigint) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			@extschema@.mc_campaign;
	_r			@extschema@.mc_report;
	_delivered	bigint;
BEGIN
	PERFORM mailchimp_sync.campaign_of(_campaign);
	SELECT * INTO _c FROM @extschema@.mc_campaign c WHERE c.campaign_id = _campaign;
	SELECT * INTO _r FROM @extschema@.mc_report r WHERE r.campaign_id = _campaign AND r.polled_at IS NOT NULL;
	SELECT r.emails_sent - r.hard_bounces - r.soft_bounces - r.syntax_errors INTO _delivered
	FROM mailchimp_sync.report r WHERE r.campaign_id = _campaign;
	RETURN mailchimp_sync.html_page(_c.name, concat(mailchimp_sync.report_head(_c), E'<main>\n',
		CASE WHEN _delivered IS NULL THEN mailchimp_sync.report_unsent(_c) || mailchimp_sync.report_selection(_c)
			ELSE mailchimp_sync.report_figures(_r, _delivered) END,
		'<p class="note">' || mailchimp_sync.html_escape(_r.note) || E'</p>\n',
		mailchimp_sync.html_section('funnel', 'From the mail to the click', mailchimp_sync.report_funnel(_r, _delivered), 'half'),
		mailchimp_sync.html_section('comparison', 'Beside earlier campaigns', mailchimp_sync.report_comparison(_campaign), 'half'),
		mailchimp_sync.html_section('time', 'Opens and clicks over time', mailchimp_sync.report_timeline(_campaign)),
		mailchimp_sync.html_section('links', 'Links', mailchimp_sync.report_links(_campaign)),
		mailchimp_sync.html_section('bounces', 'Bounces', mailchimp_sync.report_bounces(_r), 'half'),
		mailchimp_sync.html_section('skipped', 'Not mailed', mailchimp_sync.report_skipped(_campaign), 'half'),
		mailchimp_sync.html_section('unsubscribed', 'Unsubscribed', mailchimp_sync.report_unsubscribed(_campaign)),
		E'</main>\n', mailchimp_sync.report_foot(_r)));
END
$$;
