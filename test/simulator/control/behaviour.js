// Control: faults, holds, latency, the limit, configuration, the journal and the clock.

import { iso, parseInstant } from '../lib/clock.js';
import { tick } from '../lib/sending.js';
import { pump } from '../lib/webhooks.js';

const milliseconds = (query) => Math.min(Number(query.wait) || 0, 600) * 1000;

async function journal({ sim, query }) {
  const find = () => sim.journal.find(query);
  const ready = () => find().filter((entry) => entry.ended !== null).length >= Number(query.count || 1);
  if (query.wait) await sim.bell.wait(ready, milliseconds(query));
  return { entries: find().map((entry) => sim.journal.view(entry)), last: sim.journal.last };
}

async function held({ sim, query }) {
  const ready = () => sim.holds.held.length >= Number(query.count || 1);
  if (query.wait) await sim.bell.wait(ready, milliseconds(query));
  return { held: sim.holds.heldViews(), holds: sim.holds.views() };
}

function release({ sim, body }) {
  if (body.all) {
    sim.holds.remove();
    return { released: sim.holds.release(() => true) };
  }
  if (body.n === undefined && body.hold === undefined) throw new Error('give n, hold or all');
  return { released: sim.holds.release((one) => one.n === body.n || one.hold === body.hold) };
}

function removeHolds({ sim, params }) {
  const id = params.id === undefined ? undefined : Number(params.id);
  const removed = sim.holds.remove(id);
  return { removed, released: sim.holds.release((one) => id === undefined || one.hold === id) };
}

function users(world) {
  const out = new Map();
  for (const account of world.accounts.values()) for (const user of account.users.values()) out.set(user.login_id, user);
  return [...out.values()];
}

function open({ world }) {
  return { users: Object.fromEntries(users(world).map((user) => [user.login_id, { now: user.open, max: user.max }])) };
}

function forgetMax({ world }) {
  for (const user of users(world)) user.max = user.open;
  return open({ world });
}

function number(value, name) {
  if (typeof value !== 'number' || !Number.isFinite(value)) throw new Error(`${name} must be a number`);
  return value;
}

function setLatency({ sim, body }) {
  for (const name of Object.keys(body)) {
    if (!(name in sim.latency)) throw new Error(`unknown field ${name}`);
    sim.latency[name] = number(body[name], name);
  }
  return sim.latency;
}

function setClock({ world, body }) {
  const { clock } = world;
  if (body.offset !== undefined) clock.offset = number(body.offset, 'offset') * 1000;
  if (body.now !== undefined) {
    const at = parseInstant(body.now);
    if (Number.isNaN(at)) throw new Error('now is no instant');
    clock.offset = at * 1000 - Date.now();
  }
  if (body.advance !== undefined) clock.offset += number(body.advance, 'advance') * 1000;
  tick(world);
  pump(world);
  return readClock({ world });
}

function readClock({ world }) {
  return { now: iso(world.now()), offset: world.clock.offset / 1000 };
}

export const routes = [
  { method: 'POST', path: '/faults', handler: ({ sim, body }) => sim.faults.addFault(body) },
  { method: 'GET', path: '/faults', handler: ({ sim }) => ({ faults: sim.faults.views() }) },
  { method: 'DELETE', path: '/faults', handler: ({ sim }) => ({ removed: sim.faults.remove() }) },
  { method: 'DELETE', path: '/faults/{id}', handler: ({ sim, params }) => ({ removed: sim.faults.remove(Number(params.id)) }) },
  { method: 'POST', path: '/holds', handler: ({ sim, body }) => sim.holds.addHold(body) },
  { method: 'GET', path: '/holds', handler: held },
  { method: 'POST', path: '/holds/release', handler: release },
  { method: 'DELETE', path: '/holds', handler: removeHolds },
  { method: 'DELETE', path: '/holds/{id}', handler: removeHolds },
  { method: 'POST', path: '/latency', handler: setLatency },
  { method: 'GET', path: '/latency', handler: ({ sim }) => sim.latency },
  {
    method: 'POST', path: '/limit',
    handler: ({ sim, body }) => { sim.perUser = number(body.per_user, 'per_user'); return { per_user: sim.perUser }; },
  },
  { method: 'POST', path: '/config', handler: ({ world, body }) => world.configure(body) },
  { method: 'GET', path: '/config', handler: ({ world }) => world.config },
  { method: 'GET', path: '/journal', handler: journal },
  { method: 'DELETE', path: '/journal', handler: ({ sim }) => { sim.journal.clear(); return { last: sim.journal.last }; } },
  { method: 'GET', path: '/open', handler: open },
  { method: 'DELETE', path: '/open', handler: forgetMax },
  { method: 'POST', path: '/clock', handler: setClock },
  { method: 'GET', path: '/clock', handler: readClock },
];
