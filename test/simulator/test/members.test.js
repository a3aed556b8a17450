// Members: API.md 5.3, 5.4 and the traps that belong to them.

import test from 'node:test';
import assert from 'node:assert/strict';
import { simulator, hash } from './harness.js';

const sim = simulator();
const sub = (email, more) => ({ email_address: email, status_if_new: 'subscribed', ...more });
const COMPLIANCE = 'Member In Compliance State';
const FORGOTTEN = 'Forgotten Email Not Subscribed';

test('batch: 500 members at most, and the envelope must be right (5.3, 2)', async () => {
  const many = Array.from({ length: 501 }, (_, i) => sub(`m${i}@example.org`));
  await sim.fails(400, 'Invalid Resource', 'POST', `/lists/${sim.list}`, { members: many });
  await sim.fails(400, 'Invalid Resource', 'POST', `/lists/${sim.list}`, { update_existing: true });
  await sim.fails(400, 'Invalid Resource', 'POST', `/lists/${sim.list}`, { members: [{ email_address: 'a@example.org' }] });
  await sim.fails(400, 'Invalid Resource', 'POST', `/lists/${sim.list}`, { members: [{ email_address: 'a@example.org', status: 'archived' }] });
  assert.equal((await sim.ctl('GET', '/state')).accounts[0].lists[0].members, 0);
});

test('batch: 200 although members failed, with errors[] (5.3)', async () => {
  const answer = await sim.batch([sub('a@example.org'), sub('fake1@example.org'), sub('toomany@example.org'), sub('no address'), sub('x@example.com')]);
  assert.equal(answer.total_created, 1);
  assert.equal(answer.error_count, 4);
  for (const i of [0, 2, 3]) assert.match(answer.errors[i].error, /looks fake or invalid, please enter a real email address/);
  assert.match(answer.errors[1].error, /has signed up to a lot of lists very recently; we're not allowing more signups for now/);
  assert.equal(answer.errors[0].error_code, 'ERROR_GENERIC');
  assert.equal(answer.errors[0].email_address, 'fake1@example.org');
});

test('example.org, example.net and .test are accepted', async () => {
  assert.equal((await sim.batch([sub('a@example.org'), sub('a@example.net'), sub('a@mail.test')])).total_created, 3);
});

test('batch: without update_existing present addresses are ERROR_CONTACT_EXISTS (5.3)', async () => {
  await sim.add('a@example.org', { merge_fields: { FNAME: 'Old' } });
  const answer = await sim.batch([sub('A@example.org', { merge_fields: { FNAME: 'New' } })]);
  assert.equal(answer.errors[0].error_code, 'ERROR_CONTACT_EXISTS');
  assert.equal((await sim.raw('a@example.org')).merge_fields.FNAME, 'Old');
});

test('batch: status changes an existing subscription, status_if_new does not (5.3)', async () => {
  await sim.add('a@example.org');
  let answer = await sim.batch([{ email_address: 'a@example.org', status_if_new: 'unsubscribed', merge_fields: { FNAME: 'New' } }], { update_existing: true });
  assert.equal(answer.total_updated, 1);
  assert.equal(answer.updated_members[0].merge_fields.FNAME, 'New');
  assert.equal((await sim.raw('a@example.org')).status, 'subscribed');
  answer = await sim.batch([{ email_address: 'a@example.org', status: 'unsubscribed' }], { update_existing: true });
  assert.equal((await sim.raw('a@example.org')).status, 'unsubscribed');
});

test('batch: tags are strings, added to existing members too; sync_tags replaces them (5.3)', async () => {
  await sim.batch([sub('a@example.org', { tags: ['one'] })]);
  await sim.batch([sub('a@example.org', { tags: ['two'] })], { update_existing: true });
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['one', 'two']);
  await sim.batch([sub('a@example.org', { tags: ['three'] })], { update_existing: true, sync_tags: true });
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['three']);
  await sim.batch([sub('a@example.org')], { update_existing: true, sync_tags: true });
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['three']);
  await sim.fails(400, 'Invalid Resource', 'POST', `/lists/${sim.list}`, { members: [sub('a@example.org', { tags: [{ name: 'x', status: 'active' }] })] });
});

