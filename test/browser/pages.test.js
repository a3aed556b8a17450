// The pages of mc_report_html and mc_reports_html in Chromium: on a phone, on a desktop and on paper, in light and dark, with campaigns of all
// kinds, and with words of others that try to be more than words. test/run has made the campaigns of data.sql.
//
// Screenshots and the printed pages are in SCREENSHOTS (BUILD/browser), for a person to look at.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { mkdirSync, rmSync } from 'node:fs';
import { openTab, query, sizes, start } from './browser.js';

const folder = process.env.SCREENSHOTS;
const report = (campaign) => query(`SELECT mc_report_html(${campaign})`);
const kinds = {
  ordinary: { html: () => report(1), title: 'Spring' },
  hostile: { html: () => report(2), title: query('SELECT btrim(words(2, 0, 4, 1))', { as: 'postgres' }) },
  large: { html: () => report(4), title: 'Everybody' },
  nobody: { html: () => report(5), title: 'Nobody' },
  'not-asked-yet': { html: () => report(6), title: 'Just sent' },
  draft: { html: () => report(7), title: 'Draft' },
  failed: { html: () => report(8), title: 'Failed' },
  overview: { html: () => query('SELECT mc_reports_html()'), title: 'Campaigns' },
  'overview-empty': { html: () => query('SELECT mc_reports_html()', { as: 'nell' }), title: 'Campaigns' },
};
// What can go wrong depends little on size and colours together: all pairs for one kind, each size and each scheme for the others.
const some = [['phone', 'light'], ['desktop', 'dark'], ['paper', 'light']];
const all = [...some, ['phone', 'dark'], ['desktop', 'light'], ['paper', 'dark']];
let browser;
let tab;

before(async () => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  browser = await start();
  tab = await openTab(browser);
});
after(() => browser?.close());

// What is wider than the page, or cut off at the side. What scrolls within a region of its own that can be reached by key is neither.
function overflowing() {
  const width = document.documentElement.clientWidth;
  const name = (element) => `<${element.localName} class="${element.getAttribute('class') ?? ''}"> ${element.textContent.slice(0, 40)}`;
  const scrolls = (element) => ['auto', 'scroll'].includes(getComputedStyle(element).overflowX) && element.tabIndex === 0;
  const inside = (element) => element && (scrolls(element) || inside(element.parentElement));
  const found = document.documentElement.scrollWidth > width ? [`the page is ${document.documentElement.scrollWidth} wide, not ${width}`] : [];
  for (const element of document.body.querySelectorAll('*')) {
    const box = element.getBoundingClientRect();
    if ((box.right > width + 0.5 || box.left < -0.5) && !inside(element.parentElement)) found.push(`beyond the side: ${name(element)}`);
    if (getComputedStyle(element).overflowX === 'hidden' && element.scrollWidth > element.clientWidth) found.push(`cut off: ${name(element)}`);
  }
  return found.slice(0, 5);
}

// Words in so narrow a column that they can hardly be read.
function squeezed() {
  return [...document.querySelectorAll('th, td, dd')].filter((cell) => cell.textContent.length >= 20 && cell.checkVisibility()
    && cell.getBoundingClientRect().width < 100).map((cell) => `${Math.round(cell.getBoundingClientRect().width)} wide: ${cell.textContent}`).slice(0, 5);
}

// Bars and columns whose colour stands out less than 3:1 against what is behind them (WCAG 1.4.11); axe-core looks at text only.
function faint() {
  const channels = (colour, n = 3) => colour.match(/[\d.]+/g).slice(0, n).map(Number);
  const light = (colour) => channels(colour).map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const colour = getComputedStyle(element).backgroundColor;
    return channels(colour, 4)[3] === 0 && element.parentElement ? behind(element.parentElement) : colour;
  };
  const ratio = (one, other) => (Math.max(light(one), light(other)) + 0.05) / (Math.min(light(one), light(other)) + 0.05);
  const shapes = [...document.querySelectorAll('svg rect:not(.track)')].filter((shape) => shape.checkVisibility());
  return [...new Set(shapes.filter((shape) => ratio(getComputedStyle(shape).fill, behind(shape)) < 3)
    .map((shape) => `${shape.getAttribute('class')} ${getComputedStyle(shape).fill} on ${behind(shape)}`))];
}

