// What every test file needs: a simulator of its own on a free port, the API and the control interface as functions.

import { after, before, beforeEach } from 'node:test';
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { Simulator } from '../server.js';

export const hash = (email) => createHash('md5').update(email.toLowerCase()).digest('hex');
export const KEY = 'demo-us1';

// A simulator with the demo account before each test. The object is filled when the tests run.
export function simulator() {
  const sim = { at: null };
  before(async () => {
    sim.own = new Simulator({ seed: 7 });
    sim.url = `http://127.0.0.1:${await sim.own.listen(0)}`;
  });
  after(() => sim.own.close());
  beforeEach(async () => {
    await sim.ctl('POST', '/reset');
    sim.account = await sim.ctl('POST', '/demo');
    sim.list = sim.account.lists[0].id;
    sim.members = `/lists/${sim.list}/members`;
  });

  sim.ctl = async (method, path, body) => {
    const answer = await fetch(`${sim.url}/_sim${path}`, { method, body: body && JSON.stringify(body) });
    const out = await answer.json();
    assert.equal(answer.status, 200, JSON.stringify(out));
    return out;
  };

  // An API request: {status, body, headers}; `body` is undefined if the answer was empty.
  sim.api = async (method, path, body, { key = KEY, headers = {}, raw } = {}) => {
    const answer = await fetch(`${sim.url}/3.0${path}`, {
      method,
      headers: { ...(key && { authorization: `Bearer ${key}` }), ...headers },
      body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
    });
    const text = await answer.text();
    const json = /json/.test(answer.headers.get('content-type') || '');
    return { status: answer.status, headers: answer.headers, body: text && json ? JSON.parse(text) : text || undefined };
  };

  // The same for requests that must work: gives the body.
  sim.ok = async (method, path, body, options) => {
    const answer = await sim.api(method, path, body, options);
    assert.ok(answer.status < 300, `${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    return answer.body;
  };

  // Requests that must fail with that status and, for problem+json, title.
  sim.fails = async (status, title, method, path, body, options) => {
    const answer = await sim.api(method, path, body, options);
    assert.equal(answer.status, status, `${method} ${path}: ${JSON.stringify(answer.body)}`);
    if (title) assert.equal(answer.body.title, title, JSON.stringify(answer.body));
    return answer.body;
  };

  sim.add = (email, more) => sim.ok('POST', sim.members, { email_address: email, status: 'subscribed', ...more });
  sim.one = (email) => `${sim.members}/${hash(email)}`;
  sim.batch = (members, more, query = '') => sim.ok('POST', `/lists/${sim.list}${query}`, { members, ...more });
  sim.act = (email, action, more) => sim.ctl('POST', '/act', { list: sim.list, email, action, ...more });
  sim.raw = async (email) => (await sim.ctl('GET', `/lists/${sim.list}/members`)).members.find((m) => m.email_address === email);
  sim.advance = (seconds) => sim.ctl('POST', '/clock', { advance: seconds });
  sim.config = (values) => sim.ctl('POST', '/config', values);

  // n subscribed members p0@… and so on, all with a tag, and a campaign ready to send to that tag.
  sim.campaign = async (n = 4, more = {}) => {
    const emails = Array.from({ length: n }, (_, i) => `p${i}@example.org`);
    await sim.batch(emails.map((email) => ({ email_address: email, status: 'subscribed', tags: ['mailing'] })), { update_existing: true });
    const { segments } = await sim.ok('GET', `/lists/${sim.list}/segments?type=static`);
    const segment = segments.find(({ name }) => name === 'mailing').id;
    const made = await sim.ok('POST', '/campaigns', {
      type: 'regular',
      recipients: { list_id: sim.list, segment_opts: { saved_segment_id: segment } },
      settings: { subject_line: 'News', title: 'News', from_name: 'Demo', reply_to: 'news@example.org', template_id: sim.account.templates[0].id },
      ...more,
    });
    return { id: made.id, path: `/campaigns/${made.id}`, report: `/reports/${made.id}`, segment, emails, made };
  };

  // The same, counted and sent.
  sim.sent = async (n) => {
    const campaign = await sim.campaign(n);
    await sim.ok('GET', campaign.path);
    await sim.ok('POST', `${campaign.path}/actions/send`);
    return campaign;
  };
  return sim;
}
