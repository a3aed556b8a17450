// Reports and engagement: API.md 5.9, compared with the truth of the control interface.

import test from 'node:test';
import assert from 'node:assert/strict';
import { simulator, hash } from './harness.js';

const sim = simulator();
const NOON = '2026-03-02T12:00:00Z';
const event = (campaign, email, action, more) => sim.ctl('POST', '/events', { campaign: campaign.id, email, action, ...more });
const truth = (campaign) => sim.ctl('GET', `/truth/${campaign.id}`);
const rows = (campaign, query = '') => sim.ok('GET', `${campaign.report}/email-activity?count=1000${query}`);
const at = (time) => `2026-03-02T${time}Z`;

async function sentAtNoon(n) {
  await sim.ctl('POST', '/clock', { now: NOON });
  return sim.sent(n);
}

test('drafts have no report, and an empty list of activity (5.9)', async () => {
  const draft = await sim.campaign();
  assert.equal((await sim.ok('GET', '/reports')).total_items, 0);
  await sim.fails(404, null, 'GET', draft.report);
  assert.deepEqual((await rows(draft)).emails, []);
  await sim.ok('GET', draft.path);
  await sim.ok('POST', `${draft.path}/actions/send`);
  assert.equal((await sim.ok('GET', '/reports')).reports[0].id, draft.id);
});

test('shapes of open, click and bounce; unsubscribes and complaints are not among them (5.9)', async () => {
  const campaign = await sentAtNoon(5);
  await sim.advance(3600);
  await event(campaign, 'p0@example.org', 'open', { at: at('12:10:00') });
  await event(campaign, 'p0@example.org', 'click', { at: at('12:11:00'), url: 'https://example.org/a' });
  await event(campaign, 'p1@example.org', 'hard', { at: at('12:00:05') });
  await event(campaign, 'p2@example.org', 'unsubscribe', { at: at('12:20:00') });
  await event(campaign, 'p3@example.org', 'abuse', { at: at('12:20:00') });
  const { emails } = await rows(campaign);
  const of = (name) => emails.find(({ email_id }) => email_id === hash(`${name}@example.org`)).activity;
  assert.deepEqual(of('p0'), [
    { action: 'open', timestamp: '2026-03-02T12:10:00+00:00', ip: '192.0.2.1' },
    { action: 'click', timestamp: '2026-03-02T12:11:00+00:00', url: 'https://example.org/a', ip: '192.0.2.1' },
  ]);
  assert.deepEqual(of('p1'), [{ action: 'bounce', type: 'hard', timestamp: '2026-03-02T12:00:05+00:00' }]);
  for (const name of ['p2', 'p3', 'p4']) assert.deepEqual(of(name), []);
});

test('since drops older events and not rows, and excludes its own second (5.9, trap 17)', async () => {
  const campaign = await sentAtNoon(3);
  await sim.advance(3600);
  await event(campaign, 'p0@example.org', 'open', { at: at('12:10:00') });
  await event(campaign, 'p0@example.org', 'open', { at: at('12:10:01') });
  const answer = await rows(campaign, '&since=2026-03-02T12:10:00Z');
  assert.equal(answer.total_items, 3);
  assert.equal(answer.emails.length, 3);
  assert.deepEqual(answer.emails.flatMap(({ activity }) => activity).map(({ timestamp }) => timestamp), ['2026-03-02T12:10:01+00:00']);
});

test('the activity of one member (5.9)', async () => {
  const campaign = await sim.sent(2);
  await event(campaign, 'p1@example.org', 'open');
  assert.equal((await sim.ok('GET', `${campaign.report}/email-activity/${hash('p1@example.org')}`)).activity.length, 1);
  await sim.fails(404, null, 'GET', `${campaign.report}/email-activity/${hash('nobody@example.org')}`);
});

test('of several bounces of a mail the first is given (5.9)', async () => {
  const campaign = await sentAtNoon(1);
  await sim.advance(3600);
  await event(campaign, 'p0@example.org', 'hard', { at: at('12:30:00') });
  await event(campaign, 'p0@example.org', 'soft', { at: at('12:10:00') });
  assert.deepEqual((await rows(campaign)).emails[0].activity.map(({ type }) => type), ['soft']);
});

