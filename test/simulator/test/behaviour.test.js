// The control interface: faults, holds, latency, journal, clock, accounts, start and stop of the process.

import test from 'node:test';
import assert from 'node:assert/strict';
import http from 'node:http';
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { simulator, KEY } from './harness.js';

const sim = simulator();
const fault = (what, more) => sim.ctl('POST', '/faults', { method: 'POST', path: '/members$', fault: what, ...more });
const member = { email_address: 'a@example.org', status: 'subscribed' };
const post = () => sim.api('POST', sim.members, member);
const there = async () => (await sim.raw('a@example.org')) !== undefined;
const main = fileURLToPath(new URL('../main.js', import.meta.url));
const ctl = fileURLToPath(new URL('../ctl.js', import.meta.url));

test('faults without effect: status, bare 429 and 403, HTML 502 (2, 3)', async () => {
  await fault({ type: 'status', status: 503, json: true, headers: { 'Retry-After': '7' } });
  let answer = await post();
  assert.deepEqual([answer.status, answer.body.title, answer.headers.get('retry-after')], [503, 'Service Unavailable', '7']);
  for (const [name, status] of [['bare_429', 429], ['bare_403', 403], ['html_502', 502]]) {
    await fault(name);
    answer = await post();
    assert.equal(answer.status, status);
    assert.doesNotMatch(answer.headers.get('content-type') || '', /json/);
  }
  assert.equal(await there(), false);
  assert.equal((await post()).status, 200);
});

test('reset_before has no effect; reset_after and cut have it', async () => {
  await fault('reset_before');
  await assert.rejects(post());
  assert.equal(await there(), false);
  await fault('reset_after');
  await assert.rejects(post());
  assert.equal(await there(), true);
  await sim.ok('DELETE', sim.one('a@example.org'));
  await sim.ctl('POST', '/faults', { method: 'PUT', fault: 'cut' });
  await assert.rejects(sim.api('PUT', sim.one('a@example.org'), member));
  assert.equal((await sim.raw('a@example.org')).status, 'subscribed');
  const { entries } = await sim.ctl('GET', '/journal?route=PUT /lists/{list_id}/members/{subscriber_hash}');
  assert.deepEqual([entries[0].status, entries[0].effect, entries[0].fault], [null, true, 'cut']);
});

test('hang never answers, hang_after neither but has its effect', async () => {
  for (const [name, effect] of [['hang', false], ['hang_after', true]]) {
    await fault(name);
    const control = new AbortController();
    const pending = fetch(`${sim.url}/3.0${sim.members}`, {
      method: 'POST', body: JSON.stringify(member), headers: { authorization: `Bearer ${KEY}` }, signal: control.signal,
    });
    setTimeout(() => control.abort(), 100);
    await assert.rejects(pending);
    assert.equal(await there(), effect);
  }
  await sim.ctl('GET', '/journal?wait=5&count=2');
  assert.equal((await sim.ctl('GET', '/open')).users[sim.account.login_id].now, 0);
});

test('late: the client has left, the effect comes afterwards', async () => {
  await fault({ type: 'late', ms: 150 });
  await assert.rejects(fetch(`${sim.url}/3.0${sim.members}`, {
    method: 'POST', body: JSON.stringify(member), headers: { authorization: `Bearer ${KEY}` }, signal: AbortSignal.timeout(50),
  }));
  assert.equal(await there(), false);
  const { entries: [entry] } = await sim.ctl('GET', '/journal?wait=5');
  assert.deepEqual([entry.client_left, entry.status, entry.effect], [true, null, true]);
  assert.equal(await there(), true);
});

