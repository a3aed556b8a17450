// Webhooks of a list (API.md 5.11): which there are, what is told to whom, and the deliveries, which are tried again for 75
// minutes and may come twice or in any order. A payload shows a member as it is when the request that changed it is done.

import http from 'node:http';
import https from 'node:https';
import { createHmac } from 'node:crypto';
import { listOfCampaign } from './campaigns.js';

export const EVENTS = ['subscribe', 'unsubscribe', 'profile', 'cleaned', 'upemail', 'campaign', 'sms_subscribe', 'sms_unsubscribe', 'upsms', 'sms_campaign'];
export const SOURCES = ['user', 'admin', 'api'];

const GIVE_UP = 75 * 60;
const ANSWER_MS = 10000;
const FIRST_PAUSE = 10;

const flags = (names, given = {}) => Object.fromEntries(names.map((name) => [name, given[name] === true]));

export function addWebhook(world, list, input, isSigned = true) {
  const hook = {
    id: world.rng.hex(10),
    url: input.url,
    events: flags(EVENTS, input.events),
    sources: flags(SOURCES, input.sources),
    secret: isSigned ? world.rng.hex(32) : null,
    disabled: false,
  };
  list.webhooks.set(hook.id, hook);
  world.touch(list);
  return hook;
}

export function changeWebhook(world, list, hook, { url = hook.url, events, sources }) {
  hook.url = url;
  Object.assign(hook.events, events);
  Object.assign(hook.sources, sources);
  world.touch(list);
}

export function removeWebhook(world, list, hook) {
  list.webhooks.delete(hook.id);
  world.touch(list);
}

// What happens in work is by a person of that kind, and perhaps because of a campaign.
export function because(world, cause, work) {
  const outer = world.cause;
  world.cause = cause;
  try {
    return work();
  } finally {
    world.cause = outer;
  }
}

// Bounces and campaigns are by nobody: they are told whatever the sources are.
function tell(world, list, type, data, source = null) {
  const hooks = [...list.webhooks.values()].filter((hook) => hook.events[type] && (source === null || hook.sources[source]));
  if (!hooks.length) return;
  const { deliveries } = world;
  const firedAt = new Date(world.now() * 1000).toISOString().slice(0, 19).replace('T', ' ');
  setImmediate(() => {
    if (deliveries !== world.deliveries) return;
    const body = form({ type, fired_at: firedAt, data: data() });
    for (const hook of hooks) for (let i = 0; i < world.config.webhook_times; i += 1) enqueue(world, list, hook, type, body);
    pump(world);
  });
}

function tellOfMember(world, list, member, type, more = {}) {
  const source = type === 'cleaned' ? null : sourceOf(world);
  tell(world, list, type, () => ({ ...plain(list, member), ...more }), source);
}

const sourceOf = (world) => (world.request !== null ? 'api' : world.cause?.source || 'user');

function plain(list, member) {
  const merges = { EMAIL: member.email_address };
  for (const field of list.mergeFields) merges[field.tag] = member.merge_fields[field.tag] ?? '';
  return {
    id: member.unique_email_id, list_id: list.id, email: member.email_address, email_type: member.email_type, ip_opt: member.ip_opt,
    web_id: member.web_id, merges: { ...merges, INTERESTS: '' },
  };
}

// from null: the member is new; to null: deleted permanently.
export function statusChanged(world, list, member, from, to, reason) {
  if (to === 'subscribed') {
    tellOfMember(world, list, member, 'subscribe', { ip_signup: member.ip_signup });
  } else if (to === 'unsubscribed') {
    const why = reason === 'Abuse complaint' ? 'abuse' : 'manual';
    tellOfMember(world, list, member, 'unsubscribe', { action: 'unsub', reason: why, campaign_id: world.cause?.campaign });
  } else if (to === 'cleaned') {
    const data = { list_id: list.id, campaign_id: world.cause?.campaign ?? '', reason: 'hard', email: member.email_address };
    tell(world, list, 'cleaned', () => data);
  } else if (from !== null && from !== 'archived' && (to === 'archived' || to === null)) {
    tellOfMember(world, list, member, 'unsubscribe', { action: 'delete', reason: 'manual' });
  }
}

export const profileChanged = (world, list, member) => tellOfMember(world, list, member, 'profile', { ip_signup: member.ip_signup });

// There is no `email` in this one.
export function addressChanged(world, list, member, was) {
  const data = { list_id: list.id, new_id: member.unique_email_id, new_email: member.email_address, old_email: was };
  tell(world, list, 'upemail', () => data, sourceOf(world));
}

