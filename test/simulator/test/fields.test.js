// Merge fields, tags, segments, templates and domains: API.md 5.5, 5.6, 5.7.

import test from 'node:test';
import assert from 'node:assert/strict';
import { simulator } from './harness.js';

const sim = simulator();
const field = (tag, type, more) => sim.ok('POST', `/lists/${sim.list}/merge-fields`, { name: tag, tag, type, ...more });
const value = async (tag, given) => (await sim.ok('PUT', sim.one('a@example.org'),
  { email_address: 'a@example.org', status_if_new: 'subscribed', merge_fields: { [tag]: given } })).merge_fields[tag];
const refused = (tag, given) => sim.fails(400, 'Invalid Resource', 'PUT', sim.one('a@example.org'),
  { email_address: 'a@example.org', status_if_new: 'subscribed', merge_fields: { [tag]: given } });
const segments = () => `/lists/${sim.list}/segments`;

test('merge fields are listed with merge_field_limit and total_items (5.5)', async () => {
  const answer = await sim.ok('GET', `/lists/${sim.list}/merge-fields?count=1000`);
  assert.deepEqual(answer.merge_fields.map(({ tag }) => tag), ['FNAME', 'LNAME']);
  assert.equal(answer.merge_field_limit, 30);
  assert.equal(answer.total_items, 2);
});

test('creating needs name and type; the tag is made up if absent and checked if given (5.5)', async () => {
  const path = `/lists/${sim.list}/merge-fields`;
  await sim.fails(400, 'Invalid Resource', 'POST', path, { name: 'X' });
  assert.equal((await sim.ok('POST', path, { name: 'X', type: 'text' })).tag, 'MMERGE3');
  for (const tag of ['lower', 'ELEVENCHARS', 'FNAME', 'EMAIL']) {
    await sim.fails(400, 'Invalid Resource', 'POST', path, { name: 'X', type: 'text', tag });
  }
  await sim.config({ merge_field_limit: 3 });
  await sim.fails(400, 'Bad Request', 'POST', path, { name: 'Y', type: 'text' });
});

test('PATCH takes any subset but no type; DELETE destroys values (5.5)', async () => {
  const made = await field('CITY', 'text');
  const path = `/lists/${sim.list}/merge-fields/${made.merge_id}`;
  assert.equal(await value('CITY', 'Delft'), 'Delft');
  assert.equal((await sim.ok('PATCH', path, { required: true })).required, true);
  await sim.fails(400, 'Invalid Resource', 'PATCH', path, { type: 'number' });
  await sim.ok('DELETE', path);
  await sim.fails(404, 'Resource Not Found', 'GET', path);
  assert.ok(!('CITY' in (await sim.ok('GET', sim.one('a@example.org'))).merge_fields));
});

test('text is cut at 255 bytes, never inside a character (2, 5.5)', async () => {
  assert.equal((await value('FNAME', 'x'.repeat(300))).length, 255);
  const cut = await value('FNAME', 'é'.repeat(200));
  assert.equal(Buffer.byteLength(cut), 254);
  assert.equal(cut, 'é'.repeat(127));
});

test('values by type (5.5)', async () => {
  await field('NUM', 'number');
  await field('DAY', 'date');
  await field('BIRTH', 'birthday');
  await field('ZIP', 'zip');
  await field('PAGE', 'url');
  await field('TEL', 'phone', { options: { phone_format: 'US' } });
  await field('KIND', 'dropdown', { options: { choices: ['a', 'b'] } });
  assert.equal(await value('NUM', '12.5'), 12.5);
  assert.equal(await value('DAY', '2026/3/9'), '2026-03-09');
  assert.equal(await value('DAY', '03/09/2026'), '2026-03-09');
  assert.equal(await value('BIRTH', '12/31'), '12/31');
  assert.equal(await value('ZIP', '12345'), '12345');
  assert.equal(await value('PAGE', 'https://example.org/x'), 'https://example.org/x');
  assert.equal(await value('TEL', '404-555-0100'), '404-555-0100');
  assert.equal(await value('KIND', 'b'), 'b');
  const wrong = { NUM: 'many', DAY: '2026-02-30', BIRTH: '31/12', ZIP: '1234 AB', PAGE: 'nothing', TEL: '+31 20 123', KIND: 'c' };
  for (const [tag, given] of Object.entries(wrong)) {
    assert.equal((await refused(tag, given)).errors[0].field, tag);
    assert.equal(await value(tag, ''), '');
  }
});

