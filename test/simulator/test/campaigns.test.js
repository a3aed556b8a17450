// Campaigns, checklist, sending and scheduling: API.md 5.8 and 6.

import test from 'node:test';
import assert from 'node:assert/strict';
import { simulator, hash } from './harness.js';

const sim = simulator();
const NOON = '2026-03-02T12:00:00Z';
const status = async (campaign) => (await sim.ok('GET', campaign.path)).status;
const mails = () => sim.ctl('GET', '/mails');
const errors = async (campaign) => (await sim.ok('GET', `${campaign.path}/send-checklist`)).items
  .filter(({ type }) => type === 'error').map(({ heading }) => heading);
const schedule = (campaign, at, more) => [`${campaign.path}/actions/schedule`, { schedule_time: at, ...more }];
const premium = (plan) => sim.ctl('POST', '/reset').then(() => sim.ctl('POST', '/demo', { plan })).then((account) => {
  sim.account = account;
  sim.list = account.lists[0].id;
  sim.members = `/lists/${sim.list}/members`;
});

test('type is required, the list, segment and template must exist, rss was not taught (5.8)', async () => {
  await sim.fails(400, 'Invalid Resource', 'POST', '/campaigns', { settings: {} });
  await sim.fails(400, 'Invalid Resource', 'POST', '/campaigns', { type: 'rss' });
  await sim.fails(400, 'Invalid Resource', 'POST', '/campaigns', { type: 'regular', recipients: { list_id: 'none' } });
  await sim.fails(400, 'Invalid Resource', 'POST', '/campaigns',
    { type: 'regular', recipients: { list_id: sim.list, segment_opts: { saved_segment_id: 1 } } });
  await sim.fails(400, 'Invalid Resource', 'POST', '/campaigns', { type: 'regular', settings: { template_id: 1 } });
  const made = await sim.ok('POST', '/campaigns', { type: 'regular' });
  assert.match(made.id, /^[0-9a-f]{10}$/);
  assert.equal(made.status, 'save');
});

test('saved_segment_id may be digits as text, and comes back as integer (5.8)', async () => {
  const { segment } = await sim.campaign();
  const made = await sim.ok('POST', '/campaigns', { type: 'regular', recipients: { list_id: sim.list, segment_opts: { saved_segment_id: String(segment) } } });
  assert.equal(made.recipients.segment_opts.saved_segment_id, segment);
});

test('the recipient count is stale after create and PATCH until somebody looked again (5.8)', async () => {
  const campaign = await sim.campaign(3);
  assert.equal(campaign.made.recipients.recipient_count, 0);
  assert.equal((await sim.ok('GET', campaign.path)).recipients.recipient_count, 0);
  assert.equal((await sim.ok('GET', campaign.path)).recipients.recipient_count, 3);
  await sim.ok('PATCH', campaign.path, { recipients: { list_id: sim.list, segment_opts: { saved_segment_id: campaign.segment } } });
  const refused = await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/send`);
  assert.match(refused.detail, /^Your Campaign is not ready to send\. .*recipients are not ready/);
  await sim.ok('POST', `${campaign.path}/actions/send`);
});

test('with count_looks 0 only time makes the count right (5.8)', async () => {
  await sim.config({ count_looks: 0, count_seconds: 30 });
  const campaign = await sim.campaign(3);
  for (let i = 0; i < 4; i++) assert.deepEqual(await errors(campaign), ['Recipients']);
  await sim.advance(30);
  assert.deepEqual(await errors(campaign), []);
});

test('PATCH changes any subset; recipients without segment_opts clear the segment unless config says so (5.8)', async () => {
  const campaign = await sim.campaign();
  const patched = await sim.ok('PATCH', campaign.path, { settings: { subject_line: 'Other' } });
  assert.equal(patched.settings.subject_line, 'Other');
  assert.equal(patched.settings.from_name, 'Demo');
  await sim.config({ patch_recipients_clears_segment: false });
  assert.ok((await sim.ok('PATCH', campaign.path, { recipients: { list_id: sim.list } })).recipients.segment_opts);
  await sim.config({ patch_recipients_clears_segment: true });
  assert.equal((await sim.ok('PATCH', campaign.path, { recipients: { list_id: sim.list } })).recipients.segment_opts, undefined);
});

test('content: html or template with its sections, plain text made if left out (5.8)', async () => {
  const { path } = await sim.ok('POST', '/campaigns', { type: 'regular' }).then(({ id }) => ({ path: `/campaigns/${id}/content` }));
  assert.equal((await sim.ok('GET', path)).html, '');
  const html = await sim.ok('PUT', path, { html: '<p>Hello</p><a href="*|UNSUB|*">out</a>' });
  assert.match(html.plain_text, /^Hello/);
  const { id } = sim.account.templates[0];
  const filled = await sim.ok('PUT', path, { template: { id, sections: { body: '<b>Spring</b>' } } });
  assert.match(filled.html, /<b>Spring<\/b>/);
  assert.equal((await sim.ok('GET', path)).html, filled.html);
  await sim.fails(400, 'Invalid Resource', 'PUT', path, { template: { id, sections: { nowhere: 'x' } } });
  await sim.fails(400, 'Invalid Resource', 'PUT', path, { html: 'x', template: { id } });
  await sim.fails(400, 'Invalid Resource', 'PUT', path, { url: 'http://example.org' });
});

test('the checklist names what is missing, and send refuses with the same reasons (5.8)', async () => {
  await sim.config({ count_looks: 0, count_seconds: 0 });
  await sim.add('a@example.org');
  const made = await sim.ok('POST', '/campaigns', { type: 'regular', recipients: { list_id: sim.list } });
  const campaign = { path: `/campaigns/${made.id}` };
  assert.deepEqual(await errors(campaign), ['Subject Line', 'From Name', 'Reply-To Address', 'Content']);
  const refused = await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/send`);
  assert.match(refused.detail, /Your Campaign is not ready to send\. .*subject line.*design/s);
  assert.equal((await sim.ok('GET', `${campaign.path}/send-checklist`)).is_ready, false);
});

