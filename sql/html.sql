/*
 * html.sql: pieces of the pages that report_html.sql makes.
 *
 * Subject lines, names, addresses, reasons and links are other people's words: they come into a page through
 * html_text() or html_link() alone, which escape and shorten them. The page forbids itself scripts and everything that
 * would be fetched from elsewhere (Content-Security-Policy), should anything slip through nevertheless. Charts are
 * drawn in percent of their width and carry no text, so that nothing shrinks on a phone; their figures stand in a table beside them.
 */

-- as text of an element or in double quotes; _length: shortened to so many characters
CREATE FUNCTION mailchimp_sync.html_escape(_text text, _length integer DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT replace(replace(replace(replace(replace(
		regexp_replace(CASE WHEN length(_text) > _length THEN left(_text, _length - 1) || '...' ELSE _text END,
			'[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]', ' ', 'g'),
		'&', '&amp;'), '<', '&lt;'), '>', '&gt;'), '"', '&quot;'), '''', '&#39;')
$$;

-- words of others, which may run from right to left: they do not turn what stands around them; null: there are none
CREATE FUNCTION mailchimp_sync.html_text(_text text, _length integer DEFAULT 200) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT '<bdi>' || mailchimp_sync.html_escape(_text, _length) || '</bdi>'
$$;

-- a web address that can be followed, if it is one and not overlong; else only its words
CREATE FUNCTION mailchimp_sync.html_link(_url text, _words text DEFAULT NULL) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN length(_url) <= 300 AND _url ~* '^https?://[^[:space:][:cntrl:]"<>\\^`{|}]+$'
		THEN format('<a href="%s" rel="noopener noreferrer nofollow">%s</a>', mailchimp_sync.html_escape(_url), t.words)
		ELSE t.words END
	FROM (SELECT mailchimp_sync.html_text(coalesce(_words, _url), 120) AS words) t
$$;

CREATE FUNCTION mailchimp_sync.html_number(_number bigint) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(to_char(_number, 'FM999,999,999,999,990'), '&ndash;')
$$;

CREATE FUNCTION mailchimp_sync.html_percent(_share numeric) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(to_char(_share, 'FM990.0') || '&nbsp;%', '&ndash;')
$$;

-- in the time zone of who asks
CREATE FUNCTION mailchimp_sync.html_time(_at timestamptz) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(format('<time datetime="%s">%s</time>', to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
		to_char(_at, 'YYYY-MM-DD HH24:MI')), '&ndash;')
$$;

-- a horizontal bar; its figure stands beside it
CREATE FUNCTION mailchimp_sync.html_bar(_share numeric, _class text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<svg class="bar" width="100%%" height="12" aria-hidden="true"><rect class="track" width="100%%" height="12" rx="3"/>'
		'<rect class="%s" width="%s%%" height="12" rx="3"/></svg>', _class, to_char(least(greatest(coalesce(_share, 0), 0), 100), 'FM990.00'))
$$;

-- heads: the words of the columns, those that start with # are right-aligned, '' heads bars; rows: cells that are HTML already; null: there is nothing
CREATE FUNCTION mailchimp_sync.html_table(_caption text, _heads text[], _rows text[]) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('<div class="scroll" role="region" tabindex="0" aria-label="%s"><table><caption>%1$s</caption><thead><tr>%s</tr></thead><tbody>%s</tbody></table></div>',
		_caption,
		(SELECT string_agg(CASE WHEN h.head LIKE '#%' THEN format('<th scope="col" class="n">%s</th>', substr(h.head, 2))
			WHEN h.head = '' THEN '<td></td>'
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

CREATE FUNCTION mailchimp_sync.html_section(_id text, _heading text, _content text) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(E'<section aria-labelledby="%s"><h2 id="%1$s">%s</h2>\n%s\n</section>\n', _id, _heading, _content)
	WHERE _content <> ''
$$;

CREATE FUNCTION mailchimp_sync.html_page(_title text, _body text) RETURNS text
LANGUAGE sql IMMUTABLE
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
<style>
:root { color-scheme: light dark; --paper: #ffffff; --card: #f5f6f8; --ink: #1b1f24; --soft: #525b66; --line: #d5dae1; --link: #0a58ad;
	--sent: #6b7684; --opens: #2a6fc9; --clicks: #0f8a5f; --bad: #b3382c; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --card: #1e2329; --ink: #e9edf2; --soft: #a7b1bd; --line: #38414b;
	--link: #8abaf5; --sent: #8d99a8; --opens: #6aa5f2; --clicks: #45c495; --bad: #ef8378; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1.5rem 1rem 3rem; background: var(--paper); color: var(--ink);
	font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .75rem; }
p { margin: .25rem 0; } .soft, caption, dt { color: var(--soft); } a { color: var(--link); }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .75rem; margin: 1.5rem 0 0; }
dl.figures > div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .6rem .8rem; }
dt { font-size: .875rem; } dd { margin: 0; font-size: 1.5rem; font-variant-numeric: tabular-nums; }
dd small { display: block; font-size: .875rem; color: var(--soft); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%%; }
caption { text-align: left; font-size: .875rem; padding-bottom: .25rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .6rem .35rem 0; border-top: 1px solid var(--line); font-weight: normal; }
th[scope=row] { min-width: 8rem; } bdi { overflow-wrap: anywhere; } td time { white-space: nowrap; }
thead th { color: var(--soft); font-size: .875rem; } thead th, thead td { border-top: 0; } .n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td:has(> svg.bar) { min-width: 3.5rem; width: 40%%; } svg { display: block; } .bar { margin-top: .4rem; }
.chart { border-bottom: 1px solid var(--line); } .axis { display: flex; justify-content: space-between; gap: 1rem; font-size: .875rem; color: var(--soft); }
.track { fill: var(--card); } .sent { fill: var(--sent); } .opens { fill: var(--opens); } .clicks { fill: var(--clicks); } .bad { fill: var(--bad); }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .4em; background: var(--opens); }
.key.clicks::before { background: var(--clicks); } .key { margin-right: 1.25rem; }
@media (max-width: 34rem) { td time { white-space: normal; } td:has(> svg.bar) { width: 20%%; } }
summary { cursor: pointer; color: var(--link); padding: .35rem 0; }
footer { margin-top: 2.5rem; font-size: .875rem; }
@media print { :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --link: #000; --sent: #888; --opens: #2a6fc9; --clicks: #0f8a5f; --bad: #b3382c; }
	body { max-width: none; padding: 0; font-size: 10pt; } section { break-inside: avoid-page; } .scroll { overflow: visible; }
	table, caption, thead th { font-size: 9pt; } td:has(> svg.bar) { min-width: 2rem; }
	svg rect { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
</style>
</head>
<body>
%s</body>
</html>
$$, mailchimp_sync.html_escape(_title, 200), _body)
$page$;