test('batch: skip_duplicate_check keeps the first of repeated addresses (5.3)', async () => {
  const twice = [sub('a@example.org', { merge_fields: { FNAME: '1' } }), sub('A@example.org', { merge_fields: { FNAME: '2' } })];
  await sim.batch(twice, { update_existing: true }, '?skip_duplicate_check=true');
  assert.equal((await sim.raw('a@example.org')).merge_fields.FNAME, '1');
  await sim.batch(twice, { update_existing: true });
  assert.equal((await sim.raw('A@example.org')).merge_fields.FNAME, '2');
});

test('a required merge field rejects who lacks it, unless skip_merge_validation (5.3, trap 8)', async () => {
  await sim.ctl('POST', '/act', { list: sim.list, action: 'require_field', tag: 'LNAME' });
  const answer = await sim.batch([sub('a@example.org'), sub('b@example.org', { merge_fields: { LNAME: 'B' } })]);
  assert.equal(answer.total_created, 1);
  assert.equal(answer.errors[0].error, 'Your merge fields were invalid.');
  assert.equal(answer.errors[0].field, 'LNAME');
  assert.ok(answer.errors[0].field_message);
  const single = await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'a@example.org', status: 'subscribed' });
  assert.equal(single.detail, 'Your merge fields were invalid.');
  assert.equal((await sim.batch([sub('a@example.org')], {}, '?skip_merge_validation=true')).total_created, 1);
});

test('batch: compliance and forgotten addresses come back in errors[] (5.3, 5.4)', async () => {
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'unsubscribe');
  await sim.add('b@example.org');
  await sim.ok('POST', `${sim.one('b@example.org')}/actions/delete-permanent`);
  const both = ['a@example.org', 'b@example.org'].map((email) => ({ email_address: email, status: 'subscribed' }));
  const answer = await sim.batch(both, { update_existing: true });
  assert.match(answer.errors[0].error, /compliance state due to unsubscribe, bounce, or compliance review/);
  assert.match(answer.errors[1].error, /was permanently deleted and cannot be re-imported/);
  await sim.config({ compliance: 'ignore' });
  assert.equal((await sim.batch(both, { update_existing: true })).error_count, 1);
});

test('batch: fields is taken and does nothing unless config says so (5.3, unconfirmed)', async () => {
  const query = '?fields=errors,total_created,new_members.id';
  assert.ok('updated_members' in await sim.batch([sub('a@example.org')], {}, query));
  await sim.config({ batch_fields: 'honour' });
  assert.deepEqual(await sim.batch([sub('b@example.org')], {}, query),
    { new_members: [{ id: hash('b@example.org') }], errors: [], total_created: 1 });
});

test('new members may be subscribed, pending, unsubscribed or transactional (5.4)', async () => {
  for (const status of ['subscribed', 'pending', 'unsubscribed', 'transactional']) {
    assert.equal((await sim.add(`${status}@example.org`, { status })).status, status);
  }
  await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'x@example.org', status: 'archived' });
  await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'x@example.org' });
});

test('POST of a present address is Member Exists (5.4)', async () => {
  await sim.add('a@example.org');
  await sim.fails(400, 'Member Exists', 'POST', sim.members, { email_address: 'a@example.org', status: 'subscribed' });
});

test('PUT makes and changes; email_address is needed, status_if_new only for new ones (5.4)', async () => {
  const path = sim.one('a@example.org');
  await sim.fails(400, 'Invalid Resource', 'PUT', path, { status_if_new: 'subscribed' });
  await sim.fails(400, 'Invalid Resource', 'PUT', path, { email_address: 'a@example.org' });
  assert.equal((await sim.ok('PUT', path, sub('a@example.org'))).status, 'subscribed');
  assert.equal((await sim.ok('PUT', path, { email_address: 'a@example.org', merge_fields: { FNAME: 'A' } })).merge_fields.FNAME, 'A');
  assert.equal((await sim.ok('PUT', path, { email_address: 'a@example.org', status_if_new: 'pending' })).status, 'subscribed');
  assert.equal((await sim.ok('PUT', path, { email_address: 'a@example.org', status: 'unsubscribed' })).status, 'unsubscribed');
  await sim.fails(400, 'Invalid Resource', 'PUT', sim.one('b@example.org'), sub('c@example.org'));
});