test('events become visible as the clock passes them (5.9)', async () => {
  const campaign = await sentAtNoon(1);
  await event(campaign, 'p0@example.org', 'open', { at: at('13:00:00') });
  assert.equal((await sim.ok('GET', campaign.report)).opens.opens_total, 0);
  await sim.advance(3601);
  const { opens } = await sim.ok('GET', campaign.report);
  assert.deepEqual([opens.opens_total, opens.last_open], [1, '2026-03-02T13:00:00+00:00']);
});

test('totals, uniques and rates; fractions in the report, percent in list_stats (5.9, trap 18)', async () => {
  const campaign = await sim.sent(4);
  for (const email of ['p0@example.org', 'p0@example.org', 'p1@example.org']) await event(campaign, email, 'open');
  for (const url of ['https://example.org/a', 'https://example.org/a', 'https://example.org/b']) await event(campaign, 'p0@example.org', 'click', { url });
  await event(campaign, 'p2@example.org', 'soft');
  const report = await sim.ok('GET', campaign.report);
  assert.equal(report.emails_sent, 4);
  assert.deepEqual([report.opens.opens_total, report.opens.unique_opens], [3, 2]);
  assert.deepEqual([report.clicks.clicks_total, report.clicks.unique_clicks, report.clicks.unique_subscriber_clicks], [3, 2, 1]);
  assert.equal(report.opens.open_rate, 0.666667);
  assert.equal(Math.round(report.list_stats.open_rate), 67);
  assert.deepEqual(report.bounces, { hard_bounces: 0, soft_bounces: 1, syntax_errors: 0 });
  assert.equal(report.timeseries.length, 24);
});

test('machine opens and bot clicks: in the totals, left out by filter_bots (5.9)', async () => {
  const campaign = await sim.sent(3);
  await event(campaign, 'p0@example.org', 'open', { proxy: true });
  await event(campaign, 'p1@example.org', 'open');
  await event(campaign, 'p1@example.org', 'open', { proxy: true });
  await event(campaign, 'p1@example.org', 'click', { url: 'https://example.org/a', bot: true });
  const { opens } = await sim.ok('GET', campaign.report);
  assert.deepEqual([opens.opens_total, opens.unique_opens, opens.proxy_excluded_opens, opens.proxy_excluded_unique_opens], [3, 2, 1, 1]);
  const filtered = await rows(campaign, '&filter_bots=true');
  assert.deepEqual([filtered.emails.length, filtered.emails.flatMap(({ activity }) => activity).length], [3, 1]);
  const details = (query) => sim.ok('GET', `${campaign.report}/open-details${query}`);
  assert.equal((await details('')).members.length, 2);
  assert.deepEqual((await details('?filter_bots=true')).members.map(({ email_address }) => email_address), ['p1@example.org']);
  assert.deepEqual((await details('')).members.map((m) => m.opens.map((open) => open.is_proxy_open)), [[true], [false, true]]);
  const links = async (query) => (await sim.ok('GET', `${campaign.report}/click-details${query}`)).urls_clicked;
  assert.deepEqual((await links('')).map(({ total_clicks }) => total_clicks), [1]);
  assert.deepEqual((await links('?filter_bots=true')).map(({ total_clicks }) => total_clicks), [0]);
});

test('open-details list openers only, sorted and since (5.9)', async () => {
  const campaign = await sentAtNoon(3);
  await sim.advance(3600);
  await event(campaign, 'p0@example.org', 'open', { at: at('12:10:00') });
  for (const time of ['12:20:00', '12:21:00']) await event(campaign, 'p1@example.org', 'open', { at: at(time) });
  const all = await sim.ok('GET', `${campaign.report}/open-details?sort_field=opens_count&sort_dir=DESC`);
  assert.deepEqual(all.members.map(({ opens_count }) => opens_count), [2, 1]);
  assert.equal(all.total_opens, 3);
  assert.equal((await sim.ok('GET', `${campaign.report}/open-details?since=2026-03-02T12:15:00Z`)).members.length, 1);
});

test('click-details per link and the members of a link, without times (5.9)', async () => {
  const campaign = await sim.sent(3);
  for (const email of ['p0@example.org', 'p0@example.org', 'p1@example.org']) await event(campaign, email, 'click', { url: 'https://example.org/a' });
  const { urls_clicked: [link] } = await sim.ok('GET', `${campaign.report}/click-details`);
  assert.deepEqual([link.total_clicks, link.unique_clicks, link.click_percentage], [3, 2, 1]);
  assert.equal((await sim.ok('GET', `${campaign.report}/click-details/${link.id}`)).url, link.url);
  const { members } = await sim.ok('GET', `${campaign.report}/click-details/${link.id}/members`);
  assert.deepEqual(members.map(({ email_address, clicks }) => [email_address, clicks]), [['p0@example.org', 2], ['p1@example.org', 1]]);
  assert.ok(!('timestamp' in members[0]));
});

