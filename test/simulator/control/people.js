// Control: what contacts, colleagues and recipients do by themselves, on Mailchimp's forms and pages and with their mail.

import { parseInstant } from '../lib/clock.js';
import { hashOf } from '../lib/email.js';
import { addCampaign, copyCampaign } from '../lib/campaigns.js';
import { addMergeField } from '../lib/lists.js';
import { addDomain, addTemplate, setRole } from '../lib/world.js';
import { addTags, archive, createMember, forget, setStatus, updateMember } from '../lib/members.js';
import { addToSegment, findTag, removeFromSegment, removeSegment, tagNamed } from '../lib/segments.js';
import { sendToCrowd } from '../lib/crowd.js';
import { addEvents, engage, personOf, readEvent } from '../lib/events.js';
import { schedule, startSending, tick, unschedule } from '../lib/sending.js';
import { addWebhook, because } from '../lib/webhooks.js';
import { removeCampaign } from '../api/campaigns.js';
import { listNamed, rawMember } from './looking.js';

function campaignNamed(world, id) {
  const campaign = world.campaigns.get(id);
  if (!campaign) throw new Error(`no campaign ${id}`);
  return campaign;
}

// A person's act on a mail also belongs to the campaign's report.
function note(world, member, body, action) {
  if (!body.campaign) return;
  const campaign = campaignNamed(world, body.campaign);
  const person = personOf(campaign, member.email_address);
  addEvents(world, campaign, [readEvent(world, campaign, { email: person.email, action, reason: body.reason })]);
}

// Mailchimp's pages let people change nothing of an archived member but bring it back or delete it.
function mustBeShown(member) {
  if (member.status === 'archived') throw new Error('the member is archived');
}

const ACTS = {
  unsubscribe(world, list, member, body) {
    note(world, member, body, 'unsubscribe');
    setStatus(world, list, member, 'unsubscribed', 'contact', world.now(), body.reason);
    member.unsubscribed_by = 'contact';
  },
  admin_unsubscribe: (world, list, member, body) => setStatus(world, list, member, 'unsubscribed', 'admin', world.now(), body.reason),
  abuse(world, list, member, body) {
    note(world, member, body, 'abuse');
    setStatus(world, list, member, 'unsubscribed', 'contact', world.now(), 'Abuse complaint');
    member.unsubscribed_by = 'contact';
  },
  resubscribe(world, list, member) {
    member.review = false;
    setStatus(world, list, member, 'subscribed', 'contact');
  },
  confirm(world, list, member) {
    if (member.status !== 'pending') throw new Error('only a pending member can confirm');
    setStatus(world, list, member, 'subscribed', 'contact');
  },
  clean(world, list, member, body) {
    note(world, member, body, 'hard');
    setStatus(world, list, member, 'cleaned', 'contact');
  },
  compliance(world, list, member) {
    member.review = true;
    world.touch(list);
  },
  archive(world, list, member) {
    mustBeShown(member);
    archive(world, list, member);
  },
  delete_permanent: (world, list, member) => forget(world, list, member),
  edit(world, list, member, { merge_fields, language, vip }) {
    mustBeShown(member);
    updateMember(world, list, member, { merge_fields, language, vip }, { skipRequired: true });
  },
  change_email(world, list, member, body) {
    updateMember(world, list, member, { email_address: body.new_email }, { skipRequired: true });
  },
  tag: (world, list, member, body) => addToSegment(world, list, tagNamed(world, list, body.tag), member),
  untag(world, list, member, body) {
    const tag = findTag(world, list, body.tag);
    if (tag) removeFromSegment(world, list, tag, member);
  },
};

// What contacts do not do themselves; webhooks tell the difference.
const COLLEAGUES = ['add', 'admin_unsubscribe', 'archive', 'delete_permanent'];

function addMember(world, list, body) {
  if (list.members.has(hashOf(body.email))) throw new Error(`${body.email} is in the list already`);
  const member = createMember(world, list, {
    email_address: body.email, status: body.status || 'subscribed', merge_fields: body.merge_fields,
  }, { skipRequired: true, source: body.source || 'Admin Add' });
  addTags(world, list, member, body.tags || []);
  return member;
}

