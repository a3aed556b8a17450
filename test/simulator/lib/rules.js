// Rules that hit certain requests: faults (the request is answered wrongly or not at all) and holds (it stops until it is
// released). A rule counts the requests that match it from the moment it is made.

const FAULTS = {
  status: 'before', bare_429: 'before', bare_403: 'before', html_502: 'before', html_504_after: 'after', reset_before: 'before',
  reset_after: 'after', cut: 'after', hang: 'before', hang_after: 'after', garbage: 'after', huge: 'after', slow: 'after',
  late: 'before',
};

function rule(id, input) {
  const nth = input.nth ?? 1;
  const times = input.times ?? 1;
  if (!Number.isInteger(nth) || nth < 1) throw new Error('nth must be 1 or more');
  if (!Number.isInteger(times) || (times < 1 && times !== -1)) throw new Error('times must be 1 or more, or -1');
  return {
    id, method: input.method?.toUpperCase(), path: input.path, pattern: input.path ? new RegExp(input.path) : null,
    body: input.body, bodyPattern: input.body ? new RegExp(input.body) : null,
    about: input.about, aboutPattern: input.about ? new RegExp(input.about) : null, nth, times, seen: 0, hits: 0,
  };
}

// Counts the request and tells whether the rule hits it.
function hits(one, method, path, body, about) {
  if (one.method && one.method !== method) return false;
  if (one.pattern && !one.pattern.test(path)) return false;
  if (one.bodyPattern && !one.bodyPattern.test(body)) return false;
  if (one.aboutPattern && !(about !== null && one.aboutPattern.test(about))) return false;
  one.seen += 1;
  const hit = one.seen >= one.nth && (one.times === -1 || one.seen < one.nth + one.times);
  if (hit) one.hits += 1;
  return hit;
}

function view({ pattern, bodyPattern, aboutPattern, ...rest }) {
  return rest;
}

class Rules {
  constructor() {
    this.reset();
  }

  reset() {
    this.rules = [];
    this.lastId = 0;
  }

  add(input, more) {
    this.lastId += 1;
    const one = { ...rule(this.lastId, input), ...more };
    this.rules.push(one);
    return view(one);
  }

  // Every rule counts every request; the first that hits wins.
  match(method, path, body, about) {
    let found = null;
    for (const one of this.rules) if (hits(one, method, path, body, about) && !found) found = one;
    return found;
  }

  remove(id) {
    const before = this.rules.length;
    this.rules = this.rules.filter((one) => id !== undefined && one.id !== id);
    return before - this.rules.length;
  }

  views() {
    return this.rules.map(view);
  }
}

export class Faults extends Rules {
  addFault(input) {
    const fault = typeof input.fault === 'string' ? { type: input.fault } : input.fault;
    if (!fault || !FAULTS[fault.type]) throw new Error(`fault: one of ${Object.keys(FAULTS).join(', ')}`);
    if (fault.type === 'status' && !Number.isInteger(fault.status)) throw new Error('status is missing');
    if (fault.type === 'huge' && !Number.isInteger(fault.bytes)) throw new Error('bytes is missing');
    if (['slow', 'late'].includes(fault.type) && !Number.isFinite(fault.ms)) throw new Error('ms is missing');
    return this.add(input, { fault });
  }

  // The fault of a request: {type, when, …} or null.
  of(method, path, body, about = null) {
    const found = this.match(method, path, body, about);
    return found && { ...found.fault, when: FAULTS[found.fault.type] };
  }
}

export class Holds extends Rules {
  constructor(bell) {
    super();
    this.bell = bell;
  }

  reset() {
    super.reset();
    for (const one of this.held || []) one.drop();
    this.held = [];
  }

  addHold(input) {
    if (!['before', 'after'].includes(input.when)) throw new Error('when: before or after');
    return this.add(input, { when: input.when });
  }

  // Stops the request until somebody releases it; resolves to false if the simulator was reset meanwhile.
  stop(found, entry) {
    entry.held = found.when;
    return new Promise((resolve) => {
      const one = {
        hold: found.id, n: entry.n, method: entry.method, path: entry.path, when: found.when, go: () => resolve(true), drop: () => resolve(false),
      };
      this.held.push(one);
      this.bell.ring();
    });
  }

  release(test) {
    const free = this.held.filter(test);
    this.held = this.held.filter((one) => !free.includes(one));
    for (const one of free) one.go();
    return free.length;
  }

  heldViews() {
    return this.held.map(({ hold, n, method, path, when }) => ({ hold, n, method, path, when }));
  }
}
