/*
 * chart.sql: charts of the pages, as SVG within the page.
 *
 * They are drawn in percent of their width, with letters of the page's own size, so that nothing shrinks on a phone. A chart
 * says in one sentence what it shows (to who cannot see it), and its figures are in a table beside or below it.
 */

CREATE FUNCTION mailchimp_sync.chart_percent(_share numeric) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT to_char(least(greatest(coalesce(_share, 0), 0), 100), 'FM990.09') || '%'
$$;

-- a horizontal bar with its words; where a second share is given it goes on from the first one, in another colour
CREATE FUNCTION mailchimp_sync.chart_bar(_words text, _class text, _share numeric, _class2 text DEFAULT NULL, _share2 numeric DEFAULT NULL)
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<div class="share"><svg aria-hidden="true"><rect class="track" width="100%%" height="100%%" rx="3"/>'
		'<rect class="%s" width="%s" height="100%%" rx="3"/>%s</svg><span>%s</span></div>', _class, mailchimp_sync.chart_percent(_share),
		CASE WHEN _share2 > 0 THEN format('<rect class="%s" x="%s" width="%s" height="100%%" rx="3"/>', _class2,
			mailchimp_sync.chart_percent(_share), mailchimp_sync.chart_percent(_share2)) END, _words)
$$;

-- the end of the scale: a round number that can be halved, from 2 on
CREATE FUNCTION mailchimp_sync.chart_top(_most numeric) RETURNS numeric
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT min(s * 10 ^ e)::bigint::numeric
	FROM unnest('{2,4,6,8,10,12,16}'::numeric[]) s, generate_series(0, 15) e WHERE s * 10 ^ e >= coalesce(_most, 0)
$$;

-- a column from a height on; heights in percent of the scale
CREATE FUNCTION mailchimp_sync.chart_column(_class text, _x numeric, _width numeric, _from numeric, _height numeric) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<rect class="%s" x="%s" width="%s" y="%s" height="%s"/>', _class, mailchimp_sync.chart_percent(_x),
		mailchimp_sync.chart_percent(_width), mailchimp_sync.chart_percent(100 - _from - _height), mailchimp_sync.chart_percent(_height))
	WHERE _height > 0
$$;

-- words below four of the columns, below two where there is little room
CREATE FUNCTION mailchimp_sync.chart_ticks(_ticks text[], _places integer) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT string_agg(format('<span%s style="left: %s">%s</span>', CASE WHEN t.quarter % 2 = 1 THEN ' class="odd"' END,
		mailchimp_sync.chart_percent(100.0 * (t.position - 1) / _places), _ticks[t.position]), '' ORDER BY t.position)
	FROM (SELECT 1 + q * greatest(cardinality(_ticks) / 4, 1) AS position, q AS quarter FROM generate_series(0, 3) q) t
	WHERE t.position <= cardinality(_ticks)
$$;

/*
 * Columns of opens and, beside each, of clicks; of both the machines' are at the top, in another shade (null: it is not known). Each has
 * words for below it and words that the pointer shows; _unit: '%' or nothing.
 */
CREATE FUNCTION mailchimp_sync.chart_columns(_label text, _ticks text[], _words text[], _opens numeric[], _machine_opens numeric[],
	_clicks numeric[], _machine_clicks numeric[] DEFAULT NULL, _unit text DEFAULT '')
RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<div class="plot"><div class="scale" aria-hidden="true"><span>%1$s%2$s</span><span>%3$s%2$s</span><span>0%2$s</span></div>\n'
			'<div class="chart"><svg role="img" aria-label="%4$s"><line class="grid" x2="100%%" y1=".5" y2=".5"/>'
			'<line class="grid" x2="100%%" y1="50%%" y2="50%%"/><line class="grid" x2="100%%" y1="100%%" y2="100%%"/>%5$s</svg>'
			'<div class="ticks" aria-hidden="true">%6$s</div></div></div>', mailchimp_sync.html_number(s.top::bigint), _unit,
		mailchimp_sync.html_number((s.top / 2)::bigint), _label,
		(SELECT string_agg(concat('<g><title>', u.words, '</title>',
				mailchimp_sync.chart_column('opens', (u.n - 0.92) * s.slot, 0.40 * s.slot, 0, (u.opens - u.machine) * 100 / s.top),
				mailchimp_sync.chart_column('machine', (u.n - 0.92) * s.slot, 0.40 * s.slot, (u.opens - u.machine) * 100 / s.top, u.machine * 100 / s.top),
				mailchimp_sync.chart_column('clicks', (u.n - 0.48) * s.slot, 0.40 * s.slot, 0, (u.clicks - u.scanner) * 100 / s.top),
				mailchimp_sync.chart_column('scanner', (u.n - 0.48) * s.slot, 0.40 * s.slot, (u.clicks - u.scanner) * 100 / s.top, u.scanner * 100 / s.top),
				'</g>'), E'\n' ORDER BY u.n)
			FROM unnest(_words, _opens, _machine_opens, _clicks, _machine_clicks) WITH ORDINALITY AS v(words, opens, machine_opens, clicks, machine_clicks, n),
				LATERAL (SELECT v.*, coalesce(v.machine_opens, 0) AS machine, coalesce(v.machine_clicks, 0) AS scanner) u
			WHERE u.opens > 0 OR u.clicks > 0),
		mailchimp_sync.chart_ticks(_ticks, s.places))
	FROM (SELECT mailchimp_sync.chart_top(greatest(o.most, c.most)) AS top, greatest(cardinality(_words), 12) AS places,
			100.0 / greatest(cardinality(_words), 12) AS slot
		FROM (SELECT max(v) AS most FROM unnest(_opens) v) o, (SELECT max(v) AS most FROM unnest(_clicks) v) c) s
$$;
