// Batch operations: start, list, look, stop (API.md 5.10).

import { addBatch, batchesOf, deleteBatch, resultUrl, totalOf } from '../lib/batches.js';
import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page } from '../lib/query.js';
import { any, arr, map, obj, oneOf, str } from '../lib/schema.js';
import { invalidField, notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';

const OPERATION = obj({
  method: oneOf('GET', 'POST', 'PUT', 'PATCH', 'DELETE'), path: str(), params: map(any()), body: str(), operation_id: str(),
  headers: map(any()),
}, ['method', 'path']);
const BODY = obj({ operations: arr(OPERATION) }, ['operations']);

function view(world, batch) {
  return {
    id: batch.id,
    status: batch.status,
    total_operations: totalOf(world, batch),
    finished_operations: batch.results.length,
    errored_operations: batch.errored,
    submitted_at: iso(batch.submitted),
    completed_at: iso(batch.completed),
    response_body_url: resultUrl(world, batch),
    _links: [],
  };
}

function batchOf({ world, account, params }) {
  const batch = world.batches.get(params.batch_id);
  if (!batch || batch.account !== account || batch.deleted) throw notFound();
  return batch;
}

function start(ctx) {
  if (!ctx.body.operations.length) throw invalidField('operations', 'This array must have at least one item');
  return view(ctx.world, addBatch(ctx.world, ctx, ctx.body.operations));
}

function all({ world, account, query }) {
  const found = batchesOf(world, account);
  return { batches: page(found, query).map((batch) => view(world, batch)), total_items: found.length, _links: [] };
}

// A look shows the state as it was, and counts for the next.
function look(ctx) {
  const batch = batchOf(ctx);
  batch.looks += 1;
  return view(ctx.world, batch);
}

export const routes = [
  { method: 'POST', path: '/batches', query: {}, body: BODY, handler: start },
  { method: 'GET', path: '/batches', query: { ...FIELDS, ...PAGE }, shape: shapes.BATCHES, handler: all },
  { method: 'GET', path: '/batches/{batch_id}', query: FIELDS, shape: shapes.BATCH_STATUS, handler: look },
  {
    method: 'DELETE', path: '/batches/{batch_id}', query: {},
    handler: (ctx) => deleteBatch(ctx.world, batchOf(ctx)),
  },
];
