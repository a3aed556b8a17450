// Lists (API.md 5.2). Their members, fields and segments have files of their own.

import { iso } from '../lib/clock.js';
import { hashOf } from '../lib/email.js';
import { cached } from '../lib/lists.js';
import { FIELDS, PAGE, page, sortBy, within } from '../lib/query.js';
import { averages } from '../lib/figures.js';
import * as shapes from './shapes.js';
import { listOf } from './views.js';

function sinceSend(list) {
  return cached(list, `since-send ${list.lastSent}`, () => {
    const out = { subscribed: 0, unsubscribed: 0, cleaned: 0 };
    for (const member of list.members.values()) {
      if (member.status in out && member.status_changed > list.lastSent) out[member.status] += 1;
    }
    return out;
  });
}

function stats(ctx, list, withTotal) {
  const { counts } = list;
  const since = sinceSend(list);
  const campaigns = [...ctx.account.campaigns.values()].filter((campaign) => campaign.recipients.list_id === list.id);
  const rates = averages(campaigns, ctx.world.now());
  const out = {
    member_count: counts.subscribed,
    unsubscribe_count: counts.unsubscribed,
    cleaned_count: counts.cleaned,
    member_count_since_send: since.subscribed,
    unsubscribe_count_since_send: since.unsubscribed,
    cleaned_count_since_send: since.cleaned,
    campaign_count: campaigns.length,
    campaign_last_sent: iso(list.lastSent),
    merge_field_count: list.mergeFields.length,
    avg_sub_rate: 0,
    avg_unsub_rate: 0,
    target_sub_rate: 0,
    open_rate: rates.open_rate,
    click_rate: rates.click_rate,
    last_sub_date: iso(list.lastSub),
    last_unsub_date: iso(list.lastUnsub),
  };
  if (withTotal) out.total_contacts = Object.values(counts).reduce((sum, n) => sum + n, 0) - counts.archived;
  return out;
}

function view(ctx, list) {
  return {
    id: list.id,
    web_id: list.web_id,
    name: list.name,
    contact: { address2: '', phone: '', ...list.contact },
    permission_reminder: list.permission_reminder,
    use_archive_bar: true,
    campaign_defaults: list.campaign_defaults,
    notify_on_subscribe: '',
    notify_on_unsubscribe: '',
    date_created: iso(list.created),
    list_rating: 0,
    email_type_option: list.email_type_option,
    subscribe_url_short: `http://eepurl.test/${list.id}`,
    subscribe_url_long: `http://list-manage.test/subscribe?id=${list.id}`,
    beamer_address: `${list.id}@inbound.test`,
    visibility: 'prv',
    double_optin: list.double_optin,
    has_welcome: false,
    marketing_permissions: false,
    modules: [],
    stats: stats(ctx, list, ctx.query.include_total_contacts),
    _links: [],
  };
}

function all(ctx) {
  const q = ctx.query;
  const hash = q.email !== undefined && hashOf(q.email);
  let lists = [...ctx.account.lists.values()].filter((list) => within(list.created, q.since_date_created, q.before_date_created)
    && within(list.lastSent, q.since_campaign_last_sent, q.before_campaign_last_sent)
    && (!hash || list.members.has(hash)));
  if (q.sort_field) lists = sortBy(lists, (list) => list.created, q.sort_dir || 'DESC');
  return {
    lists: page(lists, q).map((list) => view(ctx, list)),
    total_items: lists.length,
    constraints: { may_create: true, max_instances: 100, current_total_instances: ctx.account.lists.size },
    _links: [],
  };
}

export const routes = [
  {
    method: 'GET', path: '/lists', shape: shapes.LISTS, handler: all,
    query: {
      ...FIELDS, ...PAGE, before_date_created: 'date', since_date_created: 'date', before_campaign_last_sent: 'date',
      since_campaign_last_sent: 'date', email: 'text', sort_field: ['date_created'], sort_dir: ['ASC', 'DESC'],
      include_total_contacts: 'bool',
    },
  },
  {
    method: 'GET', path: '/lists/{list_id}', shape: shapes.LIST, query: { ...FIELDS, include_total_contacts: 'bool' },
    handler: (ctx) => view(ctx, listOf(ctx)),
  },
];
