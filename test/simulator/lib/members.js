// Members of a list: making, changing, archiving and forgetting them, with the table of transitions of API.md 5.4. Every
// way in (batch, POST, PUT, PATCH, people's own acts) goes through here, so that they agree.

import { isIP } from 'node:net';
import { hashOf, refusal } from './email.js';
import { parseMemberTime } from './clock.js';
import { readValue, sameValue } from './merge.js';
import { addToSegment, removeFromSegment, tagNamed } from './segments.js';
import { complianceState, forgotten, invalid, memberExists } from './problem.js';
import { addressChanged, profileChanged, statusChanged } from './webhooks.js';

const PLAIN_KEYS = ['email_type', 'language', 'vip', 'ip_signup', 'ip_opt'];

// True if the API may not subscribe this member: its own unsubscribe, a bounce or a review. The mark stays while it is
// archived or made transactional, otherwise a detour would launder it.
function blocked(world, member) {
  if (member.cleaned || member.review || member.unsubscribed_by === 'contact') return true;
  return world.config.admin_unsubscribed === 'refuse' && member.unsubscribed_by !== null;
}

function checkTransition(world, member, status) {
  if (status === member.status) return;
  if (status === 'subscribed' && blocked(world, member)) throw complianceState(member.email_address);
  if (status === 'pending' && (member.cleaned || member.review)) throw complianceState(member.email_address);
}

// What became of a member, for GET /_sim/history; request is null for what people do by themselves.
function note(world, list, member, change) {
  if (!world.config.history) return;
  const { history, request } = world;
  history.push({ n: history.length + 1, at: world.now(), list: list.id, web_id: member.web_id, email: member.email_address, request, ...change });
}

// by: contact, api or admin; at: the instant of the act.
export function setStatus(world, list, member, status, by, at = world.now(), reason) {
  const old = member.status;
  if (old === status) return;
  note(world, list, member, { from: old, to: status });
  if (old) list.counts[old] -= 1;
  list.counts[status] += 1;
  member.status = status;
  member.last_changed = at;
  member.status_changed = at;
  if (status === 'subscribed') subscribed(list, member, at);
  else if (status === 'unsubscribed') unsubscribed(list, member, by, at, reason);
  else if (status === 'cleaned') member.cleaned = true;
  else if (status === 'pending') world.confirmations.push({ list: list.id, email: member.email_address, at });
  statusChanged(world, list, member, old, status, member.unsubscribe_reason);
  world.touch(list);
}

function subscribed(list, member, at) {
  member.unsubscribed_by = null;
  member.unsubscribe_reason = '';
  member.cleaned = false;
  member.timestamp_opt ||= at;
  list.lastSub = Math.max(list.lastSub, at);
}

function unsubscribed(list, member, by, at, reason) {
  // Who left by their own hand stays so, whatever the API says afterwards.
  if (member.unsubscribed_by !== 'contact') {
    member.unsubscribed_by = by;
    member.unsubscribe_reason = reason || (by === 'contact' ? 'None given' : 'N/A (Unsubscribed by an admin)');
  }
  list.lastUnsub = Math.max(list.lastUnsub, at);
}

// Checks the merge values of an input and gives what to keep; {field, message} entries go to errors.
function readMerge(world, list, input, errors) {
  const out = {};
  for (const tag in input) {
    const field = list.mergeFields.find((candidate) => candidate.tag === tag);
    if (!field) {
      if (world.config.unknown_merge_fields === 'refuse') errors.push({ field: tag, message: 'This merge field does not exist' });
      continue;
    }
    if (input[tag] === null) continue;
    try {
      out[tag] = readValue(field, input[tag]);
    } catch (error) {
      errors.push({ field: tag, message: error.message });
    }
  }
  return out;
}

function checkRequired(list, values, member, errors) {
  for (const field of list.mergeFields) {
    if (!field.required) continue;
    const value = values[field.tag] ?? member?.merge_fields[field.tag] ?? '';
    if (value === '') errors.push({ field: field.tag, message: 'Please enter a value' });
  }
}

export function mergeValues(world, list, input, member, skipRequired) {
  const errors = [];
  const values = input ? readMerge(world, list, input, errors) : {};
  if (!skipRequired) checkRequired(list, values, member, errors);
  if (errors.length) {
    const problem = invalid(errors, 'Your merge fields were invalid.');
    problem.merge = true;
    throw problem;
  }
  return values;
}

// Things that a type alone does not say.
function checkDetails(input) {
  const errors = [];
  for (const key of ['ip_signup', 'ip_opt']) {
    if (input[key] && !isIP(input[key])) errors.push({ field: key, message: 'This is not a valid IP address' });
  }
  for (const key of ['timestamp_signup', 'timestamp_opt']) {
    if (typeof input[key] === 'string' && Number.isNaN(parseMemberTime(input[key]))) {
      errors.push({ field: key, message: 'This value is not a valid datetime.' });
    }
  }
  for (const id in input.interests || {}) errors.push({ field: `interests.${id}`, message: 'Invalid interest ID' });
  if (input.marketing_permissions?.length) {
    errors.push({ field: 'marketing_permissions', message: 'This list has no marketing permissions' });
  }
  if (errors.length) throw invalid(errors);
}

export function checkNewAddress(list, email, hash) {
  const reason = refusal(email);
  if (reason) throw invalid([{ field: 'email_address', message: reason }], reason);
  if (list.forgotten.has(hash)) throw forgotten(email);
}