test('sent-to has the bounce state; unsubscribed and abuse-reports have lists of their own (5.9)', async () => {
  const campaign = await sim.sent(5);
  await event(campaign, 'p0@example.org', 'hard');
  await event(campaign, 'p1@example.org', 'soft');
  await event(campaign, 'p2@example.org', 'unsubscribe', { reason: 'Enough' });
  await event(campaign, 'p3@example.org', 'abuse');
  const { sent_to: sent } = await sim.ok('GET', `${campaign.report}/sent-to`);
  assert.deepEqual(sent.map(({ status }) => status), ['hard', 'soft', 'sent', 'sent', 'sent']);
  const { unsubscribes } = await sim.ok('GET', `${campaign.report}/unsubscribed`);
  assert.deepEqual(unsubscribes.map((row) => [row.email_address, row.reason]), [['p2@example.org', 'Enough']]);
  const { abuse_reports: abuse } = await sim.ok('GET', `${campaign.report}/abuse-reports`);
  assert.deepEqual(abuse.map(({ email_id }) => email_id), [hash('p3@example.org')]);
  const report = await sim.ok('GET', campaign.report);
  assert.deepEqual([report.unsubscribed, report.abuse_reports, report.bounces.hard_bounces], [1, 1, 1]);
});

test('a hard bounce cleans the member, an unsubscribe and a complaint unsubscribe it (5.4)', async () => {
  const campaign = await sim.sent(3);
  await event(campaign, 'p0@example.org', 'hard');
  await event(campaign, 'p1@example.org', 'unsubscribe');
  await event(campaign, 'p2@example.org', 'abuse');
  const { members } = await sim.ctl('GET', `/lists/${sim.list}/members`);
  assert.deepEqual(members.map(({ status }) => status), ['cleaned', 'unsubscribed', 'unsubscribed']);
  for (const { id } of members) await sim.fails(400, 'Member In Compliance State', 'PATCH', `${sim.members}/${id}`, { status: 'subscribed' });
  const feed = await sim.ok('GET', `${sim.one('p1@example.org')}/activity-feed?activity_filters=unsub,sent`);
  assert.deepEqual(feed.activity.map(({ activity_type }) => activity_type).sort(), ['sent', 'unsub']);
});

test('an unsubscribe by a person can belong to a campaign', async () => {
  const campaign = await sim.sent(2);
  await sim.act('p0@example.org', 'unsubscribe', { campaign: campaign.id, reason: 'Enough' });
  assert.equal((await sim.ok('GET', campaign.report)).unsubscribed, 1);
  assert.equal((await truth(campaign)).persons[0].status, 'unsubscribed');
});

test('reports are filtered by send time and paged (5.9, 4)', async () => {
  await sentAtNoon(1);
  assert.equal((await sim.ok('GET', '/reports?since_send_time=2026-03-02T12:00:10Z')).total_items, 0);
  assert.equal((await sim.ok('GET', '/reports?before_send_time=2026-03-02T12:00:10Z&fields=reports.id,reports.opens.last_open')).reports.length, 1);
});

test('engage meets its shares exactly, the same for the same seed', async () => {
  const shares = { opens: 0.5, clicks: 0.2, hard: 0.05, soft: 0.05, unsubscribes: 0.03, abuse: 0.01, machine_opens: 0.3, bot_clicks: 0.1, span_seconds: 7200 };
  const run = async () => {
    await sim.ctl('POST', '/reset', { seed: 3 });
    const account = await sim.ctl('POST', '/demo');
    Object.assign(sim, { account, list: account.lists[0].id, members: `/lists/${account.lists[0].id}/members` });
    const campaign = await sentAtNoon(100);
    const made = await sim.ctl('POST', '/engage', { campaign: campaign.id, seed: 5, ...shares });
    await sim.advance(7300);
    return { made, truth: await truth(campaign), campaign };
  };
  const first = await run();
  const { made } = first;
  assert.deepEqual([made.opens, made.clicks, made.hard, made.soft, made.unsubscribes, made.abuse], [50, 20, 5, 5, 3, 1]);
  assert.deepEqual((await run()).truth, first.truth);
});

