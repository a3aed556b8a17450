// Campaigns as data: making and copying them, who would get them, and the asynchronous count of recipients (API.md 5.8).

import { matching, segmentMembers } from './segments.js';

const TRACKING = {
  opens: true, html_clicks: true, text_clicks: false, goal_tracking: false, ecomm360: false, google_analytics: '', clicktale: '',
};

const SETTINGS = {
  subject_line: '', preview_text: '', title: '', from_name: '', reply_to: '', use_conversation: false, to_name: '',
  folder_id: '', authenticate: true, auto_footer: false, inline_css: false, auto_tweet: false, fb_comments: true,
  timewarp: false, template_id: 0, drag_and_drop: false,
};

export function addCampaign(world, account, input) {
  const campaign = {
    id: world.rng.hex(10),
    web_id: world.nextWebId(),
    account,
    parent: input.parent || '',
    type: input.type,
    created: world.now(),
    status: 'save',
    content_type: input.content_type || 'template',
    recipients: { list_id: '', segment_opts: null, ...input.recipients },
    settings: { ...SETTINGS, ...input.settings },
    tracking: { ...TRACKING, ...input.tracking },
    social_card: input.social_card || null,
    content: input.content || null,
    sends: 0,
    scheduledFor: 0,
    frozen: null,
    sendingSince: 0,
    sendTime: 0,
    canceled: 0,
    // Persons the mail goes or went to, each with its events; empty until it is sent.
    audience: [],
    byId: new Map(),
    events: [],
    urls: [],
    deleted: false,
  };
  recipientsChanged(world, campaign);
  world.campaigns.set(campaign.id, campaign);
  account.campaigns.set(campaign.id, campaign);
  world.touch();
  return campaign;
}

export function copyCampaign(world, campaign) {
  const { recipients, settings, tracking, social_card, content } = structuredClone({
    recipients: campaign.recipients, settings: campaign.settings, tracking: campaign.tracking,
    social_card: campaign.social_card, content: campaign.content,
  });
  settings.title = `${settings.title} (copy 01)`;
  return addCampaign(world, campaign.account, {
    type: campaign.type, content_type: campaign.content_type, recipients, settings, tracking, social_card, content, parent: campaign.id,
  });
}

export function listOfCampaign(campaign) {
  return campaign.account.lists.get(campaign.recipients.list_id) || null;
}

// Members that the recipients name now, whatever their status. A deleted segment has no members.
export function targeted(world, campaign) {
  const list = listOfCampaign(campaign);
  if (!list) return [];
  const options = campaign.recipients.segment_opts;
  if (!options) return [...list.members.values()];
  if (options.saved_segment_id !== undefined) {
    const segment = list.segments.get(options.saved_segment_id);
    return segment ? segmentMembers(world, list, segment) : [];
  }
  return matching(world, list, options.match || 'any', options.conditions);
}

export function isSegmented(campaign) {
  return campaign.recipients.segment_opts !== null;
}

// Only subscribed members get marketing mail.
export function mailable(members) {
  return members.filter((member) => member.status === 'subscribed');
}

export function recipientsChanged(world, campaign) {
  campaign.countingSince = world.now();
  campaign.looks = 0;
  campaign.counted = false;
}

// The number of recipients is computed some time after a change; until then Mailchimp shows an old one and calls the
// campaign not ready. A look at a campaign counts as time passing, so that tests need no clock.
export function isCounted(world, campaign) {
  const { count_seconds: seconds, count_looks: looks } = world.config;
  if (!campaign.counted) {
    campaign.counted = (!seconds && !looks) || (looks > 0 && campaign.looks >= looks)
      || (seconds > 0 && world.now() - campaign.countingSince >= seconds);
  }
  return campaign.counted;
}

export function look(campaign) {
  campaign.looks += 1;
}

export function recipientCount(world, campaign) {
  if (campaign.sends) return campaign.audience.length + campaign.canceled;
  if (!isCounted(world, campaign)) return 0;
  return mailable(campaign.frozen || targeted(world, campaign)).length;
}

export function isEditable(campaign) {
  return campaign.status === 'save' || campaign.status === 'paused';
}

const PARAGRAPH = /<\/(p|div|h\d|tr)>|<br\s*\/?>/gi;

// The text version, which Mailchimp makes if none is given.
export function plainTextOf(html) {
  return html.replace(PARAGRAPH, '\n').replace(/<[^>]*>/g, '').replace(/\n{3,}/g, '\n\n').trim();
}

// The page of a template with the given sections in place of its own.
export function fillTemplate(template, sections = {}) {
  let html = template.html;
  for (const [name, own] of Object.entries(template.sections)) {
    if (sections[name] === undefined) continue;
    html = html.replace(`<div mc:edit="${name}">${own}</div>`, () => `<div mc:edit="${name}">${sections[name]}</div>`);
  }
  return html;
}

export function useTemplate(campaign, template, sections) {
  const html = fillTemplate(template, sections);
  campaign.settings.template_id = template.id;
  campaign.content = { html, plain_text: plainTextOf(html), template_id: template.id };
}

// The links that are tracked, in the order of the text.
export function linksOf(campaign) {
  const out = new Set();
  for (const match of (campaign.content?.html || '').matchAll(/href="(https?:\/\/[^"]+)"/g)) out.add(match[1]);
  return [...out];
}
