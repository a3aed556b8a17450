// A crowd: recipients of a sent campaign who are too many to be held. Each of them, with all events, is made from the seed and
// a number whenever somebody looks, and forgotten afterwards. They are no members of the list.

import { addCampaign } from './campaigns.js';
import { hashOf } from './email.js';
import { Rng } from './rng.js';

const DEFAULTS = {
  people: 1000, email: 'p%@example.org', seed: 1, opens: 0.5, opens_each: 4, clicks: 0.2, clicks_each: 3, hard: 0, soft: 0,
  unsubscribes: 0, span_seconds: 86400, links: ['https://www.example.org/', 'https://www.example.org/news'],
};
const STRANGER = { status: 'subscribed', merge_fields: {}, vip: false };

// What the reports need of an array of persons.
class Crowd {
  constructor(at, options) {
    this.at = at;
    this.options = options;
    this.length = options.people;
  }

  person(number) {
    const { options, at } = this;
    const rng = new Rng(options.seed + number * 7919);
    const email = options.email.replace('%', number);
    const events = [];
    // more at the beginning, as in life
    const add = (action, more) => events.push({
      action, email, at: at + 1 + Math.floor(options.span_seconds * rng.float() ** 2), ip: `198.51.100.${1 + rng.int(254)}`, ...more,
    });
    const fate = rng.float();
    if (fate < options.hard) add('hard');
    else if (fate < options.hard + options.soft) add('soft');
    else {
      if (rng.float() < options.opens) for (let i = 1 + rng.int(options.opens_each); i > 0; i--) add('open', { proxy: false });
      if (rng.float() < options.clicks) {
        for (let i = 1 + rng.int(options.clicks_each); i > 0; i--) add('click', { bot: false, url: options.links[rng.int(options.links.length)] });
      }
      if (rng.float() < options.unsubscribes) add('unsubscribe', { reason: 'None given' });
    }
    events.sort((a, b) => a.at - b.at);
    return { id: hashOf(email), email, member: STRANGER, at, mailed: true, events };
  }

  * [Symbol.iterator]() {
    for (let number = 1; number <= this.length; number += 1) yield this.person(number);
  }

  slice(from, to) {
    const out = [];
    for (let number = from + 1; number <= Math.min(to, this.length); number += 1) out.push(this.person(number));
    return out;
  }

  reduce(step, sum) {
    let result = sum;
    for (const person of this) result = step(result, person);
    return result;
  }
}

// A campaign that was sent to a crowd, now.
export function sendToCrowd(world, list, { title = 'Crowd', ...options }) {
  for (const name of Object.keys(options)) if (!(name in DEFAULTS)) throw new Error(`unknown field ${name}`);
  const all = { ...DEFAULTS, ...options };
  const campaign = addCampaign(world, list.account, { type: 'regular', recipients: { list_id: list.id }, settings: { title } });
  campaign.audience = new Crowd(world.now(), all);
  Object.assign(campaign, { status: 'sent', sends: 1, sendTime: world.now(), urls: all.links });
  return campaign;
}

// All that happens, in order of time: the whole of it in memory.
export function eventsOf(campaign) {
  if (!(campaign.audience instanceof Crowd)) return campaign.events;
  return [...campaign.audience].flatMap((person) => person.events).sort((a, b) => a.at - b.at);
}
