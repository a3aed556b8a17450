// The contract check: the demo's whole traffic against Mailchimp's own API description, so that neither our requests nor
// the simulator's answers can drift from the real API. First the canary: Prism skips a schema that does not compile
// without a word, so it is made to object to a wrong request and a wrong answer of every operation.
//
// test/contract/prepare has put Prism and the description into BUILD/contract; test/run has built the extension.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { readFileSync, writeFileSync } from 'node:fs';
import { spawn } from 'node:child_process';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';
import { Simulator } from '../simulator/server.js';
import { startPrism, startRecorder } from './prism.js';

const folder = `${process.env.BUILD}/contract`;
const description = JSON.parse(readFileSync(`${folder}/description.json`, 'utf8'));
const operations = Object.entries(description.paths).flatMap(([path, methods]) => (
  Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), path, operation }))));

const simulator = new Simulator();
const running = [];
let simulatorUrl;
let prism;

before(async () => {
  simulatorUrl = `http://127.0.0.1:${await simulator.listen(0)}`;
  prism = await startPrism(folder, `${folder}/description.json`, simulatorUrl);
  running.push(prism);
});

after(async () => {
  await Promise.all(running.map((one) => one.stop()));
  simulator.close();
});

async function control(path, body) {
  const answer = await fetch(`${simulatorUrl}/_sim${path}`, { method: 'POST', body: JSON.stringify(body) });
  assert.equal(answer.status, 200, await answer.text());
}

// Prism hangs on some input.
async function ask(url, method, path, body) {
  const answer = await fetch(url + path.replace(/\{\w+\}/g, '1'), {
    method,
    body,
    headers: { authorization: 'Bearer demo-us1', ...(body && { 'content-type': 'application/json' }) },
    signal: AbortSignal.timeout(10000),
  });
  const text = await answer.text();
  return { status: answer.status, body: text && JSON.parse(text) };
}

test('a wrong body of every operation that takes one is refused', async (t) => {
  const taking = operations.filter(({ operation }) => operation.requestBody);
  assert.equal(taking.length, 27);
  for (const { method, path } of taking) {
    await t.test(`${method} ${path}`, async () => {
      const { status, body } = await ask(prism.url, method, path, '[]');
      assert.equal(status, 422);
      assert.match(body.type, /UNPROCESSABLE_ENTITY/);
      assert.ok(body.validation.some(({ location }) => location[0] === 'body'));
    });
  }
});

test('a wrong answer of every operation is flagged', async (t) => {
  // Requests need no bodies here, which makes answers the only thing that can be wrong.
  const answersOnly = structuredClone(description);
  for (const methods of Object.values(answersOnly.paths)) {
    for (const operation of Object.values(methods)) delete operation.requestBody;
  }
  writeFileSync(`${folder}/answers.json`, JSON.stringify(answersOnly));
  const second = await startPrism(folder, `${folder}/answers.json`, simulatorUrl);
  running.push(second);
  await control('/demo', {});
  await control('/faults', { times: -1, fault: { type: 'status', status: 200, json: false, headers: { 'Content-Type': 'application/json' }, body: '[]' } });
  for (const { method, path, operation } of operations) {
    const required = (operation.parameters || []).filter((one) => one.in === 'query' && one.required);
    const query = required.map(({ name }) => `?${name}=x`).join('');
    await t.test(`${method} ${path}`, async () => {
      const { status, body } = await ask(second.url, method, path + query);
      assert.equal(status, 500);
      assert.match(body.type, /VIOLATIONS/);
    });
  }
});

test('the recorder hears every objection, and no other', async (t) => {
  const recorder = await startRecorder(prism.url);
  running.push(recorder);
  const heard = async (objection, ...request) => {
    const answer = await ask(recorder.url, ...request);
    assert.deepEqual(recorder.seen.objections.splice(0).map((one) => one.objection), objection ? [objection] : []);
    return answer;
  };
  await control('/reset', {});
  await control('/demo', {});
  await t.test('a right request', async () => {
    const { status, body } = await heard(null, 'GET', '/3.0/lists');
    assert.equal(status, 200);
    assert.equal(body.lists.length, 1);
  });
  await t.test('an error of Mailchimp', () => heard(null, 'GET', '/3.0/lists/x'));
  await t.test('a misspelt name', () => (
    heard('UNPROCESSABLE_ENTITY', 'POST', '/3.0/lists/x', JSON.stringify({ members: [], update_exsting: true }))));
  await t.test('an unknown path', () => heard('NO_PATH_MATCHED_ERROR', 'GET', '/3.0/listss'));
  await t.test('a wrong answer', async () => {
    await control('/faults', { fault: { type: 'status', status: 200, headers: { 'Content-Type': 'application/json' }, body: '{"lists": 1}' } });
    await heard('VIOLATIONS', 'GET', '/3.0/lists');
  });
});

// The demo has nobody who listens.
test('webhooks', async (t) => {
  const recorder = await startRecorder(prism.url);
  running.push(recorder);
  const ear = createServer((req, res) => res.end());
  await new Promise((resolve) => { ear.listen(0, '127.0.0.1', resolve); });
  t.after(() => ear.close());
  await control('/reset', {});
  await control('/demo', { lists: [{ name: 'Customers', id: '1' }] });
  const all = '/3.0/lists/1/webhooks';
  const body = { url: `http://127.0.0.1:${ear.address().port}/`, events: { subscribe: true, campaign: true }, sources: { user: true, api: false } };
  const { body: made } = await ask(recorder.url, 'POST', all, JSON.stringify(body));
  for (const [method, path, sent] of [['GET', all], ['GET', `${all}/${made.id}`], ['PATCH', `${all}/${made.id}`, '{"events": {"profile": true}}'], ['DELETE', `${all}/${made.id}`]]) {
    const { status } = await ask(recorder.url, method, path, sent);
    assert.equal(status, method === 'DELETE' ? 204 : 200, `${method} ${path}`);
  }
  assert.equal(recorder.seen.requests, 5);
  assert.deepEqual(recorder.seen.objections, []);
});

test('the demo', async (t) => {
  const recorder = await startRecorder(prism.url);
  running.push(recorder);
  const demo = spawn(fileURLToPath(new URL('../demo/run', import.meta.url)), ['--prepared'], {
    env: { ...process.env, SIMULATOR: simulatorUrl, ENDPOINT: recorder.url },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let output = '';
  for (const stream of [demo.stdout, demo.stderr]) stream.on('data', (text) => { output += text; });
  const status = await new Promise((resolve) => { demo.on('exit', resolve); });
  await t.test('without an objection', () => assert.deepEqual(recorder.seen.objections, []));
  await t.test('to its end', () => assert.equal(status, 0, output.slice(-3000)));
  await t.test('all of it went through', async () => {
    const { entries } = await (await fetch(`${simulatorUrl}/_sim/journal`)).json();
    const routes = new Set(entries.map((entry) => entry.route));
    assert.equal(entries.length, recorder.seen.requests);
    assert.ok(routes.has('POST /campaigns/{campaign_id}/actions/send') && routes.has('GET /reports/{campaign_id}/email-activity'));
    t.diagnostic(`${entries.length} requests over ${routes.size} operations`);
  });
});
