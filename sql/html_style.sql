/*
 * html_style.sql: how the pages look, on a screen of any width, light or dark, and on paper.
 *
 * Colours are variables: text has at least the contrast of WCAG AA on its ground in both schemes. Charts take
 * their colours from here, too.
 */
CREATE FUNCTION mailchimp_sync.html_style() RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $style$
	SELECT $$
:root { color-scheme: light dark; --paper: #f3f5f8; --card: #ffffff; --ink: #1a2027; --soft: #55606d; --line: #dbe1e8; --link: #0a58ad;
	--track: #eaeef3; --sent: #66717f; --opens: #1f5cc0; --machine: #6293e4; --clicks: #087350; --scanner: #35966f; --hard: #b93a2c; --warm: #b8730f; }
@media (prefers-color-scheme: dark) { :root { --paper: #0e1217; --card: #181d24; --ink: #e8edf3; --soft: #a3aebb; --line: #2f3843;
	--link: #86b8f8; --track: #262e38; --sent: #8f9bab; --opens: #6ba6f5; --machine: #4a76b8; --clicks: #43c698; --scanner: #2b8463; --hard: #f08a7f;
	--warm: #e2a94f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2rem 1rem 3rem; background: var(--paper); color: var(--ink);
	font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; overflow-wrap: break-word; }
bdi { overflow-wrap: anywhere; }
h1 { font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -.01em; margin: .25rem 0 .5rem; }
h2 { font-size: 1.1rem; margin: 0 0 .5rem; }
p { margin: .25rem 0; }
a { color: var(--link); text-underline-offset: .15em; }
.soft, caption, dt, thead th, small { color: var(--soft); }
code { font-size: .9em; }
header { padding: 0 .25rem; }
.over { font-size: .875rem; color: var(--soft); }
.state { border: 1px solid currentColor; border-radius: 1rem; padding: .05rem .6rem; margin-right: .35rem; font-size: .8125rem; white-space: nowrap; }
.state.sent { color: var(--clicks); } .state.failed { color: var(--hard); } .state.scheduled, .state.sending { color: var(--link); }
.ways { display: flex; flex-wrap: wrap; gap: .25rem 1.5rem; margin-top: .75rem; }
.note { border-left: 4px solid var(--warm); background: var(--card); border-radius: .5rem; padding: .6rem 1rem; margin: 1rem 0 0; }
.note.failed { border-color: var(--hard); white-space: pre-line; }
dl.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.25rem, 1fr)); gap: 1rem; margin: 1.25rem 0 0; }
dl.figures > div { background: var(--card); border: 1px solid var(--line); border-top: 4px solid var(--sent); border-radius: .75rem; padding: .75rem 1rem; }
dl.figures > .opens { border-top-color: var(--opens); } dl.figures > .clicks { border-top-color: var(--clicks); }
dl.figures > .hard { border-top-color: var(--hard); } dl.figures > .warm { border-top-color: var(--warm); }
dt { font-size: .875rem; } dd { margin: 0; font-size: 1.9rem; font-weight: 650; line-height: 1.25; font-variant-numeric: tabular-nums; white-space: nowrap; }
small { display: block; font-size: .8125rem; font-weight: normal; line-height: 1.45; white-space: normal; }
main { display: flex; flex-wrap: wrap; gap: 1rem; margin-top: 1rem; }
section { flex: 1 1 26rem; min-width: 0; background: var(--card); border: 1px solid var(--line); border-radius: .75rem; padding: 1rem 1.25rem 1.1rem; }
main > .figures, main > .note { flex: 1 1 100%; margin: 0; }
section.wide { flex-basis: 100%; }
.scroll { overflow-x: auto; } .scroll:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
table { border-collapse: collapse; width: 100%; font-size: .9375rem; }
caption { text-align: left; font-size: .875rem; padding-bottom: .4rem; }
th, td { text-align: left; vertical-align: top; padding: .4rem .75rem .4rem 0; border-top: 1px solid var(--line); font-weight: normal; }
th:last-child, td:last-child { padding-right: 0; }
thead th { font-size: .8125rem; border-top: 0; vertical-align: bottom; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
time { white-space: nowrap; }
svg { display: block; }
.share { display: flex; align-items: center; gap: .5rem; min-width: 7.5rem; }
.share svg { flex: 1 1 auto; width: 3rem; height: .85rem; } .share span { flex: 0 0 3.75rem; text-align: right; font-variant-numeric: tabular-nums; }
section.wide .share { min-width: 15rem; } .who th { width: 38%; } .waiting th { width: 55%; }
.funnel th, .funnel td { padding-top: .55rem; padding-bottom: .55rem; } .funnel .share svg { height: 1.4rem; }
.track { fill: var(--track); } .sent { fill: var(--sent); } .opens { fill: var(--opens); } .machine { fill: var(--machine); }
.clicks { fill: var(--clicks); } .scanner { fill: var(--scanner); } .hard { fill: var(--hard); } .warm { fill: var(--warm); }
.plot { display: flex; gap: .5rem; margin: .6rem 0 .4rem; } .chart { flex: 1; min-width: 0; } .chart svg { width: 100%; height: 11rem; }
.scale { display: flex; flex-direction: column; justify-content: space-between; height: 12.1rem; margin-top: -.55rem; text-align: right; }
.scale, .ticks { font-size: .75rem; color: var(--soft); font-variant-numeric: tabular-nums; line-height: 1.1rem; }
.ticks { position: relative; height: 1.4rem; padding-top: .3rem; } .ticks span { position: absolute; white-space: nowrap; } .ticks span + span { transform: translateX(-50%); }
.grid { stroke: var(--line); stroke-width: 1; shape-rendering: crispEdges; }
.keys { display: flex; flex-wrap: wrap; gap: 0 1.25rem; font-size: .875rem; margin-bottom: .5rem; }
table + .keys, .scroll + .keys { margin: .6rem 0 0; } section p.soft { font-size: .875rem; }
.key::before { content: ""; display: inline-block; width: .75em; height: .75em; border-radius: 2px; margin-right: .45em; background: var(--opens); }
.key.clicks::before { background: var(--clicks); } .key.machine::before { background: var(--machine); } .key.scanner::before { background: var(--scanner); }
.key.hard::before { background: var(--hard); } .key.warm::before { background: var(--warm); }
summary { cursor: pointer; color: var(--link); font-size: .875rem; padding: .35rem 0 0; }
footer { margin: 1.5rem .25rem 0; font-size: .875rem; color: var(--soft); }
.narrow { display: none; }
@media (max-width: 34rem) {
	body { padding: 1.25rem .75rem 2rem; } section { padding: .85rem .9rem; } dl.figures { gap: .6rem; margin-top: 1rem; }
	dl.figures > div { padding: .5rem .75rem .6rem; } dl.figures > div:first-child:nth-last-child(odd) { grid-column: 1 / -1; }
	dd { font-size: 1.5rem; } main { gap: .6rem; } table { font-size: .875rem; } th, td { padding-right: .5rem; }
	.share, section.wide .share { min-width: 3.75rem; flex-direction: column; align-items: stretch; gap: .2rem; } .share svg { flex: none; width: 100%; height: .6rem; }
	.links td:last-child { width: 1%; } .funnel .share svg { height: .8rem; } .share span { flex: none; order: -1; }
	.wider td:nth-child(n+2) { width: 1%; } time { white-space: normal; } .odd, .wider th:nth-child(n+4), .wider td:nth-child(n+4) { display: none; } .narrow { display: block; }
	.who th { width: auto; } .who thead { position: absolute; clip-path: inset(50%); } .who tr { display: grid; grid-template-columns: 1fr auto; border-top: 1px solid var(--line); padding: .4rem 0; }
	.who th, .who td { border: 0; padding: 0; } .who td:nth-child(2) { grid-area: 2 / 1 / 3 / 3; } .who td:nth-child(3) { grid-area: 1 / 2 / 2 / 3; color: var(--soft); padding-left: .75rem; }
}
@page { margin: 14mm; }
@media print {
	:root { color-scheme: light; --paper: #fff; --card: #fff; --ink: #000; --soft: #444; --line: #bbb; --link: #000; --track: #eee; --sent: #777;
		--opens: #1f5cc0; --machine: #6293e4; --clicks: #087350; --scanner: #35966f; --hard: #b93a2c; --warm: #b8730f; }
	body { max-width: none; padding: 0; font-size: 9.5pt; } header { padding: 0; } main { display: block; } dl.figures { grid-template-columns: repeat(5, 1fr); gap: 3mm; }
	dl.figures > div { padding: 2mm 3mm; } dd { font-size: 15pt; }
	section { border: 0; border-top: 1px solid var(--line); border-radius: 0; padding: 4mm 0; margin-top: 3mm; } h2, caption, thead { break-after: avoid; }
	table { font-size: 9pt; } .share, section.wide .share { min-width: 5.5rem; } tr, .plot, dl.figures, .keys { break-inside: avoid; } .scroll { overflow: visible; } details:not([open]) { display: none; }
	svg, dl.figures > div, .key::before { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
$$
$style$;
