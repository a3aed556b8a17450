// Control: the exact figures of a campaign at an instant, straight from its list of events. It shares no counting code with
// the reports, so that a test which compares the two, or a client's figures with this, would notice a mistake in either.

import { iso, parseInstant } from '../lib/clock.js';
import { eventsOf } from '../lib/crowd.js';

const RANK = { sent: 0, bounced: 1, opened: 2, clicked: 3, unsubscribed: 4 };
const RAISES = { hard: 'bounced', soft: 'bounced', open: 'opened', click: 'clicked', unsubscribe: 'unsubscribed', abuse: 'unsubscribed' };

function ledger(campaign, at) {
  const people = new Map();
  for (const person of campaign.audience) {
    if (person.at > at) continue;
    people.set(person.email, {
      email: person.email, id: person.id, status: 'sent', opens: 0, human_opens: 0, clicks: 0, human_clicks: 0,
    });
  }
  return people;
}

function raise(row, status) {
  if (RANK[status] > RANK[row.status]) row.status = status;
}

function blank() {
  return { total: 0, unique: 0, human_total: 0, human_unique: 0, last: '' };
}

function tally(sum, event, machine) {
  sum.total += 1;
  if (!machine) sum.human_total += 1;
  sum.last = iso(event.at);
}

function collect(events, people) {
  const out = { opens: blank(), clicks: blank(), links: new Map(), bounces: new Map(), unsubscribes: new Map(), complaints: new Map() };
  for (const event of events) {
    const row = people.get(event.email);
    raise(row, RAISES[event.action]);
    const first = (where, entry) => { if (!where.has(event.email)) where.set(event.email, entry); };
    if (event.action === 'open') {
      tally(out.opens, event, event.proxy);
      row.opens += 1;
      row.human_opens += event.proxy ? 0 : 1;
    } else if (event.action === 'click') {
      tally(out.clicks, event, event.bot);
      row.clicks += 1;
      row.human_clicks += event.bot ? 0 : 1;
      const link = out.links.get(event.url) || { total: 0, people: new Set() };
      out.links.set(event.url, link);
      link.total += 1;
      link.people.add(event.email);
    } else if (event.action === 'unsubscribe') {
      first(out.unsubscribes, { email: event.email, reason: event.reason, at: iso(event.at) });
    } else if (event.action === 'abuse') {
      first(out.complaints, { email: event.email, at: iso(event.at) });
    } else {
      first(out.bounces, { email: event.email, type: event.action, at: iso(event.at) });
    }
  }
  return out;
}

const having = (rows, key) => rows.filter((row) => row[key] > 0).length;

function truth({ world, params, query }) {
  const campaign = world.campaigns.get(params.campaign_id);
  if (!campaign) throw new Error(`no campaign ${params.campaign_id}`);
  const at = query.at && query.at !== 'now' ? parseInstant(query.at) : world.now();
  if (Number.isNaN(at)) throw new Error('at is no instant');
  const people = ledger(campaign, at);
  const found = collect(eventsOf(campaign).filter((event) => event.at <= at), people);
  const rows = [...people.values()].sort((a, b) => (a.email < b.email ? -1 : 1));
  Object.assign(found.opens, { unique: having(rows, 'opens'), human_unique: having(rows, 'human_opens') });
  Object.assign(found.clicks, { unique: having(rows, 'clicks'), human_unique: having(rows, 'human_clicks') });
  const bounces = [...found.bounces.values()];
  const hard = bounces.filter((bounce) => bounce.type === 'hard').length;
  return {
    campaign: campaign.id,
    at: iso(at),
    emails_sent: rows.length,
    hard_bounces: hard,
    soft_bounces: bounces.length - hard,
    delivered: rows.length - bounces.length,
    opens: found.opens,
    clicks: found.clicks,
    unsubscribed: found.unsubscribes.size,
    complaints: found.complaints.size,
    persons: rows,
    links: [...found.links].map(([url, link]) => ({ url, total: link.total, unique: link.people.size })).sort((a, b) => (a.url < b.url ? -1 : 1)),
    bounces,
    unsubscribes: [...found.unsubscribes.values()],
    complaints_by: [...found.complaints.values()],
    by_status: Object.fromEntries(Object.keys(RANK).map((status) => [status, rows.filter((row) => row.status === status).length])),
  };
}

export const routes = [{ method: 'GET', path: '/truth/{campaign_id}', handler: truth }];
