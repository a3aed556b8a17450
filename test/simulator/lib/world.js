// Everything the simulator knows: accounts with users, keys, lists, templates, domains and campaigns, the clock, the
// configuration and the mails that left. One World lives in a process; reset() empties it in place.

import { Clock } from './clock.js';
import { Rng } from './rng.js';

// What can be switched. Where API.md is unsure the default is what is harder for a client; README lists the meanings.
export const DEFAULTS = {
  send_seconds: 0,
  count_seconds: 5,
  count_looks: 1,
  compliance: 'errors',
  last_changed_on_tags: false,
  patch_archived: 'refuse',
  delete_archived: 'ok',
  admin_unsubscribed: 'allow',
  patch_recipients_clears_segment: true,
  unsub_link: 'error',
  unschedule_status: 'paused',
  put_tags: 'new',
  batch_fields: 'ignore',
  segment_unknown: 'errors',
  tags_wrong_shape: 'ignore',
  tag_case: 'exact',
  unknown_merge_fields: 'refuse',
  merge_field_limit: 30,
  default_content: 'html',
  batch_seconds: 2,
  batch_operation_ms: 0,
  batch_looks: 0,
  batch_until: 'finished',
  batch_total: 'late',
  compress: false,
  journal_body_bytes: 268435456,
  history: false,
  webhook_times: 1,
  webhook_hold: false,
};

const CHOICES = {
  compliance: ['errors', 'ignore'],
  patch_archived: ['refuse', 'allow'],
  delete_archived: ['ok', 'refuse'],
  admin_unsubscribed: ['allow', 'refuse'],
  unsub_link: ['error', 'footer'],
  unschedule_status: ['paused', 'save'],
  put_tags: ['new', 'add', 'ignore'],
  batch_fields: ['ignore', 'honour'],
  segment_unknown: ['errors', 'ignore'],
  tags_wrong_shape: ['ignore', 'refuse'],
  tag_case: ['exact', 'ignore'],
  unknown_merge_fields: ['refuse', 'ignore'],
  default_content: ['html', 'object'],
  batch_until: ['pending', 'preprocessing', 'started', 'finalizing', 'finished'],
  batch_total: ['late', 'at_once'],
};

export class World {
  constructor(seed = 1) {
    this.clock = new Clock();
    this.reset(seed);
  }

  reset(seed = this.seed) {
    this.seed = seed;
    this.rng = new Rng(seed);
    this.clock.offset = 0;
    this.config = { ...DEFAULTS };
    this.accounts = new Map();
    this.keys = new Map();
    this.lists = new Map();
    this.campaigns = new Map();
    this.active = new Set();
    this.batches = new Map();
    this.mails = [];
    this.tests = [];
    this.confirmations = [];
    // Events of engagement that change members, waiting for the clock.
    this.upcoming = [];
    this.webId = 100000 + this.rng.int(1000) * 100;
    this.numericId = 1000 + this.rng.int(1000);
    // Changes of members' statuses and addresses, with the journal's number of the request that is under way.
    this.history = [];
    this.request = null;
    // Why a member changes where no request does it, see webhooks.js.
    this.cause = null;
    this.deliveries = [];
    clearTimeout(this.webhookTimer);
    // Counts changes of state; the journal's `effect` compares it before and after a request.
    this.changes = 0;
  }

  now() {
    return this.clock.now();
  }

  nextWebId() {
    this.webId += 1;
    return this.webId;
  }

  nextNumber() {
    this.numericId += 1;
    return this.numericId;
  }

  touch(list) {
    this.changes += 1;
    if (list) list.version += 1;
  }

  configure(values) {
    for (const [name, value] of Object.entries(values)) {
      if (!Object.hasOwn(DEFAULTS, name)) throw new Error(`unknown setting ${name}`);
      if (typeof value !== typeof DEFAULTS[name]) throw new Error(`${name} must be a ${typeof DEFAULTS[name]}`);
      if (CHOICES[name] && !CHOICES[name].includes(value)) throw new Error(`${name}: one of ${CHOICES[name].join(', ')}`);
    }
    Object.assign(this.config, values);
    return this.config;
  }

  userOf(key) {
    const entry = this.keys.get(key);
    return entry && !entry.revoked ? entry : null;
  }
}

const ROLES = ['owner', 'admin', 'manager', 'author', 'viewer'];
const PLANS = ['free', 'essentials', 'standard', 'premium'];

export function planAtLeast(account, plan) {
  return PLANS.indexOf(account.plan) >= PLANS.indexOf(plan);
}

function oneOf(what, value, values) {
  if (!values.includes(value)) throw new Error(`${what}: one of ${values.join(', ')}`);
  return value;
}

export function addUser(world, account, login, role = 'owner') {
  const user = { login_id: login, role: oneOf('role', role, ROLES), account, open: 0, max: 0 };
  account.users.set(login, user);
  return user;
}

export function setRole(user, role) {
  user.role = oneOf('role', role, ROLES);
}

export function addKey(world, key, user) {
  if (typeof key !== 'string' || !key) throw new Error('key is missing');
  if (world.keys.has(key)) throw new Error(`key ${key} exists`);
  world.keys.set(key, { key, user, account: user.account, revoked: false });
}

export function addAccount(world, input) {
  const account = {
    account_id: world.rng.hex(24),
    account_name: input.account_name || 'Test account',
    email: input.email || 'owner@example.org',
    plan: oneOf('plan', input.plan || 'standard', PLANS),
    created: world.now(),
    users: new Map(),
    lists: new Map(),
    templates: new Map(),
    domains: new Map(),
    campaigns: new Map(),
  };
  account.pricing_plan_type = input.pricing_plan_type || (account.plan === 'free' ? 'forever_free' : 'monthly');
  const user = addUser(world, account, input.login_id || String(world.nextNumber()), input.role);
  addKey(world, input.key, user);
  world.accounts.set(account.account_id, account);
  return account;
}

export function addDomain(world, account, input) {
  const domain = {
    domain: input.domain.toLowerCase(),
    verified: input.verified !== false,
    authenticated: input.authenticated !== false && input.verified !== false,
    sent: world.now(),
  };
  account.domains.set(domain.domain, domain);
  return domain;
}

export function addTemplate(world, account, input) {
  const id = world.nextNumber();
  const sections = input.sections || { body: `<p>${input.name}</p>` };
  const regions = Object.entries(sections).map(([name, html]) => `<div mc:edit="${name}">${html}</div>`).join('');
  const template = {
    id,
    name: input.name,
    active: input.active !== false,
    incomplete: input.incomplete === true,
    type: input.type || 'user',
    content_type: input.content_type || 'template',
    sections,
    html: input.html || `<html><body>${regions}<a href="*|UNSUB|*">unsubscribe</a></body></html>`,
    created: world.now(),
    edited: world.now(),
  };
  account.templates.set(id, template);
  return template;
}