// A Mailchimp-hosted form is the only way back for an address that was permanently deleted.
function memberFor(world, list, body) {
  const hash = hashOf(body.email);
  if (body.action === 'add') return addMember(world, list, body);
  if (body.action === 'resubscribe' && list.forgotten.delete(hash)) return addMember(world, list, { ...body, source: 'Hosted Signup Form' });
  const member = list.members.get(hash);
  if (!member) throw new Error(`${body.email} is not in the list`);
  return member;
}

function memberAct(world, list, body) {
  if (body.action !== 'add' && !ACTS[body.action]) throw new Error(`action: add, ${Object.keys(ACTS).join(', ')}`);
  const cause = { source: body.by || (COLLEAGUES.includes(body.action) ? 'admin' : 'user'), campaign: body.campaign };
  const member = because(world, cause, () => {
    const found = memberFor(world, list, body);
    ACTS[body.action]?.(world, list, found, body);
    return found;
  });
  return list.members.get(member.id) === member ? rawMember(list, member) : null;
}

const LIST_ACTS = {
  require_field(world, list, { tag, required = true }) {
    const field = list.mergeFields.find((candidate) => candidate.tag === tag);
    if (!field) throw new Error(`no merge field ${tag}`);
    field.required = required;
    world.touch(list);
    return field;
  },
  add_field: (world, list, { tag, name, type, required, options }) => addMergeField(world, list, { tag, name, type, required, options }),
  delete_field(world, list, { tag }) {
    list.mergeFields = list.mergeFields.filter((field) => field.tag !== tag);
    for (const member of list.members.values()) delete member.merge_fields[tag];
    world.touch(list);
    return { deleted: tag };
  },
  delete_segment(world, list, { segment }) {
    const found = list.segments.get(Number(segment));
    if (!found) throw new Error(`no segment ${segment}`);
    removeSegment(world, list, found);
    return { deleted: found.id };
  },
  // in the app, before there were signatures
  add_webhook: (world, list, { url, events, sources }) => addWebhook(world, list, { url, events, sources }, false),
  delete_list(world, list) {
    world.lists.delete(list.id);
    list.account.lists.delete(list.id);
    world.touch(list);
    return { deleted: list.id };
  },
};

const CAMPAIGN_ACTS = {
  send: (world, campaign) => startSending(world, campaign),
  schedule: (world, campaign, { at }) => schedule(world, campaign, parseInstant(at)),
  unschedule: (world, campaign) => unschedule(world, campaign),
  delete: (world, campaign) => removeCampaign(world, campaign),
  replicate: (world, campaign) => copyCampaign(world, campaign),
  // Mailchimp's support can.
  undelete(world, campaign) {
    campaign.account.campaigns.set(campaign.id, campaign);
    campaign.deleted = false;
    world.touch();
  },
  set_status(world, campaign, { status }) {
    campaign.status = status;
    world.touch();
  },
  edit(world, campaign, { settings }) {
    Object.assign(campaign.settings, settings);
    world.touch();
  },
};

function campaignAct(world, body) {
  const campaign = campaignNamed(world, body.campaign);
  if (!CAMPAIGN_ACTS[body.action]) throw new Error(`action: ${Object.keys(CAMPAIGN_ACTS).join(', ')}`);
  CAMPAIGN_ACTS[body.action](world, campaign, body);
  return { id: campaign.id, status: campaign.status };
}

const TEMPLATE_ACTS = {
  delete(account, template) { template.active = false; },
  // not even listed any more
  remove(account, template) { account.templates.delete(template.id); },
  edit(account, template, { name = template.name, incomplete = template.incomplete, active = template.active }) {
    Object.assign(template, { name, incomplete, active });
  },
};

