// Authentication, limits, errors and conventions: API.md sections 1 to 4, and what was not taught.

import test from 'node:test';
import assert from 'node:assert/strict';
import { simulator, hash, KEY } from './harness.js';

const sim = simulator();
const basic = (name, key) => ({ authorization: `Basic ${Buffer.from(`${name}:${key}`).toString('base64')}` });

test('Basic with any name and Bearer are equal (1)', async () => {
  assert.equal((await sim.api('GET', '/ping', undefined, { key: null, headers: basic('anything', KEY) })).status, 200);
  assert.deepEqual(await sim.ok('GET', '/ping'), { health_status: 'Everything\'s Chimpy!' });
});

test('a missing, wrong or revoked key is 401 problem+json (1, 3)', async () => {
  await sim.fails(401, 'API Key Missing', 'GET', '/ping', undefined, { key: null });
  const body = await sim.fails(401, 'API Key Invalid', 'GET', '/ping', undefined, { key: 'nobody-us1' });
  assert.deepEqual(Object.keys(body), ['type', 'title', 'status', 'detail', 'instance']);
  await sim.ctl('DELETE', `/keys/${KEY}`);
  await sim.fails(401, 'API Key Invalid', 'GET', '/ping');
});

test('errors are problem+json and every answer has X-Request-Id (1, 3)', async () => {
  const answer = await sim.api('GET', '/nowhere');
  assert.match(answer.headers.get('content-type'), /^application\/problem\+json/);
  assert.ok(answer.headers.get('x-request-id'));
  assert.ok((await sim.api('GET', '/ping')).headers.get('x-request-id'));
});

test('a role that may not do an action gets 403; GET / tells the role (1)', async () => {
  await sim.ctl('POST', '/keys', { key: 'look-us1', account: sim.account.account_id, new_login_id: 'looker', role: 'viewer' });
  assert.equal((await sim.ok('GET', '/', undefined, { key: 'look-us1' })).role, 'viewer');
  await sim.fails(403, 'Forbidden', 'POST', sim.members, { email_address: 'a@example.org', status: 'subscribed' }, { key: 'look-us1' });
});

test('GET / has the account data (5.1)', async () => {
  await sim.add('a@example.org');
  const root = await sim.ok('GET', '/');
  assert.equal(root.account_id, sim.account.account_id);
  assert.equal(root.login_id, sim.account.login_id);
  assert.equal(root.pricing_plan_type, 'monthly');
  assert.equal(root.total_subscribers, 1);
});

test('X-HTTP-Method-Override works on POST only (1)', async () => {
  const headers = { 'x-http-method-override': 'GET' };
  assert.equal((await sim.api('POST', '/ping', undefined, { headers })).status, 200);
  await sim.fails(422, null, 'GET', '/ping', undefined, { headers });
});

test('X-Trigger-Error makes the named error (1)', async () => {
  await sim.fails(401, 'API Key Missing', 'GET', '/ping', undefined, { headers: { 'x-trigger-error': 'APIKeyMissing' } });
});

test('more than 10 requests of a user at once: 429, counted per user and not per key (2)', async () => {
  await sim.ctl('POST', '/keys', { key: 'second-us1', account: sim.account.account_id });
  await sim.ctl('POST', '/keys', { key: 'other-us1', account: sim.account.account_id, new_login_id: 'other' });
  await sim.ctl('POST', '/holds', { path: '^/ping$', times: 10, when: 'before' });
  const waiting = Array.from({ length: 10 }, (_, i) => sim.api('GET', '/ping', undefined, { key: i % 2 ? KEY : 'second-us1' }));
  assert.equal((await sim.ctl('GET', '/holds?wait=5&count=10')).held.length, 10);
  await sim.fails(429, 'Too Many Requests', 'GET', '/ping');
  await sim.ok('GET', '/ping', undefined, { key: 'other-us1' });
  await sim.ctl('POST', '/holds/release', { all: true });
  for (const answer of await Promise.all(waiting)) assert.equal(answer.status, 200);
  assert.equal((await sim.ctl('GET', '/open')).users[sim.account.login_id].max, 11);
});

