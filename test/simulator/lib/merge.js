// Values of merge fields: what Mailchimp takes for each type and how it keeps them (API.md 5.5).

const TEXT_BYTES = 255;
const ADDRESS_PARTS = ['addr1', 'addr2', 'city', 'state', 'zip', 'country'];
const ADDRESS_NEEDS = ['addr1', 'city', 'state', 'zip'];

// At most 255 bytes, never half a character: silent truncation (API.md 2).
export function truncate(text) {
  if (text.length * 3 <= TEXT_BYTES || Buffer.byteLength(text) <= TEXT_BYTES) return text;
  let out = Buffer.from(text).subarray(0, TEXT_BYTES).toString('utf8');
  while (out.endsWith('\ufffd')) out = out.slice(0, -1);
  return out;
}

function isDay(year, month, day) {
  const date = new Date(Date.UTC(year, month - 1, day));
  return date.getUTCMonth() === month - 1 && date.getUTCDate() === day;
}

function date(text) {
  let m = /^(\d{4})[-/](\d\d?)[-/](\d\d?)$/.exec(text);
  if (!m) {
    const us = /^(\d\d?)\/(\d\d?)\/(\d{4})$/.exec(text);
    if (us) m = [text, us[3], us[1], us[2]];
  }
  if (!m || !isDay(+m[1], +m[2], +m[3])) throw new Error('Please enter a valid date.');
  return `${m[1]}-${m[2].padStart(2, '0')}-${m[3].padStart(2, '0')}`;
}

function url(text) {
  let parsed = null;
  try {
    parsed = new URL(text);
  } catch { /* falls through to the error below */ }
  if (!parsed || !/^https?:$/.test(parsed.protocol)) throw new Error('Please enter a valid URL.');
  return text;
}

function address(value) {
  if (typeof value !== 'object' || Array.isArray(value)) throw new Error('Please enter a complete address.');
  for (const part of Object.keys(value)) {
    if (!ADDRESS_PARTS.includes(part) || typeof value[part] !== 'string') throw new Error('Please enter a complete address.');
  }
  for (const part of ADDRESS_NEEDS) if (!value[part]) throw new Error('Please enter a complete address.');
  return { addr1: '', addr2: '', city: '', state: '', zip: '', country: '', ...value };
}

function matching(pattern, message) {
  return (text) => {
    if (!pattern.test(text)) throw new Error(message);
    return text;
  };
}

function number(value) {
  const out = Number(value);
  if (!Number.isFinite(out) || String(value).trim() === '') throw new Error('Please enter a number.');
  return out;
}

function choice(text, field) {
  if (!field.options.choices.includes(text)) throw new Error(`Value must be one of: ${field.options.choices.join(', ')}`);
  return text;
}

const US_PHONE = matching(/^\(?\d{3}\)?[-. ]?\d{3}[-. ]?\d{4}$/, 'Please enter a valid phone number.');

const READERS = {
  text: truncate,
  date,
  url,
  imageurl: url,
  birthday: matching(/^(0?[1-9]|1[0-2])\/(0?[1-9]|[12]\d|3[01])$/, 'Please enter a month (01-12) and a day (01-31)'),
  zip: matching(/^\d{5}$/, 'Please enter a valid zip code.'),
  phone: (text, field) => (field.options.phone_format === 'US' ? US_PHONE(text) : truncate(text)),
  radio: choice,
  dropdown: choice,
};

// The value to keep; "" clears a field of any type. Throws with the message for the client.
export function readValue(field, value) {
  if (value === '') return '';
  if (field.type === 'address') return address(value);
  if (field.type === 'number') {
    if (typeof value === 'number' || typeof value === 'string') return number(value);
  } else if (typeof value === 'string' || typeof value === 'number') {
    return READERS[field.type](String(value), field);
  }
  throw new Error(`Schema describes ${field.type === 'number' ? 'number' : 'string'}, another type found instead`);
}

export function sameValue(a, b) {
  if (a === b) return true;
  if (typeof a !== 'object' || typeof b !== 'object') return false;
  return ADDRESS_PARTS.every((part) => a[part] === b[part]);
}
