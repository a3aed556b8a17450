// How a member looks in answers, and helpers that several resources share.

import { iso } from '../lib/clock.js';
import { contactId, findMember } from '../lib/segments.js';
import { notFound } from '../lib/problem.js';
import { render } from '../lib/shape.js';

const NOWHERE = { latitude: 0, longitude: 0, gmtoff: 0, dstoff: 0, country_code: '', timezone: '', region: '' };
const NO_LINKS = [];

// Answers give "" for an empty field of any type (API.md 5.5).
export function mergeView(list, member) {
  const out = {};
  for (const field of list.mergeFields) out[field.tag] = member.merge_fields[field.tag] ?? '';
  return out;
}

function fullName(member) {
  return `${member.merge_fields.FNAME || ''} ${member.merge_fields.LNAME || ''}`.trim();
}

function rate(part, whole) {
  return whole ? Math.round((part / whole) * 10000) / 10000 : 0;
}

// At most 50 tags inside a member (API.md 5.4); all of them only at /tags.
function tagsOf(list, member) {
  const out = [];
  for (const id of member.tags.keys()) {
    if (out.length === 50) break;
    out.push({ id, name: list.segments.get(id).name });
  }
  return out;
}

function tableFor(list) {
  return {
    id: (m) => m.id,
    email_address: (m) => m.email_address,
    unique_email_id: (m) => m.unique_email_id,
    contact_id: (m) => contactId(list, m),
    full_name: fullName,
    web_id: (m) => m.web_id,
    email_type: (m) => m.email_type,
    status: (m) => m.status,
    unsubscribe_reason: (m) => (m.status === 'unsubscribed' ? m.unsubscribe_reason : undefined),
    consents_to_one_to_one_messaging: () => true,
    merge_fields: (m) => mergeView(list, m),
    interests: () => ({}),
    stats: (m) => ({ avg_open_rate: rate(m.opened, m.sent), avg_click_rate: rate(m.clicked, m.sent) }),
    ip_signup: (m) => m.ip_signup,
    timestamp_signup: (m) => iso(m.timestamp_signup),
    ip_opt: (m) => m.ip_opt,
    timestamp_opt: (m) => iso(m.timestamp_opt),
    member_rating: () => 2,
    last_changed: (m) => iso(m.last_changed),
    language: (m) => m.language,
    vip: (m) => m.vip,
    email_client: () => '',
    location: (m) => (m.location ? { ...NOWHERE, ...m.location } : NOWHERE),
    source: (m) => m.source,
    tags_count: (m) => m.tags.size,
    tags: (m) => tagsOf(list, m),
    list_id: () => list.id,
    _links: () => NO_LINKS,
  };
}

const tables = new WeakMap();

export function memberView(list, member, plan) {
  let table = tables.get(list);
  if (!table) tables.set(list, table = tableFor(list));
  return render(table, member, plan);
}

// Batch and segment answers have no word for "archived" in the vendor's description; the status is left out rather than
// wrong.
export function briefMemberView(list, member, plan) {
  const out = memberView(list, member, plan);
  if (out.status === 'archived') delete out.status;
  return out;
}

export function listOf(ctx, id = ctx.params.list_id) {
  const list = ctx.account.lists.get(id);
  if (!list) throw notFound();
  return list;
}

export function memberOf(ctx, list) {
  const member = findMember(list, ctx.params.subscriber_hash);
  if (!member) throw notFound();
  return member;
}

export function segmentOf(ctx, list) {
  const segment = /^\d+$/.test(ctx.params.segment_id) && list.segments.get(Number(ctx.params.segment_id));
  if (!segment) throw notFound();
  return segment;
}

export function campaignOf(ctx) {
  const campaign = ctx.account.campaigns.get(ctx.params.campaign_id);
  if (!campaign) throw notFound();
  return campaign;
}

export { rate };
