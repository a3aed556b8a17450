// Sending over time. tick() brings the world up to the clock before anybody looks: scheduled campaigns start, mails leave,
// sending ones end, and what recipients did by now changes members.

import { isSegmented, linksOf, listOfCampaign, mailable, targeted } from './campaigns.js';
import { runBatches } from './batches.js';
import { planAtLeast } from './world.js';
import { setStatus } from './members.js';
import { because, campaignDone } from './webhooks.js';

export function startSending(world, campaign, at = world.now()) {
  const members = mailable(campaign.frozen || targeted(world, campaign));
  campaign.sends += 1;
  campaign.status = 'sending';
  campaign.sendingSince = at;
  campaign.sendTime = at;
  campaign.scheduledFor = 0;
  campaign.frozen = null;
  campaign.urls = linksOf(campaign);
  const seconds = world.config.send_seconds;
  members.forEach((member, i) => {
    const person = {
      id: member.id,
      email: member.email_address,
      member,
      at: at + Math.floor((seconds * i) / members.length),
      mailed: false,
      events: [],
    };
    campaign.audience.push(person);
    campaign.byId.set(person.id, person);
  });
  campaign.endsAt = at + seconds;
  const list = listOfCampaign(campaign);
  if (list) list.lastSent = at;
  world.active.add(campaign);
  world.touch(list);
  deliver(world, campaign, world.now());
}

// Mails leave one after the other, so that there is something left to cancel.
function deliver(world, campaign, now) {
  for (const person of campaign.audience) {
    if (person.mailed || person.at > now) continue;
    person.mailed = true;
    person.member.sent += 1;
    world.mails.push({ campaign: campaign.id, email: person.email, at: person.at });
  }
}

export function schedule(world, campaign, at) {
  campaign.status = 'schedule';
  campaign.scheduledFor = at;
  // Standard and higher fix the segment now; a whole audience and lower plans are counted when it is sent (API.md 5.8).
  if (isSegmented(campaign) && planAtLeast(campaign.account, 'standard')) campaign.frozen = targeted(world, campaign);
  world.active.add(campaign);
  world.touch();
}

export function unschedule(world, campaign) {
  campaign.status = world.config.unschedule_status;
  campaign.scheduledFor = 0;
  campaign.frozen = null;
  world.active.delete(campaign);
  world.touch();
}

export function cancelSending(world, campaign) {
  const stays = campaign.audience.filter((person) => person.mailed);
  campaign.canceled = campaign.audience.length - stays.length;
  campaign.audience = stays;
  campaign.byId = new Map(stays.map((person) => [person.id, person]));
  campaign.status = 'canceled';
  campaignDone(world, campaign);
  world.active.delete(campaign);
  world.touch();
}

export function mailed(campaign) {
  return campaign.audience.reduce((sum, person) => sum + (person.mailed ? 1 : 0), 0);
}

export function tick(world) {
  const now = world.now();
  for (const campaign of world.active) {
    if (campaign.status === 'schedule' && now >= campaign.scheduledFor) startSending(world, campaign, campaign.scheduledFor);
    if (campaign.status !== 'sending') continue;
    deliver(world, campaign, now);
    if (now < campaign.endsAt) continue;
    campaign.status = 'sent';
    campaignDone(world, campaign);
    world.active.delete(campaign);
    world.changes += 1;
  }
  happen(world, now);
  runBatches(world);
}

// Hard bounces, unsubscribes and complaints change the member when their instant has come.
function happen(world, now) {
  let done = 0;
  while (done < world.upcoming.length && world.upcoming[done].event.at <= now) {
    const { campaign, list, person, event } = world.upcoming[done];
    done += 1;
    if (person.member.status !== 'subscribed' || list.members.get(person.member.id) !== person.member) continue;
    const at = Math.max(event.at, event.made);
    because(world, { campaign: campaign.id }, () => {
      if (event.action === 'hard') setStatus(world, list, person.member, 'cleaned', 'contact', at);
      else setStatus(world, list, person.member, 'unsubscribed', 'contact', at, event.reason);
    });
  }
  if (done) world.upcoming.splice(0, done);
}
