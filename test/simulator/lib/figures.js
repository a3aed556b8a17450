// Figures of a campaign as the reports show them (API.md 5.9), from the events that the clock has passed. The control
// interface's truth is computed elsewhere, on purpose.

export function ratio(part, whole) {
  return whole ? Math.round((part / whole) * 1e6) / 1e6 : 0;
}

export const isHuman = (event) => !event.proxy && !event.bot;

// A person's events up to now; only the first bounce counts (API.md 5.9).
export function visible(person, now, since, filterBots) {
  const out = [];
  let bounced = false;
  for (const event of person.events) {
    if (event.at > now) break;
    if (event.action === 'hard' || event.action === 'soft') {
      if (bounced) continue;
      bounced = true;
    }
    if (since !== undefined && event.at <= since) continue;
    if (filterBots && !isHuman(event)) continue;
    out.push(event);
  }
  return out;
}

function empty() {
  return {
    opens: 0, openers: 0, humanOpens: 0, humanOpeners: 0, lastOpen: 0, clicks: 0, clickers: 0, linkClickers: 0, lastClick: 0,
    hard: 0, soft: 0, unsubscribed: 0, abuse: 0,
  };
}

function addPerson(sum, person, now) {
  const urls = new Set();
  let opens = 0;
  let human = 0;
  let clicks = 0;
  const seen = new Set();
  for (const event of visible(person, now)) {
    seen.add(event.action);
    if (event.action === 'open') {
      opens += 1;
      if (!event.proxy) human += 1;
      sum.lastOpen = Math.max(sum.lastOpen, event.at);
    } else if (event.action === 'click') {
      clicks += 1;
      urls.add(event.url);
      sum.lastClick = Math.max(sum.lastClick, event.at);
    }
  }
  sum.opens += opens;
  sum.openers += opens ? 1 : 0;
  sum.humanOpens += human;
  sum.humanOpeners += human ? 1 : 0;
  sum.clicks += clicks;
  sum.clickers += clicks ? 1 : 0;
  sum.linkClickers += urls.size;
  for (const action of ['hard', 'soft', 'abuse']) sum[action] += seen.has(action) ? 1 : 0;
  sum.unsubscribed += seen.has('unsubscribe') ? 1 : 0;
}

export function figures(campaign, now) {
  const known = campaign.figures;
  const persons = campaign.audience.length;
  if (known && known.now === now && known.events === campaign.events.length && known.persons === persons) return known.sum;
  const sum = empty();
  for (const person of campaign.audience) addPerson(sum, person, now);
  sum.sent = campaign.audience.reduce((n, person) => n + (person.mailed ? 1 : 0), 0);
  sum.delivered = sum.sent - sum.hard - sum.soft;
  if (campaign.status !== 'sending') campaign.figures = { now, events: campaign.events.length, persons, sum };
  return sum;
}

// Rates of a list: the mean over its sent campaigns, in percent.
export function averages(campaigns, now) {
  const sent = campaigns.filter((campaign) => campaign.sends && !campaign.deleted);
  const mean = (value) => (sent.length ? sent.reduce((total, campaign) => total + value(figures(campaign, now)), 0) / sent.length : 0);
  return {
    open_rate: mean((sum) => 100 * ratio(sum.openers, sum.delivered)),
    click_rate: mean((sum) => 100 * ratio(sum.clickers, sum.delivered)),
    proxy_excluded_open_rate: mean((sum) => 100 * ratio(sum.humanOpeners, sum.delivered)),
  };
}

export function linkId(campaign, url) {
  campaign.linkIds ||= new Map();
  let id = campaign.linkIds.get(url);
  if (!id) {
    // Stable for a campaign and a link, and no counter that another order of clicks would change.
    let h = 0;
    let k = 5381;
    for (const char of `${campaign.id} ${url}`) {
      h = (Math.imul(h, 31) + char.codePointAt(0)) >>> 0;
      k = (Math.imul(k, 33) ^ char.codePointAt(0)) >>> 0;
    }
    id = (h.toString(16).padStart(8, '0') + k.toString(16).padStart(8, '0')).slice(0, 10);
    campaign.linkIds.set(url, id);
  }
  return id;
}

// Clicks per link: every known link, also those nobody clicked.
export function linkFigures(campaign, now, filterBots = false) {
  const links = new Map(campaign.urls.map((url) => [url, { url, total: 0, people: new Map(), last: 0 }]));
  for (const person of campaign.audience) {
    for (const event of visible(person, now, undefined, filterBots)) {
      if (event.action !== 'click') continue;
      const link = links.get(event.url);
      link.total += 1;
      link.last = Math.max(link.last, event.at);
      link.people.set(person, (link.people.get(person) || 0) + 1);
    }
  }
  return [...links.values()];
}
