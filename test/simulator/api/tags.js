// Tags of a member and of a list, and a member's activity feed (API.md 5.4, 5.6).

import { any, bool, obj } from '../lib/schema.js';
import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page } from '../lib/query.js';
import { addToSegment, findTag, removeFromSegment, tagNamed } from '../lib/segments.js';
import { invalidField } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { listOf, memberOf } from './views.js';

// `tags` is looked at in the handler: with a wrong shape the real call may answer 204 and do nothing.
const BODY = obj({ tags: any(), is_syncing: bool() }, ['tags']);

function wellShaped(tags) {
  return Array.isArray(tags) && tags.every((tag) => tag !== null && typeof tag === 'object'
    && typeof tag.name === 'string' && ['active', 'inactive'].includes(tag.status)
    && Object.keys(tag).every((key) => key === 'name' || key === 'status'));
}

function change(ctx) {
  const list = listOf(ctx);
  const member = memberOf(ctx, list);
  if (!wellShaped(ctx.body.tags)) {
    if (ctx.world.config.tags_wrong_shape === 'ignore') return;
    throw invalidField('tags', 'Schema describes array of objects with name and status');
  }
  for (const { name, status } of ctx.body.tags) {
    if (status === 'active') {
      addToSegment(ctx.world, list, tagNamed(ctx.world, list, name.trim()), member);
    } else {
      const tag = findTag(ctx.world, list, name.trim());
      if (tag) removeFromSegment(ctx.world, list, tag, member);
    }
  }
}

function all(ctx) {
  const list = listOf(ctx);
  const member = memberOf(ctx, list);
  const tags = [...member.tags].map(([id, at]) => ({ id, name: list.segments.get(id).name, date_added: iso(at) }));
  return { tags: page(tags, ctx.query), total_items: tags.length, _links: [] };
}

function search(ctx) {
  const list = listOf(ctx);
  const prefix = (ctx.query.name || '').toLowerCase();
  const tags = [...list.segments.values()]
    .filter((segment) => segment.type === 'static' && segment.name.toLowerCase().startsWith(prefix))
    .map(({ id, name }) => ({ id, name }));
  return { tags: page(tags, ctx.query), total_items: tags.length, _links: [] };
}

const TYPES = { open: 'open', click: 'click', hard: 'bounce', soft: 'bounce', unsubscribe: 'unsub', abuse: 'unsub' };

function feedRow(campaign, event) {
  const row = { activity_type: TYPES[event.action], created_at_timestamp: iso(event.at), campaign_id: campaign.id };
  if (event.action === 'click') row.link_clicked = event.url;
  if (event.action === 'hard' || event.action === 'soft') row.bounce_type = event.action;
  if (event.action === 'unsubscribe') row.unsubscribe_reason = event.reason;
  if (event.action === 'abuse') row.unsubscribe_reason = 'Abuse complaint';
  return row;
}

function feed(ctx) {
  const list = listOf(ctx);
  const member = memberOf(ctx, list);
  const filters = ctx.query.activity_filters?.split(',').map((name) => name.trim());
  const now = ctx.world.now();
  const rows = [];
  for (const campaign of ctx.account.campaigns.values()) {
    if (campaign.recipients.list_id !== list.id) continue;
    for (const person of campaign.audience) {
      if (person.member !== member) continue;
      rows.push({ activity_type: 'sent', created_at_timestamp: iso(person.at), campaign_id: campaign.id });
      for (const event of person.events) if (event.at <= now) rows.push(feedRow(campaign, event));
    }
  }
  const found = rows.filter((row) => !filters || filters.includes(row.activity_type))
    .sort((a, b) => (a.created_at_timestamp < b.created_at_timestamp ? 1 : -1));
  return { email_id: member.id, list_id: list.id, activity: page(found, ctx.query), _links: [] };
}

const ONE = '/lists/{list_id}/members/{subscriber_hash}';

export const routes = [
  { method: 'GET', path: `${ONE}/tags`, query: { ...FIELDS, ...PAGE }, shape: shapes.MEMBER_TAGS, handler: all },
  { method: 'POST', path: `${ONE}/tags`, query: {}, body: BODY, write: 'contacts', handler: change },
  {
    method: 'GET', path: `${ONE}/activity-feed`, query: { ...FIELDS, ...PAGE, activity_filters: 'text' },
    shape: shapes.FEED, handler: feed,
  },
  {
    method: 'GET', path: '/lists/{list_id}/tag-search', query: { ...FIELDS, ...PAGE, name: 'text' },
    shape: shapes.TAG_SEARCH, handler: search,
  },
];
