// Control: accounts, keys, the ready-made demo account and the reset.

import { addAccount, addDomain, addKey, addTemplate, addUser } from '../lib/world.js';
import { addList } from '../lib/lists.js';

function only(input, names) {
  for (const name of Object.keys(input)) if (!names.includes(name)) throw new Error(`unknown field ${name}`);
}

const ACCOUNT = ['key', 'account_name', 'login_id', 'role', 'plan', 'email', 'pricing_plan_type', 'lists', 'templates', 'domains'];
const LIST = ['name', 'id', 'double_optin', 'merge_fields', 'campaign_defaults', 'contact', 'segments'];
const FIELD = ['tag', 'name', 'type', 'required', 'default_value', 'options', 'public', 'display_order', 'help_text'];
const TEMPLATE = ['name', 'active', 'incomplete', 'sections', 'html', 'content_type', 'type'];
const DOMAIN = ['domain', 'verified', 'authenticated'];

function checkAccount(input) {
  only(input, ACCOUNT);
  for (const list of input.lists || []) {
    only(list, LIST);
    for (const field of list.merge_fields || []) only(field, FIELD);
  }
  for (const template of input.templates || []) only(template, TEMPLATE);
  for (const domain of input.domains || []) only(domain, DOMAIN);
}

function make(world, input) {
  checkAccount(input);
  const account = addAccount(world, input);
  for (const list of input.lists || []) addList(world, account, list);
  for (const template of input.templates || []) addTemplate(world, account, template);
  for (const domain of input.domains || []) addDomain(world, account, domain);
  return accountView(world, account);
}

function accountView(world, account) {
  const [user] = account.users.values();
  return {
    account_id: account.account_id,
    account_name: account.account_name,
    login_id: user.login_id,
    role: user.role,
    plan: account.plan,
    keys: [...world.keys.values()].filter((entry) => entry.account === account && !entry.revoked).map((entry) => entry.key),
    lists: [...account.lists.values()].map((list) => ({
      id: list.id,
      web_id: list.web_id,
      name: list.name,
      merge_fields: list.mergeFields.map(({ merge_id, tag, type, required }) => ({ merge_id, tag, type, required })),
      segments: [...list.segments.values()].map(({ id, name }) => ({ id, name })),
    })),
    templates: [...account.templates.values()].map(({ id, name }) => ({ id, name })),
    domains: [...account.domains.values()].map(({ domain, verified, authenticated }) => ({ domain, verified, authenticated })),
  };
}

const DEMO = {
  key: 'demo-us1',
  account_name: 'Demo',
  lists: [{
    name: 'Customers',
    merge_fields: [{ tag: 'FNAME', name: 'First Name' }, { tag: 'LNAME', name: 'Last Name' }],
    campaign_defaults: { from_name: 'Demo', from_email: 'news@example.org' },
  }],
  templates: [{ name: 'Newsletter' }, { name: 'Invitation' }, { name: 'Unfinished', incomplete: true }],
  domains: [{ domain: 'example.org' }],
};

function findAccount(world, { account, login_id: login }) {
  for (const found of world.accounts.values()) {
    if (found.account_id === account || (login !== undefined && found.users.has(login))) return found;
  }
  throw new Error('no such account');
}

function newKey({ world, body }) {
  only(body, ['key', 'account', 'login_id', 'role', 'new_login_id']);
  const account = findAccount(world, body);
  let user = body.login_id ? account.users.get(body.login_id) : [...account.users.values()][0];
  if (body.new_login_id) user = addUser(world, account, body.new_login_id, body.role);
  addKey(world, body.key, user);
  return { key: body.key, account_id: account.account_id, login_id: user.login_id, role: user.role };
}

function revoke({ world, params }) {
  const entry = world.keys.get(params.key);
  if (!entry) throw new Error('no such key');
  entry.revoked = true;
  return { revoked: params.key };
}

export const routes = [
  { method: 'POST', path: '/reset', handler: ({ sim, body }) => { sim.reset(body.seed); return { seed: sim.world.seed }; } },
  { method: 'POST', path: '/accounts', handler: ({ world, body }) => make(world, body) },
  { method: 'POST', path: '/demo', handler: ({ world, body }) => make(world, { ...DEMO, ...body }) },
  { method: 'POST', path: '/keys', handler: newKey },
  { method: 'DELETE', path: '/keys/{key}', handler: revoke },
];
