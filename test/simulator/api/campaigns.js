// Campaigns (API.md 5.8): making, reading, changing and deleting them, their content and the send checklist.

import { any, arr, bool, int, map, obj, oneOf, str } from '../lib/schema.js';
import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page, sortBy, within } from '../lib/query.js';
import { addCampaign, isEditable, listOfCampaign, look, plainTextOf, recipientCount, recipientsChanged, useTemplate } from '../lib/campaigns.js';
import { checklist } from '../lib/checklist.js';
import { mailed } from '../lib/sending.js';
import { figures, ratio } from '../lib/figures.js';
import { badRequest, invalidField, methodNotAllowed } from '../lib/problem.js';
import * as shapes from './shapes.js';
import { CONDITIONS, checkConditions } from './segments.js';
import { campaignOf } from './views.js';

const SETTINGS = obj({
  subject_line: str(), preview_text: str({ max: 150 }), title: str(), from_name: str(), reply_to: str(), use_conversation: bool(),
  to_name: str(), folder_id: str(), authenticate: bool(), auto_footer: bool(), inline_css: bool(), auto_tweet: bool(),
  auto_fb_post: arr(str()), fb_comments: bool(), template_id: int(),
});
const TRACKING = obj({
  opens: bool(), html_clicks: bool(), text_clicks: bool(), goal_tracking: bool(), ecomm360: bool(), google_analytics: str(),
  clicktale: str(), salesforce: obj({ campaign: bool(), notes: bool() }), capsule: obj({ notes: bool() }),
});
const RECIPIENTS = obj({
  list_id: str(), segment_opts: obj({ ...CONDITIONS, saved_segment_id: any() }),
}, ['list_id']);
const CARD = obj({ image_url: str(), description: str(), title: str() });
const PATCH_BODY = obj({ recipients: RECIPIENTS, settings: SETTINGS, tracking: TRACKING, social_card: CARD });
// rss and variate were not taught.
const POST_BODY = obj({
  ...PATCH_BODY.fields, type: oneOf('regular', 'plaintext'), content_type: oneOf('template', 'multichannel'),
}, ['type']);
const CONTENT_BODY = obj({
  html: str(), plain_text: str(), template: obj({ id: int(), sections: map(str()) }, ['id']),
});

function segmentText(campaign) {
  const options = campaign.recipients.segment_opts;
  if (!options) return '';
  const segment = listOfCampaign(campaign)?.segments.get(options.saved_segment_id);
  return segment ? `<p>Contacts that match ${segment.name}</p>` : '<p>Contacts that match the conditions</p>';
}

function recipientsView(world, campaign) {
  const list = listOfCampaign(campaign);
  const out = {
    list_id: campaign.recipients.list_id,
    list_is_active: list !== null,
    list_name: list?.name || '',
    segment_text: segmentText(campaign),
    recipient_count: recipientCount(world, campaign),
  };
  const options = campaign.recipients.segment_opts;
  if (options) out.segment_opts = { match: options.match || 'any', conditions: options.conditions || [], ...options };
  return out;
}

export function deliveryView(campaign) {
  if (!campaign.sends) return { enabled: false };
  const words = { sending: 'delivering', sent: 'delivered', canceled: 'canceled' };
  return {
    enabled: true,
    can_cancel: campaign.status === 'sending',
    status: words[campaign.status],
    emails_sent: mailed(campaign),
    emails_canceled: campaign.canceled,
  };
}

function summary(world, campaign) {
  const sum = figures(campaign, world.now());
  return {
    opens: sum.opens,
    unique_opens: sum.openers,
    open_rate: ratio(sum.openers, sum.delivered),
    clicks: sum.clicks,
    subscriber_clicks: sum.clickers,
    click_rate: ratio(sum.clickers, sum.delivered),
    ecommerce: { total_orders: 0, total_spent: 0, total_revenue: 0 },
  };
}