function templateAct(world, body) {
  for (const account of world.accounts.values()) {
    const template = account.templates.get(Number(body.template));
    if (!template) continue;
    if (!TEMPLATE_ACTS[body.action]) throw new Error(`action: ${Object.keys(TEMPLATE_ACTS).join(', ')}`);
    TEMPLATE_ACTS[body.action](account, template, body);
    if (body.action === 'edit') template.edited = world.now();
    world.touch();
    return { id: template.id, name: template.name, active: template.active };
  }
  throw new Error(`no template ${body.template}`);
}

// A campaign made on Mailchimp's pages, perhaps long ago; one with "sent" went to the list's subscribers, or to some of them, at that time.
function addOne(world, account, { list, type = 'regular', title, subject, from_name, reply_to, html, created, sent, at, status }) {
  const campaign = addCampaign(world, account, {
    type,
    recipients: { list_id: list || '' },
    settings: { title: title || '', subject_line: subject || '', from_name: from_name || '', reply_to: reply_to || '' },
    content: { html: html || '<a href="https://www.example.org/">news</a> *|UNSUB|*', plain_text: 'news' },
  });
  if (created) campaign.created = parseInstant(created);
  if (sent) startSending(world, campaign, parseInstant(sent));
  if (at) schedule(world, campaign, parseInstant(at));
  tick(world);
  if (status) campaign.status = status;
  return { id: campaign.id, web_id: campaign.web_id, status: campaign.status };
}

const ACCOUNT_ACTS = {
  add_campaigns: (world, account, { campaigns }) => ({ campaigns: campaigns.map((each) => addOne(world, account, each)) }),
  add_template: (world, account, { name, names = [name], incomplete }) => ({
    ids: names.map((each) => addTemplate(world, account, { name: each, incomplete }).id),
  }),
  set_domain: (world, account, { domain, verified, authenticated }) => addDomain(world, account, { domain, verified, authenticated }),
  remove_domain: (world, account, { domain }) => ({ removed: account.domains.delete(domain.toLowerCase()) }),
  rename: (world, account, { name }) => { account.account_name = name; return { account_name: name }; },
  set_role(world, account, { role }) {
    for (const user of account.users.values()) setRole(user, role);
    return { role };
  },
};

function accountAct(world, body) {
  const account = world.accounts.get(body.account);
  if (!account) throw new Error(`no account ${body.account}`);
  if (!ACCOUNT_ACTS[body.action]) throw new Error(`action: ${Object.keys(ACCOUNT_ACTS).join(', ')}`);
  const result = ACCOUNT_ACTS[body.action](world, account, body);
  world.touch();
  return result;
}

function act({ world, body }) {
  if (body.account !== undefined) return accountAct(world, body);
  if (body.template !== undefined) return templateAct(world, body);
  if (body.list === undefined) return campaignAct(world, body);
  const list = listNamed(world, body.list);
  if (body.email !== undefined) return memberAct(world, list, body);
  if (!LIST_ACTS[body.action]) throw new Error(`action: ${Object.keys(LIST_ACTS).join(', ')}, or give email`);
  return LIST_ACTS[body.action](world, list, body);
}

function engageAll({ world, body }) {
  const { campaign: id, ...options } = body;
  const campaign = campaignNamed(world, id);
  if (!campaign.sends) throw new Error('the campaign was not sent');
  const out = engage(world, campaign, options);
  tick(world);
  return out;
}

function events({ world, body }) {
  const campaign = campaignNamed(world, body.campaign);
  if (!campaign.sends) throw new Error('the campaign was not sent');
  const found = (body.events || [body]).map((event) => readEvent(world, campaign, event));
  addEvents(world, campaign, found);
  tick(world);
  return { events: found.length };
}

function crowd({ world, body }) {
  const { list, ...options } = body;
  const campaign = sendToCrowd(world, listNamed(world, list), options);
  return { campaign: campaign.id, web_id: campaign.web_id, emails_sent: campaign.audience.length };
}

export const routes = [
  { method: 'POST', path: '/act', handler: act },
  { method: 'POST', path: '/engage', handler: engageAll },
  { method: 'POST', path: '/events', handler: events },
  { method: 'POST', path: '/crowd', handler: crowd },
];