test('the limit can be changed', async () => {
  await sim.ctl('POST', '/limit', { per_user: 1 });
  await sim.ctl('POST', '/latency', { request_ms: 100 });
  const answers = await Promise.all([1, 2, 3].map(() => sim.api('GET', '/ping')));
  assert.deepEqual(answers.map(({ status }) => status).sort(), [200, 429, 429]);
});

test('unknown paths are 404, other methods of a known path 405', async () => {
  await sim.fails(404, 'Resource Not Found', 'GET', '/automations');
  await sim.fails(404, 'Resource Not Found', 'GET', '/lists/nowhere');
  const answer = await sim.api('DELETE', '/ping');
  assert.equal(answer.status, 405);
  assert.equal(answer.headers.get('allow'), 'GET');
});

test('unknown query parameters, body fields and wrong types are 400 Invalid Resource', async () => {
  let body = await sim.fails(400, 'Invalid Resource', 'GET', '/lists?colour=red');
  assert.equal(body.errors[0].field, 'colour');
  body = await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'a@example.org', status: 'subscribed', colour: 1 });
  assert.equal(body.errors[0].field, 'colour');
  body = await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'a@example.org', status: 'subscribed', vip: 'yes' });
  assert.deepEqual(body.errors[0], { field: 'vip', message: 'Schema describes boolean, string found instead' });
});

test('a body that is no JSON is a JSON Parse Exception; a bodiless action takes none (3, 5.8)', async () => {
  await sim.fails(400, 'JSON Parse Exception', 'POST', sim.members, undefined, { raw: '{"email_address":' });
  const { path } = await sim.campaign();
  await sim.fails(400, 'Bad Request', 'POST', `${path}/actions/send`, {});
});

test('null on single-member calls is refused, on the batch call it is not (trap 14)', async () => {
  const body = await sim.fails(400, 'Invalid Resource', 'POST', sim.members,
    { email_address: 'a@example.org', status: 'subscribed', language: null });
  assert.equal(body.errors[0].message, 'Schema describes string, NULL found instead');
  const answer = await sim.batch([{ email_address: 'a@example.org', status: 'subscribed', language: null, merge_fields: { FNAME: null } }]);
  assert.equal(answer.total_created, 1);
});

test('count is 10 unless given, at most 1000 rows come; a short page ends a walk (2, 4, trap 7)', async () => {
  for (const from of [0, 500, 1000]) {
    await sim.batch(Array.from({ length: 500 }, (_, i) => ({ email_address: `m${from + i}@example.org`, status: 'subscribed' })));
  }
  assert.equal((await sim.ok('GET', sim.members)).members.length, 10);
  const first = await sim.ok('GET', `${sim.members}?count=5000&fields=members.id,total_items`);
  assert.equal(first.members.length, 1000);
  assert.equal(first.total_items, 1500);
  assert.equal((await sim.ok('GET', `${sim.members}?count=1000&offset=1000&fields=members.id`)).members.length, 500);
  await sim.fails(400, 'Invalid Resource', 'GET', `${sim.members}?count=-1`);
});

test('subscriber_hash is the MD5 of the lowercased address; address and contact_id work too (4)', async () => {
  const member = await sim.add('Mixed.Case@Example.org');
  assert.equal(member.id, hash('mixed.case@example.org'));
  for (const name of [member.id, 'Mixed.Case@Example.org', encodeURIComponent('mixed.case@example.org'), member.contact_id]) {
    assert.equal((await sim.ok('GET', `${sim.members}/${name}`)).web_id, member.web_id);
  }
});

test('a+b@x and a@x are two contacts; the same person on two lists is two members (trap 10)', async () => {
  await sim.add('a@example.org');
  await sim.add('a+b@example.org');
  await sim.fails(400, 'Member Exists', 'POST', sim.members, { email_address: 'A@EXAMPLE.org', status: 'subscribed' });
  const other = await sim.ctl('POST', '/accounts', { key: 'two-us1', lists: [{ name: 'A' }, { name: 'B' }] });
  const ids = [];
  for (const { id } of other.lists) {
    ids.push((await sim.ok('POST', `/lists/${id}/members`, { email_address: 'a@example.org', status: 'subscribed' }, { key: 'two-us1' })).contact_id);
  }
  assert.notEqual(ids[0], ids[1]);
});