test('an incomplete address rejects the member; "" clears and is what an empty one shows (5.5, trap 9)', async () => {
  await field('ADDR', 'address');
  const whole = { addr1: 'Street 1', city: 'Delft', state: 'ZH', zip: '2611' };
  assert.equal((await value('ADDR', whole)).city, 'Delft');
  await refused('ADDR', { ...whole, zip: '' });
  await refused('ADDR', { addr1: 'Street 1', city: 'Delft' });
  const answer = await sim.batch([{ email_address: 'b@example.org', status: 'subscribed', merge_fields: { ADDR: { addr1: 'x' } } }]);
  assert.equal(answer.errors[0].field, 'ADDR');
  assert.equal(await value('ADDR', ''), '');
});

test('unknown merge tags are refused unless config says so', async () => {
  await refused('NOPE', 'x');
  await sim.config({ unknown_merge_fields: 'ignore' });
  assert.equal(await value('NOPE', 'x'), undefined);
});

test('a field added in the app shows as "" for everybody (5.5)', async () => {
  await sim.add('a@example.org');
  await sim.ctl('POST', '/act', { list: sim.list, action: 'add_field', tag: 'SCORE', type: 'number' });
  assert.equal((await sim.ok('GET', sim.one('a@example.org'))).merge_fields.SCORE, '');
});

test('POST tags: only named ones change, an unknown active one is made, and a tag is a static segment with the same id (5.6)', async () => {
  await sim.add('a@example.org', { tags: ['keep', 'drop'] });
  const path = `${sim.one('a@example.org')}/tags`;
  const answer = await sim.api('POST', path, { tags: [{ name: 'drop', status: 'inactive' }, { name: 'new', status: 'active' }], is_syncing: true });
  assert.equal(answer.status, 204);
  const { tags } = await sim.ok('GET', path);
  assert.deepEqual(tags.map(({ name }) => name), ['keep', 'new']);
  const found = (await sim.ok('GET', `${segments()}?type=static`)).segments.find(({ name }) => name === 'new');
  assert.equal(found.id, tags[1].id);
  assert.equal(found.member_count, 1);
});

test('POST tags with a wrong shape answers 204 and does nothing, unless config refuses (5.6, trap 4)', async () => {
  await sim.add('a@example.org');
  const path = `${sim.one('a@example.org')}/tags`;
  assert.equal((await sim.api('POST', path, { tags: ['one'] })).status, 204);
  assert.equal((await sim.ok('GET', path)).total_items, 0);
  await sim.config({ tags_wrong_shape: 'refuse' });
  await sim.fails(400, 'Invalid Resource', 'POST', path, { tags: ['one'] });
});

test('a tag change moves last_changed only if config says so (5.4, unconfirmed)', async () => {
  const { last_changed: at } = await sim.add('a@example.org');
  const tag = (name) => sim.ok('POST', `${sim.one('a@example.org')}/tags`, { tags: [{ name, status: 'active' }] });
  await sim.advance(10);
  await tag('one');
  assert.equal((await sim.ok('GET', sim.one('a@example.org'))).last_changed, at);
  await sim.config({ last_changed_on_tags: true });
  await tag('two');
  assert.notEqual((await sim.ok('GET', sim.one('a@example.org'))).last_changed, at);
});

