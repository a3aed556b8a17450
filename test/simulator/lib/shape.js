// fields= and exclude_fields= (API.md 4). A shape is the tree of names that an answer may contain: 1 for a plain value, '*'
// for an object with free names (merge fields), an object or [object] for what has known names. Unknown names are an error
// even if the answer would be empty, so the names come from the shape and not from the data.

import { invalid } from './problem.js';

class Plan {
  constructor(mode, tree) {
    this.mode = mode;
    this.tree = tree;
  }

  // The plan for what is below a key; NONE if the key is not wanted at all.
  sub(key) {
    if (this.mode === 'all' || this.mode === 'none') return this;
    const below = this.tree[key];
    const include = this.mode === 'include';
    if (below === true) return include ? ALL : NONE;
    if (below === undefined) return include ? NONE : ALL;
    return new Plan(this.mode, below);
  }
}

export const ALL = new Plan('all');
export const NONE = new Plan('none');

function known(shape, parts) {
  let at = shape;
  for (const part of parts) {
    if (Array.isArray(at)) [at] = at;
    if (at === '*') return true;
    if (at === null || typeof at !== 'object' || !Object.hasOwn(at, part)) return false;
    at = at[part];
  }
  return true;
}

function plant(tree, parts) {
  let at = tree;
  for (const part of parts.slice(0, -1)) {
    if (at[part] === true) return;
    at = at[part] ||= Object.create(null);
  }
  at[parts[parts.length - 1]] = true;
}

function parse(shape, text, parameter) {
  const tree = Object.create(null);
  const errors = [];
  for (const name of text.split(',').map((part) => part.trim()).filter(Boolean)) {
    const parts = name.split('.');
    if (known(shape, parts)) plant(tree, parts);
    else errors.push({ field: parameter, message: `Unknown field '${name}'` });
  }
  if (errors.length) throw invalid(errors);
  return tree;
}

export function planOf(shape, query) {
  if (query.fields !== undefined && query.exclude_fields !== undefined) {
    throw invalid([{ field: 'fields', message: 'fields and exclude_fields are mutually exclusive' }]);
  }
  if (query.fields) return new Plan('include', parse(shape, query.fields, 'fields'));
  if (query.exclude_fields) return new Plan('exclude', parse(shape, query.exclude_fields, 'exclude_fields'));
  return ALL;
}

// Cuts a finished value down to what is wanted.
export function prune(value, plan) {
  if (plan === ALL) return value;
  if (Array.isArray(value)) return value.map((item) => prune(item, plan));
  if (value === null || typeof value !== 'object') return value;
  const out = {};
  for (const key in value) {
    const sub = plan.sub(key);
    if (sub !== NONE) out[key] = prune(value[key], sub);
  }
  return out;
}

// Makes an object from a table of functions, calling only those that are wanted: a batch answer of 500 members of which
// the client wants the ids must not cost as much as one with everything.
export function render(table, item, plan) {
  const out = {};
  for (const key in table) {
    const sub = plan === ALL ? ALL : plan.sub(key);
    if (sub === NONE) continue;
    const value = table[key](item);
    if (value !== undefined) out[key] = prune(value, sub);
  }
  return out;
}
