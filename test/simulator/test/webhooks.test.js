// Webhooks of a list: API.md 5.11.

import test, { after, before, beforeEach } from 'node:test';
import assert from 'node:assert/strict';
import http from 'node:http';
import { createHmac } from 'node:crypto';
import { simulator } from './harness.js';

const sim = simulator();
const ALL_EVENTS = { subscribe: true, unsubscribe: true, profile: true, cleaned: true, upemail: true, campaign: true };
const ALL_SOURCES = { user: true, admin: true, api: true };

// Who listens: keeps what came, answers with `status`.
const ear = { got: [], status: 200 };
before(async () => {
  ear.server = http.createServer(async (req, res) => {
    let body = '';
    for await (const chunk of req) body += chunk;
    ear.got.push({ method: req.method, url: req.url, headers: req.headers, body, form: new URLSearchParams(body) });
    res.writeHead(ear.status).end();
  });
  await new Promise((done) => { ear.server.listen(0, '127.0.0.1', done); });
  ear.url = `http://127.0.0.1:${ear.server.address().port}/hook?secret=abc`;
});
after(() => ear.server.close());
beforeEach(() => {
  ear.got = [];
  ear.status = 200;
  sim.hooks = `/lists/${sim.list}/webhooks`;
});

const register = (more) => sim.ok('POST', sim.hooks, { url: ear.url, events: ALL_EVENTS, sources: ALL_SOURCES, ...more });
const deliveries = async (count, query = '') => (await sim.ctl('GET', `/deliveries?wait=5&count=${count}${query}`)).deliveries;
const delivered = (count) => deliveries(count, '&state=delivered');
const heard = () => ear.got.filter(({ method }) => method === 'POST');

test('the URL is asked by GET first; only then there is a webhook (5.11)', async () => {
  ear.status = 500;
  await sim.fails(400, 'Invalid Resource', 'POST', sim.hooks, { url: ear.url });
  await sim.fails(400, 'Invalid Resource', 'POST', sim.hooks, { url: 'http://127.0.0.1:1/' });
  await sim.fails(400, 'Invalid Resource', 'POST', sim.hooks, { url: 'no url' });
  ear.status = 200;
  await register();
  assert.deepEqual(ear.got.map(({ method, url }) => [method, url]), [['GET', '/hook?secret=abc'], ['GET', '/hook?secret=abc']]);
  assert.equal(ear.got[1].headers['user-agent'], 'MailChimp.com WebHook Validator');
});

test('the signing secret is shown once; list, one, PATCH, DELETE (5.11)', async () => {
  const made = await register();
  assert.match(made.signing_secret, /^[0-9a-f]{32}$/);
  assert.equal(made.signing_enabled, true);
  const { webhooks } = await sim.ok('GET', sim.hooks);
  const one = await sim.ok('GET', `${sim.hooks}/${made.id}`);
  assert.deepEqual(webhooks, [one]);
  assert.equal('signing_secret' in one, false);
  const changed = await sim.ok('PATCH', `${sim.hooks}/${made.id}`, { sources: { api: false } });
  assert.deepEqual(changed.sources, { user: true, admin: true, api: false });
  await sim.ok('DELETE', `${sim.hooks}/${made.id}`);
  await sim.fails(404, 'Resource Not Found', 'GET', `${sim.hooks}/${made.id}`);
});

test('the same URL twice on one list is refused (5.11)', async () => {
  await register();
  const problem = await sim.fails(400, 'Bad Request', 'POST', sim.hooks, { url: ear.url });
  assert.match(problem.detail, /can't set up multiple WebHooks for one URL on the same list/);
  await sim.ok('POST', sim.hooks, { url: `${ear.url}2` });
});

test('deliveries are forms, signed over the raw body (5.11)', async () => {
  const { signing_secret: secret } = await register();
  await sim.ctl('POST', '/act', { list: sim.list, action: 'add_field', tag: 'ADDRESS', type: 'address' });
  await sim.act('a@example.org', 'add', { merge_fields: { FNAME: 'Zoë', ADDRESS: { addr1: 'Dam 1', city: 'A', state: 'NH', zip: '1' } } });
  await delivered(1);
  const [{ headers, body, form }] = heard();
  assert.equal(headers['content-type'], 'application/x-www-form-urlencoded');
  const [, t, v1] = headers['x-mailchimp-signature'].match(/^t=(\d+),v1=([0-9a-f]{64})$/);
  assert.equal(v1, createHmac('sha256', secret).update(`${t}.${body}`).digest('hex'));
  assert.ok(Math.abs(Number(t) - Date.now() / 1000) < 60);
  assert.equal(form.get('type'), 'subscribe');
  assert.match(form.get('fired_at'), /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/);
  assert.equal(form.get('data[list_id]'), sim.list);
  assert.equal(form.get('data[email]'), 'a@example.org');
  assert.match(form.get('data[id]'), /^[0-9a-f]{10}$/);
  assert.equal(form.get('data[merges][FNAME]'), 'Zoë');
  assert.equal(form.get('data[merges][ADDRESS][city]'), 'A');
});

test('what is told of members, and of whom (5.11)', async () => {
  await register();
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'edit', { merge_fields: { FNAME: 'A' } });
  await sim.act('a@example.org', 'change_email', { new_email: 'b@example.org' });
  await sim.act('b@example.org', 'unsubscribe');
  await sim.add('c@example.org');
  await sim.act('c@example.org', 'clean');
  await sim.add('d@example.org');
  await sim.act('d@example.org', 'archive');
  await delivered(8);
  const shown = heard().map(({ form }) => [form.get('type'), form.get('data[email]'), form.get('data[action]')].join(' ').trim());
  assert.deepEqual(shown.sort(), ['cleaned c@example.org', 'profile a@example.org', 'subscribe a@example.org', 'subscribe c@example.org',
    'subscribe d@example.org', 'unsubscribe b@example.org unsub', 'unsubscribe d@example.org delete', 'upemail']);
  const { form } = heard().find((one) => one.form.get('type') === 'upemail');
  assert.deepEqual([form.get('data[old_email]'), form.get('data[new_email]')], ['a@example.org', 'b@example.org']);
});