test('not ready: unverified domain, incomplete template, no recipients, deleted segment, no unsubscribe link (5.7, 5.8, 6)', async () => {
  await sim.config({ count_looks: 0, count_seconds: 0 });
  const campaign = await sim.campaign();
  assert.deepEqual(await errors(campaign), []);
  await sim.ok('PATCH', campaign.path, { settings: { reply_to: 'news@elsewhere.test', template_id: sim.account.templates[2].id } });
  assert.deepEqual(await errors(campaign), ['Reply-To Address', 'Content']);
  await sim.ok('PUT', `${campaign.path}/content`, { html: '<p>bare</p>' });
  await sim.ok('PATCH', campaign.path, { settings: { reply_to: 'news@example.org' } });
  assert.deepEqual(await errors(campaign), ['Unsubscribe Link']);
  await sim.config({ unsub_link: 'footer' });
  assert.deepEqual(await errors(campaign), []);
  await sim.ok('PATCH', `/lists/${sim.list}/segments/${campaign.segment}`, { static_segment: [] });
  assert.deepEqual(await errors(campaign), ['Recipients']);
  await sim.ctl('POST', '/act', { list: sim.list, action: 'delete_segment', segment: campaign.segment });
  assert.deepEqual(await errors(campaign), ['List', 'Recipients']);
});

test('send: 204, sending, then sent; only who is subscribed at that moment gets mail, once (5.8)', async () => {
  const campaign = await sim.campaign(4);
  await sim.ok('PATCH', sim.one('p1@example.org'), { status: 'unsubscribed' });
  await sim.ok('DELETE', sim.one('p2@example.org'));
  await sim.add('stranger@example.org');
  await sim.ok('GET', campaign.path);
  assert.equal((await sim.api('POST', `${campaign.path}/actions/send`)).status, 204);
  const after = await sim.ok('GET', campaign.path);
  assert.deepEqual([after.status, after.emails_sent], ['sent', 2]);
  assert.ok(after.send_time && after.report_summary);
  const sent = await mails();
  assert.deepEqual(sent.mails.map(({ email }) => email).sort(), ['p0@example.org', 'p3@example.org']);
  assert.equal(sent.campaigns[campaign.id].sends, 1);
});

