// Chromium for the tests of the pages: every page is served from memory, below an address that does not exist, and whatever else
// it does is noted: requests, words on the console, dialogs, errors, other windows.

import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { chromium } from 'playwright-core';

const axe = readFileSync(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');
const origin = 'http://reports.example';

// How long anything may take, in milliseconds, on a busy machine.
const patience = 120_000;

// What statements return, as a role, in the cluster that test/run has started.
export function query(sql, { as = 'ron', settings = '' } = {}) {
  return execFileSync('psql', ['-XqAt', '-v', 'ON_ERROR_STOP=1', '-U', as, '-d', 'postgres'], {
    input: sql, encoding: 'utf8', maxBuffer: 1e8, env: { ...process.env, PGOPTIONS: settings },
  }).replace(/\n$/, '');
}

// In a container there are neither name spaces for a sandbox nor much of /dev/shm. As it says itself, nothing is fetched.
export function start() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM,
    timeout: patience,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync'],
  });
}

// A4 without margins of 1 cm, in CSS pixels
export const sizes = {
  phone: { width: 360, height: 800 },
  desktop: { width: 1280, height: 900 },
  paper: { width: 718, height: 1047, media: 'print' },
};

// Opens pages in one context and size after size; done says what they did beside being shown.
export async function openTab(browser, options = {}) {
  const context = await browser.newContext({ locale: 'en-GB', timezoneId: 'UTC', ...options });
  context.setDefaultTimeout(patience);
  const page = await context.newPage();
  const noted = [];
  let html = '';

  context.on('page', (other) => { if (other !== page) noted.push(`window ${other.url()}`); });
  await context.route('**', (route) => {
    const url = route.request().url();
    if (url === `${origin}/report`) return route.fulfill({ contentType: 'text/html; charset=utf-8', body: html });
    noted.push(`request ${url}`);
    return route.abort();
  });
  page.on('console', (message) => noted.push(`console ${message.text()}`));
  page.on('pageerror', (error) => noted.push(`error ${error.message}`));
  page.on('dialog', (dialog) => { noted.push(`dialog ${dialog.message()}`); return dialog.dismiss(); });

  return {
    page,
    noted,
    async show(text, size = 'desktop', colorScheme = 'light') {
      html = text;
      await page.setViewportSize({ width: sizes[size].width, height: sizes[size].height });
      await page.emulateMedia({ media: sizes[size].media ?? 'screen', colorScheme });
      await page.goto(`${origin}/report`);
    },
    // What axe-core objects to, and what it could not decide; what is scrolled away to the side it cannot.
    async accessibility() {
      await page.evaluate(axe);
      return page.evaluate(async () => {
        const words = ({ id, nodes }) => nodes.map((node) => `${id}: ${node.html.slice(0, 200)} ${node.failureSummary}`);
        const away = ({ target }) => [...document.querySelectorAll('[role=region]')].some((region) => (
          region.scrollWidth > region.clientWidth && region.contains(document.querySelector(target[0]))));
        const found = await axe.run(document, { resultTypes: ['violations', 'incomplete'], rules: { 'target-size': { enabled: true } } });
        return {
          violations: found.violations.flatMap(words),
          undecided: found.incomplete.map(({ id, nodes }) => ({ id, nodes: nodes.filter((node) => !away(node)) })).flatMap(words),
          passed: found.passes.length,
        };
      });
    },
    close: () => context.close(),
  };
}
