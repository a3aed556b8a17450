// The main path with Mailchimp's own client, which knows the real API and nothing of this project.

import test from 'node:test';
import assert from 'node:assert/strict';
import client from '@mailchimp/mailchimp_marketing';
import { simulator, hash, KEY } from './harness.js';

const sim = simulator();

// The client knows only Mailchimp's hosts and has no setting for another one.
function connect() {
  client.setConfig({ apiKey: KEY });
  client.lists.apiClient.basePath = `${sim.url}/3.0`;
  client.lists.apiClient.config.server = undefined;
}

test('ping, lists, batch, member, tags, segments, campaign and reports', async () => {
  connect();
  assert.equal((await client.ping.get()).health_status, 'Everything\'s Chimpy!');
  const { lists: [{ id: list }] } = await client.lists.getAllLists();
  const batch = await client.lists.batchListMembers(list, {
    members: ['a', 'b'].map((name) => ({ email_address: `${name}@example.org`, status: 'subscribed', merge_fields: { FNAME: name } })),
    update_existing: true,
  });
  assert.equal(batch.total_created, 2);
  const a = hash('a@example.org');
  assert.equal((await client.lists.getListMember(list, a)).merge_fields.FNAME, 'a');
  await client.lists.setListMember(list, a, { email_address: 'a@example.org', status_if_new: 'subscribed', merge_fields: { LNAME: 'A' } });
  assert.equal((await client.lists.updateListMember(list, a, { vip: true })).vip, true);
  await client.lists.updateListMemberTags(list, a, { tags: [{ name: 'vip', status: 'active' }] });
  assert.equal((await client.lists.getListMemberTags(list, a)).tags[0].name, 'vip');
  const segment = await client.lists.createSegment(list, { name: 'mailing', static_segment: ['a@example.org', 'b@example.org'] });
  assert.equal(segment.member_count, 2);
  await client.lists.batchSegmentMembers({ members_to_remove: ['b@example.org'] }, list, segment.id);
  const campaign = await send(list, segment);
  const report = await client.reports.getCampaignReport(campaign.id);
  assert.equal(report.emails_sent, 1);
  assert.equal((await client.reports.getEmailActivityForCampaign(campaign.id)).emails[0].email_id, a);
  await client.lists.deleteListMember(list, hash('b@example.org'));
  assert.equal((await sim.raw('b@example.org')).status, 'archived');
});

async function send(list, segment) {
  const campaign = await client.campaigns.create({
    type: 'regular',
    recipients: { list_id: list, segment_opts: { saved_segment_id: segment.id } },
    settings: { subject_line: 'News', title: 'News', from_name: 'Demo', reply_to: 'news@example.org' },
  });
  const { templates: [template] } = await client.templates.list();
  await client.campaigns.setContent(campaign.id, { template: { id: template.id, sections: { body: 'Hello' } } });
  await client.campaigns.getSendChecklist(campaign.id);
  assert.equal((await client.campaigns.getSendChecklist(campaign.id)).is_ready, true);
  await client.campaigns.send(campaign.id);
  assert.equal((await client.campaigns.get(campaign.id)).status, 'sent');
  return campaign;
}

test('a batch of operations', async () => {
  connect();
  const { id } = await client.batches.start({ operations: [{ method: 'GET', path: '/ping' }] });
  await sim.advance(60);
  assert.equal((await client.batches.status(id)).status, 'finished');
  assert.deepEqual((await client.batches.list()).batches.map((batch) => batch.id), [id]);
  await client.batches.deleteRequest(id);
  await assert.rejects(client.batches.status(id), (error) => error.status === 404);
});

test('errors arrive with status and body', async () => {
  connect();
  await assert.rejects(client.lists.getList('none'), (error) => error.status === 404 && error.response.body.title === 'Resource Not Found');
});
