// Reports (API.md 5.9). Everything shows events up to the clock's now.

import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page, sortBy, within } from '../lib/query.js';
import { listOfCampaign } from '../lib/campaigns.js';
import { averages, figures, isHuman, linkFigures, linkId, ratio, visible } from '../lib/figures.js';
import { notFound } from '../lib/problem.js';
import { NONE } from '../lib/shape.js';
import { deliveryView } from './campaigns.js';
import * as shapes from './shapes.js';
import { campaignOf, mergeView } from './views.js';

// Drafts have no report.
function reportOf(ctx) {
  const campaign = campaignOf(ctx);
  if (!campaign.sends) throw notFound();
  return campaign;
}

function listStats(ctx, campaign) {
  const campaigns = [...ctx.account.campaigns.values()]
    .filter((other) => other.recipients.list_id === campaign.recipients.list_id);
  return { sub_rate: 0, unsub_rate: 0, ...averages(campaigns, ctx.world.now()) };
}

function timeseries(campaign, now) {
  const first = campaign.sendTime - (campaign.sendTime % 3600);
  const hours = Array.from({ length: 24 }, (_, i) => ({
    timestamp: iso(first + i * 3600), emails_sent: 0, unique_opens: 0, proxy_excluded_unique_opens: 0, recipients_clicks: 0,
  }));
  const hourOf = (at) => hours[Math.floor((at - first) / 3600)];
  for (const person of campaign.audience) {
    const sent = person.mailed && hourOf(person.at);
    if (sent) sent.emails_sent += 1;
    const done = visible(person, now);
    const firsts = [
      ['unique_opens', (event) => event.action === 'open'],
      ['proxy_excluded_unique_opens', (event) => event.action === 'open' && !event.proxy],
      ['recipients_clicks', (event) => event.action === 'click'],
    ];
    for (const [name, test] of firsts) {
      const event = done.find(test);
      const hour = event && hourOf(event.at);
      if (hour) hour[name] += 1;
    }
  }
  return hours;
}

// The hourly figures walk through every recipient, so they are made only if somebody wants them.
function view(ctx, campaign, plan) {
  const now = ctx.world.now();
  const sum = figures(campaign, now);
  const list = listOfCampaign(campaign);
  return {
    id: campaign.id,
    campaign_title: campaign.settings.title,
    type: campaign.type,
    list_id: campaign.recipients.list_id,
    list_is_active: list !== null,
    list_name: list?.name || '',
    subject_line: campaign.settings.subject_line,
    preview_text: campaign.settings.preview_text,
    emails_sent: sum.sent,
    abuse_reports: sum.abuse,
    unsubscribed: sum.unsubscribed,
    send_time: iso(campaign.sendTime),
    bounces: { hard_bounces: sum.hard, soft_bounces: sum.soft, syntax_errors: 0 },
    forwards: { forwards_count: 0, forwards_opens: 0 },
    opens: {
      opens_total: sum.opens,
      unique_opens: sum.openers,
      open_rate: ratio(sum.openers, sum.delivered),
      last_open: iso(sum.lastOpen),
      proxy_excluded_opens: sum.humanOpens,
      proxy_excluded_unique_opens: sum.humanOpeners,
      proxy_excluded_open_rate: ratio(sum.humanOpeners, sum.delivered),
    },
    clicks: {
      clicks_total: sum.clicks,
      unique_clicks: sum.linkClickers,
      unique_subscriber_clicks: sum.clickers,
      click_rate: ratio(sum.clickers, sum.delivered),
      last_click: iso(sum.lastClick),
    },
    facebook_likes: { recipient_likes: 0, unique_likes: 0, facebook_likes: 0 },
    list_stats: listStats(ctx, campaign),
    timeseries: plan.sub('timeseries') === NONE ? undefined : timeseries(campaign, now),
    ecommerce: { total_orders: 0, total_spent: 0, total_revenue: 0, currency_code: 'EUR' },
    delivery_status: deliveryView(campaign),
    _links: [],
  };
}

function all(ctx) {
  const q = ctx.query;
  const found = [...ctx.account.campaigns.values()].filter((campaign) => campaign.sends && (!q.type || campaign.type === q.type)
    && within(campaign.sendTime, q.since_send_time, q.before_send_time));
  const plan = ctx.plan.sub('reports');
  return { reports: page(found, q).map((campaign) => view(ctx, campaign, plan)), total_items: found.length, _links: [] };
}