for (const [kind, { html, title }] of Object.entries(kinds)) {
  test(`${kind} (N16)`, async (t) => {
    const text = html();

    await t.test('is small', () => assert.ok(Buffer.byteLength(text) < 200_000, `${Buffer.byteLength(text)} bytes`));
    for (const [size, scheme] of kind === 'ordinary' ? all : some) {
      await t.test(`${size}, ${scheme}: fits, says nothing, asks for nothing, is accessible`, async () => {
        await tab.show(text, size, scheme);
        assert.equal((await tab.page.title()).replace(/\s+/g, ' ').slice(0, 60), title.replace(/\s+/g, ' ').slice(0, 60));
        assert.deepEqual(await tab.page.evaluate(overflowing), []);
        assert.deepEqual(await tab.page.evaluate(squeezed), []);
        assert.deepEqual(await tab.page.evaluate(faint), []);
        if (size !== 'paper') await tab.page.screenshot({ path: `${folder}/${kind}-${size}-${scheme}.png`, fullPage: true });
        else if (scheme === 'light') await tab.page.pdf({ path: `${folder}/${kind}.pdf`, format: 'A4', margin: { top: '1cm', bottom: '1cm', left: '1cm', right: '1cm' } });
        for (const details of await tab.page.locator('details > summary:visible').all()) await details.click();
        assert.deepEqual(await tab.page.evaluate(overflowing), []);
        assert.deepEqual(tab.noted.splice(0), []);
        const { violations, undecided, passed } = await tab.accessibility();
        assert.deepEqual(violations, []);
        assert.deepEqual(undecided, []);
        assert.ok(passed > 10, `${passed} rules`);
      });
    }
  });
}

// What is only words has no elements and no attributes: the page of hostile words is built like that of harmless ones.
test('hostile words are words (N16)', async (t) => {
  // as if the page allowed itself everything: it is the escaping that must hold
  const open = await openTab(browser, { bypassCSP: true });
  const shape = () => [...document.querySelectorAll('*')].map((element) => [element.localName, ...element.getAttributeNames()].join(' '));
  const words = JSON.parse(query('SELECT json_agg(hostile ORDER BY n) FROM word', { as: 'postgres' }));
  const links = JSON.parse(query('SELECT json_agg(link ORDER BY n) FROM link', { as: 'postgres' }));
  const plain = (text) => text.replace(/[\x01-\x20\x7f\u00a0]+/g, ' ').trim();
  const everything = () => open.page.evaluate(() => {
    for (const element of document.querySelectorAll('*')) {
      for (const type of ['mouseover', 'focus', 'click', 'load', 'error', 'toggle', 'animationstart', 'beginEvent']) {
        if (element.localName !== 'a' && element.localName !== 'summary') element.dispatchEvent(new Event(type));
      }
    }
  });
  const shapes = [];

  for (const [name, campaign] of [['hostile', 2], ['harmless', 3]]) {
    await open.show(report(campaign));
    shapes.push(await open.page.evaluate(shape));
    await t.test(`${name}: every element but no handler is touched, and nothing happens`, async () => {
      await everything();
      assert.equal(await open.page.evaluate(() => window.pwned), undefined);
      assert.deepEqual(open.noted.splice(0), []);
    });
  }
  await t.test('both have the same elements and attributes', () => assert.deepEqual(shapes[0], shapes[1]));

  await open.show(report(2));
  const text = plain(await open.page.evaluate(() => document.body.textContent));
  const title = plain(await open.page.title());
  for (const [n, word] of words.entries()) {
    await t.test(`shown as it is: ${JSON.stringify(plain(word).slice(0, 60))}`, () => (
      assert.ok(text.includes(plain(word).slice(0, 60)), `word ${n}`)));
  }
  await t.test('the title is words, too', () => assert.equal(title, plain(`${words[0]}${words[4]}${words[1]}`)));
  await t.test('what is no web address is no link, javascript: least of all', async () => {
    const found = await open.page.locator('#links ~ * a').evaluateAll((all) => all.map((a) => a.getAttribute('href')));
    assert.deepEqual(found, links.filter((link) => link.is_link).map((link) => link.hostile));
    const protocols = await open.page.locator('a').evaluateAll((all) => all.map((a) => a.protocol + a.target + a.rel));
    assert.deepEqual([...new Set(protocols)], ['https:noopener noreferrer nofollow']);
  });
  await t.test('in the overview, too', async () => {
    await open.show(kinds.overview.html());
    await everything();
    assert.equal(await open.page.evaluate(() => window.pwned), undefined);
    assert.deepEqual(open.noted.splice(0), []);
    const rows = await open.page.locator('tbody tr').evaluateAll((all) => all.map((row) => [...row.querySelectorAll('*')].map((one) => (
      [one.localName, ...one.getAttributeNames()].join(' '))).join()));
    const names = await open.page.locator('tbody th').allTextContents();
    const row = (name) => rows[names.findIndex((one) => plain(one).startsWith(name))];
    assert.ok(row('Hostile'));
    assert.equal(row('Hostile'), row('Harmless'));
  });
  await t.test('the name of a time zone, which anybody can set, is words', async () => {
    await open.show(query('SELECT mc_report_html(1)', { settings: '-c TimeZone=<img/src=x>+3' }));
    assert.match(await open.page.locator('footer').textContent(), /<img\/src=x>/i);
    assert.deepEqual(open.noted.splice(0), []);
  });
  await open.close();
});

