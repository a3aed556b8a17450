// Merge fields of a list (API.md 5.5).

import { arr, bool, int, obj, oneOf, str } from '../lib/schema.js';
import { FIELDS, PAGE, page } from '../lib/query.js';
import { addMergeField, FIELD_TYPES } from '../lib/lists.js';
import { badRequest, invalidField, notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { listOf } from './views.js';

const OPTIONS = { default_country: int(), phone_format: str(), date_format: str(), choices: arr(str()) };
const COMMON = {
  tag: str(), name: str(), required: bool(), default_value: str(), public: bool(), display_order: int(), help_text: str(),
};
const POST_BODY = obj({ ...COMMON, type: oneOf(...FIELD_TYPES), options: obj({ ...OPTIONS, size: int() }) }, ['name', 'type']);
// The type cannot be changed, so PATCH does not know it.
const PATCH_BODY = obj({ ...COMMON, options: obj(OPTIONS) });

const TAG = /^[A-Z0-9_]{1,10}$/;

function checkTag(list, tag, own) {
  if (!TAG.test(tag) || tag === 'EMAIL') {
    throw invalidField('tag', 'Upper-case letters, digits and underscores, at most 10 of them, and not EMAIL');
  }
  if (list.mergeFields.some((field) => field !== own && field.tag === tag)) {
    throw invalidField('tag', `A Merge Field with the tag "${tag}" already exists for this list.`);
  }
}

function view(list, field) {
  return { ...field, list_id: list.id, _links: [] };
}

function fieldOf(ctx, list) {
  const field = list.mergeFields.find((candidate) => String(candidate.merge_id) === ctx.params.merge_id);
  if (!field) throw notFound();
  return field;
}

function all(ctx) {
  const list = listOf(ctx);
  const { type, required } = ctx.query;
  const fields = list.mergeFields.filter((field) => (type === undefined || field.type === type)
    && (required === undefined || field.required === required));
  return {
    merge_fields: page(fields, ctx.query).map((field) => view(list, field)),
    list_id: list.id,
    merge_field_limit: ctx.world.config.merge_field_limit,
    total_items: fields.length,
    _links: [],
  };
}

function create(ctx) {
  const list = listOf(ctx);
  if (ctx.body.tag !== undefined) checkTag(list, ctx.body.tag, null);
  if (list.mergeFields.length >= ctx.world.config.merge_field_limit) {
    throw badRequest(`You have reached the limit of ${ctx.world.config.merge_field_limit} merge fields.`);
  }
  return view(list, addMergeField(ctx.world, list, ctx.body));
}

function patch(ctx) {
  const list = listOf(ctx);
  const field = fieldOf(ctx, list);
  const { tag, options, ...rest } = ctx.body;
  if (tag !== undefined && tag !== field.tag) {
    checkTag(list, tag, field);
    rename(list, field.tag, tag);
    field.tag = tag;
  }
  Object.assign(field, rest);
  Object.assign(field.options, options);
  ctx.world.touch(list);
  return view(list, field);
}

function rename(list, from, to) {
  for (const member of list.members.values()) {
    if (!(from in member.merge_fields)) continue;
    member.merge_fields[to] = member.merge_fields[from];
    delete member.merge_fields[from];
  }
}

function remove(ctx) {
  const list = listOf(ctx);
  const field = fieldOf(ctx, list);
  list.mergeFields.splice(list.mergeFields.indexOf(field), 1);
  for (const member of list.members.values()) delete member.merge_fields[field.tag];
  ctx.world.touch(list);
}

const ALL = '/lists/{list_id}/merge-fields';
const ONE = `${ALL}/{merge_id}`;

export const routes = [
  {
    method: 'GET', path: ALL, query: { ...FIELDS, ...PAGE, type: 'text', required: 'bool' }, shape: shapes.MERGE_FIELDS,
    handler: all,
  },
  { method: 'POST', path: ALL, query: {}, body: POST_BODY, write: 'lists', handler: create },
  {
    method: 'GET', path: ONE, query: FIELDS, shape: shapes.MERGE_FIELD,
    handler: (ctx) => { const list = listOf(ctx); return view(list, fieldOf(ctx, list)); },
  },
  { method: 'PATCH', path: ONE, query: {}, body: PATCH_BODY, write: 'lists', handler: patch },
  { method: 'DELETE', path: ONE, query: {}, write: 'lists', handler: remove },
];
