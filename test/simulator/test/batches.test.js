// Batch operations: API.md 5.10, 2 and trap 15.

import test from 'node:test';
import assert from 'node:assert/strict';
import { gunzipSync } from 'node:zlib';
import { simulator, hash, KEY } from './harness.js';

const sim = simulator();
const STATES = ['pending', 'preprocessing', 'started', 'finalizing', 'finished'];
const start = (operations, options) => sim.ok('POST', '/batches', { operations }, options);
const look = (id) => sim.ok('GET', `/batches/${id}`);
const emails = (n) => Array.from({ length: n }, (_, i) => `m${i}@example.org`);
const leave = (email) => ({ method: 'DELETE', path: sim.one(email), operation_id: email });
const fill = (n) => sim.batch(emails(n).map((email) => ({ email_address: email, status: 'subscribed' })));
const archived = async () => (await sim.ctl('GET', '/state')).accounts[0].lists[0].by_status.archived;

// The entries of a gzipped tar, each parsed.
function untar(packed) {
  const tar = gunzipSync(packed);
  const files = [];
  for (let at = 0; tar[at] !== 0;) {
    const size = parseInt(tar.toString('latin1', at + 124, at + 135), 8);
    assert.equal(tar.toString('latin1', at + 257, at + 262), 'ustar');
    files.push(JSON.parse(tar.toString('utf8', at + 512, at + 512 + size)));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return files;
}

async function results(batch) {
  const answer = await fetch(batch.response_body_url);
  assert.equal(answer.status, 200);
  return untar(Buffer.from(await answer.arrayBuffer())).flat();
}

// Runs to its end.
async function done(operations) {
  const { id } = await start(operations);
  await sim.advance(60);
  return look(id);
}

test('the body: operations with method and path, body a JSON text (5.10)', async () => {
  const refuse = (body) => sim.fails(400, 'Invalid Resource', 'POST', '/batches', body);
  await refuse({});
  await refuse({ operations: [] });
  await refuse({ operations: [{ method: 'GET' }] });
  await refuse({ operations: [{ method: 'HEAD', path: '/ping' }] });
  await refuse({ operations: [{ method: 'POST', path: sim.members, body: { email_address: 'a@example.org' } }] });
  await refuse({ operations: [{ method: 'GET', path: '/ping', colour: 1 }] });
});

test('pending, preprocessing, started, finalizing, finished by the clock; nothing happens before started (5.10)', async () => {
  await fill(8);
  await sim.config({ batch_seconds: 4000 });
  const batch = await start(emails(8).map(leave));
  assert.deepEqual([batch.status, batch.finished_operations, batch.errored_operations, batch.completed_at, batch.response_body_url],
    ['pending', 0, 0, '', '']);
  assert.match(batch.submitted_at, /^\d{4}-\d\d-\d\dT/);
  const seen = [];
  for (const seconds of [0, 1000, 1000, 500, 500, 1000]) {
    await sim.advance(seconds);
    const { status, finished_operations: finished, total_operations: total } = await look(batch.id);
    seen.push(`${status} ${finished}/${total} ${await archived()}`);
  }
  assert.deepEqual(seen, ['pending 0/0 0', 'preprocessing 0/0 0', 'started 0/8 0', 'started 4/8 4', 'finalizing 8/8 8', 'finished 8/8 8']);
  const { completed_at: completed } = await look(batch.id);
  assert.match(completed, /^\d{4}-/);
});

test('total_operations from the start, where config says so', async () => {
  await sim.config({ batch_total: 'at_once', batch_seconds: 100 });
  assert.equal((await start([leave('a@example.org'), leave('b@example.org')])).total_operations, 2);
});

test('or by looks: one shows the old state and goes on to the next', async () => {
  await sim.config({ batch_seconds: 100000, batch_looks: 1 });
  const { id } = await start([{ method: 'GET', path: '/ping' }]);
  const seen = [];
  for (let i = 0; i < 6; i++) seen.push((await look(id)).status);
  assert.deepEqual(seen, [...STATES, 'finished']);
});

test('so much longer for each operation', async () => {
  await fill(10);
  await sim.config({ batch_seconds: 0, batch_operation_ms: 100000 });
  const { id } = await start(emails(10).map(leave));
  await sim.advance(500);
  const { status, finished_operations: finished } = await look(id);
  assert.deepEqual([status, finished], ['started', 5]);
  await sim.advance(500);
  assert.equal((await look(id)).status, 'finished');
});

test('one batch at a time per account, the others queue (5.10)', async () => {
  await sim.config({ batch_seconds: 1000 });
  const first = await start([leave('a@example.org')]);
  const second = await start([leave('b@example.org')]);
  await sim.ctl('POST', '/accounts', { key: 'two-us1' });
  const other = await start([{ method: 'GET', path: '/ping' }], { key: 'two-us1' });
  await sim.advance(900);
  assert.deepEqual([(await look(first.id)).status, (await look(second.id)).status], ['finalizing', 'pending']);
  assert.equal((await sim.ok('GET', `/batches/${other.id}`, undefined, { key: 'two-us1' })).status, 'finalizing');
  await sim.advance(100);
  assert.deepEqual([(await look(first.id)).status, (await look(second.id)).status], ['finished', 'pending']);
  await sim.advance(1000);
  assert.equal((await look(second.id)).status, 'finished');
});

test('another account\'s batch is not there', async () => {
  const { id } = await start([{ method: 'GET', path: '/ping' }]);
  await sim.ctl('POST', '/accounts', { key: 'two-us1' });
  for (const method of ['GET', 'DELETE']) await sim.fails(404, 'Resource Not Found', method, `/batches/${id}`, undefined, { key: 'two-us1' });
  assert.equal((await sim.ok('GET', '/batches', undefined, { key: 'two-us1' })).total_items, 0);
});

test('500 pending batches: 429 (2)', async () => {
  await sim.config({ batch_seconds: 1000 });
  const ids = [];
  for (let i = 0; i < 500; i++) ids.push((await start([{ method: 'GET', path: '/ping' }])).id);
  const body = { operations: [{ method: 'GET', path: '/ping' }] };
  await sim.fails(429, 'Too Many Requests', 'POST', '/batches', body);
  await sim.ok('DELETE', `/batches/${ids[499]}`);
  await sim.ok('POST', '/batches', body);
});

test('the same code as single requests; each operation has its own result (5.10)', async () => {
  await sim.add('a@example.org');
  const batch = await done([
    { method: 'POST', path: sim.members, body: JSON.stringify({ email_address: 'b@example.org', status: 'subscribed' }), operation_id: 'add' },
    { method: 'PATCH', path: sim.one('a@example.org'), body: '{"status": "unsubscribed"}', operation_id: 'change' },
    { method: 'GET', path: '/lists', params: { count: 5, fields: 'lists.id' }, operation_id: 'read' },
    { method: 'DELETE', path: sim.one('nobody@example.org'), operation_id: 'missing' },
    { method: 'PATCH', path: sim.one('a@example.org'), body: 'no JSON', operation_id: 'nonsense' },
    { method: 'GET', path: '/nowhere' },
  ]);
  assert.deepEqual([batch.status, batch.total_operations, batch.finished_operations, batch.errored_operations], ['finished', 6, 6, 3]);
  const found = Object.fromEntries((await results(batch)).map((one) => [one.operation_id ?? '', one]));
  assert.deepEqual(Object.entries(found).map(([id, { status_code: status }]) => `${id} ${status}`).sort(),
    [' 404', 'add 200', 'change 200', 'missing 404', 'nonsense 400', 'read 200']);
  assert.equal(JSON.parse(found.add.response).email_address, 'b@example.org');
  assert.deepEqual(JSON.parse(found.read.response), { lists: [{ id: sim.list }] });
  assert.equal(JSON.parse(found.missing.response).title, 'Resource Not Found');
  assert.equal((await sim.raw('a@example.org')).status, 'unsubscribed');
});

test('an answer without a body is an empty text in the results', async () => {
  await sim.add('a@example.org');
  const [result] = await results(await done([leave('a@example.org')]));
  assert.deepEqual([result.status_code, result.response], [204, '']);
});

test('what the user may not do, or no longer, is an error of the operation', async () => {
  await sim.add('a@example.org');
  await sim.ctl('POST', '/keys', { key: 'viewer-us1', login_id: sim.account.login_id, new_login_id: 'v', role: 'viewer' });
  const { id } = await start([leave('a@example.org')], { key: 'viewer-us1' });
  await sim.advance(60);
  assert.equal((await results(await look(id)))[0].status_code, 403);
  assert.equal((await sim.raw('a@example.org')).status, 'subscribed');
});

test('GET without count goes through all pages, and every page counts (5.10)', async () => {
  for (const from of [0, 500, 1000]) {
    await sim.batch(Array.from({ length: 500 }, (_, i) => ({ email_address: `p${from + i}@example.org`, status: 'subscribed' })));
  }
  const batch = await done([{ method: 'GET', path: sim.members, params: { fields: 'members.id' } }]);
  assert.equal(batch.total_operations, 2);
  const pages = (await results(batch)).map(({ response }) => JSON.parse(response).members.length);
  assert.deepEqual(pages.sort(), [1000, 500]);
  assert.equal((await done([{ method: 'GET', path: sim.members, params: { count: 7 } }])).total_operations, 1);
});

test('the order of operations is not guaranteed (5.10)', async () => {
  await fill(20);
  await sim.config({ batch_seconds: 4000 });
  await start(emails(20).map(leave));
  await sim.advance(2500);
  const { members } = await sim.ctl('GET', `/lists/${sim.list}/members?status=archived`);
  assert.equal(members.length, 10);
  assert.notDeepEqual(members.map((one) => one.email_address).sort(), emails(10).sort());
});

test('results: a host that takes no key, an address for ten minutes, another by looking again (5.10, trap 15)', async () => {
  const batch = await done([{ method: 'GET', path: '/ping' }]);
  const url = batch.response_body_url;
  assert.ok(!new URL(url).pathname.startsWith('/3.0'));
  assert.equal((await fetch(url, { headers: { authorization: `Bearer ${KEY}` } })).status, 400);
  assert.equal((await fetch(url.replace(/Signature=./, 'Signature=x'))).status, 403);
  await sim.advance(590);
  assert.equal((await fetch(url)).status, 200);
  await sim.advance(11);
  assert.equal((await fetch(url)).status, 403);
  assert.equal((await fetch((await look(batch.id)).response_body_url)).status, 200);
});

test('results are kept for 7 days (5.10)', async () => {
  const { id } = await done([{ method: 'GET', path: '/ping' }]);
  await sim.advance(7 * 86400);
  assert.deepEqual([(await look(id)).status, (await look(id)).response_body_url], ['finished', '']);
});

test('DELETE stops it: what is done stays, results are lost, the next one begins (5.10)', async () => {
  await fill(8);
  await sim.config({ batch_seconds: 4000 });
  const first = await start(emails(8).map(leave));
  const second = await start([{ method: 'GET', path: '/ping' }]);
  await sim.advance(2500);
  assert.equal((await sim.api('DELETE', `/batches/${first.id}`)).status, 204);
  await sim.advance(4100);
  assert.equal(await archived(), 4);
  await sim.fails(404, 'Resource Not Found', 'GET', `/batches/${first.id}`);
  await sim.fails(404, 'Resource Not Found', 'DELETE', `/batches/${first.id}`);
  assert.equal((await look(second.id)).status, 'finished');
});

test('the list of batches, paged', async () => {
  const ids = [];
  for (let i = 0; i < 12; i++) ids.push((await start([{ method: 'GET', path: '/ping' }])).id);
  const { batches, total_items: total } = await sim.ok('GET', '/batches?fields=batches.id,batches.status,batches.submitted_at,total_items');
  assert.deepEqual([batches.length, total], [10, 12]);
  assert.deepEqual(Object.keys(batches[0]).sort(), ['id', 'status', 'submitted_at']);
  const rest = await sim.ok('GET', '/batches?count=1000&offset=10');
  assert.deepEqual([...batches, ...rest.batches].map((one) => one.id).sort(), ids.sort());
});

test('a batch that never ends, and goes on when config lets it', async () => {
  await fill(8);
  await sim.config({ batch_until: 'started' });
  const { id } = await start(emails(8).map(leave));
  await sim.advance(86400);
  assert.deepEqual([(await look(id)).status, await archived()], ['started', 4]);
  await sim.config({ batch_until: 'finished' });
  await sim.advance(60);
  assert.deepEqual([(await look(id)).status, await archived()], ['finished', 8]);
});

test('faults and holds hit the requests, faults with a status the operations too', async () => {
  await fill(2);
  await sim.ctl('POST', '/faults', { method: 'POST', path: '^/batches$', fault: 'reset_after' });
  await assert.rejects(start(emails(2).map(leave)));
  const { batches: [lost] } = await sim.ok('GET', '/batches');
  await sim.ctl('POST', '/faults', { method: 'DELETE', path: '/members/', fault: { type: 'status', status: 500, json: true } });
  await sim.advance(60);
  const batch = await look(lost.id);
  assert.deepEqual([batch.errored_operations, await archived()], [1, 1]);
  assert.deepEqual((await results(batch)).map((one) => one.status_code).sort(), [204, 500]);
  await sim.ctl('POST', '/holds', { method: 'DELETE', path: '^/batches/', when: 'before' });
  const pending = sim.api('DELETE', `/batches/${lost.id}`);
  await sim.ctl('GET', '/holds?wait=5');
  assert.equal((await look(lost.id)).status, 'finished');
  await sim.ctl('POST', '/holds/release', { all: true });
  assert.equal((await pending).status, 204);
});

test('operations are not in the journal and take no connection of the user; the control interface shows them', async () => {
  await fill(2);
  await sim.ctl('DELETE', '/journal');
  const { id } = await done(emails(2).map(leave));
  const { entries } = await sim.ctl('GET', '/journal');
  assert.deepEqual(entries.map((entry) => entry.route), ['POST /batches', 'GET /batches/{batch_id}']);
  const { batches } = await sim.ctl('GET', '/batches');
  assert.deepEqual(batches.map(({ id: one, status, operations, done: finished, deleted }) => [one, status, operations.length, finished, deleted]),
    [[id, 'finished', 2, 2, false]]);
  assert.equal(batches[0].operations[0].path, sim.one('m0@example.org'));
  assert.equal(hash('m0@example.org'), batches[0].operations[0].path.split('/').pop());
});