test('sources: what the API did, a colleague, the contact itself (5.11)', async () => {
  await register({ sources: { user: true } });
  await sim.add('a@example.org');
  await sim.act('b@example.org', 'add');
  await sim.act('a@example.org', 'admin_unsubscribe');
  await sim.act('b@example.org', 'unsubscribe');
  await sim.ok('PATCH', sim.hooks + `/${(await sim.ok('GET', sim.hooks)).webhooks[0].id}`, { sources: { user: false, admin: true } });
  await sim.act('c@example.org', 'add');
  await delivered(2);
  assert.deepEqual(heard().map(({ form }) => form.get('data[email]')), ['b@example.org', 'c@example.org']);
});

test('events that nobody asked for are not told; a sent campaign is (5.11)', async () => {
  await register({ events: { campaign: true } });
  const campaign = await sim.sent(2);
  await sim.ok('GET', campaign.path);
  await delivered(1);
  assert.equal(heard().length, 1);
  const { form } = heard()[0];
  assert.deepEqual([form.get('type'), form.get('data[id]'), form.get('data[status]')], ['campaign', campaign.id, 'sent']);
});

test('an error is tried again at growing intervals for 75 minutes (5.11)', async () => {
  await register();
  ear.status = 503;
  await sim.add('a@example.org');
  const attempts = async (n) => {
    for (;;) {
      const [one] = (await sim.ctl('GET', '/deliveries')).deliveries;
      if (one?.attempts.length === n) return one;
      await new Promise((done) => { setTimeout(done, 10); });
    }
  };
  let one = await attempts(1);
  for (let n = 2; one.state === 'waiting'; n += 1) {
    await sim.advance(10 * 2 ** (n - 2));
    one = await attempts(n);
  }
  assert.equal(one.state, 'given_up');
  const pauses = one.attempts.slice(1).map(({ at }, i) => at - one.attempts[i].at);
  assert.ok(pauses.every((pause, i) => i === 0 || pause > pauses[i - 1]), String(pauses));
  assert.ok(one.attempts.at(-1).at - one.attempts[0].at <= 75 * 60);
});

test('410 disables the webhook for good (5.11)', async () => {
  await register();
  ear.status = 410;
  await sim.add('a@example.org');
  await deliveries(1, '&state=given_up');
  ear.status = 200;
  await sim.add('b@example.org');
  await deliveries(2, '&state=given_up');
  assert.equal(heard().length, 1);
});

test('a webhook from the app has no signature (5.11)', async () => {
  await sim.ctl('POST', '/act', { list: sim.list, action: 'add_webhook', url: ear.url, events: ALL_EVENTS, sources: ALL_SOURCES });
  assert.equal((await sim.ok('GET', sim.hooks)).webhooks[0].signing_enabled, false);
  await sim.add('a@example.org');
  await delivered(1);
  assert.equal(heard()[0].headers['x-mailchimp-signature'], undefined);
});

test('at least once, and in no order (5.11)', async () => {
  await register();
  await sim.config({ webhook_times: 2, webhook_hold: true });
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'unsubscribe');
  await deliveries(4, '&state=held');
  assert.equal(heard().length, 0);
  assert.equal((await sim.ctl('POST', '/deliveries/release', { reverse: true })).released, 4);
  assert.deepEqual(heard().map(({ form }) => form.get('type')), ['unsubscribe', 'unsubscribe', 'subscribe', 'subscribe']);
  await sim.config({ webhook_times: 1, webhook_hold: false });
  await sim.ctl('POST', '/deliveries/repeat', { n: 1 });
  await delivered(5);
  assert.equal(heard()[4].body, heard()[3].body);
});
