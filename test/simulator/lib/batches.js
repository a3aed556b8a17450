// Batch operations (API.md 5.10): a queue per account, of which one batch runs at a time. runBatches() brings them up to the
// clock before anybody looks. What an operation does is the server's business (world.operate), by the code that a
// request of its own goes through.

import { createHash } from 'node:crypto';
import { tooManyRequests } from './problem.js';

export const STATES = ['pending', 'preprocessing', 'started', 'finalizing', 'finished'];
const MAX_PENDING = 500;
const URL_SECONDS = 600;
const KEPT_SECONDS = 7 * 86400;

export function batchesOf(world, account) {
  return [...world.batches.values()].filter((batch) => batch.account === account && !batch.deleted);
}

export function addBatch(world, { account, user, key }, operations) {
  if (batchesOf(world, account).filter(({ status }) => status === 'pending').length >= MAX_PENDING) {
    throw tooManyRequests('There are 500 pending batches already.');
  }
  const batch = {
    id: world.rng.hex(10),
    account,
    user,
    key,
    operations,
    // the journal's number of the request that made it
    request: world.request,
    order: world.rng.shuffle(operations.map((_, i) => i)),
    status: 'pending',
    // ms of the clock: when it was made, when its state began (null: it waits for others), when it was over
    made: world.clock.ms(),
    since: null,
    ended: null,
    submitted: world.now(),
    completed: 0,
    looks: 0,
    done: 0,
    errored: 0,
    results: [],
    deleted: false,
  };
  world.batches.set(batch.id, batch);
  world.touch();
  return batch;
}

// What is done stays done; the results are lost.
export function deleteBatch(world, batch) {
  batch.deleted = true;
  batch.ended ??= world.clock.ms();
  batch.results = [];
  world.touch();
}

function operate(world, batch, count) {
  while (batch.done < count) {
    const operation = batch.operations[batch.order[batch.done]];
    batch.done += 1;
    for (const { status, body } of world.operate(batch, operation)) {
      if (status >= 400) batch.errored += 1;
      batch.results.push({
        status_code: status, operation_id: operation.operation_id, response: body === undefined ? '' : JSON.stringify(body),
      });
    }
  }
}

// The four states before the end share batch_seconds evenly, and operations take their own time; in ms.
function lengthOf(world, batch) {
  const { batch_seconds: seconds, batch_operation_ms: each } = world.config;
  return (seconds * 1000) / 4 + (batch.status === 'started' ? batch.operations.length * each : 0);
}

// As many operations as belong to the time that has passed; then one state further if it is time, and true.
function advance(world, batch, now) {
  const stays = world.config.batch_until === batch.status;
  const looked = world.config.batch_looks > 0 && batch.looks >= world.config.batch_looks;
  const length = lengthOf(world, batch);
  const share = looked || now - batch.since >= length ? 1 : (now - batch.since) / length;
  if (batch.status === 'started') {
    operate(world, batch, Math.floor(batch.operations.length * Math.min(share, stays ? 0.5 : 1)));
  }
  if (stays || share < 1) return false;
  batch.since = looked ? now : batch.since + length;
  batch.looks = 0;
  batch.status = STATES[STATES.indexOf(batch.status) + 1];
  world.touch();
  return true;
}

function run(world, batch, now) {
  while (batch.status !== 'finished' && advance(world, batch, now));
  if (batch.status !== 'finished') return;
  batch.ended = batch.since;
  batch.completed = Math.floor(batch.ended / 1000);
}

export function runBatches(world) {
  const now = world.clock.ms();
  // when an account's queue is free; Infinity: one runs
  const free = new Map();
  for (const batch of world.batches.values()) {
    const from = free.get(batch.account) ?? 0;
    if (batch.ended === null && from < Infinity) {
      batch.since ??= Math.max(from, batch.made);
      run(world, batch, now);
    }
    free.set(batch.account, batch.deleted && batch.since === null ? from : Math.max(from, batch.ended ?? Infinity));
  }
}

export function totalOf(world, batch) {
  const isKnown = STATES.indexOf(batch.status) >= STATES.indexOf('started') || world.config.batch_total === 'at_once';
  // a page that nobody asked for is an operation too
  return isKnown ? batch.operations.length + batch.results.length - batch.done : 0;
}

function signature(world, id, expires) {
  return createHash('sha256').update(`${world.seed} ${id} ${expires}`).digest('hex').slice(0, 20);
}

// "" while there are no results, and when they are kept no longer.
export function resultUrl(world, batch) {
  if (batch.status !== 'finished' || world.now() >= batch.completed + KEPT_SECONDS) return '';
  const expires = world.now() + URL_SECONDS;
  return `${world.origin}/_storage/${batch.id}-response.tar.gz?Expires=${expires}&Signature=${signature(world, batch.id, expires)}`;
}

// The batch whose results such an address gives now, or null.
export function batchOfUrl(world, path, query) {
  const [, id] = /^\/_storage\/([0-9a-f]+)-response\.tar\.gz$/.exec(path) || [];
  const { Expires: expires, Signature: sign } = Object.fromEntries(new URLSearchParams(query));
  const batch = world.batches.get(id);
  if (!batch || batch.deleted || sign !== signature(world, id, expires) || world.now() > Number(expires)) return null;
  return batch;
}
