// The server: takes a request through arrival, authentication, limit, latency, holds, faults, its effect and the answer.
// The order matters: a fault or hold "before" leaves the world as it was, one "after" lets the effect happen.

import http from 'node:http';
import { gzipSync } from 'node:zlib';
import { Bell, sleep } from './lib/bell.js';
import { Faults, Holds } from './lib/rules.js';
import { Journal } from './lib/journal.js';
import { batchOfUrl } from './lib/batches.js';
import { tarOf } from './lib/tar.js';
import { Router } from './lib/router.js';
import { World } from './lib/world.js';
import { badRequest, forbidden, invalid, methodNotAllowed, notFound, Problem, tooManyRequests } from './lib/problem.js';
import { check } from './lib/schema.js';
import { parseQuery } from './lib/query.js';
import { ALL, planOf, prune } from './lib/shape.js';
import { reply, wrongReply } from './lib/replies.js';
import { tick } from './lib/sending.js';
import { control } from './control/index.js';
import { routes } from './api/index.js';

const router = new Router(routes);

// A batch reads in pages of that size what a GET without count asks for.
const PAGE_OF_BATCH = 1000;
// What a fault that answers with a status makes of an operation.
const FAULT_STATUS = { bare_429: 429, bare_403: 403, html_502: 502, html_504_after: 504 };

// What a role may write (API.md 1: a role that may not do an action gets 403).
const MAY = {
  viewer: [],
  author: ['campaigns'],
  manager: ['campaigns', 'send', 'contacts', 'lists'],
  admin: ['campaigns', 'send', 'contacts', 'lists'],
  owner: ['campaigns', 'send', 'contacts', 'lists'],
};

export class Simulator {
  constructor({ seed = 1 } = {}) {
    this.bell = new Bell();
    this.world = new World(seed);
    this.world.bell = this.bell;
    this.world.operate = (batch, operation) => this.by(batch.request, () => this.operate(batch, operation));
    this.journal = new Journal(this.world, this.bell);
    this.faults = new Faults();
    this.holds = new Holds(this.bell);
    this.firstSeed = seed;
    this.generation = 0;
    this.setDefaults();
    this.server = http.createServer({ keepAlive: true }, (req, res) => this.take(req, res));
    // An idle connection that the server closes just when a client reuses it would look like a fault that nobody planned.
    this.server.keepAliveTimeout = 0;
    this.server.requestTimeout = 0;
    this.server.headersTimeout = 0;
  }

  setDefaults() {
    this.latency = { request_ms: 0, member_ms: 0 };
    this.perUser = 10;
  }

  reset(seed) {
    this.generation += 1;
    this.holds.reset();
    this.faults.reset();
    this.journal.reset();
    this.world.reset(seed ?? this.firstSeed);
    this.setDefaults();
    this.bell.ring();
  }

  listen(port) {
    return new Promise((resolve, reject) => {
      this.server.once('error', reject);
      this.server.listen(port, '127.0.0.1', () => {
        const { port: taken } = this.server.address();
        this.world.origin = `http://127.0.0.1:${taken}`;
        resolve(taken);
      });
    });
  }

  close() {
    this.server.close();
    this.server.closeAllConnections();
  }

  take(req, res) {
    res.on('error', () => {});
    req.on('error', () => {});
    const [path, query = ''] = splitOnce(req.url, '?');
    if (path === '/_sim' || path.startsWith('/_sim/')) {
      control(this, req, res, path.slice(5), query).catch((error) => crash(res, error));
    } else if (path === '/3.0' || path.startsWith('/3.0/')) {
      this.api(req, res, path.slice(4) || '/', query).catch((error) => crash(res, error));
    } else if (path.startsWith('/_storage/')) {
      this.store(req, res, path, query);
    } else {
      reply(res, this.world, 404, notFound().body());
    }
  }

  // Another host of the real service: signed addresses, and no second credential beside the signature (API.md 5.10).
  store(req, res, path, query) {
    const batch = batchOfUrl(this.world, path, query);
    if (req.headers.authorization) {
      res.writeHead(400).end('Only one auth mechanism allowed');
    } else if (req.method !== 'GET' || !batch) {
      res.writeHead(403).end('Request has expired');
    } else {
      const files = batch.results.map((one, i) => [`${batch.id}/${i}.json`, JSON.stringify([one])]);
      res.writeHead(200, { 'Content-Type': 'application/gzip' }).end(gzipSync(tarOf(files, batch.completed)));
    }
  }

  async api(req, res, path, query) {
    const { world, journal } = this;
    const key = keyOf(req.headers.authorization);
    const entryKey = key && world.userOf(key);
    const user = entryKey?.user || null;
    if (user) {
      user.open += 1;
      user.max = Math.max(user.max, user.open);
    }
    const entry = journal.begin(req.method, path, query, key, user);
    const call = {
      req, res, path, query, key, user, entry, account: entryKey?.account, generation: this.generation, method: req.method,
      overLimit: user !== null && this.perUser > 0 && user.open > this.perUser,
    };
    res.on('close', () => { if (entry.ended === null) entry.client_left = true; });
    this.bell.ring();
    try {
      await this.run(call);
    } finally {
      this.leave(call);
    }
  }

