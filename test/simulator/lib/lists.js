// Lists (audiences) and their merge fields, as data. Members are in members.js, segments in segments.js.

import { addSegment } from './segments.js';

const STANDARD_FIELDS = [
  { tag: 'FNAME', name: 'First Name' }, { tag: 'LNAME', name: 'Last Name' },
  { tag: 'ADDRESS', name: 'Address', type: 'address' }, { tag: 'PHONE', name: 'Phone Number', type: 'phone' },
];

export const FIELD_TYPES = ['text', 'number', 'address', 'phone', 'date', 'url', 'imageurl', 'radio', 'dropdown', 'birthday', 'zip'];

export function addList(world, account, input) {
  const list = {
    id: input.id || world.rng.hex(10),
    web_id: world.nextWebId(),
    seed: world.seed,
    account,
    name: input.name,
    double_optin: input.double_optin === true,
    email_type_option: false,
    permission_reminder: 'You are a customer of ours.',
    contact: { company: account.account_name, address1: '', city: '', state: '', zip: '', country: 'NL', ...input.contact },
    campaign_defaults: { from_name: '', from_email: '', subject: '', language: 'en', ...input.campaign_defaults },
    created: world.now(),
    members: new Map(),
    byEmail: new Map(),
    byWebId: new Map(),
    forgotten: new Set(),
    counts: { subscribed: 0, unsubscribed: 0, cleaned: 0, pending: 0, transactional: 0, archived: 0 },
    mergeFields: [],
    nextMergeId: 1,
    webhooks: new Map(),
    segments: new Map(),
    tagNames: null,
    version: 0,
    cache: new Map(),
    lastSub: 0,
    lastUnsub: 0,
    lastSent: 0,
  };
  if (world.lists.has(list.id)) throw new Error(`list ${list.id} exists`);
  world.lists.set(list.id, list);
  account.lists.set(list.id, list);
  for (const field of input.merge_fields || STANDARD_FIELDS) addMergeField(world, list, field);
  for (const name of input.segments || []) addSegment(world, list, { name, type: 'static' });
  return list;
}

export function addMergeField(world, list, input) {
  const id = list.nextMergeId;
  list.nextMergeId += 1;
  const type = input.type || 'text';
  if (!FIELD_TYPES.includes(type)) throw new Error(`type of a merge field: one of ${FIELD_TYPES.join(', ')}`);
  const field = {
    merge_id: id,
    tag: input.tag || `MMERGE${id}`,
    name: input.name || input.tag,
    type,
    required: input.required === true,
    default_value: input.default_value || '',
    public: input.public === true,
    display_order: input.display_order || id + 1,
    options: { ...defaultOptions(type), ...input.options },
    help_text: input.help_text || '',
  };
  list.mergeFields.push(field);
  world.touch(list);
  return field;
}

function defaultOptions(type) {
  switch (type) {
    case 'text': return { size: 25, choices: [] };
    case 'address': return { default_country: 164 };
    case 'phone': return { phone_format: 'none' };
    case 'date': return { date_format: 'MM/DD/YYYY' };
    case 'birthday': return { date_format: 'MM/DD' };
    case 'radio': case 'dropdown': return { choices: [] };
    default: return {};
  }
}

// Segment walks and filtered member walks are asked for page by page; sorting 100,000 members for each page would be most
// of the simulator's work. An answer is kept as long as nothing in the list changes.
export function cached(list, name, make) {
  if (list.cacheVersion !== list.version) {
    list.cache.clear();
    list.cacheVersion = list.version;
  }
  let value = list.cache.get(name);
  if (value === undefined) {
    value = make();
    list.cache.set(name, value);
  }
  return value;
}