test('accounts do not see each other', async () => {
  await sim.ctl('POST', '/accounts', { key: 'two-us1' });
  await sim.fails(404, 'Resource Not Found', 'GET', sim.members, undefined, { key: 'two-us1' });
});

test('since_ excludes its second, before_ includes it: (since, before] (4, trap 17)', async () => {
  await sim.ctl('POST', '/clock', { now: '2026-07-08T18:00:00Z' });
  await sim.add('a@example.org');
  const { last_changed: at } = await sim.ok('GET', sim.one('a@example.org'));
  const walk = async (query) => (await sim.ok('GET', `${sim.members}?${query}`)).total_items;
  const z = at.replace('+00:00', 'Z');
  assert.equal(await walk(`since_last_changed=${z}`), 0);
  assert.equal(await walk(`before_last_changed=${z}`), 1);
  assert.equal(await walk('since_last_changed=2026-07-08T17:59:59Z'), 1);
  assert.equal(await walk('before_last_changed=2026-07-08T17:59:59Z'), 0);
});

test('timestamps are whole seconds in UTC, an empty string where there is none; an unencoded + is refused (4)', async () => {
  const { path, made } = await sim.campaign();
  assert.equal(made.send_time, '');
  const member = await sim.ok('GET', sim.one('p0@example.org'));
  assert.equal(member.timestamp_signup, '');
  assert.match(member.last_changed, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00$/);
  await sim.fails(400, 'Invalid Resource', 'GET', `${sim.members}?since_last_changed=${member.last_changed}`);
  await sim.ok('GET', `${sim.members}?since_last_changed=${encodeURIComponent(member.last_changed)}`);
  await sim.ok('GET', path);
});

test('members take both ways to write a timestamp (4)', async () => {
  const a = await sim.add('a@example.org', { timestamp_signup: '2026-01-02 03:04:05', timestamp_opt: '2026-01-02T05:04:05+02:00' });
  assert.equal(a.timestamp_signup, '2026-01-02T03:04:05+00:00');
  assert.equal(a.timestamp_opt, '2026-01-02T03:04:05+00:00');
  await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'b@example.org', status: 'subscribed', timestamp_opt: 'soon' });
});

test('fields and exclude_fields are rooted at the answer, exclude each other, unknown names are an error (4)', async () => {
  await sim.add('a@example.org', { merge_fields: { FNAME: 'Ann' } });
  assert.deepEqual(await sim.ok('GET', `${sim.members}?fields=members.merge_fields.FNAME,total_items`),
    { members: [{ merge_fields: { FNAME: 'Ann' } }], total_items: 1 });
  const rest = await sim.ok('GET', `${sim.members}?exclude_fields=members._links,_links,members.stats`);
  assert.ok(!('_links' in rest) && !('stats' in rest.members[0]) && 'email_address' in rest.members[0]);
  assert.deepEqual(await sim.ok('GET', `/lists/${sim.list}?fields=id,stats.member_count`), { id: sim.list, stats: { member_count: 1 } });
  await sim.fails(400, 'Invalid Resource', 'GET', `${sim.members}?fields=id`);
  await sim.fails(400, 'Invalid Resource', 'GET', '/lists?fields=lists.id&exclude_fields=lists.name');
});

test('boolean query values: true and 1 in any case, anything else is false (4)', async () => {
  await sim.add('a@example.org', { vip: true });
  await sim.add('b@example.org');
  const total = async (value) => (await sim.ok('GET', `${sim.members}?vip_only=${value}`)).total_items;
  for (const value of ['true', 'TRUE', '1']) assert.equal(await total(value), 1);
  for (const value of ['false', '0', 'yes']) assert.equal(await total(value), 2);
});