export function campaignDone(world, campaign) {
  const list = listOfCampaign(campaign);
  const data = { id: campaign.id, subject: campaign.settings.subject_line, status: campaign.status, reason: '', list_id: list?.id };
  if (list) tell(world, list, 'campaign', () => data);
}

// Nested names in brackets; what is undefined is left out.
function form(value) {
  const out = new URLSearchParams();
  const put = (name, item) => {
    if (item === undefined || item === null) return;
    if (typeof item === 'object') for (const key in item) put(name ? `${name}[${key}]` : key, item[key]);
    else out.append(name, item);
  };
  put('', value);
  return out.toString();
}

/* ---- deliveries ---- */

function enqueue(world, list, hook, type, body) {
  world.deliveries.push({
    n: world.deliveries.length + 1, hook, list: list.id, type, body, first: world.now(), due: world.now(), pause: FIRST_PAUSE,
    state: world.config.webhook_hold ? 'held' : 'waiting', attempts: [],
  });
}

// The same once more, as if the answer had been lost.
export function repeat(world, n) {
  const { hook, list, type, body } = deliveryNamed(world, n);
  enqueue(world, { id: list }, hook, type, body);
  pump(world);
  return world.deliveries.length;
}

function deliveryNamed(world, n) {
  const found = world.deliveries.find((one) => one.n === n);
  if (!found) throw new Error(`no delivery ${n}`);
  return found;
}

// Held ones go out one after the other; the next when the one before was answered.
export async function release(world, { reverse = false, n }) {
  const held = world.deliveries.filter((one) => one.state === 'held' && (n === undefined || one.n === n));
  if (reverse) held.reverse();
  for (const one of held) one.state = 'sending';
  for (const one of held) await attempt(world, one);
  return held.length;
}

// Sends what is due by the simulator's clock, and comes back for the rest.
export function pump(world) {
  clearTimeout(world.webhookTimer);
  const now = world.now();
  const waiting = world.deliveries.filter((one) => one.state === 'waiting');
  for (const one of waiting) {
    if (one.due > now) continue;
    one.state = 'sending';
    attempt(world, one);
  }
  const next = Math.min(...waiting.filter((one) => one.due > now).map((one) => one.due));
  if (next === Infinity) return;
  world.webhookTimer = setTimeout(() => pump(world), Math.min((next - now) * 1000, 60000));
  world.webhookTimer.unref();
}

async function attempt(world, one) {
  const { deliveries } = world;
  const { hook } = one;
  const status = hook.disabled ? 410 : await request(hook.url, 'POST', one.body, headersOf(world, one));
  one.attempts.push({ at: world.now(), status });
  settle(world, one, status);
  world.bell.ring();
  if (deliveries === world.deliveries) pump(world);
}

function settle(world, one, status) {
  if (status === 410) one.hook.disabled = true;
  if (status >= 200 && status < 300) one.state = 'delivered';
  else if (status === 410 || world.now() + one.pause - one.first > GIVE_UP) one.state = 'given_up';
  else {
    one.state = 'waiting';
    one.due = world.now() + one.pause;
    one.pause *= 2;
  }
}

// The time of the signature is that of the attempt.
function headersOf(world, { hook, body }) {
  const headers = { 'Content-Type': 'application/x-www-form-urlencoded', 'Content-Length': Buffer.byteLength(body), 'User-Agent': 'MailChimp' };
  if (hook.secret !== null) {
    const t = world.now();
    headers['X-Mailchimp-Signature'] = `t=${t},v1=${createHmac('sha256', hook.secret).update(`${t}.${body}`).digest('hex')}`;
  }
  return headers;
}

// The status of the answer; 0: none within ten seconds.
function request(url, method, body, headers) {
  return new Promise((resolve) => {
    const { request: open } = url.startsWith('https:') ? https : http;
    const out = open(url, { method, headers, timeout: ANSWER_MS, agent: false }, (res) => {
      res.resume();
      res.on('end', () => resolve(res.statusCode));
      res.on('error', () => resolve(0));
    });
    out.on('timeout', () => out.destroy());
    out.on('error', () => resolve(0));
    out.end(body);
  });
}

// Whether somebody is there, asked before a webhook is made.
export async function validate(url) {
  let parsed;
  try {
    parsed = new URL(url);
  } catch {
    return false;
  }
  if (!['http:', 'https:'].includes(parsed.protocol)) return false;
  const status = await request(url, 'GET', undefined, { 'User-Agent': 'MailChimp.com WebHook Validator' });
  return status >= 200 && status < 300;
}

export const deliveryView = ({ n, hook, list, type, body, state, attempts }) => ({ n, webhook: hook.id, list, type, body, state, attempts });