test('the reports and the truth, computed apart, agree at every instant', async () => {
  const campaign = await sentAtNoon(60);
  await sim.ctl('POST', '/engage', {
    campaign: campaign.id, seed: 2, opens: 0.6, clicks: 0.3, hard: 0.05, soft: 0.05, unsubscribes: 0.05, abuse: 0.02, machine_opens: 0.3, bot_clicks: 0.1,
  });
  for (let hour = 0; hour < 25; hour += 4) {
    const [known, report, links] = [await truth(campaign), await sim.ok('GET', campaign.report), await sim.ok('GET', `${campaign.report}/click-details?count=100`)];
    assert.deepEqual(
      [report.emails_sent, report.opens.opens_total, report.opens.unique_opens, report.opens.proxy_excluded_opens, report.clicks.clicks_total, report.clicks.unique_subscriber_clicks, report.bounces.hard_bounces, report.bounces.soft_bounces, report.unsubscribed, report.abuse_reports],
      [known.emails_sent, known.opens.total, known.opens.unique, known.opens.human_total, known.clicks.total, known.clicks.unique, known.hard_bounces, known.soft_bounces, known.unsubscribed, known.complaints]);
    const clicked = links.urls_clicked.filter((link) => link.total_clicks).map((link) => ({ url: link.url, total: link.total_clicks, unique: link.unique_clicks }));
    assert.deepEqual(clicked.sort((a, b) => (a.url < b.url ? -1 : 1)), known.links);
    await sim.advance(4 * 3600);
  }
  assert.ok((await truth(campaign)).opens.total > 0);
});

test('truth: the status of a person by precedence sent < bounced < opened < clicked < unsubscribed', async () => {
  const campaign = await sim.sent(5);
  await event(campaign, 'p1@example.org', 'soft');
  await event(campaign, 'p2@example.org', 'open');
  await event(campaign, 'p2@example.org', 'soft');
  for (const action of ['click', 'open']) await event(campaign, 'p3@example.org', action);
  for (const action of ['unsubscribe', 'click']) await event(campaign, 'p4@example.org', action);
  assert.deepEqual((await truth(campaign)).persons.map(({ status }) => status), ['sent', 'bounced', 'opened', 'clicked', 'unsubscribed']);
});

test('a crowd is the same each time, page by page, and its report agrees with the truth', async () => {
  const campaign = await sim.ctl('POST', '/crowd', {
    list: sim.list, people: 250, email: 'c%@crm.test', opens: 0.6, clicks: 0.3, hard: 0.05, soft: 0.05, unsubscribes: 0.05, span_seconds: 3600,
  });
  await sim.advance(7200);
  const report = await sim.ok('GET', `/reports/${campaign.campaign}`);
  const found = await sim.ctl('GET', `/truth/${campaign.campaign}`);
  assert.deepEqual([report.emails_sent, report.opens.opens_total, report.opens.unique_opens, report.clicks.clicks_total, report.clicks.unique_subscriber_clicks,
    report.bounces.hard_bounces, report.bounces.soft_bounces, report.unsubscribed],
  [250, found.opens.total, found.opens.unique, found.clicks.total, found.clicks.unique, found.hard_bounces, found.soft_bounces, found.unsubscribed]);
  assert.ok(found.opens.total > 250 && found.clicks.total > 50 && found.unsubscribed > 2 && found.hard_bounces > 2 && found.soft_bounces > 2);
  const pages = [];
  for (const offset of [0, 100, 200]) pages.push(...(await sim.ok('GET', `/reports/${campaign.campaign}/email-activity?count=100&offset=${offset}`)).emails);
  assert.equal(pages.length, 250);
  assert.equal(pages[249].email_id, hash('c250@crm.test'));
  const actions = pages.flatMap(({ activity }) => activity.map(({ action }) => action));
  assert.equal(actions.filter((action) => action === 'open').length, found.opens.total);
  assert.equal(actions.filter((action) => action === 'click').length, found.clicks.total);
  assert.equal((await sim.ok('GET', `/reports/${campaign.campaign}/unsubscribed?count=100`)).total_items, found.unsubscribed);
});
