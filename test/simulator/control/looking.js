// Control: looking at the state as it is, without the API's rules.

import { iso } from '../lib/clock.js';
import { contactId } from '../lib/segments.js';
import { mailed } from '../lib/sending.js';
import { recipientCount } from '../lib/campaigns.js';

const byEmail = (a, b) => (a.lower < b.lower ? -1 : a.lower > b.lower ? 1 : 0);

export function listNamed(world, id) {
  const list = world.lists.get(id);
  if (!list) throw new Error(`no list ${id}`);
  return list;
}

export function rawMember(list, member) {
  return {
    id: member.id,
    email_address: member.email_address,
    contact_id: contactId(list, member),
    web_id: member.web_id,
    status: member.status,
    merge_fields: member.merge_fields,
    tags: [...member.tags.keys()].map((id) => list.segments.get(id).name).sort(),
    unsubscribed_by: member.unsubscribed_by,
    unsubscribe_reason: member.unsubscribe_reason,
    last_changed: iso(member.last_changed),
    timestamp_opt: iso(member.timestamp_opt),
    source: member.source,
    language: member.language,
    vip: member.vip,
    email_type: member.email_type,
  };
}

function members({ world, params, query }) {
  const list = listNamed(world, params.list_id);
  const found = [...list.members.values()].filter((member) => !query.status || member.status === query.status).sort(byEmail);
  return { members: found.map((member) => rawMember(list, member)), total: found.length, forgotten: [...list.forgotten].sort() };
}

function history({ world, query }) {
  const changes = world.history.slice(Number(query.since) || 0);
  return { changes: changes.map((change) => ({ ...change, at: iso(change.at) })), last: world.history.length };
}

function segments({ world, params }) {
  const list = listNamed(world, params.list_id);
  return {
    segments: [...list.segments.values()].map((segment) => {
      const inside = [...segment.members].filter((member) => member.status !== 'archived');
      return {
        id: segment.id,
        name: segment.name,
        type: segment.type,
        member_count: inside.filter((member) => member.status === 'subscribed').length,
        emails: inside.map((member) => member.email_address).sort(),
      };
    }),
  };
}

function campaigns({ world }) {
  return {
    campaigns: [...world.campaigns.values()].map((campaign) => ({
      id: campaign.id,
      web_id: campaign.web_id,
      account: campaign.account.account_id,
      status: campaign.status,
      title: campaign.settings.title,
      settings: campaign.settings,
      list_id: campaign.recipients.list_id,
      segment_opts: campaign.recipients.segment_opts,
      saved_segment_id: campaign.recipients.segment_opts?.saved_segment_id ?? null,
      recipient_count: recipientCount(world, campaign),
      sends: campaign.sends,
      emails_sent: mailed(campaign),
      create_time: iso(campaign.created),
      send_time: iso(campaign.sendTime),
      scheduled_for: iso(campaign.scheduledFor),
      has_content: campaign.content !== null,
      template_id: campaign.content?.template_id ?? null,
      deleted: campaign.deleted,
    })),
  };
}

function mails({ world, query }) {
  const rows = world.mails.filter((mail) => !query.campaign || mail.campaign === query.campaign);
  const sums = {};
  for (const campaign of world.campaigns.values()) sums[campaign.id] = { sends: campaign.sends, mails: mailed(campaign) };
  return {
    mails: rows.map((mail) => ({ ...mail, at: iso(mail.at) })),
    total: rows.length,
    campaigns: sums,
    tests: world.tests.map((test) => ({ ...test, at: iso(test.at) })),
    confirmations: world.confirmations.map((mail) => ({ ...mail, at: iso(mail.at) })),
  };
}

function state({ world }) {
  return {
    now: iso(world.now()),
    seed: world.seed,
    accounts: [...world.accounts.values()].map((account) => ({
      account_id: account.account_id,
      account_name: account.account_name,
      login_ids: [...account.users.keys()],
      lists: [...account.lists.values()].map((list) => ({
        id: list.id, name: list.name, members: list.members.size, by_status: { ...list.counts }, forgotten: list.forgotten.size,
        segments: list.segments.size,
      })),
      campaigns: account.campaigns.size,
      mails: [...account.campaigns.values()].reduce((sum, campaign) => sum + mailed(campaign), 0),
    })),
  };
}

function batches({ world }) {
  return {
    batches: [...world.batches.values()].map(({ id, account, status, operations, done, errored, deleted }) => ({
      id, account: account.account_id, status, operations, done, errored, deleted,
    })),
  };
}

export const routes = [
  { method: 'GET', path: '/state', handler: state },
  { method: 'GET', path: '/lists/{list_id}/members', handler: members },
  { method: 'GET', path: '/history', handler: history },
  { method: 'GET', path: '/segments/{list_id}', handler: segments },
  { method: 'GET', path: '/campaigns', handler: campaigns },
  { method: 'GET', path: '/mails', handler: mails },
  { method: 'GET', path: '/batches', handler: batches },
];