export function campaignView(world, campaign) {
  const out = {
    id: campaign.id,
    web_id: campaign.web_id,
    type: campaign.type,
    create_time: iso(campaign.created),
    archive_url: `http://eepurl.test/${campaign.id}`,
    long_archive_url: `http://mailchi.test/archive/${campaign.id}`,
    status: campaign.status,
    emails_sent: mailed(campaign),
    // A scheduled campaign shows when it will go.
    send_time: iso(campaign.sendTime || campaign.scheduledFor),
    content_type: campaign.content_type,
    needs_block_refresh: false,
    resendable: campaign.status === 'sent',
    recipients: recipientsView(world, campaign),
    settings: campaign.settings,
    tracking: campaign.tracking,
    delivery_status: deliveryView(campaign),
    _links: [],
  };
  if (campaign.parent) out.parent_campaign_id = campaign.parent;
  if (campaign.social_card) out.social_card = campaign.social_card;
  if (campaign.sends) out.report_summary = summary(world, campaign);
  return out;
}

// A campaign that somebody sees has been looked at; the count it shows is the one from before the look.
export function seen(ctx, campaign) {
  const out = campaignView(ctx.world, campaign);
  look(campaign);
  return out;
}

function all(ctx) {
  const q = ctx.query;
  const hits = (campaign) => (!q.type || campaign.type === q.type)
    && (!q.status || campaign.status === q.status)
    && (!q.list_id || campaign.recipients.list_id === q.list_id)
    && (!q.folder_id || campaign.settings.folder_id === q.folder_id)
    && (!q.member_id || campaign.byId.has(q.member_id))
    && within(campaign.created, q.since_create_time, q.before_create_time)
    && within(campaign.sendTime, q.since_send_time, q.before_send_time);
  let campaigns = [...ctx.account.campaigns.values()].filter(hits);
  const field = q.sort_field === 'send_time' ? 'sendTime' : 'created';
  if (q.sort_field) campaigns = sortBy(campaigns, (campaign) => campaign[field], q.sort_dir || 'DESC');
  return { campaigns: page(campaigns, q).map((campaign) => seen(ctx, campaign)), total_items: campaigns.length, _links: [] };
}

function readSegment(ctx, list, options) {
  const field = 'recipients.segment_opts';
  const { saved_segment_id: id, ...rest } = options;
  if (id === undefined) {
    checkConditions(ctx, list, options, field);
    return rest;
  }
  if (!Number.isInteger(id) && !(typeof id === 'string' && /^\d+$/.test(id))) {
    throw invalidField(`${field}.saved_segment_id`, 'Schema describes integer');
  }
  if (rest.conditions) throw invalidField(field, 'Give saved_segment_id or conditions, not both');
  if (!list.segments.has(Number(id))) throw invalidField(`${field}.saved_segment_id`, 'This segment does not exist');
  return { ...rest, saved_segment_id: Number(id) };
}

function readRecipients(ctx, given, old) {
  const list = ctx.account.lists.get(given.list_id);
  if (!list) throw invalidField('recipients.list_id', 'This list does not exist');
  let options = null;
  if (given.segment_opts) options = readSegment(ctx, list, given.segment_opts);
  else if (old && old.list_id === list.id && !ctx.world.config.patch_recipients_clears_segment) options = old.segment_opts;
  return { list_id: list.id, segment_opts: options };
}

function readTemplate(ctx, id, field) {
  const template = ctx.account.templates.get(id);
  if (!template || !template.active) throw invalidField(field, 'This template does not exist');
  return template;
}

function create(ctx) {
  const { recipients, settings } = ctx.body;
  const target = recipients ? readRecipients(ctx, recipients, null) : undefined;
  const template = settings?.template_id ? readTemplate(ctx, settings.template_id, 'settings.template_id') : null;
  const campaign = addCampaign(ctx.world, ctx.account, { ...ctx.body, recipients: target });
  if (template) useTemplate(campaign, template);
  return campaignView(ctx.world, campaign);
}

export function editable(campaign) {
  if (!isEditable(campaign)) throw badRequest(`A campaign with the status '${campaign.status}' cannot be edited.`);
}