test('tag-search by prefix, all without name, paged (5.6)', async () => {
  await sim.add('a@example.org', { tags: ['red', 'red wine', 'blue'] });
  assert.equal((await sim.ok('GET', `/lists/${sim.list}/tag-search?name=red`)).total_items, 2);
  assert.equal((await sim.ok('GET', `/lists/${sim.list}/tag-search?count=1&offset=2`)).tags[0].name, 'blue');
});

test('segments need name and either static_segment or options, not both (5.6)', async () => {
  const options = { match: 'any', conditions: [{ condition_type: 'TextMerge', field: 'FNAME', op: 'is', value: 'Ann' }] };
  await sim.fails(400, 'Invalid Resource', 'POST', segments(), { name: 'x' });
  await sim.fails(400, 'Invalid Resource', 'POST', segments(), { name: 'x', static_segment: [], options });
  await sim.add('a@example.org', { merge_fields: { FNAME: 'Ann' } });
  assert.equal((await sim.ok('POST', segments(), { name: 'x', options })).member_count, 1);
  const fixed = await sim.ok('POST', segments(), { name: 'x', static_segment: ['a@example.org', 'nobody@example.org'] });
  assert.equal(fixed.type, 'static');
  assert.equal(fixed.member_count, 1);
  await sim.fails(400, 'Invalid Resource', 'POST', segments(), { name: 'y', options: { match: 'all', conditions: [{ condition_type: 'Weather' }] } });
});

test('at most 10 conditions (2)', async () => {
  const conditions = Array.from({ length: 11 }, () => ({ condition_type: 'EmailAddress', field: 'EMAIL', op: 'contains', value: 'a' }));
  await sim.fails(400, 'Invalid Resource', 'POST', segments(), { name: 'x', options: { match: 'any', conditions } });
});

test('adding and removing many: 500 each, strangers in errors[] (5.6, trap 5)', async () => {
  await sim.add('a@example.org');
  await sim.add('b@example.org', { tags: ['t'] });
  const { id } = await sim.ok('POST', segments(), { name: 's', static_segment: ['b@example.org'] });
  const answer = await sim.ok('POST', `${segments()}/${id}`, { members_to_add: ['A@example.org', 'nobody@example.org'], members_to_remove: ['b@example.org'] });
  assert.deepEqual([answer.total_added, answer.total_removed, answer.error_count], [1, 1, 1]);
  assert.deepEqual(answer.errors[0].email_addresses, ['nobody@example.org']);
  assert.deepEqual((await sim.raw('a@example.org')).tags, ['s']);
  const many = Array.from({ length: 501 }, (_, i) => `m${i}@example.org`);
  await sim.fails(400, 'Invalid Resource', 'POST', `${segments()}/${id}`, { members_to_add: many });
  await sim.config({ segment_unknown: 'ignore' });
  assert.equal((await sim.ok('POST', `${segments()}/${id}`, { members_to_add: ['nobody@example.org'] })).error_count, 0);
});

test('removing many: who does not have the tag is no error, who is archived is; a saved segment or none is refused (5.6)', async () => {
  for (const name of ['a', 'b', 'c']) await sim.add(`${name}@example.org`, { tags: name === 'b' ? [] : ['t'] });
  await sim.ok('DELETE', sim.one('c@example.org'));
  const [{ id }] = (await sim.ok('GET', segments())).segments;
  const answer = await sim.ok('POST', `${segments()}/${id}`, { members_to_remove: ['A@example.org ', 'b@example.org', 'c@example.org'] });
  assert.deepEqual(answer.members_removed.map((member) => member.email_address), ['a@example.org']);
  assert.deepEqual([answer.total_removed, answer.error_count, answer.errors[0].email_addresses], [1, 1, ['c@example.org']]);
  assert.deepEqual((await sim.raw('a@example.org')).tags, []);
  assert.deepEqual((await sim.raw('c@example.org')).tags, ['t']);
  const saved = await sim.ok('POST', segments(), { name: 'saved', options: { match: 'all', conditions: [{ condition_type: 'EmailAddress', field: 'EMAIL', op: 'ends', value: '.org' }] } });
  await sim.fails(400, 'Bad Request', 'POST', `${segments()}/${saved.id}`, { members_to_remove: ['a@example.org'] });
  await sim.fails(404, 'Resource Not Found', 'POST', `${segments()}/1`, { members_to_remove: ['a@example.org'] });
});

