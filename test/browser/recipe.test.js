// The script of docs/guide.md that writes the pages as files; the rest of that recipe is SQL, which test/t/071_guide.pl plays.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';
import { query } from './browser.js';

const folder = `${process.env.BUILD}/browser-files`;
const [, script] = readFileSync(new URL('../../docs/guide.md', import.meta.url), 'utf8').match(/^```sh\n(#!\/bin\/sh\n.*?)^```$/ms);
const run = () => execFileSync('sh', ['-c', script, 'report_pages', folder], { env: { ...process.env, PGUSER: 'ron', PGDATABASE: 'postgres' } });

test('the overview and a page for each campaign with figures, none of them half written (N16)', () => {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  run();
  const wanted = query('SELECT campaign_id FROM mc_report WHERE polled_at IS NOT NULL').split('\n').map((id) => `${id}.html`).concat('index.html');
  assert.deepEqual(readdirSync(folder).sort(), wanted.sort());
  assert.equal(readFileSync(`${folder}/1.html`, 'utf8').trim(), query('SELECT mc_report_html(1)').trim());
  assert.equal(readFileSync(`${folder}/index.html`, 'utf8').trim(), query('SELECT mc_reports_html()').trim());
});

// 1: asked and read a day ago; 4: read to its end since the page was written; 5: asked since then
test('only what is new is written again', () => {
  for (const id of [1, 4, 5]) writeFileSync(`${folder}/${id}.html`, 'old');
  query(`UPDATE mailchimp_sync.report SET polled_at = now() + CASE campaign_id WHEN 5 THEN interval '1 day' ELSE interval '-1 day' END
    WHERE campaign_id IN (1, 4, 5);
    UPDATE mailchimp_sync.campaign SET last_polled_at = now() + CASE campaign_id WHEN 4 THEN interval '1 day' ELSE interval '-1 day' END
    WHERE campaign_id IN (1, 4, 5)`, { as: 'postgres' });
  const before = statSync(`${folder}/index.html`).ino;
  run();
  assert.equal(readFileSync(`${folder}/1.html`, 'utf8'), 'old');
  for (const id of [4, 5]) assert.match(readFileSync(`${folder}/${id}.html`, 'utf8'), /^<!DOCTYPE html>/);
  assert.notEqual(statSync(`${folder}/index.html`).ino, before);
});
