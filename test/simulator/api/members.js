// Single members (API.md 5.4): list, read, add, upsert, change, archive, forget; and search across lists.

import { arr, bool, obj, oneOf, str } from '../lib/schema.js';
import { FIELDS, PAGE, page, sortBy, within } from '../lib/query.js';
import { addTags, archive, createMember, forget, updateMember } from '../lib/members.js';
import { cached } from '../lib/lists.js';
import { hashOf } from '../lib/email.js';
import { findMember } from '../lib/segments.js';
import { forgotten, invalidField, memberExists, methodNotAllowed, notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { MEMBER_FIELDS, STATUS } from './batch_subscribe.js';
import { listOf, memberOf, memberView } from './views.js';

const SINGLE = {
  ...MEMBER_FIELDS,
  marketing_permissions: arr(obj({ marketing_permission_id: str(), enabled: bool() })),
};
const POST_BODY = obj({ ...SINGLE, status: STATUS, tags: arr(str()) }, ['email_address', 'status']);
const PUT_BODY = obj({ ...SINGLE, status: STATUS, status_if_new: STATUS, tags: arr(str()) }, ['email_address']);
const PATCH_BODY = obj({ ...SINGLE, status: oneOf('subscribed', 'unsubscribed', 'cleaned', 'pending') });

const LIST_QUERY = {
  ...FIELDS, ...PAGE, email_type: 'text', since_timestamp_opt: 'date', before_timestamp_opt: 'date',
  status: ['subscribed', 'unsubscribed', 'cleaned', 'pending', 'transactional', 'archived'],
  since_last_changed: 'date', before_last_changed: 'date', unique_email_id: 'text', vip_only: 'bool',
  sort_field: ['timestamp_opt', 'timestamp_signup', 'last_changed'], sort_dir: ['ASC', 'DESC'],
  since_last_campaign: 'bool', unsubscribed_since: 'date',
};

function checkListQuery(q) {
  if (q.unsubscribed_since !== undefined && q.status !== 'unsubscribed') {
    throw invalidField('unsubscribed_since', 'Only allowed with status=unsubscribed');
  }
  if (q.since_last_campaign && !q.status) throw invalidField('since_last_campaign', 'Requires the status parameter');
}

function wanted(list, q) {
  return (m) => (q.status ? m.status === q.status : m.status !== 'archived')
    && within(m.last_changed, q.since_last_changed, q.before_last_changed)
    && within(m.timestamp_opt, q.since_timestamp_opt, q.before_timestamp_opt)
    && (q.unsubscribed_since === undefined || m.status_changed > q.unsubscribed_since)
    && (!q.since_last_campaign || m.status_changed > list.lastSent)
    && (!q.email_type || m.email_type === q.email_type)
    && (!q.unique_email_id || m.unique_email_id === q.unique_email_id)
    && (!q.vip_only || m.vip);
}

function all(ctx) {
  const list = listOf(ctx);
  const q = ctx.query;
  checkListQuery(q);
  const name = JSON.stringify({ ...q, count: 0, offset: 0, fields: '', exclude_fields: '' });
  const found = cached(list, name, () => {
    const members = [...list.members.values()].filter(wanted(list, q));
    return q.sort_field ? sortBy(members, (m) => m[q.sort_field], q.sort_dir || 'DESC') : members;
  });
  const plan = ctx.plan.sub('members');
  return {
    members: page(found, q).map((member) => memberView(list, member, plan)),
    list_id: list.id,
    total_items: found.length,
    _links: [],
  };
}

const skip = (ctx) => ({ skipRequired: ctx.query.skip_merge_validation === true });

function add(ctx) {
  const list = listOf(ctx);
  if (list.byEmail.has(ctx.body.email_address.trim().toLowerCase())) throw memberExists(ctx.body.email_address);
  const member = createMember(ctx.world, list, ctx.body, skip(ctx));
  addTags(ctx.world, list, member, ctx.body.tags || []);
  return memberView(list, member, ctx.plan);
}

function put(ctx) {
  const list = listOf(ctx);
  const member = findMember(list, ctx.params.subscriber_hash);
  const mode = ctx.world.config.put_tags;
  if (member) {
    updateMember(ctx.world, list, member, ctx.body, skip(ctx));
    if (mode === 'add') addTags(ctx.world, list, member, ctx.body.tags || []);
    return memberView(list, member, ctx.plan);
  }
  const added = putNew(ctx, list);
  if (mode !== 'ignore') addTags(ctx.world, list, added, ctx.body.tags || []);
  return memberView(list, added, ctx.plan);
}

function putNew(ctx, list) {
  const hash = hashOf(ctx.body.email_address);
  const name = ctx.params.subscriber_hash.toLowerCase();
  // A path for somebody else is a mistake of the client, and making a member of it would hide the mistake.
  if (name !== hash && name !== ctx.body.email_address.trim().toLowerCase()) {
    throw invalidField('email_address', 'The address does not belong to the subscriber hash of the path');
  }
  if (!ctx.body.status_if_new && !ctx.body.status) {
    throw invalidField('status_if_new', 'Required fields were not provided: status_if_new');
  }
  return createMember(ctx.world, list, ctx.body, skip(ctx));
}

function patch(ctx) {
  const list = listOf(ctx);
  const member = findMember(list, ctx.params.subscriber_hash);
  if (!member) {
    if (list.forgotten.has(ctx.params.subscriber_hash.toLowerCase())) throw forgotten(ctx.params.subscriber_hash);
    throw notFound();
  }
  if (member.status === 'archived' && ctx.body.status && ctx.world.config.patch_archived === 'refuse') throw notFound();
  updateMember(ctx.world, list, member, ctx.body, skip(ctx));
  return memberView(list, member, ctx.plan);
}

function remove(ctx) {
  const list = listOf(ctx);
  const member = memberOf(ctx, list);
  if (member.status === 'archived' && ctx.world.config.delete_archived === 'refuse') {
    throw methodNotAllowed('This list member cannot be removed. Please contact support.');
  }
  archive(ctx.world, list, member);
}

function removeForEver(ctx) {
  const list = listOf(ctx);
  forget(ctx.world, list, memberOf(ctx, list));
}

function search(ctx) {
  const query = ctx.query.query.trim().toLowerCase();
  if (!query) throw invalidField('query', 'Required fields were not provided');
  const lists = ctx.query.list_id ? [listOf(ctx, ctx.query.list_id)] : [...ctx.account.lists.values()];
  const exact = [];
  const full = [];
  for (const list of lists) {
    for (const member of list.members.values()) {
      if (member.status === 'archived') continue;
      const { FNAME = '', LNAME = '' } = member.merge_fields;
      if (member.lower === query) exact.push([list, member]);
      else if (`${member.lower} ${FNAME} ${LNAME}`.toLowerCase().includes(query)) full.push([list, member]);
    }
  }
  const view = (key, found) => ({
    members: found.slice(0, 100).map(([list, member]) => memberView(list, member, ctx.plan.sub(key).sub('members'))),
    total_items: found.length,
  });
  return { exact_matches: view('exact_matches', exact), full_search: view('full_search', full), _links: [] };
}

const ONE = '/lists/{list_id}/members/{subscriber_hash}';
const SKIP = { skip_merge_validation: 'bool' };

export const routes = [
  { method: 'GET', path: '/lists/{list_id}/members', query: LIST_QUERY, shape: shapes.MEMBERS, handler: all },
  { method: 'POST', path: '/lists/{list_id}/members', query: SKIP, body: POST_BODY, write: 'contacts', handler: add },
  {
    method: 'GET', path: ONE, query: FIELDS, shape: shapes.MEMBER,
    handler: (ctx) => { const list = listOf(ctx); return memberView(list, memberOf(ctx, list), ctx.plan); },
  },
  { method: 'PUT', path: ONE, query: SKIP, body: PUT_BODY, write: 'contacts', handler: put },
  { method: 'PATCH', path: ONE, query: SKIP, body: PATCH_BODY, write: 'contacts', handler: patch },
  { method: 'DELETE', path: ONE, query: {}, write: 'contacts', handler: remove },
  { method: 'POST', path: `${ONE}/actions/delete-permanent`, query: {}, write: 'contacts', handler: removeForEver },
  {
    method: 'GET', path: '/search-members', query: { ...FIELDS, query: 'text', list_id: 'text' }, required: ['query'],
    shape: shapes.SEARCH, handler: search,
  },
];