test('a second send is refused; a sent campaign cannot be edited (5.8)', async () => {
  const campaign = await sim.sent(2);
  await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/send`);
  await sim.fails(400, 'Bad Request', 'PATCH', campaign.path, { settings: { title: 'x' } });
  await sim.fails(400, 'Bad Request', 'PUT', `${campaign.path}/content`, { html: 'x' });
  assert.equal((await mails()).total, 2);
});

test('while sending: mails leave over time, DELETE is 405; afterwards 204 (3, 5.8)', async () => {
  await sim.config({ send_seconds: 100 });
  const campaign = await sim.sent(10);
  assert.equal(await status(campaign), 'sending');
  await sim.fails(405, 'Method Not Allowed', 'DELETE', campaign.path);
  await sim.advance(50);
  const half = await sim.ok('GET', campaign.path);
  assert.ok(half.emails_sent >= 5 && half.emails_sent < 10, String(half.emails_sent));
  assert.equal(half.delivery_status.status, 'delivering');
  await sim.advance(60);
  assert.equal(await status(campaign), 'sent');
  assert.equal((await sim.api('DELETE', campaign.path)).status, 204);
  await sim.fails(404, null, 'GET', campaign.path);
});

test('schedule: quarter hours in the future only, with an empty reason (5.8, trap 12)', async () => {
  await sim.ctl('POST', '/clock', { now: NOON });
  const campaign = await sim.campaign();
  await sim.ok('GET', campaign.path);
  for (const at of ['2026-03-02T12:10:00Z', '2026-03-02T12:15:30Z', '2026-03-02T11:45:00Z']) {
    const refused = await sim.fails(400, 'Bad Request', 'POST', ...schedule(campaign, at));
    assert.equal(refused.detail, 'This campaign cannot be scheduled: .');
  }
  assert.equal((await sim.api('POST', ...schedule(campaign, '2026-03-02T12:15:00Z'))).status, 204);
  assert.equal(await status(campaign), 'schedule');
  await sim.fails(400, 'Bad Request', 'PATCH', campaign.path, { settings: { title: 'x' } });
  await sim.advance(899);
  assert.equal((await mails()).total, 0);
  await sim.advance(2);
  assert.equal(await status(campaign), 'sent');
  assert.equal((await sim.ok('GET', campaign.path)).send_time, '2026-03-02T12:15:00+00:00');
});

test('schedule of an unfinished campaign is refused with an empty reason (5.8)', async () => {
  await sim.ctl('POST', '/clock', { now: NOON });
  const { id } = await sim.ok('POST', '/campaigns', { type: 'regular' });
  const refused = await sim.fails(400, 'Bad Request', 'POST', ...schedule({ path: `/campaigns/${id}` }, '2026-03-02T13:00:00Z'));
  assert.equal(refused.detail, 'This campaign cannot be scheduled: .');
});

test('plans: free cannot schedule, timewarp and batches need standard, not both, cancel needs premium (5.8, 6)', async () => {
  await premium('free');
  await sim.ctl('POST', '/clock', { now: NOON });
  let campaign = await sim.campaign();
  await sim.fails(403, 'Forbidden', 'POST', ...schedule(campaign, '2026-03-02T13:00:00Z'));
  await premium('essentials');
  await sim.ctl('POST', '/clock', { now: NOON });
  campaign = await sim.campaign();
  await sim.ok('GET', campaign.path);
  await sim.fails(403, 'Forbidden', 'POST', ...schedule(campaign, '2026-03-02T13:00:00Z', { timewarp: true }));
  await sim.ok('POST', ...schedule(campaign, '2026-03-02T13:00:00Z'));
  await premium('standard');
  campaign = await sim.campaign();
  const both = { timewarp: true, batch_delivery: { batch_delay: 5, batch_count: 2 } };
  await sim.fails(400, 'Invalid Resource', 'POST', ...schedule(campaign, '2026-03-02T13:00:00Z', both));
  await sim.fails(403, 'Forbidden', 'POST', `${campaign.path}/actions/cancel-send`);
});

test('a segment is frozen when scheduled on standard; who unsubscribes later gets nothing (5.8)', async () => {
  await sim.ctl('POST', '/clock', { now: NOON });
  const campaign = await sim.campaign(3);
  await sim.ok('GET', campaign.path);
  await sim.ok('POST', ...schedule(campaign, '2026-03-02T12:15:00Z'));
  await sim.ok('POST', `/lists/${sim.list}/segments/${campaign.segment}`, { members_to_remove: ['p0@example.org'] });
  await sim.act('p1@example.org', 'unsubscribe');
  await sim.batch([{ email_address: 'late@example.org', status: 'subscribed', tags: ['mailing'] }]);
  await sim.advance(1000);
  assert.deepEqual((await mails()).mails.map(({ email }) => email).sort(), ['p0@example.org', 'p2@example.org']);
});

test('on lower plans the segment is read when it is sent (5.8)', async () => {
  await premium('essentials');
  await sim.ctl('POST', '/clock', { now: NOON });
  const campaign = await sim.campaign(2);
  await sim.ok('GET', campaign.path);
  await sim.ok('POST', ...schedule(campaign, '2026-03-02T12:15:00Z'));
  await sim.batch([{ email_address: 'late@example.org', status: 'subscribed', tags: ['mailing'] }]);
  await sim.advance(1000);
  assert.equal((await mails()).total, 3);
});

test('unschedule: 204, back to a status that config names, editable again (5.8)', async () => {
  await sim.ctl('POST', '/clock', { now: NOON });
  const campaign = await sim.campaign();
  await sim.ok('GET', campaign.path);
  await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/unschedule`);
  for (const word of ['paused', 'save']) {
    await sim.config({ unschedule_status: word });
    await sim.ok('POST', ...schedule(campaign, '2026-03-02T12:15:00Z'));
    assert.equal((await sim.api('POST', `${campaign.path}/actions/unschedule`)).status, 204);
    assert.equal(await status(campaign), word);
  }
  await sim.ok('PATCH', campaign.path, { settings: { title: 'x' } });
  await sim.advance(3600);
  assert.equal((await mails()).total, 0);
});

