// What recipients do with a mail: one list of events per campaign, kept in order of time. Both the reports and the truth of
// the control interface are computed from it, by separate code.

import { parseInstant } from './clock.js';
import { Rng } from './rng.js';
import { hashOf } from './email.js';
import { listOfCampaign } from './campaigns.js';

export const ACTIONS = ['open', 'click', 'hard', 'soft', 'unsubscribe', 'abuse'];
const CHANGES = ['hard', 'unsubscribe', 'abuse'];

const byTime = (a, b) => a.at - b.at;

// Adds events {person, action, at, …} and keeps every list in order.
export function addEvents(world, campaign, events) {
  const touched = new Set();
  for (const { person, ...event } of events) {
    event.made = world.now();
    event.email = person.email;
    person.events.push(event);
    campaign.events.push(event);
    touched.add(person);
    if (event.url && !campaign.urls.includes(event.url)) campaign.urls.push(event.url);
    if (CHANGES.includes(event.action)) world.upcoming.push({ campaign, list: listOfCampaign(campaign), person, event });
    if (event.action === 'open') person.member.opened += 1;
    if (event.action === 'click') person.member.clicked += 1;
  }
  for (const person of touched) person.events.sort(byTime);
  campaign.events.sort(byTime);
  world.upcoming.sort((a, b) => a.event.at - b.event.at);
  world.touch();
}

export function personOf(campaign, email) {
  const person = campaign.byId.get(hashOf(email));
  if (!person) throw new Error(`${email} is no recipient of ${campaign.id}`);
  return person;
}

// One event as the control interface gives it.
export function readEvent(world, campaign, input) {
  if (!ACTIONS.includes(input.action)) throw new Error(`action: one of ${ACTIONS.join(', ')}`);
  const at = input.at === undefined ? world.now() : parseInstant(input.at);
  if (Number.isNaN(at)) throw new Error('at is no instant');
  const event = { person: personOf(campaign, input.email), action: input.action, at };
  if (input.action === 'open') Object.assign(event, { proxy: input.proxy === true, ip: input.ip || '192.0.2.1' });
  if (input.action === 'click') {
    const url = input.url || campaign.urls[0] || 'https://www.example.org/';
    Object.assign(event, { url, bot: input.bot === true, ip: input.ip || '192.0.2.1' });
  }
  if (input.action === 'unsubscribe') event.reason = input.reason || 'None given';
  if (input.action === 'abuse') event.reason = 'Abuse complaint';
  return event;
}

const REASONS = ['I no longer want to receive these emails', 'I never signed up for this mailing list', 'None given'];

class Generator {
  constructor(campaign, options) {
    this.rng = new Rng(options.seed ?? 1);
    this.campaign = campaign;
    this.options = options;
    this.span = Math.max(1, options.span_seconds ?? 86400);
    this.links = options.links || (campaign.urls.length ? campaign.urls : ['https://www.example.org/', 'https://www.example.org/news']);
    this.people = campaign.audience.filter((person) => person.mailed);
    this.out = [];
  }

  share(name) {
    const share = this.options[name] ?? 0;
    if (typeof share !== 'number' || share < 0 || share > 1) throw new Error(`${name} must be a number from 0 to 1`);
    return Math.round(share * this.people.length);
  }

  // After the mail, and at most `span` later; more at the beginning, as in life.
  when(person) {
    return person.at + 1 + Math.floor(this.span * this.rng.float() ** 2);
  }

  ip() {
    return `198.51.100.${1 + this.rng.int(254)}`;
  }

  add(person, action, more) {
    this.out.push({ person, action, at: this.when(person), ...more });
  }
}

// Shares of the recipients, met exactly; who it hits is the generator's choice.
export function engage(world, campaign, options) {
  const g = new Generator(campaign, options);
  const shuffled = g.rng.shuffle(g.people);
  const hard = shuffled.splice(0, g.share('hard'));
  const soft = shuffled.splice(0, g.share('soft'));
  for (const person of hard) g.add(person, 'hard');
  for (const person of soft) g.add(person, 'soft');
  const openers = shuffled.slice(0, g.share('opens'));
  const count = g.share('clicks');
  const clickers = shuffled.slice(0, count);
  for (const person of openers) for (let i = 1 + g.rng.int(4); i > 0; i--) g.add(person, 'open', { proxy: false, ip: g.ip() });
  for (const person of clickers) for (let i = 1 + g.rng.int(3); i > 0; i--) click(g, person, false);
  const counts = { hard: hard.length, soft: soft.length, opens: openers.length, clicks: clickers.length };
  Object.assign(counts, machines(g, [...hard, ...shuffled]), leavers(g, shuffled));
  addEvents(world, campaign, g.out);
  return { events: g.out.length, ...counts };
}

function click(g, person, bot) {
  g.add(person, 'click', { url: g.links[g.rng.int(g.links.length)], bot, ip: g.ip() });
}

// Mail proxies prefetch seconds after delivery, even for a mail that bounces later (API.md 5.9).
function machines(g, people) {
  const proxied = g.rng.shuffle(people).slice(0, g.share('machine_opens'));
  for (const person of proxied) g.out.push({ person, action: 'open', at: person.at + 2 + g.rng.int(8), proxy: true, ip: g.ip() });
  const scanned = g.rng.shuffle(people).slice(0, g.share('bot_clicks'));
  for (const person of scanned) click(g, person, true);
  return { machine_opens: proxied.length, bot_clicks: scanned.length };
}

function leavers(g, people) {
  const mixed = g.rng.shuffle(people);
  const gone = mixed.splice(0, g.share('unsubscribes'));
  const angry = mixed.splice(0, g.share('abuse'));
  for (const person of gone) g.add(person, 'unsubscribe', { reason: REASONS[g.rng.int(REASONS.length)] });
  for (const person of angry) g.add(person, 'abuse', { reason: 'Abuse complaint' });
  return { unsubscribes: gone.length, abuse: angry.length };
}