  // Once per request, and before the answer is written: a client that has the answer may send its next request at once.
  leave(call) {
    if (call.left) return;
    call.left = true;
    if (call.user) call.user.open -= 1;
    this.journal.end(call.entry);
  }

  async run(call) {
    call.raw = await readAll(call.req);
    if (call.raw === null) return;
    this.journal.keepBody(call.entry, call.raw);
    override(call);
    const found = router.find(call.method, call.path);
    call.entry.route = found?.route?.title ?? null;
    call.entry.about = this.aboutOf(call, found);
    if (call.overLimit) {
      this.answer(call, { status: 429, body: tooManyRequests().body() });
      return;
    }
    const fault = this.faults.of(call.method, call.path, call.raw, call.entry.about);
    const hold = this.holds.match(call.method, call.path, call.raw, call.entry.about);
    if (fault) call.entry.fault = fault.type;
    await sleep(this.latencyOf(call, found));
    if (hold?.when === 'before' && !(await this.holds.stop(hold, call.entry))) return void call.res.destroy();
    if (fault?.when === 'before' && (await this.failBefore(call, fault))) return;
    call.ahead = await this.askAhead(call, found);
    if (call.generation !== this.generation) return void call.res.destroy();
    const answer = this.perform(call, found);
    if (hold?.when === 'after' && !(await this.holds.stop(hold, call.entry))) return void call.res.destroy();
    await this.finish(call, fault, answer);
  }

  // The title of the campaign, or the name of the segment, that the path names or the body is to make; else null.
  aboutOf({ account, raw }, found) {
    const { campaign_id: campaign, list_id: list, segment_id: segment } = found?.params || {};
    if (campaign) return account?.campaigns.get(campaign)?.settings.title ?? null;
    if (segment) return account?.lists.get(list)?.segments.get(Number(segment))?.name ?? null;
    if (!['POST /campaigns', 'POST /lists/{list_id}/segments'].includes(found?.route?.title)) return null;
    try {
      const body = JSON.parse(raw);
      return body.settings?.title ?? body.name ?? null;
    } catch {
      return null;
    }
  }

  latencyOf(call, found) {
    const { request_ms: base, member_ms: each } = this.latency;
    if (!each || !found?.route?.batch) return base;
    try {
      return base + each * (JSON.parse(call.raw).members?.length || 0);
    } catch {
      return base;
    }
  }

  // True if that is all that happens to the request.
  async failBefore(call, fault) {
    if (fault.type === 'late') {
      await sleep(fault.ms);
      return false;
    }
    if (fault.type === 'hang') await gone(call.res);
    else this.sendWrong(call, fault, null);
    return true;
  }

  async finish(call, fault, answer) {
    if (fault?.type === 'slow') await sleep(fault.ms);
    if (fault?.type === 'hang_after') await gone(call.res);
    else if (fault?.when === 'after' && fault.type !== 'slow') this.sendWrong(call, fault, answer);
    else this.answer(call, answer);
  }

  sendWrong(call, fault, answer) {
    this.leave(call);
    call.entry.status = wrongReply(call.res, this.world, fault, answer);
  }

  answer(call, { status, body, headers }) {
    if (!call.res.destroyed) call.entry.status = status;
    this.leave(call);
    reply(call.res, this.world, status, body, headers);
  }

  // What somebody outside has to say before there is an effect: the address of a webhook.
  askAhead(call, found) {
    if (!call.user || !found?.route?.ahead) return null;
    try {
      return found.route.ahead(JSON.parse(call.raw));
    } catch {
      return null;
    }
  }

  // The effect and the answer of a request. Everything here happens in one turn of the event loop, so that no other request
  // sees half of it.
  perform(call, found) {
    const { world } = this;
    tick(world);
    const before = world.changes;
    try {
      return this.by(call.entry.n, () => this.outcome(call, found));
    } finally {
      call.entry.effect = world.changes !== before;
    }
  }

  // What changes meanwhile is by that request, a batch's operations by the one that made it.
  by(request, work) {
    const { world } = this;
    const outer = world.request;
    world.request = request;
    try {
      return work();
    } finally {
      world.request = outer;
    }
  }

  outcome(call, found) {
    try {
      return { status: 200, ...this.handle(call, found) };
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      const headers = found?.allow ? { Allow: found.allow.join(', ') } : undefined;
      return { status: error.status, body: error.body(), headers };
    }
  }