test('cancel-send stops the rest of the mails (5.8)', async () => {
  await premium('premium');
  await sim.config({ send_seconds: 100 });
  const campaign = await sim.campaign(10);
  await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/cancel-send`);
  await sim.ok('GET', campaign.path);
  await sim.ok('POST', `${campaign.path}/actions/send`);
  await sim.advance(50);
  await sim.ok('POST', `${campaign.path}/actions/cancel-send`);
  await sim.advance(500);
  const after = await sim.ok('GET', campaign.path);
  assert.equal(after.status, 'canceled');
  assert.equal(after.emails_sent + after.delivery_status.emails_canceled, 10);
  assert.equal((await mails()).total, after.emails_sent);
});

test('pause and resume are for RSS only (5.8)', async () => {
  const campaign = await sim.campaign();
  for (const action of ['pause', 'resume']) await sim.fails(400, 'Bad Request', 'POST', `${campaign.path}/actions/${action}`);
});

test('replicate answers 200 with a new draft; test answers 204 and mails nobody else (5.8)', async () => {
  const campaign = await sim.sent(2);
  const copy = await sim.ok('POST', `${campaign.path}/actions/replicate`);
  assert.notEqual(copy.id, campaign.id);
  assert.deepEqual([copy.status, copy.settings.subject_line, copy.parent_campaign_id], ['save', 'News', campaign.id]);
  const answer = await sim.api('POST', `/campaigns/${copy.id}/actions/test`, { test_emails: ['me@example.org'], send_type: 'html' });
  assert.equal(answer.status, 204);
  const sent = await mails();
  assert.equal(sent.total, 2);
  assert.deepEqual(sent.tests.map(({ email }) => email), ['me@example.org']);
});

test('campaigns are filtered by status, list, time and member (5.8, 4)', async () => {
  await sim.ctl('POST', '/clock', { now: NOON });
  const sent = await sim.sent(1);
  await sim.advance(60);
  const draft = await sim.campaign(1);
  const ids = async (query) => (await sim.ok('GET', `/campaigns?${query}`)).campaigns.map(({ id }) => id);
  assert.deepEqual(await ids('status=sent'), [sent.id]);
  assert.deepEqual(await ids('status=save'), [draft.id]);
  assert.deepEqual(await ids('sort_field=create_time&sort_dir=DESC'), [draft.id, sent.id]);
  assert.deepEqual(await ids('since_create_time=2026-03-02T12:00:30Z'), [draft.id]);
  assert.deepEqual(await ids('since_send_time=2026-03-02T00:00:00Z'), [sent.id]);
  assert.deepEqual(await ids(`member_id=${hash('p0@example.org')}`), [sent.id]);
  await sim.fails(400, 'Invalid Resource', 'GET', '/campaigns?status=draft');
});

test('people can send, edit, schedule and delete campaigns in Mailchimp itself', async () => {
  const campaign = await sim.campaign(2);
  await sim.ctl('POST', '/act', { campaign: campaign.id, action: 'edit', settings: { title: 'Theirs' } });
  assert.equal((await sim.ok('GET', campaign.path)).settings.title, 'Theirs');
  await sim.ctl('POST', '/act', { campaign: campaign.id, action: 'send' });
  assert.equal(await status(campaign), 'sent');
  await sim.ctl('POST', '/act', { campaign: campaign.id, action: 'delete' });
  await sim.fails(404, null, 'GET', campaign.path);
  assert.equal((await sim.ctl('GET', '/campaigns')).campaigns[0].deleted, true);
});