test('should anything slip through, the page forbids it (N16)', async () => {
  const evil = '<script>window.pwned = 1</script><img src="http://evil.example/x" onerror="window.pwned = 2"><iframe src="http://evil.example/"></iframe>'
    + '<link rel="stylesheet" href="http://evil.example/x.css"><form action="http://evil.example/"><button id="go">x</button></form>'
    + '<svg><image href="http://evil.example/y"/></svg><style>@import "http://evil.example/z"; footer { background: url(http://evil.example/b) }</style>';
  await tab.show(report(1).replace('</footer>', `</footer>${evil}`));
  await tab.page.evaluate(() => document.getElementById('go').click());
  assert.equal(await tab.page.evaluate(() => window.pwned), undefined);
  // it says so when it gets round to it
  for (const end = Date.now() + 60_000; tab.noted.length < 6 && Date.now() < end;) await tab.page.waitForTimeout(50);
  const noted = tab.noted.splice(0);
  assert.deepEqual(noted.filter((one) => !one.startsWith('console ')), []);
  assert.ok(noted.length >= 6, 'and Chromium says what it did not do');
});

test('without JavaScript everything can be read (N16)', async () => {
  const plain = await openTab(browser, { javaScriptEnabled: false });
  for (const kind of ['ordinary', 'overview']) {
    const text = kinds[kind].html();
    await tab.show(text);
    await plain.show(text);
    assert.equal(await plain.page.innerText('body'), await tab.page.innerText('body'));
    assert.ok((await plain.page.innerText('body')).length > 1000);
  }
  await plain.show(report(1));
  assert.equal(await plain.page.getByRole('columnheader', { name: 'from' }).isVisible(), false);
  await plain.page.locator('summary').first().click();
  assert.equal(await plain.page.getByRole('columnheader', { name: 'from' }).isVisible(), true, 'the table behind the chart can be opened');
  await plain.close();
});

test('the way to the report at Mailchimp is a link, and can be gone by key (R107)', async () => {
  await tab.show(report(1));
  const link = tab.page.getByRole('link', { name: 'the report at Mailchimp' });
  assert.equal(await link.getAttribute('href'), query('SELECT report_url FROM mc_report WHERE campaign_id = 1'));
  assert.match(await link.getAttribute('href'), /^https:\/\/us6\.admin\.mailchimp\.com\//);
  await tab.page.keyboard.press('Tab');
  assert.ok(await link.evaluate((element) => element === document.activeElement), 'it is the first that the tab key reaches');
});

test('who may see one connection sees no campaign of another (R99)', () => {
  const page = query('SELECT mc_reports_html()', { as: 'nell' });
  assert.match(page, /No campaign was sent yet/);
  assert.throws(() => query('SELECT mc_report_html(1)', { as: 'nell' }), /does not exist|permission denied/);
});
