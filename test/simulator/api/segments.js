// Segments of a list (API.md 5.6): static ones, which are tags, and saved ones with conditions.

import { any, arr, obj, oneOf, str } from '../lib/schema.js';
import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page, within } from '../lib/query.js';
import { addSegment, addToSegment, compile, findMember, removeFromSegment, removeSegment, renameSegment, segmentMembers } from '../lib/segments.js';
import { cached } from '../lib/lists.js';
import { badRequest, invalidField, notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { briefMemberView, listOf, memberOf, memberView, segmentOf } from './views.js';
import { ALL as EVERYTHING } from '../lib/shape.js';

const CONDITION = obj({ condition_type: str(), field: str(), op: str(), value: any(), extra: any() });
export const CONDITIONS = { match: oneOf('any', 'all'), conditions: arr(CONDITION) };
const PATCH_BODY = obj({ name: str({ max: 100 }), options: obj(CONDITIONS), static_segment: arr(str()) });
const POST_BODY = { ...PATCH_BODY, required: ['name'] };
const MANY_BODY = obj({ members_to_add: arr(str(), { maxItems: 500 }), members_to_remove: arr(str(), { maxItems: 500 }) });
const ADD_BODY = obj({ email_address: str() }, ['email_address']);

const INCLUDE = { include_cleaned: 'bool', include_transactional: 'bool', include_unsubscribed: 'bool' };
const HIDDEN = ['cleaned', 'transactional', 'unsubscribed'];

// Ten conditions at most (API.md 2); each must be one that was taught.
export function checkConditions(ctx, list, options, field) {
  const conditions = options.conditions || [];
  if (!conditions.length) throw invalidField(`${field}.conditions`, 'Required fields were not provided');
  if (conditions.length > 10) throw invalidField(`${field}.conditions`, 'At most 10 conditions');
  conditions.forEach((condition, i) => {
    try {
      compile(ctx.world, list, condition);
    } catch (error) {
      throw invalidField(`${field}.conditions.${i}`, error.message);
    }
  });
}

// Who is shown: those that can get mail, and with include_* flags the others.
function shown(ctx, list, segment) {
  const hidden = HIDDEN.filter((status) => !ctx.query[`include_${status}`]);
  return cached(list, `segment ${segment.id} ${hidden} ${segment.type === 'saved' ? ctx.world.now() : ''}`,
    () => segmentMembers(ctx.world, list, segment).filter((member) => !hidden.includes(member.status)));
}

function count(ctx, list, segment) {
  return shown(ctx, list, segment).filter((member) => member.status !== 'pending').length;
}

function view(ctx, list, segment) {
  const out = {
    id: segment.id,
    name: segment.name,
    member_count: count(ctx, list, segment),
    type: segment.type,
    created_at: iso(segment.created),
    updated_at: iso(segment.updated),
    options: { match: segment.match, conditions: segment.conditions },
    list_id: list.id,
    _links: [],
  };
  return out;
}

function all(ctx) {
  const list = listOf(ctx);
  const q = ctx.query;
  const segments = [...list.segments.values()].filter((segment) => (!q.type || segment.type === q.type)
    && (!q.exclude_type || segment.type !== q.exclude_type)
    && within(segment.created, q.since_created_at, q.before_created_at)
    && within(segment.updated, q.since_updated_at, q.before_updated_at));
  return {
    segments: page(segments, q).map((segment) => view(ctx, list, segment)),
    list_id: list.id,
    total_items: segments.length,
    _links: [],
  };
}

function checkKind(ctx, list) {
  const { static_segment: fixed, options } = ctx.body;
  if (fixed && options) throw invalidField('options', 'Give static_segment or options, not both');
  if (options) checkConditions(ctx, list, options, 'options');
}

function fill(ctx, list, segment, emails) {
  for (const email of emails) {
    const member = list.byEmail.get(email.trim().toLowerCase());
    if (member && member.status !== 'archived') addToSegment(ctx.world, list, segment, member);
  }
}

function create(ctx) {
  const list = listOf(ctx);
  checkKind(ctx, list);
  const { name, static_segment: fixed, options } = ctx.body;
  if (!fixed && !options) throw invalidField('static_segment', 'Required fields were not provided: static_segment or options');
  const segment = addSegment(ctx.world, list, { name, type: fixed ? 'static' : 'saved', ...options });
  if (fixed) fill(ctx, list, segment, fixed);
  return view(ctx, list, segment);
}

function patch(ctx) {
  const list = listOf(ctx);
  const segment = segmentOf(ctx, list);
  checkKind(ctx, list);
  const { name, static_segment: fixed, options } = ctx.body;
  if ((fixed && segment.type !== 'static') || (options && segment.type !== 'saved')) {
    throw badRequest('The type of a segment cannot be changed.');
  }
  if (name !== undefined) renameSegment(ctx.world, list, segment, name);
  if (options) Object.assign(segment, { match: options.match || segment.match, conditions: options.conditions });
  if (fixed) {
    for (const member of [...segment.members]) removeFromSegment(ctx.world, list, segment, member);
    fill(ctx, list, segment, fixed);
  }
  segment.updated = ctx.world.now();
  ctx.world.touch(list);
  return view(ctx, list, segment);
}

// Takes addresses; those not on the list go to `unknown`.
function each(list, emails, unknown, act) {
  const done = [];
  for (const email of emails || []) {
    const member = list.byEmail.get(email.trim().toLowerCase());
    if (!member || member.status === 'archived') unknown.push(email);
    else if (act(member)) done.push(member);
  }
  return done;
}

function many(ctx) {
  const list = listOf(ctx);
  const segment = segmentOf(ctx, list);
  if (segment.type !== 'static') throw badRequest('Members can be added to and removed from static segments only.');
  const unknown = [];
  const added = each(list, ctx.body.members_to_add, unknown, (m) => addToSegment(ctx.world, list, segment, m));
  const removed = each(list, ctx.body.members_to_remove, unknown, (m) => removeFromSegment(ctx.world, list, segment, m));
  const report = unknown.length && ctx.world.config.segment_unknown === 'errors';
  const errors = report ? [{ email_addresses: unknown, error: 'Email address is not subscribed to the list' }] : [];
  return {
    members_added: added.map((member) => briefMemberView(list, member, EVERYTHING)),
    members_removed: removed.map((member) => briefMemberView(list, member, EVERYTHING)),
    errors,
    total_added: added.length,
    total_removed: removed.length,
    error_count: report ? unknown.length : 0,
    _links: [],
  };
}

function members(ctx) {
  const list = listOf(ctx);
  const segment = segmentOf(ctx, list);
  const found = shown(ctx, list, segment);
  const plan = ctx.plan.sub('members');
  // total_items does not count what the include flags add: a walk must end on a short page (API.md 4).
  return {
    members: page(found, ctx.query).map((member) => memberView(list, member, plan)),
    total_items: found.filter((member) => !HIDDEN.includes(member.status)).length,
    _links: [],
  };
}

function addOne(ctx) {
  const list = listOf(ctx);
  const segment = segmentOf(ctx, list);
  const member = findMember(list, ctx.body.email_address.trim());
  if (segment.type !== 'static') throw badRequest('Members can be added to static segments only.');
  if (!member || member.status === 'archived') throw notFound();
  addToSegment(ctx.world, list, segment, member);
  return briefMemberView(list, member, EVERYTHING);
}

function removeOne(ctx) {
  const list = listOf(ctx);
  const segment = segmentOf(ctx, list);
  if (!removeFromSegment(ctx.world, list, segment, memberOf(ctx, list))) throw notFound();
}

const ALL = '/lists/{list_id}/segments';
const ONE = `${ALL}/{segment_id}`;

export const routes = [
  {
    method: 'GET', path: ALL, shape: shapes.SEGMENTS, handler: all,
    query: {
      ...FIELDS, ...PAGE, ...INCLUDE, type: 'text', exclude_type: ['saved', 'static', 'fuzzy'], since_created_at: 'date',
      before_created_at: 'date', since_updated_at: 'date', before_updated_at: 'date',
    },
  },
  { method: 'POST', path: ALL, query: {}, body: POST_BODY, write: 'contacts', handler: create },
  {
    method: 'GET', path: ONE, query: { ...FIELDS, ...INCLUDE }, shape: shapes.SEGMENT,
    handler: (ctx) => { const list = listOf(ctx); return view(ctx, list, segmentOf(ctx, list)); },
  },
  { method: 'POST', path: ONE, query: {}, body: MANY_BODY, write: 'contacts', handler: many },
  { method: 'PATCH', path: ONE, query: {}, body: PATCH_BODY, write: 'contacts', handler: patch },
  {
    method: 'DELETE', path: ONE, query: {}, write: 'contacts',
    handler: (ctx) => { const list = listOf(ctx); removeSegment(ctx.world, list, segmentOf(ctx, list)); },
  },
  {
    method: 'GET', path: `${ONE}/members`, query: { ...FIELDS, ...PAGE, ...INCLUDE }, shape: shapes.MEMBERS, handler: members,
  },
  { method: 'POST', path: `${ONE}/members`, query: {}, body: ADD_BODY, write: 'contacts', handler: addOne },
  { method: 'DELETE', path: `${ONE}/members/{subscriber_hash}`, query: {}, write: 'contacts', handler: removeOne },
];