test('garbage is no JSON, huge is as long as asked, slow is the right answer later', async () => {
  await sim.ctl('POST', '/faults', { path: '^/ping$', fault: 'garbage' });
  const raw = (path) => fetch(`${sim.url}/3.0${path}`, { headers: { authorization: `Bearer ${KEY}` } });
  await assert.rejects((await raw('/ping')).json());
  await sim.ctl('POST', '/faults', { path: '^/ping$', fault: { type: 'huge', bytes: 3000000 } });
  const text = await (await raw('/ping')).text();
  assert.ok(text.length >= 3000000);
  JSON.parse(text);
  await sim.ctl('POST', '/faults', { path: '^/ping$', fault: { type: 'slow', ms: 80 } });
  const start = Date.now();
  await sim.ok('GET', '/ping');
  assert.ok(Date.now() - start >= 75);
});

test('html_504_after: a gateway that does not wait, while the request goes through (2)', async () => {
  await fault('html_504_after');
  const answer = await post();
  assert.deepEqual([answer.status, await there()], [504, true]);
  assert.match(answer.body, /^<html>/);
});

test('nth and times choose requests; faults can be listed and taken away', async () => {
  const { id } = await sim.ctl('POST', '/faults', { path: '^/ping$', nth: 2, times: 2, fault: 'bare_429' });
  const statuses = [];
  for (let i = 0; i < 4; i++) statuses.push((await sim.api('GET', '/ping')).status);
  assert.deepEqual(statuses, [200, 429, 429, 200]);
  assert.equal((await sim.ctl('GET', '/faults')).faults[0].hits, 2);
  await sim.ctl('DELETE', `/faults/${id}`);
  await sim.ctl('POST', '/faults', { path: '^/ping$', times: -1, fault: 'bare_429' });
  for (let i = 0; i < 3; i++) assert.equal((await sim.api('GET', '/ping')).status, 429);
  await sim.ctl('DELETE', '/faults');
  await sim.ok('GET', '/ping');
});

test('a fault or a hold may ask for words in the body', async () => {
  await fault('html_502', { body: 'b@example', times: -1 });
  assert.equal((await post()).status, 200);
  assert.equal((await sim.api('POST', sim.members, { ...member, email_address: 'b@example.org' })).status, 502);
  assert.deepEqual((await sim.ctl('GET', '/faults')).faults.map((one) => [one.body, one.hits]), [['b@example', 1]]);
});

test('a fault or a hold may ask for the campaign or the segment that a request is about', async () => {
  const { id: list } = sim.account.lists[0];
  const segments = `/lists/${list}/segments`;
  await sim.ctl('POST', '/faults', { about: '^Spring', times: -1, fault: 'html_502' });
  assert.equal((await sim.api('POST', segments, { name: 'Spring', static_segment: [] })).status, 502);
  await sim.ctl('DELETE', '/faults');
  const { id } = (await sim.api('POST', segments, { name: 'Spring', static_segment: [] })).body;
  const { id: campaign } = (await sim.api('POST', '/campaigns', { type: 'regular', settings: { title: 'Summer' } })).body;
  await sim.ctl('POST', '/faults', { about: '^S', nth: 2, times: 2, fault: 'html_502' });
  const statuses = [];
  for (const path of [`${segments}/${id}`, segments, `${segments}/${id}`, `/campaigns/${campaign}`, '/campaigns']) {
    statuses.push((await sim.api('GET', path)).status);
  }
  assert.deepEqual(statuses, [200, 200, 502, 502, 200]);
  assert.deepEqual((await sim.ctl('GET', '/journal')).entries.map((one) => one.about),
    ['Spring', 'Spring', 'Summer', 'Spring', null, 'Spring', 'Summer', null]);
});

test('holds stop a request before or after its effect until it is released', async () => {
  for (const [when, effect] of [['before', false], ['after', true]]) {
    await sim.ctl('POST', '/holds', { method: 'POST', path: '/members$', when });
    const pending = post();
    const { held } = await sim.ctl('GET', '/holds?wait=5');
    assert.deepEqual([held.length, held[0].when, held[0].path], [1, when, sim.members]);
    assert.equal(await there(), effect);
    const { entries } = await sim.ctl('GET', `/journal?since=${held[0].n - 1}`);
    assert.deepEqual([entries[0].status, entries[0].held], [null, when]);
    await sim.ctl('POST', '/holds/release', { n: held[0].n });
    assert.equal((await pending).status, 200);
    await sim.ctl('POST', '/reset');
    const account = await sim.ctl('POST', '/demo');
    Object.assign(sim, { list: account.lists[0].id, members: `/lists/${account.lists[0].id}/members` });
  }
});

