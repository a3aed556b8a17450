// Why a campaign cannot be sent yet: the items of the send checklist (API.md 5.8). send and schedule ask the same items.

import { isCounted, listOfCampaign, recipientCount } from './campaigns.js';

const ITEMS = [
  { id: 501, heading: 'List', test: audience },
  { id: 502, heading: 'Recipients', test: recipients },
  { id: 503, heading: 'Subject Line', test: subject },
  { id: 504, heading: 'From Name', test: fromName },
  { id: 505, heading: 'Reply-To Address', test: replyTo },
  { id: 506, heading: 'Content', test: content },
  { id: 507, heading: 'Unsubscribe Link', test: unsubscribeLink },
];

function audience(world, campaign) {
  const list = listOfCampaign(campaign);
  if (!list) return ['No audience is chosen.'];
  const id = campaign.recipients.segment_opts?.saved_segment_id;
  if (id !== undefined && !list.segments.has(id)) return ['The segment of this campaign was deleted.'];
  return [null, `Your campaign goes to ${list.name}.`];
}

function recipients(world, campaign) {
  if (!isCounted(world, campaign)) return ['Your recipients are not ready yet. Try again in a moment.'];
  const count = recipientCount(world, campaign);
  return count ? [null, `${count} recipients`] : ['This campaign has no recipients.'];
}

function subject(world, campaign) {
  return campaign.settings.subject_line ? [null, campaign.settings.subject_line] : ['A subject line is needed.'];
}

function fromName(world, campaign) {
  return campaign.settings.from_name ? [null, campaign.settings.from_name] : ['A from name is needed.'];
}

function replyTo(world, campaign) {
  const address = campaign.settings.reply_to;
  if (!address) return ['A reply-to address is needed.'];
  const domain = campaign.account.domains.get(address.split('@').pop().toLowerCase());
  if (!domain?.verified) return [`The domain of ${address} is not verified.`];
  return [null, `All replies will go to ${address}.`];
}

function content(world, campaign) {
  if (!campaign.content) return ['You need to design your campaign.'];
  const template = campaign.account.templates.get(campaign.content.template_id);
  if (template?.incomplete) return [`The template ${template.name} is incomplete: a required part is empty.`];
  return [null, 'Your content is ready.'];
}

function unsubscribeLink(world, campaign) {
  if (!campaign.content || campaign.type === 'plaintext') return [null, 'Nothing to check.'];
  if (/\*\|UNSUB\|\*/.test(campaign.content.html) || world.config.unsub_link === 'footer') {
    return [null, 'There is an unsubscribe link.'];
  }
  return ['Your campaign needs an unsubscribe link: *|UNSUB|*'];
}

export function checklist(world, campaign) {
  const items = ITEMS.map(({ id, heading, test }) => {
    const [error, details] = test(world, campaign);
    return { type: error ? 'error' : 'success', id, heading, details: error || details };
  });
  return { is_ready: items.every((item) => item.type !== 'error'), items };
}

export function reasons(world, campaign) {
  return checklist(world, campaign).items.filter((item) => item.type === 'error').map((item) => item.details);
}
