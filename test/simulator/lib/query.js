// Query parameters (API.md 4). Each route names the parameters it knows; any other is refused, as is a wrong value. The
// exception is a boolean, where Mailchimp takes anything but true/1 for false.

import { parseInstant } from './clock.js';
import { invalid } from './problem.js';

export const PAGE = { count: 'count', offset: 'offset' };
export const FIELDS = { fields: 'text', exclude_fields: 'text' };

const READERS = {
  text: (value) => value,
  bool: (value) => /^(true|1)$/i.test(value),
  date: (value) => {
    const at = parseInstant(value);
    if (Number.isNaN(at)) throw new Error('This value is not a valid datetime.');
    return at;
  },
  count: (value) => {
    if (!/^\d+$/.test(value)) throw new Error('This value must be a non-negative integer.');
    // More than 1000 is answered, but with 1000 rows: trap 7.
    return Math.min(Number(value), 1000);
  },
  offset: (value) => {
    if (!/^\d+$/.test(value)) throw new Error('This value must be a non-negative integer.');
    return Number(value);
  },
};

function read(type, value) {
  if (Array.isArray(type)) {
    if (!type.includes(value)) throw new Error(`Value must be one of: ${type.join(', ')}`);
    return value;
  }
  return READERS[type](value);
}

export function parseQuery(text, spec) {
  const out = {};
  const errors = [];
  if (text) {
    for (const [name, value] of new URLSearchParams(text)) {
      if (!Object.hasOwn(spec, name)) {
        errors.push({ field: name, message: 'This query parameter is not known' });
        continue;
      }
      try {
        out[name] = read(spec[name], value);
      } catch (error) {
        errors.push({ field: name, message: error.message });
      }
    }
  }
  if (errors.length) throw invalid(errors);
  if (spec.count && out.count === undefined) out.count = 10;
  if (spec.offset && out.offset === undefined) out.offset = 0;
  return out;
}

export function page(items, query) {
  return items.slice(query.offset, query.offset + query.count);
}

// The window (since, before] of live probes: since excludes its own second, before includes it (API.md 4).
export function within(at, since, before) {
  if (since !== undefined && !(at > since)) return false;
  if (before !== undefined && !(at !== 0 && at <= before)) return false;
  return true;
}

export function sortBy(items, value, dir) {
  const sign = dir === 'DESC' ? -1 : 1;
  return items.slice().sort((a, b) => {
    const x = value(a);
    const y = value(b);
    return x < y ? -sign : x > y ? sign : 0;
  });
}