test('tags by PUT work on new members only unless config says so; PATCH knows no tags (5.4, trap 4)', async () => {
  const path = sim.one('a@example.org');
  await sim.ok('PUT', path, sub('a@example.org', { tags: ['one'] }));
  await sim.ok('PUT', path, sub('a@example.org', { tags: ['two'] }));
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['one']);
  await sim.config({ put_tags: 'add' });
  await sim.ok('PUT', path, sub('a@example.org', { tags: ['two'] }));
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['one', 'two']);
  await sim.fails(400, 'Invalid Resource', 'PATCH', path, { tags: ['three'] });
});

test('PATCH of the address moves the member to a new hash; contact_id and web_id survive (4, 5.4)', async () => {
  const before = await sim.add('a@example.org', { tags: ['one'] });
  await sim.advance(10);
  const moved = await sim.ok('PATCH', sim.one('a@example.org'), { email_address: 'b@example.org' });
  assert.equal(moved.id, hash('b@example.org'));
  assert.equal(moved.contact_id, before.contact_id);
  assert.equal(moved.web_id, before.web_id);
  assert.notEqual(moved.last_changed, before.last_changed);
  assert.deepEqual(moved.tags.map(({ name }) => name), ['one']);
  await sim.fails(404, 'Resource Not Found', 'GET', sim.one('a@example.org'));
  await sim.add('c@example.org');
  await sim.fails(400, 'Member Exists', 'PATCH', sim.one('b@example.org'), { email_address: 'c@example.org' });
  await sim.fails(400, 'Invalid Resource', 'PATCH', sim.one('b@example.org'), { email_address: 'fake@example.org' });
});

test('DELETE archives: not in the unfiltered list, in status=archived, last_changed moves (5.4, trap 3)', async () => {
  const before = await sim.add('a@example.org');
  await sim.add('b@example.org');
  await sim.advance(10);
  assert.equal((await sim.api('DELETE', sim.one('a@example.org'))).status, 204);
  assert.equal((await sim.ok('GET', sim.members)).total_items, 1);
  const { members } = await sim.ok('GET', `${sim.members}?status=archived&since_last_changed=${encodeURIComponent(before.last_changed)}`);
  assert.equal(members[0].email_address, 'a@example.org');
  assert.equal(members[0].status, 'archived');
  await sim.advance(10);
  const back = await sim.ok('PUT', sim.one('a@example.org'), { email_address: 'a@example.org', status: 'subscribed' });
  assert.equal(back.status, 'subscribed');
  assert.ok(back.last_changed > members[0].last_changed);
});

test('archived: status_if_new does not bring back; PATCH of status is refused unless config allows (5.4)', async () => {
  await sim.add('a@example.org');
  await sim.ok('DELETE', sim.one('a@example.org'));
  const answer = await sim.batch([sub('a@example.org', { merge_fields: { FNAME: 'A' } })], { update_existing: true });
  assert.equal(answer.total_updated, 1);
  assert.ok(!('status' in answer.updated_members[0]));
  assert.equal((await sim.raw('a@example.org')).status, 'archived');
  await sim.fails(404, null, 'PATCH', sim.one('a@example.org'), { status: 'subscribed' });
  await sim.config({ patch_archived: 'allow' });
  assert.equal((await sim.ok('PATCH', sim.one('a@example.org'), { status: 'subscribed' })).status, 'subscribed');
});

test('DELETE is idempotent; config can refuse the second one (1)', async () => {
  await sim.add('a@example.org');
  await sim.ok('DELETE', sim.one('a@example.org'));
  await sim.ok('DELETE', sim.one('a@example.org'));
  await sim.config({ delete_archived: 'refuse' });
  await sim.fails(405, 'Method Not Allowed', 'DELETE', sim.one('a@example.org'));
});