test('tags that differ by case alone are two, or one if config says so (5.6, unconfirmed)', async () => {
  const tag = async (email, names, more) => {
    await sim.batch([{ email_address: email, status_if_new: 'subscribed', tags: names }], { update_existing: true, ...more });
    return (await sim.raw(email)).tags;
  };
  assert.deepEqual(await tag('a@example.org', ['vip', 'VIP', ' vip ']), ['VIP', 'vip']);
  await sim.config({ tag_case: 'ignore' });
  assert.deepEqual(await tag('b@example.org', ['new', 'NEW']), ['new']);
  assert.deepEqual(await tag('b@example.org', ['New', 'other'], { sync_tags: true }), ['new', 'other']);
  await sim.ok('POST', `${sim.one('b@example.org')}/tags`, { tags: [{ name: 'NEW', status: 'inactive' }] });
  assert.deepEqual((await sim.raw('b@example.org')).tags, ['other']);
});

test('PATCH with an empty static_segment empties it; DELETE deletes the tag (5.6)', async () => {
  await sim.add('a@example.org', { tags: ['t'] });
  const [{ id }] = (await sim.ok('GET', segments())).segments;
  assert.equal((await sim.ok('PATCH', `${segments()}/${id}`, { static_segment: [] })).member_count, 0);
  assert.deepEqual((await sim.raw('a@example.org')).tags, []);
  assert.equal((await sim.ok('PATCH', `${segments()}/${id}`, { name: 'u' })).name, 'u');
  assert.equal((await sim.api('DELETE', `${segments()}/${id}`)).status, 204);
  assert.equal((await sim.ok('GET', `/lists/${sim.list}/tag-search`)).total_items, 0);
});

test('segment members leave out who gets no mail, include_* bring them and total_items undercounts (4, 5.6)', async () => {
  for (const status of ['subscribed', 'unsubscribed', 'cleaned', 'transactional']) await sim.add(`${status}@example.org`, { status, tags: ['t'] });
  await sim.add('archived@example.org', { tags: ['t'] });
  await sim.ok('DELETE', sim.one('archived@example.org'));
  const [{ id }] = (await sim.ok('GET', segments())).segments;
  const plain = await sim.ok('GET', `${segments()}/${id}/members`);
  assert.deepEqual(plain.members.map(({ status }) => status), ['subscribed']);
  const all = await sim.ok('GET', `${segments()}/${id}/members?include_cleaned=true&include_transactional=true&include_unsubscribed=true`);
  assert.equal(all.members.length, 4);
  assert.equal(all.total_items, 1);
});

test('single members of a segment (5.6)', async () => {
  await sim.add('a@example.org');
  const { id } = await sim.ok('POST', segments(), { name: 's', static_segment: [] });
  await sim.ok('POST', `${segments()}/${id}/members`, { email_address: 'a@example.org' });
  const member = `${segments()}/${id}/members/${(await sim.raw('a@example.org')).id}`;
  assert.equal((await sim.api('DELETE', member)).status, 204);
  await sim.fails(404, null, 'DELETE', member);
});

test('segments are filtered by type, exclude_type and updated_at (5.6)', async () => {
  await sim.ok('POST', segments(), { name: 's', static_segment: [] });
  await sim.ok('POST', segments(), { name: 'c', options: { match: 'all', conditions: [{ condition_type: 'EmailAddress', field: 'EMAIL', op: 'ends', value: '.org' }] } });
  assert.equal((await sim.ok('GET', `${segments()}?type=saved`)).segments[0].name, 'c');
  assert.equal((await sim.ok('GET', `${segments()}?exclude_type=saved`)).segments[0].name, 's');
  assert.equal((await sim.ok('GET', `${segments()}?since_updated_at=2099-01-01T00:00:00Z`)).total_items, 0);
});