test('latency per request and per member', async () => {
  await sim.ctl('POST', '/latency', { request_ms: 30, member_ms: 10 });
  const start = Date.now();
  await sim.batch(Array.from({ length: 5 }, (_, i) => ({ email_address: `m${i}@example.org`, status: 'subscribed' })));
  assert.ok(Date.now() - start >= 75);
});

test('the journal has every request in order of arrival, and waits for more', async () => {
  await sim.ok('GET', `${sim.members}?count=5`);
  await post();
  const waiting = sim.ctl('GET', '/journal?since=2&wait=5&count=1');
  await sim.api('GET', '/nowhere', undefined, { key: 'wrong-us1' });
  const { entries: [last] } = await waiting;
  assert.deepEqual([last.n, last.route, last.status, last.user, last.key], [3, null, 401, null, '-us1']);
  const { entries } = await sim.ctl('GET', '/journal');
  assert.deepEqual(entries.map(({ n, route, effect, open }) => [n, route, effect, open]), [
    [1, 'GET /lists/{list_id}/members', false, 1], [2, 'POST /lists/{list_id}/members', true, 1], [3, null, false, null]]);
  assert.deepEqual(entries[0].query, { count: '5' });
  assert.deepEqual(entries[1].body, member);
  assert.equal(entries[1].user, sim.account.login_id);
  await sim.ctl('DELETE', '/journal');
  assert.deepEqual((await sim.ctl('GET', '/journal')).entries, []);
});

test('ids depend on the seed and the order of requests only', async () => {
  const run = async (seed) => {
    await sim.ctl('POST', '/reset', { seed });
    const account = await sim.ctl('POST', '/demo');
    const made = await sim.ok('POST', `/lists/${account.lists[0].id}/members`, member);
    return [account.account_id, account.lists[0].id, made.contact_id, made.web_id];
  };
  const first = await run(11);
  assert.deepEqual(await run(11), first);
  assert.notDeepEqual(await run(12), first);
});

test('the clock moves everything', async () => {
  const { now } = await sim.ctl('POST', '/clock', { now: '2030-01-01T00:00:00Z' });
  assert.equal(now, '2030-01-01T00:00:00+00:00');
  assert.match((await sim.add('a@example.org')).last_changed, /^2030-01-01T00:00/);
});

test('a mistake in a control request is told', async () => {
  for (const [path, body] of [['/faults', { fault: 'nonsense' }], ['/config', { colour: 1 }], ['/config', { put_tags: 'often' }], ['/accounts', { key: 'x-us1', colour: 1 }]]) {
    const answer = await fetch(`${sim.url}/_sim${path}`, { method: 'POST', body: JSON.stringify(body) });
    assert.equal(answer.status, 400);
    assert.ok((await answer.json()).error);
  }
  assert.equal((await fetch(`${sim.url}/_sim/nothing`)).status, 404);
});

test('the README describes every setting', async () => {
  const readme = readFileSync(new URL('../README.md', import.meta.url), 'utf8');
  for (const name of Object.keys(await sim.ctl('GET', '/config'))) assert.ok(readme.includes(`\`${name}\``), name);
});

test('the journal drops the oldest bodies beyond its limit', async () => {
  await sim.config({ journal_body_bytes: 300 });
  for (let i = 0; i < 5; i++) await sim.add(`${'x'.repeat(50)}${i}@example.org`);
  const { entries } = await sim.ctl('GET', '/journal');
  assert.deepEqual([entries[0].body, entries[0].body_dropped, entries[4].body.status], [null, true, 'subscribed']);
});