test('delete-permanent: GET is 404 and every write is refused, until a form brings it back (5.4, trap 2)', async () => {
  await sim.add('a@example.org');
  assert.equal((await sim.api('POST', `${sim.one('a@example.org')}/actions/delete-permanent`)).status, 204);
  await sim.fails(404, 'Resource Not Found', 'GET', sim.one('a@example.org'));
  for (const status of ['subscribed', 'pending', 'unsubscribed']) {
    await sim.fails(400, FORGOTTEN, 'POST', sim.members, { email_address: 'A@example.org', status });
    await sim.fails(400, FORGOTTEN, 'PUT', sim.one('a@example.org'), { email_address: 'a@example.org', status });
  }
  await sim.add('b@example.org');
  await sim.fails(400, FORGOTTEN, 'PATCH', sim.one('b@example.org'), { email_address: 'a@example.org' });
  await sim.act('a@example.org', 'resubscribe');
  assert.equal((await sim.ok('GET', sim.one('a@example.org'))).status, 'subscribed');
});

test('unsubscribed by the contact: subscribed is refused, pending accepted and confirmed by the contact (5.4, trap 1)', async () => {
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'unsubscribe', { reason: 'Too much mail' });
  const path = sim.one('a@example.org');
  assert.equal((await sim.ok('GET', path)).unsubscribe_reason, 'Too much mail');
  for (const method of ['PUT', 'PATCH']) {
    await sim.fails(400, COMPLIANCE, method, path, { email_address: 'a@example.org', status: 'subscribed' });
  }
  assert.equal((await sim.ok('PATCH', path, { status: 'pending' })).status, 'pending');
  await sim.fails(400, COMPLIANCE, 'PATCH', path, { status: 'subscribed' });
  await sim.act('a@example.org', 'confirm');
  assert.equal((await sim.ok('GET', path)).status, 'subscribed');
});

test('archiving or an opt-out by API does not launder an unsubscribe (5.4)', async () => {
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'unsubscribe');
  const path = sim.one('a@example.org');
  await sim.ok('PATCH', path, { status: 'unsubscribed' });
  await sim.ok('DELETE', path);
  await sim.fails(400, COMPLIANCE, 'PUT', path, { email_address: 'a@example.org', status: 'subscribed' });
});

test('unsubscribed by API: subscribing again works unless config says otherwise (5.4, unconfirmed)', async () => {
  await sim.add('a@example.org');
  const path = sim.one('a@example.org');
  assert.equal((await sim.ok('PATCH', path, { status: 'unsubscribed' })).status, 'unsubscribed');
  assert.equal((await sim.ok('PATCH', path, { status: 'subscribed' })).status, 'subscribed');
  await sim.act('a@example.org', 'admin_unsubscribe');
  await sim.config({ admin_unsubscribed: 'refuse' });
  await sim.fails(400, COMPLIANCE, 'PATCH', path, { status: 'subscribed' });
});

test('cleaned and under review: subscribed is refused (5.4)', async () => {
  await sim.add('a@example.org');
  await sim.act('a@example.org', 'clean');
  await sim.fails(400, COMPLIANCE, 'PATCH', sim.one('a@example.org'), { status: 'subscribed' });
  await sim.add('b@example.org', { status: 'transactional' });
  await sim.act('b@example.org', 'compliance');
  await sim.fails(400, COMPLIANCE, 'PATCH', sim.one('b@example.org'), { status: 'subscribed' });
});

test('an identical repeated PUT sends no second confirmation mail and changes nothing (5.4)', async () => {
  const body = { email_address: 'a@example.org', status: 'pending', merge_fields: { FNAME: 'A' } };
  await sim.ok('PUT', sim.one('a@example.org'), body);
  await sim.ok('PUT', sim.one('a@example.org'), body);
  assert.equal((await sim.ctl('GET', '/mails')).confirmations.length, 1);
  const { entries } = await sim.ctl('GET', '/journal?method=PUT');
  assert.deepEqual(entries.map(({ effect }) => effect), [true, false]);
});

