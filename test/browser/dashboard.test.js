// The dashboard for Grafana: every query of the file runs as a reader, against the campaigns of data.sql, with Grafana's macros and variables
// replaced as Grafana's documentation says.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { readFileSync } from 'node:fs';
import { query } from './browser.js';

const text = readFileSync(new URL('../../contrib/grafana/mailchimp_sync.json', import.meta.url), 'utf8');
const dashboard = JSON.parse(text);
const panels = dashboard.panels.filter((panel) => panel.type !== 'row');
const variables = dashboard.templating.list;
const uid = `\${${dashboard.__inputs[0].name}}`;
const march = { from: '2026-03-01T00:00:00Z', to: '2026-04-01T00:00:00Z', connection: ['mc_main', "it's none"], campaign: '1' };

function asGrafana(sql, { from, to, connection, campaign }) {
  const quoted = (value) => `'${value.replaceAll("'", "''")}'`;
  return sql
    .replace(/\$__timeFilter\(([\w.]+)\)/g, `$1 BETWEEN '${from}' AND '${to}'`)
    .replace(/\$__timeGroupAlias\(([\w.]+), *(?:\$__interval|'1d')\)/g, 'floor(extract(epoch from $1)/3600)*3600 AS "time"')
    .replaceAll('${connection:sqlstring}', connection.map(quoted).join(','))
    .replaceAll('${campaign:sqlstring}', quoted(campaign));
}

// Columns with their types, and rows.
function run(sql, given = march, as = 'ron') {
  const ready = asGrafana(sql, given);
  assert.doesNotMatch(ready, /\$\{|\$__|\$[a-z]/, 'no macro is left that this test does not know');
  const described = query(`${ready}\n\\gdesc`, { as }).split('\n').map((line) => line.split('|'));
  return {
    columns: described.map(([name]) => name),
    types: Object.fromEntries(described),
    rows: JSON.parse(query(`BEGIN READ ONLY; SELECT coalesce(json_agg(x), '[]') FROM (${ready}) x; COMMIT`, { as })),
  };
}

const titled = (title) => panels.find((panel) => panel.title === title).targets[0].rawSql;

test('the file is one that Grafana imports into any installation', () => {
  assert.deepEqual(dashboard.__inputs.map((input) => [input.type, input.pluginId]), [['datasource', 'grafana-postgresql-datasource']]);
  const sources = [...variables, ...panels, ...panels.flatMap((panel) => panel.targets)].map((one) => one.datasource);
  for (const source of sources) assert.deepEqual(source, { type: 'grafana-postgresql-datasource', uid });
  assert.doesNotMatch(text, /https?:|localhost|\d+\.\d+\.\d+\.\d+/, 'no host');
  assert.equal(dashboard.id, null);
  assert.equal(new Set(dashboard.panels.map((panel) => panel.id)).size, dashboard.panels.length);
  const required = dashboard.__requires.filter((one) => one.type === 'panel').map((one) => one.id);
  assert.deepEqual(required.sort(), [...new Set(panels.map((panel) => panel.type))].sort());
  const taken = new Set();
  for (const { gridPos: { x, y, w, h }, title } of dashboard.panels) {
    assert.ok(x + w <= 24, title);
    for (let i = x; i < x + w; i++) {
      for (let j = y; j < y + h; j++) {
        assert.ok(!taken.has(`${i} ${j}`), `${title} lies on another`);
        taken.add(`${i} ${j}`);
      }
    }
  }
});

test('every variable offers something (N7)', async (t) => {
  for (const { name, query: sql } of variables) {
    await t.test(name, () => {
      const { columns, rows } = run(sql);
      assert.deepEqual(columns, name === 'campaign' ? ['__value', '__text'] : ['connection']);
      assert.ok(rows.length > 0);
    });
  }
});

test('every panel shows something (R37, R99-R108, N7)', async (t) => {
  for (const panel of panels) {
    await t.test(panel.title, () => {
      const [target, ...others] = panel.targets;
      const { columns, types, rows } = run(target.rawSql);
      assert.equal(others.length, 0);
      if (panel.title !== 'Under way') assert.ok(rows.length > 0, 'rows');
      if (target.format === 'time_series') {
        assert.equal(columns[0], 'time');
        assert.match(types.time, /^(timestamp with time zone|numeric|double precision)$/);
      }
      // what draws needs figures
      for (const column of columns.slice(panel.type === 'table' || panel.type === 'stat' ? columns.length : 1)) {
        assert.match(types[column], column === 'metric' ? /^text$/ : /^(bigint|numeric|integer)$/, column);
      }
      for (const [column, type] of Object.entries(types)) assert.doesNotMatch(type, /interval|inet|\[\]|json/, `${column}: nothing that Grafana does not show`);
      const named = panel.fieldConfig.overrides.map((one) => one.matcher.options)
        .concat([...JSON.stringify(panel.fieldConfig).matchAll(/__data\.fields\.(\w+)/g)].map((match) => match[1]));
      for (const name of named) assert.ok(columns.includes(name), `there is no column ${name}`);
    });
  }
});

test('the figures are those of the reports (R104-R106, R108)', () => {
  const [mails] = run(titled('Mails')).rows;
  const truth = JSON.parse(query(`SELECT json_build_array(count(*), sum(coalesce(r.emails_sent, c.emails_sent)), sum(r.unsubscribed))
    FROM mailchimp_sync.campaign c LEFT JOIN mailchimp_sync.report r USING (campaign_id) WHERE c.sent_at BETWEEN '${march.from}' AND '${march.to}'`, { as: 'postgres' }));
  assert.deepEqual([mails.campaigns, mails.mails, mails.unsubscribed], truth);
  const opens = run(titled('Opens and clicks')).rows;
  const recorded = query('SELECT recorded_opened, recorded_clicked FROM mc_report WHERE campaign_id = 1');
  const sum = (name) => opens.reduce((total, one) => total + one[name], 0);
  assert.equal(`${sum('opens')}|${sum('clicks')}`, recorded);
  const recipients = run(titled('Recipients')).rows.reduce((total, one) => total + one.recipients, 0);
  assert.equal(recipients, Number(query('SELECT count(*) FROM mc_campaign_recipient WHERE campaign_id = 1')));
  const [first] = run(titled('Campaigns')).rows.filter((one) => one.campaign === 'Spring');
  assert.equal(first.report, query('SELECT report_url FROM mc_report WHERE campaign_id = 1'), 'R107');
});

test('time, connection and campaign choose', () => {
  const none = (title, given, as) => {
    const { rows } = run(titled(title), { ...march, ...given }, as);
    return title === 'Mails' ? rows[0].campaigns : rows.length;
  };
  assert.ok(none('Mails', {}) > 0);
  for (const title of ['Mails', 'Rates', 'Campaigns']) {
    assert.equal(none(title, { from: '2020-01-01T00:00:00Z', to: '2020-02-01T00:00:00Z' }), 0, `${title}: time`);
    assert.equal(none(title, { connection: ['mc_other'] }), 0, `${title}: connection`);
    assert.equal(none(title, {}, 'nell'), 0, `${title}: rights`);
  }
  for (const title of ['Opens and clicks', 'Recipients', 'Links', 'Bounces, by the domain of the address']) {
    assert.equal(none(title, { campaign: '' }), 0, `${title}: no campaign`);
    assert.equal(none(title, {}, 'nell'), 0, `${title}: rights`);
  }
});
