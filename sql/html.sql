/*
 * html.sql: pieces of the pages that report_html.sql and reports_html.sql make.
 *
 * Subject lines, names, addresses, reasons and links are other people's words: they come into a page through
 * html_text() or html_link() alone, which escape and shorten them. The page forbids itself scripts and everything that
 * would be fetched from elsewhere (Content-Security-Policy), should anything slip through nevertheless. It is ASCII
 * (html.c), whatever encoding it travels in.
 */

-- as text of an element or in double quotes; _length: shortened to so many characters
CREATE FUNCTION mailchimp_sync.html_escape(_text text, _length integer DEFAULT NULL) RETURNS text
LANGUAGE c STABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_html_escape';

-- words of others, which may run from right to left: they do not turn what stands around them
CREATE FUNCTION mailchimp_sync.html_text(_text text, _length integer DEFAULT 200) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<bdi>%s</bdi>', mailchimp_sync.html_escape(_text, _length)) WHERE _text IS NOT NULL
$$;

-- a web address that can be followed, if it is one and not overlong; else only its words. It is shown without the scheme.
CREATE FUNCTION mailchimp_sync.html_link(_url text, _words text DEFAULT NULL) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN length(u.href) <= 600 AND _url ~* '^https?://[^[:space:][:cntrl:]"<>\\^`{|}]+$'
		THEN format('<a href="%s" rel="noopener noreferrer nofollow">%s</a>', u.href,
			coalesce(mailchimp_sync.html_text(_words, 80), mailchimp_sync.html_text(regexp_replace(_url, '^https?://(.*?)/?$', '\1', 'i'), 80)))
		ELSE mailchimp_sync.html_text(coalesce(_words, _url), 80) END
	FROM (SELECT mailchimp_sync.html_escape(_url) AS href) u
$$;

CREATE FUNCTION mailchimp_sync.html_number(_number bigint) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(to_char(_number, 'FM999,999,999,999,999,990'), '&ndash;')
$$;

CREATE FUNCTION mailchimp_sync.html_percent(_share numeric) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(to_char(_share, 'FM999,990.0') || '&nbsp;%', '&ndash;')
$$;

-- so many of something, in the right number
CREATE FUNCTION mailchimp_sync.html_count(_number bigint, _one text, _many text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT concat(mailchimp_sync.html_number(_number), '&nbsp;', CASE _number WHEN 1 THEN _one ELSE _many END)
$$;

-- a span of whole minutes, hours or days
CREATE FUNCTION mailchimp_sync.html_span(_span interval) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN s.seconds % 86400 = 0 THEN mailchimp_sync.html_count(s.seconds / 86400, 'day', 'days')
		WHEN s.seconds % 3600 = 0 THEN mailchimp_sync.html_count(s.seconds / 3600, 'hour', 'hours')
		ELSE mailchimp_sync.html_count(s.seconds / 60, 'minute', 'minutes') END
	FROM (SELECT extract(epoch FROM _span)::bigint AS seconds) s
$$;

-- in the time zone of who asks, which the page names (html_zone)
CREATE FUNCTION mailchimp_sync.html_time(_at timestamptz, _format text DEFAULT 'FMDD Mon YYYY, HH24:MI') RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(format('<time datetime="%s">%s</time>', to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
		to_char(_at, _format)), '&ndash;')
$$;

CREATE FUNCTION mailchimp_sync.html_zone() RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('Times are in the time zone %s.', mailchimp_sync.html_escape(current_setting('TimeZone'), 60))
$$;

-- heads: the words of the columns, those that start with # are right-aligned; rows: cells that are HTML already; null: there are none
CREATE FUNCTION mailchimp_sync.html_table(_caption text, _heads text[], _rows text[], _class text DEFAULT 'plain') RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<div class="scroll" role="region" tabindex="0" aria-label="%1$s">\n'
			'<table class="%2$s"><caption>%1$s</caption><thead><tr>%3$s</tr></thead><tbody>\n%4$s</tbody></table></div>',
		_caption, _class,
		(SELECT string_agg(CASE WHEN h.head LIKE '#%' THEN format('<th scope="col" class="n">%s</th>', substr(h.head, 2))
			ELSE format('<th scope="col">%s</th>', h.head) END, '' ORDER BY h.position)
			FROM unnest(_heads) WITH ORDINALITY AS h(head, position)),
		array_to_string(_rows, E'\n'))
	WHERE _rows IS NOT NULL
$$;

-- a row: the first cell names it, numbers (#) are right-aligned
CREATE FUNCTION mailchimp_sync.html_row(VARIADIC _cells text[]) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<tr>%s</tr>', string_agg(CASE
			WHEN c.position = 1 THEN format('<th scope="row">%s</th>', c.cell)
			WHEN c.cell LIKE '#%' THEN format('<td class="n">%s</td>', substr(c.cell, 2))
			ELSE format('<td>%s</td>', c.cell) END, '' ORDER BY c.position))
	FROM unnest(_cells) WITH ORDINALITY AS c(cell, position)
$$;

-- what a list leaves out, and what has it all
CREATE FUNCTION mailchimp_sync.html_rest(_shown bigint, _total bigint, _where text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _total > _shown THEN format('<p class="soft">and %s more: <code>%s</code></p>',
		mailchimp_sync.html_number(_total - _shown), _where) ELSE '' END
$$;

-- a card of the page; null where there is nothing in it
CREATE FUNCTION mailchimp_sync.html_section(_id text, _heading text, _content text, _class text DEFAULT 'wide') RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<section class="%1$s" aria-labelledby="%2$s"><h2 id="%2$s">%3$s</h2>\n%4$s\n</section>\n', _class, _id, _heading, _content)
	WHERE _content <> ''
$$;

-- one of the large figures; details: what stands below it, null ones are left out
CREATE FUNCTION mailchimp_sync.html_figure(_class text, _name text, _figure text, VARIADIC _details text[] DEFAULT '{}') RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<div class="%s"><dt>%s</dt><dd>%s%s</dd></div>', _class, _name, _figure,
		(SELECT string_agg(format('<small>%s</small>', d), '' ORDER BY n) FROM unnest(_details) WITH ORDINALITY AS u(d, n)
			WHERE d IS NOT NULL))
$$;

CREATE FUNCTION mailchimp_sync.html_page(_title text, _body text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $page$
	SELECT format($$<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<meta name="color-scheme" content="light dark">
<title>%s</title>
<style>%s</style>
</head>
<body>
%s</body>
</html>
$$, mailchimp_sync.html_escape(_title, 200), mailchimp_sync.html_style(), _body)
$page$;