test('a refused change leaves no trace', async () => {
  await sim.add('a@example.org', { merge_fields: { FNAME: 'A' } });
  await sim.act('a@example.org', 'unsubscribe');
  const before = await sim.raw('a@example.org');
  await sim.advance(5);
  await sim.fails(400, COMPLIANCE, 'PATCH', sim.one('a@example.org'), { status: 'subscribed', merge_fields: { FNAME: 'B' }, vip: true });
  assert.deepEqual(await sim.raw('a@example.org'), before);
});

test('unsubscribed_since only with status=unsubscribed, since_last_campaign needs status (5.4)', async () => {
  await sim.fails(400, 'Invalid Resource', 'GET', `${sim.members}?unsubscribed_since=2026-01-01T00:00:00Z`);
  await sim.fails(400, 'Invalid Resource', 'GET', `${sim.members}?since_last_campaign=true`);
  await sim.add('a@example.org', { status: 'unsubscribed' });
  assert.equal((await sim.ok('GET', `${sim.members}?status=unsubscribed&unsubscribed_since=2026-01-01T00:00:00Z`)).total_items, 1);
});

test('sorted by last_changed, a member edited in a walk moves (5.4)', async () => {
  for (const name of ['a', 'b', 'c']) {
    await sim.add(`${name}@example.org`);
    await sim.advance(10);
  }
  await sim.ok('PATCH', sim.one('a@example.org'), { vip: true });
  const { members } = await sim.ok('GET', `${sim.members}?sort_field=last_changed&sort_dir=ASC`);
  assert.deepEqual(members.map((m) => m.email_address[0]), ['b', 'c', 'a']);
});

test('ip addresses must be valid (5.4)', async () => {
  await sim.add('a@example.org', { ip_signup: '2001:db8::1', ip_opt: '192.0.2.7' });
  await sim.fails(400, 'Invalid Resource', 'POST', sim.members, { email_address: 'b@example.org', status: 'subscribed', ip_opt: '300.1.1.1' });
});

test('at most 50 tags inside a member, all of them at /tags, paged (5.4, 5.6)', async () => {
  await sim.add('a@example.org', { tags: Array.from({ length: 60 }, (_, i) => `t${i}`) });
  const member = await sim.ok('GET', sim.one('a@example.org'));
  assert.equal(member.tags.length, 50);
  assert.equal(member.tags_count, 60);
  assert.equal((await sim.ok('GET', `${sim.one('a@example.org')}/tags`)).tags.length, 10);
  assert.equal((await sim.ok('GET', `${sim.one('a@example.org')}/tags?count=1000`)).tags.length, 60);
});

test('search-members finds addresses and names across lists (5.4)', async () => {
  await sim.add('ann@example.org', { merge_fields: { FNAME: 'Ann' } });
  await sim.add('hannah@example.org');
  const found = await sim.ok('GET', '/search-members?query=ann@example.org');
  assert.equal(found.exact_matches.members[0].email_address, 'ann@example.org');
  assert.equal((await sim.ok('GET', `/search-members?query=ann&list_id=${sim.list}`)).full_search.total_items, 2);
  await sim.fails(400, 'Invalid Resource', 'GET', '/search-members');
});

test('lists: one and all, double_optin, stats (5.2)', async () => {
  await sim.add('a@example.org');
  await sim.add('b@example.org', { status: 'unsubscribed' });
  const list = await sim.ok('GET', `/lists/${sim.list}?include_total_contacts=true`);
  assert.equal(list.double_optin, false);
  assert.deepEqual([list.stats.member_count, list.stats.unsubscribe_count, list.stats.total_contacts, list.stats.merge_field_count], [1, 1, 2, 2]);
  assert.equal((await sim.ok('GET', '/lists?email=a@example.org')).total_items, 1);
  assert.equal((await sim.ok('GET', '/lists?email=z@example.org')).total_items, 0);
});