test('answers are compressed if config says so and the client can', async () => {
  await sim.config({ compress: true });
  await sim.campaign(5);
  const get = (headers) => new Promise((resolve) => {
    http.get(`${sim.url}/3.0${sim.members}`, { headers: { authorization: `Bearer ${KEY}`, ...headers } }, (res) => { res.resume(); resolve(res.headers); });
  });
  assert.equal((await get({ 'accept-encoding': 'gzip' }))['content-encoding'], 'gzip');
  assert.equal((await get({}))['content-encoding'], undefined);
});

function line(stream) {
  return new Promise((resolve) => { stream.once('data', (data) => resolve(String(data))); });
}

test('main.js: one line when ready, a port file, ctl.js, ends with SIGTERM', async () => {
  const file = join(mkdtempSync(join(tmpdir(), 'sim-')), 'port');
  const child = spawn(process.execPath, [main, '--port-file', file], { stdio: ['ignore', 'pipe', 'inherit'] });
  const text = await line(child.stdout);
  const [, url, port] = /^listening on (http:\/\/127\.0\.0\.1:(\d+))\n$/.exec(text);
  assert.ok(existsSync(file));
  assert.equal(readFileSync(file, 'utf8').trim(), port);
  const run = spawn(process.execPath, [ctl, url, 'POST', '/_sim/demo', '{"key":"k-us1"}']);
  assert.deepEqual(JSON.parse(await line(run.stdout)).keys, ['k-us1']);
  const wrong = spawn(process.execPath, [ctl, url, 'POST', '/_sim/faults', '{}']);
  assert.equal(await new Promise((resolve) => { wrong.on('exit', resolve); }), 1);
  child.kill('SIGTERM');
  assert.equal(await new Promise((resolve) => { child.on('exit', resolve); }), 0);
});

test('main.js ends with its standard input if told so', async () => {
  const child = spawn(process.execPath, [main, '--exit-with-stdin'], { stdio: ['pipe', 'pipe', 'inherit'] });
  await line(child.stdout);
  child.stdin.end();
  assert.equal(await new Promise((resolve) => { child.on('exit', resolve); }), 0);
});

test('the history of members: statuses and addresses, by requests and by people', async () => {
  await sim.add('before@example.org');
  await sim.config({ history: true });
  await sim.add('a@example.org');
  const { n } = (await sim.ctl('GET', '/journal')).entries.at(-1);
  await sim.ok('PATCH', sim.one('a@example.org'), { merge_fields: { FNAME: 'no change of these' } });
  await sim.ok('PATCH', sim.one('a@example.org'), { email_address: 'B@example.org', status: 'unsubscribed' });
  await sim.act('b@example.org', 'resubscribe');
  await sim.act('b@example.org', 'archive');
  await sim.ok('DELETE', sim.one('b@example.org'));
  await sim.act('b@example.org', 'delete_permanent');
  const { changes, last } = await sim.ctl('GET', '/history');
  assert.equal(last, 7);
  assert.deepEqual(changes.map(({ n: number, at, list, web_id, ...rest }) => rest), [
    { email: 'a@example.org', from: null, to: 'subscribed', request: n },
    { email: 'B@example.org', from: 'subscribed', to: 'subscribed', was: 'a@example.org', request: n + 2 },
    { email: 'B@example.org', from: 'subscribed', to: 'unsubscribed', request: n + 2 },
    { email: 'B@example.org', from: 'unsubscribed', to: 'subscribed', request: null },
    { email: 'B@example.org', from: 'subscribed', to: 'archived', request: null },
    { email: 'B@example.org', from: 'archived', to: 'archived', request: n + 3 },
    { email: 'B@example.org', from: 'archived', to: null, request: null },
  ]);
  assert.equal(new Set(changes.map((change) => change.web_id)).size, 1);
  assert.deepEqual((await sim.ctl('GET', '/history?since=4')).changes, changes.slice(4));
});