function patch(ctx) {
  const campaign = campaignOf(ctx);
  editable(campaign);
  const { recipients, settings, tracking, social_card: card } = ctx.body;
  const target = recipients && readRecipients(ctx, recipients, campaign.recipients);
  const template = settings?.template_id ? readTemplate(ctx, settings.template_id, 'settings.template_id') : null;
  if (target) {
    campaign.recipients = target;
    recipientsChanged(ctx.world, campaign);
  }
  Object.assign(campaign.settings, settings);
  Object.assign(campaign.tracking, tracking);
  if (card) campaign.social_card = card;
  if (template) useTemplate(campaign, template);
  ctx.world.touch();
  return campaignView(ctx.world, campaign);
}

export function removeCampaign(world, campaign) {
  campaign.account.campaigns.delete(campaign.id);
  campaign.deleted = true;
  world.active.delete(campaign);
  world.touch();
}

function remove(ctx) {
  const campaign = campaignOf(ctx);
  if (campaign.status === 'sending') throw methodNotAllowed('This campaign is being sent and cannot be deleted.');
  removeCampaign(ctx.world, campaign);
}

function contentView(campaign) {
  const { html = '', plain_text: text = '' } = campaign.content || {};
  return { plain_text: text, html, archive_html: html, _links: [] };
}

function putContent(ctx) {
  const campaign = campaignOf(ctx);
  editable(campaign);
  const { html, template, plain_text: text } = ctx.body;
  if (html !== undefined && template) throw invalidField('html', 'Give html or template, not both');
  if (html === undefined && !template && (text === undefined || campaign.type !== 'plaintext')) {
    throw invalidField('html', 'Required fields were not provided: html or template');
  }
  if (template) {
    const found = readTemplate(ctx, template.id, 'template.id');
    checkSections(found, template.sections || {});
    useTemplate(campaign, found, template.sections);
  } else {
    campaign.content = { html: html ?? '', plain_text: plainTextOf(html ?? '') };
  }
  if (text !== undefined) campaign.content.plain_text = text;
  ctx.world.touch();
  return contentView(campaign);
}

function checkSections(template, sections) {
  for (const name in sections) {
    if (template.content_type === 'multichannel' || !Object.hasOwn(template.sections, name)) {
      throw invalidField(`template.sections.${name}`, 'This section does not exist in the template');
    }
  }
}

function sendChecklist(ctx) {
  const campaign = campaignOf(ctx);
  const out = { ...checklist(ctx.world, campaign), _links: [] };
  look(campaign);
  return out;
}

function content(ctx) {
  const campaign = campaignOf(ctx);
  look(campaign);
  return contentView(campaign);
}

const ONE = '/campaigns/{campaign_id}';

export const routes = [
  {
    method: 'GET', path: '/campaigns', shape: shapes.CAMPAIGNS, handler: all,
    query: {
      ...FIELDS, ...PAGE, type: ['regular', 'plaintext', 'absplit', 'rss', 'variate'],
      status: ['save', 'paused', 'schedule', 'sending', 'sent'], before_send_time: 'date', since_send_time: 'date',
      before_create_time: 'date', since_create_time: 'date', list_id: 'text', folder_id: 'text', member_id: 'text',
      sort_field: ['create_time', 'send_time'], sort_dir: ['ASC', 'DESC'],
    },
  },
  { method: 'POST', path: '/campaigns', query: {}, body: POST_BODY, write: 'campaigns', handler: create },
  { method: 'GET', path: ONE, query: FIELDS, shape: shapes.CAMPAIGN, handler: (ctx) => seen(ctx, campaignOf(ctx)) },
  { method: 'PATCH', path: ONE, query: {}, body: PATCH_BODY, write: 'campaigns', handler: patch },
  { method: 'DELETE', path: ONE, query: {}, write: 'campaigns', handler: remove },
  { method: 'GET', path: `${ONE}/content`, query: FIELDS, shape: shapes.CONTENT, handler: content },
  { method: 'PUT', path: `${ONE}/content`, query: {}, body: CONTENT_BODY, write: 'campaigns', handler: putContent },
  { method: 'GET', path: `${ONE}/send-checklist`, query: FIELDS, shape: shapes.CHECKLIST, handler: sendChecklist },
];