  // The results of an operation of a batch: what a request of its own would get, but for limit, latency, holds and journal. A
  // GET without count goes through all pages.
  operate({ key, user, account }, { method, path: target, params = {}, body = '', headers = {} }) {
    const [path, text = ''] = splitOnce(target, '?');
    const query = new URLSearchParams([...new URLSearchParams(text), ...Object.entries(params)]);
    const found = router.find(method, path);
    const fault = this.faults.of(method, path, body);
    const failed = fault && { status: fault.status ?? FAULT_STATUS[fault.type] ?? 500, body: { title: 'Planned by a test' } };
    if (fault?.when === 'before') return [failed];
    const walks = method === 'GET' && found?.route?.query.count && !query.has('count');
    if (walks) query.set('count', PAGE_OF_BATCH);
    const results = [];
    for (let offset = 0; ; offset += PAGE_OF_BATCH) {
      if (offset) query.set('offset', offset);
      const answer = this.outcome({ req: { headers }, key, user, account, query: String(query), raw: Buffer.from(body) }, found);
      results.push(failed || answer);
      if (!walks || !Object.values(answer.body).some((value) => value?.length === PAGE_OF_BATCH)) return results;
    }
  }

  handle(call, found) {
    triggered(call.req.headers['x-trigger-error']);
    if (!call.key) throw new Problem(401, 'API Key Missing', 'Your request did not include an API key.');
    if (!this.world.userOf(call.key)) {
      throw new Problem(401, 'API Key Invalid', 'Your API key may be invalid, or you\'ve attempted to access the wrong datacenter.');
    }
    if (call.badOverride) throw new Problem(422, 'Invalid Method Override', 'X-HTTP-Method-Override is for POST only.');
    if (!found) throw notFound();
    const { route, params } = found;
    if (!route) throw methodNotAllowed();
    if (route.write && !MAY[call.user.role].includes(route.write)) throw forbidden();
    const query = readQuery(route, call.query);
    const plan = route.shape ? planOf(route.shape, query) : ALL;
    const ctx = { world: this.world, account: call.account, user: call.user, key: call.key, params, query, plan, body: readBody(route, call.raw), ahead: call.ahead };
    const body = route.handler(ctx);
    return body === undefined ? { status: 204 } : { body: prune(body, ctx.plan) };
  }
}

function readQuery(route, text) {
  const query = parseQuery(text, route.query);
  const missing = (route.required || []).filter((name) => query[name] === undefined);
  if (missing.length) throw invalid(missing.map((field) => ({ field, message: 'Required fields were not provided' })));
  return query;
}

function readBody(route, raw) {
  if (!route.body) {
    if (raw.length) throw badRequest('This request takes no body.');
    return undefined;
  }
  let body;
  try {
    body = JSON.parse(raw);
  } catch {
    throw new Problem(400, 'JSON Parse Exception', 'We encountered an unspecified JSON parsing error.');
  }
  const errors = [];
  check(route.body, body, '', errors);
  if (errors.length) throw invalid(errors);
  return body;
}

// Names as in the vendor's list of errors; only these were taught.
const TRIGGERS = {
  APIKeyMissing: [401, 'API Key Missing'], APIKeyInvalid: [401, 'API Key Invalid'], Forbidden: [403, 'Forbidden'],
  ResourceNotFound: [404, 'Resource Not Found'], TooManyRequests: [429, 'Too Many Requests'],
  InternalServerError: [500, 'Internal Server Error'],
};

function triggered(name) {
  if (name === undefined) return;
  const [status, title] = TRIGGERS[name] || [400, 'Bad Request'];
  throw new Problem(status, title, `This error was asked for by X-Trigger-Error: ${name}`);
}

function override(call) {
  const method = call.req.headers['x-http-method-override'];
  if (method === undefined) return;
  if (call.method === 'POST') call.method = method.toUpperCase();
  else call.badOverride = true;
}

function keyOf(header = '') {
  const [scheme, value = ''] = splitOnce(header.trim(), ' ');
  if (/^bearer$/i.test(scheme)) return value.trim();
  if (/^basic$/i.test(scheme)) return splitOnce(Buffer.from(value, 'base64').toString('utf8'), ':')[1] || null;
  return null;
}

function splitOnce(text, sign) {
  const at = text.indexOf(sign);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + 1)];
}

// The whole body, or null if the client left in the middle of it.
export function readAll(req) {
  return new Promise((resolve) => {
    const chunks = [];
    req.on('data', (chunk) => chunks.push(chunk));
    req.on('end', () => resolve(chunks.length === 1 ? chunks[0] : Buffer.concat(chunks)));
    req.on('error', () => resolve(null));
    req.on('close', () => resolve(null));
  });
}

function gone(res) {
  return res.destroyed ? Promise.resolve() : new Promise((resolve) => { res.on('close', resolve); });
}

function crash(res, error) {
  // A bug of the simulator must not look like one of Mailchimp's errors.
  process.stderr.write(`simulator: ${error.stack}\n`);
  if (!res.headersSent) res.writeHead(599, { 'Content-Type': 'text/plain' });
  res.end(`simulator bug: ${error.message}\n`);
}
