// POST /lists/{list_id}: up to 500 members in one call (API.md 5.3). The call succeeds even if members fail; only a wrong
// envelope refuses it as a whole.

import { arr, bool, map, any, num, obj, oneOf, str } from '../lib/schema.js';
import { FIELDS } from '../lib/query.js';
import { addTags, createMember, setTags, updateMember } from '../lib/members.js';
import { invalid, Problem } from '../lib/problem.js';
import { planOf, ALL, NONE } from '../lib/shape.js';
import * as shapes from './shapes.js';
import { briefMemberView, listOf } from './views.js';

export const STATUS = oneOf('subscribed', 'unsubscribed', 'cleaned', 'pending', 'transactional');

// What a member may carry in any of the calls; a null stands for "not given" in the batch call only.
export const MEMBER_FIELDS = {
  email_address: str(),
  email_type: oneOf('html', 'text'),
  merge_fields: map(any()),
  interests: map(bool()),
  language: str(),
  vip: bool(),
  location: obj({ latitude: num(), longitude: num() }),
  ip_signup: str(),
  ip_opt: str(),
  timestamp_signup: str(),
  timestamp_opt: str(),
};

const BODY = obj({
  members: arr(obj({ ...MEMBER_FIELDS, status: STATUS, status_if_new: STATUS, tags: arr(str()) }, [], { nulls: true }), { maxItems: 500 }),
  update_existing: bool(),
  sync_tags: bool(),
}, ['members']);

function checkStatuses(members) {
  const errors = [];
  members.forEach((member, i) => {
    if (member.status == null && member.status_if_new == null) {
      errors.push({ field: `members.${i}.status`, message: 'Required fields were not provided: status or status_if_new' });
    }
  });
  if (errors.length) throw invalid(errors);
}

function failure(email, error) {
  const out = { email_address: email, error: error.detail, error_code: 'ERROR_GENERIC', field: '', field_message: '' };
  if (!error.errors?.length) return out;
  const [first] = error.errors;
  if (error.merge) {
    out.field = first.field;
    out.field_message = first.message;
  } else {
    out.error = first.message;
  }
  return out;
}

function exists(email) {
  return {
    email_address: email,
    error: `${email} is already a list member, do you want to update? please provide update_existing:true in the request body`,
    error_code: 'ERROR_CONTACT_EXISTS',
    field: '',
    field_message: '',
  };
}

const IGNORED = ['Member In Compliance State'];

// One member of the request. Puts its outcome into result; what it throws was a bug and not a refusal.
function one(ctx, list, input, result) {
  const email = (input.email_address || '').trim();
  const member = list.byEmail.get(email.toLowerCase());
  const options = { skipRequired: ctx.query.skip_merge_validation === true };
  if (member && !ctx.body.update_existing) {
    result.errors.push(exists(email));
    return;
  }
  try {
    if (member) updateMember(ctx.world, list, member, input, options);
    const kept = member || createMember(ctx.world, list, { ...input, email_address: email }, options);
    if (input.tags) {
      if (ctx.body.sync_tags) setTags(ctx.world, list, kept, input.tags);
      else addTags(ctx.world, list, kept, input.tags);
    }
    (member ? result.updated : result.created).push(kept);
  } catch (error) {
    if (!(error instanceof Problem)) throw error;
    if (ctx.world.config.compliance === 'ignore' && IGNORED.includes(error.title)) return;
    result.errors.push(failure(email, error));
  }
}

function withoutRepeats(members) {
  const seen = new Set();
  return members.filter((member) => {
    const key = (member.email_address || '').trim().toLowerCase();
    return seen.has(key) ? false : seen.add(key);
  });
}

// Whether `fields` works on this POST is unconfirmed; by default it is taken and does nothing.
function batchPlan(ctx) {
  const plan = planOf(shapes.BATCH, ctx.query);
  return ctx.world.config.batch_fields === 'honour' ? plan : ALL;
}

function subscribe(ctx) {
  const list = listOf(ctx);
  checkStatuses(ctx.body.members);
  const members = ctx.query.skip_duplicate_check ? withoutRepeats(ctx.body.members) : ctx.body.members;
  const result = { created: [], updated: [], errors: [] };
  for (const member of members) one(ctx, list, member, result);
  ctx.plan = batchPlan(ctx);
  const view = (key, found) => {
    const sub = ctx.plan.sub(key);
    return sub === NONE ? [] : found.map((member) => briefMemberView(list, member, sub));
  };
  return {
    new_members: view('new_members', result.created),
    updated_members: view('updated_members', result.updated),
    errors: result.errors,
    total_created: result.created.length,
    total_updated: result.updated.length,
    error_count: result.errors.length,
    _links: [],
  };
}

export const routes = [
  {
    method: 'POST', path: '/lists/{list_id}', write: 'contacts', body: BODY, handler: subscribe, batch: true,
    query: { ...FIELDS, skip_merge_validation: 'bool', skip_duplicate_check: 'bool' },
  },
];