// A new member. input was checked by type; throws a Problem and changes nothing if it may not be.
export function createMember(world, list, input, { skipRequired = false, source = 'API - Generic' } = {}) {
  const email = input.email_address.trim();
  const hash = hashOf(email);
  checkNewAddress(list, email, hash);
  checkDetails(input);
  const values = mergeValues(world, list, input.merge_fields, null, skipRequired);
  const member = blank(world, list, email, hash, source);
  enter(list, member);
  setStatus(world, list, member, input.status_if_new || input.status, 'api');
  assign(member, input, values);
  return member;
}

function blank(world, list, email, hash, source) {
  return {
    id: hash,
    email_address: email,
    lower: email.toLowerCase(),
    unique_email_id: hash.slice(11, 21),
    contact_id: null,
    web_id: world.nextWebId(),
    email_type: 'html',
    status: null,
    status_changed: 0,
    unsubscribed_by: null,
    unsubscribe_reason: '',
    cleaned: false,
    review: false,
    merge_fields: {},
    ip_signup: '',
    ip_opt: '',
    timestamp_signup: 0,
    timestamp_opt: 0,
    last_changed: 0,
    language: '',
    vip: false,
    location: null,
    source,
    tags: new Map(),
    sent: 0,
    opened: 0,
    clicked: 0,
  };
}

function enter(list, member) {
  list.members.set(member.id, member);
  list.byEmail.set(member.lower, member);
  list.byWebId.set(member.web_id, member);
}

function leave(list, member) {
  list.members.delete(member.id);
  list.byEmail.delete(member.lower);
  list.byWebId.delete(member.web_id);
}

// Copies what was given; true if anything is different now.
function assign(member, input, values) {
  let changed = false;
  const put = (target, key, value) => {
    if (value === undefined || value === null || sameValue(target[key] ?? '', value)) return;
    target[key] = value;
    changed = true;
  };
  for (const tag in values) put(member.merge_fields, tag, values[tag]);
  for (const key of PLAIN_KEYS) put(member, key, input[key]);
  if (input.timestamp_signup) put(member, 'timestamp_signup', parseMemberTime(input.timestamp_signup));
  if (input.timestamp_opt) put(member, 'timestamp_opt', parseMemberTime(input.timestamp_opt));
  const place = input.location;
  if (place && (place.latitude !== member.location?.latitude || place.longitude !== member.location?.longitude)) {
    member.location = { latitude: place.latitude || 0, longitude: place.longitude || 0 };
    changed = true;
  }
  return changed;
}

// Changes a member. All checks come before the first change, so that a refused request leaves no trace.
export function updateMember(world, list, member, input, { skipRequired = false } = {}) {
  const status = input.status ?? undefined;
  const email = input.email_address?.trim();
  const moves = email !== undefined && email.toLowerCase() !== member.lower;
  if (moves) checkMove(list, member, email);
  if (status !== undefined) checkTransition(world, member, status);
  checkDetails(input);
  const values = mergeValues(world, list, input.merge_fields, member, skipRequired);
  let changed = assign(member, input, values);
  if (changed) profileChanged(world, list, member);
  if (moves) {
    const was = member.email_address;
    move(list, member, email);
    note(world, list, member, { from: member.status, to: member.status, was });
    addressChanged(world, list, member, was);
    changed = true;
  } else if (email !== undefined && email !== member.email_address) {
    // Only the case differs: the same member, shown as written last.
    member.email_address = email;
    changed = true;
  }
  if (status !== undefined) setStatus(world, list, member, status, 'api');
  if (changed) {
    member.last_changed = world.now();
    world.touch(list);
  }
  return member;
}

function checkMove(list, member, email) {
  const hash = hashOf(email);
  checkNewAddress(list, email, hash);
  const other = list.members.get(hash);
  if (other && other !== member) throw memberExists(email);
}

// A new address is a new hash; contact_id and web_id survive (API.md 4).
function move(list, member, email) {
  leave(list, member);
  member.email_address = email;
  member.lower = email.toLowerCase();
  member.id = hashOf(email);
  member.unique_email_id = member.id.slice(11, 21);
  enter(list, member);
}

export function addTags(world, list, member, names) {
  for (const name of names) if (name.trim()) addToSegment(world, list, tagNamed(world, list, name.trim()), member);
}

// Exactly these tags: the batch call's sync_tags.
export function setTags(world, list, member, names) {
  const wanted = new Set(names.map((name) => name.trim()).filter(Boolean).map((name) => tagNamed(world, list, name)));
  for (const id of [...member.tags.keys()]) {
    const segment = list.segments.get(id);
    if (!wanted.has(segment)) removeFromSegment(world, list, segment, member);
  }
  for (const segment of wanted) addToSegment(world, list, segment, member);
}

export function archive(world, list, member) {
  if (member.status === 'archived') note(world, list, member, { from: 'archived', to: 'archived' });
  setStatus(world, list, member, 'archived', 'api');
}

// Erases the person and keeps the hash, so that no way but a form of Mailchimp's brings the address back.
export function forget(world, list, member) {
  note(world, list, member, { from: member.status, to: null });
  statusChanged(world, list, member, member.status, null);
  for (const id of member.tags.keys()) list.segments.get(id).members.delete(member);
  list.counts[member.status] -= 1;
  leave(list, member);
  list.forgotten.add(member.id);
  // A scheduled campaign may still name this object among its recipients.
  member.status = 'archived';
  world.touch(list);
}
