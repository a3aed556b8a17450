// Webhooks of a list (API.md 5.11). The address is asked before one is made; the signing secret is shown in that answer alone.

import { bool, obj, str } from '../lib/schema.js';
import { FIELDS } from '../lib/query.js';
import { addWebhook, changeWebhook, EVENTS, removeWebhook, SOURCES, validate } from '../lib/webhooks.js';
import { badRequest, invalidField, notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { listOf } from './views.js';

const flags = (names) => obj(Object.fromEntries(names.map((name) => [name, bool()])));
const COMMON = { url: str(), events: flags(EVENTS), sources: flags(SOURCES) };

const view = (list, { id, url, events, sources, secret }) => ({
  id, url, events, sources, list_id: list.id, signing_enabled: secret !== null, _links: [],
});

function webhookOf(ctx, list) {
  const hook = list.webhooks.get(ctx.params.webhook_id);
  if (!hook) throw notFound();
  return hook;
}

function all(ctx) {
  const list = listOf(ctx);
  return { webhooks: [...list.webhooks.values()].map((hook) => view(list, hook)), list_id: list.id, total_items: list.webhooks.size, _links: [] };
}

function checkUrl(ctx, list, own) {
  if ([...list.webhooks.values()].some((hook) => hook !== own && hook.url === ctx.body.url)) {
    throw badRequest('Sorry, you can\'t set up multiple WebHooks for one URL on the same list.');
  }
  if (!ctx.ahead) throw invalidField('url', 'We couldn\'t verify that the URL is working. Please double check and try again.');
}

function create(ctx) {
  const list = listOf(ctx);
  checkUrl(ctx, list, null);
  const hook = addWebhook(ctx.world, list, ctx.body);
  return { ...view(list, hook), signing_secret: hook.secret };
}

function patch(ctx) {
  const list = listOf(ctx);
  const hook = webhookOf(ctx, list);
  if (ctx.body.url !== undefined) checkUrl(ctx, list, hook);
  changeWebhook(ctx.world, list, hook, ctx.body);
  return view(list, hook);
}

function remove(ctx) {
  const list = listOf(ctx);
  removeWebhook(ctx.world, list, webhookOf(ctx, list));
}

const ahead = (body) => (typeof body?.url === 'string' ? validate(body.url) : null);

const ALL = '/lists/{list_id}/webhooks';
const ONE = `${ALL}/{webhook_id}`;

export const routes = [
  { method: 'GET', path: ALL, query: FIELDS, shape: shapes.WEBHOOKS, handler: all },
  { method: 'POST', path: ALL, query: {}, body: obj(COMMON, ['url']), write: 'lists', ahead, handler: create },
  {
    method: 'GET', path: ONE, query: FIELDS, shape: shapes.WEBHOOK,
    handler: (ctx) => { const list = listOf(ctx); return view(list, webhookOf(ctx, list)); },
  },
  { method: 'PATCH', path: ONE, query: {}, body: obj(COMMON), write: 'lists', ahead, handler: patch },
  { method: 'DELETE', path: ONE, query: {}, write: 'lists', handler: remove },
];
