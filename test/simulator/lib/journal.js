// The journal: every API request in order of arrival, with what became of it. Bodies are kept as they came and parsed when
// somebody looks, because a first fill of a big list would otherwise live here a second time as objects.

import { iso } from './clock.js';

export class Journal {
  constructor(world, bell) {
    this.world = world;
    this.bell = bell;
    this.reset();
  }

  reset() {
    this.entries = [];
    this.last = 0;
    this.bytes = 0;
    this.oldestBody = 0;
  }

  clear() {
    const { last } = this;
    this.reset();
    this.last = last;
  }

  begin(method, path, query, key, user) {
    this.last += 1;
    const entry = {
      n: this.last,
      at: this.world.now(),
      method,
      path,
      route: null,
      about: null,
      query,
      raw: null,
      key: key ? key.slice(-4) : null,
      user: user ? user.login_id : null,
      status: null,
      effect: false,
      fault: null,
      held: null,
      open: user ? user.open : null,
      client_left: false,
      started: Date.now() - START,
      ended: null,
    };
    this.entries.push(entry);
    return entry;
  }

  keepBody(entry, raw) {
    entry.raw = raw;
    this.bytes += raw.length;
    while (this.bytes > this.world.config.journal_body_bytes && this.oldestBody < this.entries.length) {
      const old = this.entries[this.oldestBody];
      this.oldestBody += 1;
      if (!old.raw || old === entry) continue;
      this.bytes -= old.raw.length;
      old.raw = null;
      old.dropped = true;
    }
  }

  end(entry) {
    if (entry.ended === null) entry.ended = Date.now() - START;
    this.bell.ring();
  }

  find(filter) {
    const pattern = filter.path && new RegExp(filter.path);
    return this.entries.filter((entry) => entry.n > (filter.since || 0)
      && (!filter.route || entry.route === filter.route)
      && (!filter.method || entry.method === filter.method)
      && (!pattern || pattern.test(entry.path)));
  }

  view(entry) {
    const { raw, dropped, at, query, ...rest } = entry;
    const out = { ...rest, at: iso(at), query: Object.fromEntries(new URLSearchParams(query)), body: null };
    if (dropped) out.body_dropped = true;
    if (raw?.length) {
      try {
        out.body = JSON.parse(raw);
      } catch {
        out.body = raw.toString('utf8');
      }
    }
    return out;
  }
}

const START = Date.now();