test('templates: list, one, default content; active false means deleted in the app (5.7)', async () => {
  const [first] = sim.account.templates;
  await sim.ctl('POST', '/act', { template: first.id, action: 'delete' });
  const { templates } = await sim.ok('GET', '/templates?type=user&count=1000&sort_field=name&sort_dir=ASC');
  assert.deepEqual(templates.map(({ name, active }) => [name, active]), [['Invitation', true], ['Newsletter', false], ['Unfinished', true]]);
  assert.equal((await sim.ok('GET', `/templates/${first.id}`)).content_type, 'template');
  assert.deepEqual(Object.keys((await sim.ok('GET', `/templates/${first.id}/default-content`)).sections), ['body']);
  await sim.fails(404, null, 'GET', '/templates/1');
});

test('templates of the new editor have no sections (5.7)', async () => {
  const { templates: [{ id }] } = await sim.ctl('POST', '/accounts', { key: 'new-us1', templates: [{ name: 'T', content_type: 'multichannel' }] });
  assert.deepEqual((await sim.ok('GET', `/templates/${id}/default-content`, undefined, { key: 'new-us1' })).sections, {});
});

test('verified domains with their state (5.7)', async () => {
  await sim.ctl('POST', '/accounts', { key: 'd-us1', domains: [{ domain: 'a.test', verified: false }, { domain: 'gmail.com', authenticated: false }] });
  const { domains } = await sim.ok('GET', '/verified-domains', undefined, { key: 'd-us1' });
  assert.deepEqual(domains.map((d) => [d.domain, d.verified, d.status, d.is_free_email_provider]),
    [['a.test', false, 'VERIFICATION_IN_PROGRESS', false], ['gmail.com', true, 'VERIFIED', true]]);
});

test('templates and domains that people add, change and take away at Mailchimp (5.7)', async () => {
  const { account_id: account, templates: [template] } = await sim.ctl('POST', '/accounts', {
    key: 'acts-us1', templates: [{ name: 'One' }], domains: [{ domain: 'one.org' }] });
  const act = (body) => sim.ctl('POST', '/act', body);
  const names = async () => (await sim.ok('GET', '/templates', undefined, { key: 'acts-us1' })).templates.map(({ name, active }) => `${name} ${active}`);
  const domains = async () => (await sim.ok('GET', '/verified-domains', undefined, { key: 'acts-us1' })).domains
    .map(({ domain, verified, authenticated }) => `${domain} ${verified} ${authenticated}`);
  const { ids } = await act({ account, action: 'add_template', names: ['Two', 'Three'] });
  await act({ template: template.id, action: 'edit', name: 'First' });
  await act({ template: ids[0], action: 'delete' });
  await act({ template: ids[1], action: 'remove' });
  assert.deepEqual(await names(), ['First true', 'Two false']);
  await act({ account, action: 'set_domain', domain: 'two.org', verified: false });
  await act({ account, action: 'set_domain', domain: 'one.org', authenticated: false });
  assert.deepEqual(await domains(), ['one.org true false', 'two.org false false']);
  await act({ account, action: 'remove_domain', domain: 'one.org' });
  assert.deepEqual(await domains(), ['two.org false false']);
  await act({ account, action: 'set_role', role: 'viewer' });
  assert.equal((await sim.ok('GET', '/', undefined, { key: 'acts-us1' })).role, 'viewer');
});

test('a list that was deleted is gone with all that is below it (5.2)', async () => {
  await sim.ctl('POST', '/act', { list: sim.list, action: 'delete_list' });
  await sim.fails(404, 'Resource Not Found', 'GET', `/lists/${sim.list}`);
  await sim.fails(404, 'Resource Not Found', 'POST', segments(), { name: 'x', static_segment: [] });
});