function head(campaign, person) {
  return {
    campaign_id: campaign.id,
    list_id: campaign.recipients.list_id,
    list_is_active: listOfCampaign(campaign) !== null,
    email_id: person.id,
    email_address: person.email,
  };
}

function personView(campaign, person) {
  const list = listOfCampaign(campaign);
  return {
    ...head(campaign, person),
    merge_fields: list ? mergeView(list, person.member) : {},
    vip: person.member.vip,
  };
}

const withStatus = (campaign, person) => ({ ...personView(campaign, person), contact_status: person.member.status });

// open and click with ip, bounce without; unsubscribes and complaints are not here.
function activityRow(event) {
  if (event.action === 'open') return { action: 'open', timestamp: iso(event.at), ip: event.ip };
  if (event.action === 'click') return { action: 'click', timestamp: iso(event.at), url: event.url, ip: event.ip };
  if (event.action === 'hard' || event.action === 'soft') return { action: 'bounce', type: event.action, timestamp: iso(event.at) };
  return null;
}

// Every recipient has a row; since and filter_bots leave out events, not rows.
function activityView(ctx, campaign, person) {
  const events = visible(person, ctx.world.now(), ctx.query.since, ctx.query.filter_bots);
  return { ...head(campaign, person), activity: events.map(activityRow).filter(Boolean), _links: [] };
}

function emailActivity(ctx) {
  // A campaign that was not sent has an empty list here, and not 404.
  const campaign = campaignOf(ctx);
  return {
    emails: page(campaign.audience, ctx.query).map((person) => activityView(ctx, campaign, person)),
    campaign_id: campaign.id,
    total_items: campaign.audience.length,
    _links: [],
  };
}

function personActivity(ctx) {
  const campaign = reportOf(ctx);
  const person = campaign.byId.get(ctx.params.subscriber_hash.toLowerCase());
  if (!person) throw notFound();
  return activityView(ctx, campaign, person);
}

function openDetails(ctx) {
  const campaign = reportOf(ctx);
  const q = ctx.query;
  let members = [];
  let total = 0;
  let human = 0;
  for (const person of campaign.audience) {
    const opens = visible(person, ctx.world.now(), q.since, q.filter_bots).filter((event) => event.action === 'open');
    if (!opens.length) continue;
    const own = opens.filter(isHuman).length;
    total += opens.length;
    human += own;
    members.push({
      ...withStatus(campaign, person),
      opens_count: opens.length,
      proxy_excluded_opens_count: own,
      opens: opens.map((event) => ({ timestamp: iso(event.at), is_proxy_open: event.proxy })),
      _links: [],
    });
  }
  if (q.sort_field) members = sortBy(members, (row) => row.opens_count, q.sort_dir || 'DESC');
  return {
    members: page(members, q),
    campaign_id: campaign.id,
    total_opens: total,
    total_proxy_excluded_opens: human,
    total_items: members.length,
    _links: [],
  };
}

function linkView(campaign, link, totals) {
  return {
    id: linkId(campaign, link.url),
    url: link.url,
    total_clicks: link.total,
    click_percentage: ratio(link.total, totals.clicks),
    unique_clicks: link.people.size,
    unique_click_percentage: ratio(link.people.size, totals.people),
    last_click: iso(link.last),
    campaign_id: campaign.id,
    _links: [],
  };
}

function links(ctx, campaign) {
  const found = linkFigures(campaign, ctx.world.now(), ctx.query.filter_bots);
  const clicks = found.reduce((sum, link) => sum + link.total, 0);
  const people = found.reduce((sum, link) => sum + link.people.size, 0);
  return found.map((link) => linkView(campaign, link, { clicks, people }));
}

function clickDetails(ctx) {
  const campaign = reportOf(ctx);
  const q = ctx.query;
  let found = links(ctx, campaign);
  if (q.sort_field) found = sortBy(found, (link) => link[q.sort_field], q.sort_dir || 'DESC');
  return { urls_clicked: page(found, q), campaign_id: campaign.id, total_items: found.length, _links: [] };
}

function clickDetail(ctx) {
  const found = links(ctx, reportOf(ctx)).find((link) => link.id === ctx.params.link_id);
  if (!found) throw notFound();
  return found;
}

