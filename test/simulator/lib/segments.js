// Segments and tags. A tag is a static segment with the same id (API.md 5.6); a saved segment has conditions and is
// evaluated whenever somebody looks.

import { hashOf } from './email.js';

export function addSegment(world, list, input) {
  const segment = {
    id: world.nextNumber(),
    name: input.name,
    type: input.type,
    match: input.match || 'any',
    conditions: input.conditions || [],
    members: new Set(),
    created: world.now(),
    updated: world.now(),
  };
  list.segments.set(segment.id, segment);
  list.tagNames = null;
  world.touch(list);
  return segment;
}

export function removeSegment(world, list, segment) {
  for (const member of segment.members) member.tags.delete(segment.id);
  list.segments.delete(segment.id);
  list.tagNames = null;
  world.touch(list);
}

export function renameSegment(world, list, segment, name) {
  segment.name = name;
  segment.updated = world.now();
  list.tagNames = null;
  world.touch(list);
}

// Names are not unique; the oldest segment of a name is the tag of that name. Whether tags differ by case alone is
// unconfirmed.
export function findTag(world, list, name) {
  const { tag_case } = world.config;
  const folded = (text) => (tag_case === 'ignore' ? text.toLowerCase() : text);
  if (list.tagNames?.tag_case !== tag_case) {
    const found = new Map();
    for (const segment of list.segments.values()) {
      const key = folded(segment.name);
      if (segment.type === 'static' && !found.has(key)) found.set(key, segment);
    }
    list.tagNames = { tag_case, found };
  }
  return list.tagNames.found.get(folded(name));
}

export function tagNamed(world, list, name) {
  return findTag(world, list, name) || addSegment(world, list, { name, type: 'static' });
}

function marked(world, list, segment, member) {
  segment.updated = world.now();
  if (world.config.last_changed_on_tags) member.last_changed = world.now();
  world.touch(list);
}

export function addToSegment(world, list, segment, member) {
  if (segment.members.has(member)) return false;
  segment.members.add(member);
  member.tags.set(segment.id, world.now());
  marked(world, list, segment, member);
  return true;
}

export function removeFromSegment(world, list, segment, member) {
  if (!segment.members.delete(member)) return false;
  member.tags.delete(segment.id);
  marked(world, list, segment, member);
  return true;
}

// Archived members keep their tags but are in no segment until they come back.
export function segmentMembers(world, list, segment) {
  if (segment.type === 'static') return [...segment.members].filter((member) => member.status !== 'archived');
  return matching(world, list, segment.match, segment.conditions);
}

export function matching(world, list, match, conditions) {
  const tests = conditions.map((condition) => compile(world, list, condition));
  const out = [];
  for (const member of list.members.values()) {
    if (member.status === 'archived') continue;
    const hit = match === 'all' ? tests.every((test) => test(member)) : tests.some((test) => test(member));
    if (hit) out.push(member);
  }
  return out;
}

const TEXT_OPS = {
  is: (a, b) => a === b,
  not: (a, b) => a !== b,
  contains: (a, b) => a.includes(b),
  notcontain: (a, b) => !a.includes(b),
  starts: (a, b) => a.startsWith(b),
  ends: (a, b) => a.endsWith(b),
  greater: (a, b) => a > b,
  less: (a, b) => a < b,
  blank: (a) => a === '',
  blank_not: (a) => a !== '',
};

const SELECT_OPS = ['is', 'not', 'contains', 'notcontain', 'blank', 'blank_not'];
const DATE_OPS = ['is', 'not', 'greater', 'less', 'blank', 'blank_not'];
const AIM_OPS = ['open', 'click', 'sent', 'noopen', 'noclick', 'nosent'];

const KINDS = {
  StaticSegment: staticTest,
  TextMerge: (world, list, c) => textTest(list, c, Object.keys(TEXT_OPS)),
  SelectMerge: (world, list, c) => textTest(list, c, SELECT_OPS),
  DateMerge: (world, list, c) => textTest(list, c, DATE_OPS),
  EmailAddress: emailTest,
  MemberRating: ratingTest,
  Aim: aimTest,
};

// A test for members, made once for a whole list. Throws with a message where the condition was not taught.
export function compile(world, list, condition) {
  const kind = KINDS[condition.condition_type];
  if (!kind) throw new Error(`condition_type ${condition.condition_type} is not known`);
  return kind(world, list, condition);
}

function staticTest(world, list, c) {
  const segment = list.segments.get(Number(c.value));
  if (c.field !== 'static_segment' || !segment || segment.type !== 'static') throw new Error('no such static segment');
  if (c.op === 'static_is') return (member) => segment.members.has(member);
  if (c.op === 'static_not') return (member) => !segment.members.has(member);
  throw new Error('op: static_is or static_not');
}

function textTest(list, c, ops) {
  if (!ops.includes(c.op)) throw new Error(`op: one of ${ops.join(', ')}`);
  if (!list.mergeFields.some((field) => field.tag === c.field)) throw new Error(`no merge field ${c.field}`);
  const wanted = String(c.value ?? '').toLowerCase();
  return (member) => TEXT_OPS[c.op](String(member.merge_fields[c.field] ?? '').toLowerCase(), wanted);
}

function emailTest(world, list, c) {
  if (c.field !== 'EMAIL' && c.field !== 'merge0') throw new Error('field: EMAIL or merge0');
  if (!TEXT_OPS[c.op] || c.op.startsWith('blank')) throw new Error('op is not known');
  const wanted = String(c.value ?? '').toLowerCase();
  return (member) => TEXT_OPS[c.op](member.lower, wanted);
}

function ratingTest(world, list, c) {
  const value = Number(c.value);
  if (!['is', 'not', 'greater', 'less'].includes(c.op) || !Number.isInteger(value)) throw new Error('op or value is not known');
  return () => TEXT_OPS[c.op](2, value);
}

function aimTest(world, list, c) {
  if (c.field !== 'aim' || !AIM_OPS.includes(c.op)) throw new Error('field or op is not known');
  const campaigns = [...world.campaigns.values()].filter((campaign) => campaign.recipients.list_id === list.id
    && campaign.audience.length && (c.value === 'any' || String(campaign.web_id) === String(c.value)));
  const negative = c.op.startsWith('no');
  const action = negative ? c.op.slice(2) : c.op;
  const now = world.now();
  const hashes = new Set();
  for (const campaign of campaigns) {
    for (const person of campaign.audience) {
      if (action === 'sent' || person.events.some((e) => e.action === action && e.at <= now)) hashes.add(person.id);
    }
  }
  return (member) => hashes.has(member.id) !== negative;
}

// The id that survives a change of address. It is made when somebody first wants it, since a first fill may never do, and
// ends with the web_id, so that a member is found by it without a table of its own.
export function contactId(list, member) {
  member.contact_id ??= hashOf(`${list.seed} ${member.web_id}`).slice(0, 24) + member.web_id.toString(16).padStart(8, '0');
  return member.contact_id;
}

function byContact(list, id) {
  const member = /^[0-9a-f]{32}$/.test(id) && list.byWebId.get(parseInt(id.slice(24), 16));
  return member && contactId(list, member) === id ? member : null;
}

// By hash, plain address or contact_id: what a path may carry (API.md 4).
export function findMember(list, name) {
  const lower = name.toLowerCase();
  return list.members.get(lower) || list.byEmail.get(lower) || byContact(list, lower);
}

