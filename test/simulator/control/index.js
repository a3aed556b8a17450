// The control interface below /_sim: JSON in and out, no key, never in the journal. README.md describes it.

import { Router } from '../lib/router.js';
import { readAll } from '../server.js';
import { tick } from '../lib/sending.js';
import { routes as accounts } from './accounts.js';
import { routes as looking } from './looking.js';
import { routes as behaviour } from './behaviour.js';
import { routes as people } from './people.js';
import { routes as truth } from './truth.js';
import { routes as webhooks } from './webhooks.js';

const router = new Router([...accounts, ...looking, ...behaviour, ...people, ...truth, ...webhooks]);

function send(res, status, body) {
  const text = JSON.stringify(body);
  res.writeHead(status, { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) });
  res.end(text);
}

export async function control(sim, req, res, path, query) {
  const raw = await readAll(req);
  if (raw === null) return;
  const found = router.find(req.method, path);
  if (!found?.route) {
    send(res, found ? 405 : 404, { error: `${req.method} /_sim${path} is not known` });
    return;
  }
  try {
    const body = raw.length ? JSON.parse(raw) : {};
    tick(sim.world);
    const ctx = { sim, world: sim.world, params: found.params, query: Object.fromEntries(new URLSearchParams(query)), body };
    send(res, 200, (await found.route.handler(ctx)) ?? { ok: true });
  } catch (error) {
    send(res, 400, { error: error.message });
  }
}
