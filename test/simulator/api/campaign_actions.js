// Actions on campaigns (API.md 5.8): send, schedule and what undoes them.

import { arr, bool, int, obj, oneOf, str } from '../lib/schema.js';
import { parseInstant } from '../lib/clock.js';
import { copyCampaign, isEditable, look } from '../lib/campaigns.js';
import { reasons } from '../lib/checklist.js';
import { cancelSending, schedule, startSending, unschedule } from '../lib/sending.js';
import { planAtLeast } from '../lib/world.js';
import { badRequest, forbidden, invalidField } from '../lib/problem.js';
import { campaignView } from './campaigns.js';
import { campaignOf } from './views.js';

const SCHEDULE_BODY = obj({
  schedule_time: str(), timewarp: bool(), batch_delivery: obj({ batch_delay: int(), batch_count: int() }, ['batch_delay', 'batch_count']),
}, ['schedule_time']);
const TEST_BODY = obj({ test_emails: arr(str()), send_type: oneOf('html', 'plaintext') }, ['test_emails', 'send_type']);

function send(ctx) {
  const campaign = campaignOf(ctx);
  const refuse = (reason) => badRequest(`Your Campaign is not ready to send. ${reason}`);
  if (!isEditable(campaign)) throw refuse(`Its status is '${campaign.status}'.`);
  const why = reasons(ctx.world, campaign);
  look(campaign);
  if (why.length) throw refuse(why.join(' '));
  startSending(ctx.world, campaign);
}

// The real service gives no reason here (trap 12).
const CANNOT = 'This campaign cannot be scheduled: .';

function scheduleIt(ctx) {
  const { world, body } = ctx;
  const campaign = campaignOf(ctx);
  if (!planAtLeast(ctx.account, 'essentials')) throw forbidden('Your plan does not include scheduling.');
  if ((body.timewarp || body.batch_delivery) && !planAtLeast(ctx.account, 'standard')) {
    throw forbidden('Your plan does not include this kind of delivery.');
  }
  if (body.timewarp && body.batch_delivery) throw invalidField('batch_delivery', 'Give timewarp or batch_delivery, not both');
  const at = parseInstant(body.schedule_time);
  if (Number.isNaN(at)) throw invalidField('schedule_time', 'This value is not a valid datetime.');
  const why = reasons(world, campaign);
  look(campaign);
  if (at % 900 !== 0 || at <= world.now() || !isEditable(campaign) || why.length) throw badRequest(CANNOT);
  campaign.settings.timewarp = body.timewarp === true;
  schedule(world, campaign, at);
}

function unscheduleIt(ctx) {
  const campaign = campaignOf(ctx);
  if (campaign.status !== 'schedule') throw badRequest('This campaign is not scheduled.');
  unschedule(ctx.world, campaign);
}

function cancel(ctx) {
  const campaign = campaignOf(ctx);
  if (!planAtLeast(ctx.account, 'premium')) throw forbidden('Your plan does not include cancelling a campaign.');
  if (campaign.status !== 'sending') throw badRequest('Only a campaign that is being sent can be cancelled.');
  cancelSending(ctx.world, campaign);
}

function rssOnly(ctx) {
  campaignOf(ctx);
  throw badRequest('Only RSS campaigns can be paused and resumed.');
}

function test(ctx) {
  const campaign = campaignOf(ctx);
  if (!campaign.content) throw badRequest('This campaign has no content to test.');
  if (!ctx.body.test_emails.length) throw invalidField('test_emails', 'At least one address is needed');
  const at = ctx.world.now();
  for (const email of ctx.body.test_emails) {
    ctx.world.tests.push({ campaign: campaign.id, email, send_type: ctx.body.send_type, at });
  }
  ctx.world.touch();
}

const action = (name, handler, more) => ({
  method: 'POST', path: `/campaigns/{campaign_id}/actions/${name}`, query: {}, write: 'send', handler, ...more,
});

export const routes = [
  action('send', send),
  action('schedule', scheduleIt, { body: SCHEDULE_BODY }),
  action('unschedule', unscheduleIt),
  action('cancel-send', cancel),
  action('pause', rssOnly),
  action('resume', rssOnly),
  action('test', test, { body: TEST_BODY, write: 'campaigns' }),
  action('replicate', (ctx) => campaignView(ctx.world, copyCampaign(ctx.world, campaignOf(ctx))), { write: 'campaigns' }),
];
