// The simulator's clock: the machine's time plus an offset that tests set, so that two weeks of polling need no waiting.
// Inside the simulator an instant is a number of whole seconds; 0 means "none" and is shown as an empty string, which is
// what Mailchimp answers where there is no date (API.md 4).

export class Clock {
  constructor() {
    this.offset = 0;
  }

  ms() {
    return Date.now() + this.offset;
  }

  now() {
    return Math.floor(this.ms() / 1000);
  }
}

let lastSecond = -1;
let lastText = '';

// Thousands of members of one batch share a second, hence the memory of one.
export function iso(seconds) {
  if (!seconds) return '';
  if (seconds !== lastSecond) {
    lastText = new Date(seconds * 1000).toISOString().slice(0, 19) + '+00:00';
    lastSecond = seconds;
  }
  return lastText;
}

const INSTANT = /^(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d+)?(Z|[+-]\d\d:?\d\d)$/;
const PLAIN = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/;

// Seconds of an ISO instant with a zone, NaN for anything else. An unencoded "+" of a query string arrives as a blank and
// is therefore refused, as it would point to another second at Mailchimp.
export function parseInstant(text) {
  if (typeof text !== 'string' || !INSTANT.test(text)) return NaN;
  const zoned = text.replace(/([+-]\d\d)(\d\d)$/, '$1:$2');
  return Math.floor(Date.parse(zoned) / 1000);
}

// Members' timestamps may also be written without a zone (API.md 4), and "" takes the value away.
export function parseMemberTime(text) {
  if (text === '') return 0;
  if (PLAIN.test(text)) return Math.floor(Date.parse(text.replace(' ', 'T') + 'Z') / 1000);
  return parseInstant(text);
}
