// A picture of a page, as the README shows one: node screenshot.js PAGE PICTURE [HEIGHT], after "make demo" for example
//
//   node test/browser/screenshot.js build/report.html docs/images/report.png 1000

import { readFileSync } from 'node:fs';
import { openTab, start } from './browser.js';

const [from, to, height = '1000'] = process.argv.slice(2);
if (!to) throw new Error('usage: screenshot.js PAGE PICTURE [HEIGHT]');
const browser = await start();
const tab = await openTab(browser, { deviceScaleFactor: 1 });
await tab.show(readFileSync(from, 'utf8'));
await tab.page.setViewportSize({ width: 1120, height: Number(height) });
await tab.page.screenshot({ path: to });
await browser.close();