function clickMembers(ctx) {
  const campaign = reportOf(ctx);
  const link = linkFigures(campaign, ctx.world.now()).find(({ url }) => linkId(campaign, url) === ctx.params.link_id);
  if (!link) throw notFound();
  const people = [...link.people].map(([person, clicks]) => ({
    ...withStatus(campaign, person), clicks, url_id: ctx.params.link_id, _links: [],
  }));
  return { members: page(people, ctx.query), campaign_id: campaign.id, total_items: people.length, _links: [] };
}

function sentTo(ctx) {
  const campaign = reportOf(ctx);
  const rows = page(campaign.audience, ctx.query).map((person) => {
    const done = visible(person, ctx.world.now());
    const opens = done.filter((event) => event.action === 'open');
    const bounce = done.find((event) => event.action === 'hard' || event.action === 'soft');
    return {
      ...personView(campaign, person),
      status: bounce ? bounce.action : 'sent',
      open_count: opens.length,
      last_open: iso(opens.at(-1)?.at),
      gmt_offset: 0,
      _links: [],
    };
  });
  return { sent_to: rows, campaign_id: campaign.id, total_items: campaign.audience.length, _links: [] };
}

// People with an event of that kind, oldest first.
function peopleWith(ctx, campaign, action) {
  const found = [];
  for (const person of campaign.audience) {
    const event = visible(person, ctx.world.now()).find((candidate) => candidate.action === action);
    if (event) found.push({ person, event });
  }
  return found.sort((a, b) => a.event.at - b.event.at);
}

function unsubscribed(ctx) {
  const campaign = reportOf(ctx);
  const found = peopleWith(ctx, campaign, 'unsubscribe').map(({ person, event }) => ({
    ...personView(campaign, person), timestamp: iso(event.at), reason: event.reason, _links: [],
  }));
  return { unsubscribes: page(found, ctx.query), campaign_id: campaign.id, total_items: found.length, _links: [] };
}

function abuse(ctx) {
  const campaign = reportOf(ctx);
  const found = peopleWith(ctx, campaign, 'abuse').map(({ person, event }, i) => ({
    ...personView(campaign, person), id: i + 1, date: iso(event.at), _links: [],
  }));
  return { abuse_reports: found, campaign_id: campaign.id, total_items: found.length, _links: [] };
}

const ONE = '/reports/{campaign_id}';
const get = (path, query, shape, handler) => ({ method: 'GET', path, query: { ...FIELDS, ...query }, shape, handler });
const DIR = { sort_dir: ['ASC', 'DESC'] };

export const routes = [
  get('/reports', {
    ...PAGE, type: ['regular', 'plaintext', 'absplit', 'rss', 'variate'], before_send_time: 'date', since_send_time: 'date',
  }, shapes.REPORTS, all),
  get(ONE, {}, shapes.REPORT, (ctx) => view(ctx, reportOf(ctx), ctx.plan)),
  get(`${ONE}/email-activity`, { ...PAGE, since: 'date', filter_bots: 'bool' }, shapes.EMAIL_ACTIVITY, emailActivity),
  get(`${ONE}/email-activity/{subscriber_hash}`, { since: 'date', filter_bots: 'bool' }, shapes.EMAIL_ACTIVITY_ROW, personActivity),
  get(`${ONE}/open-details`, { ...PAGE, ...DIR, since: 'date', sort_field: ['opens_count'], filter_bots: 'bool' },
    shapes.OPEN_DETAILS, openDetails),
  get(`${ONE}/click-details`, { ...PAGE, ...DIR, sort_field: ['total_clicks', 'unique_clicks'], filter_bots: 'bool' },
    shapes.CLICK_DETAILS, clickDetails),
  get(`${ONE}/click-details/{link_id}`, { filter_bots: 'bool' }, shapes.LINK, clickDetail),
  get(`${ONE}/click-details/{link_id}/members`, PAGE, shapes.CLICK_MEMBERS, clickMembers),
  get(`${ONE}/sent-to`, PAGE, shapes.SENT_TO, sentTo),
  get(`${ONE}/unsubscribed`, PAGE, shapes.UNSUBSCRIBED, unsubscribed),
  get(`${ONE}/abuse-reports`, {}, shapes.ABUSE, abuse),
];
