// Control: what was told to webhooks, holding it, telling it again.

import { deliveryView, release, repeat } from '../lib/webhooks.js';

async function deliveries({ sim, world, query }) {
  const found = () => world.deliveries.filter((one) => !query.type || one.type === query.type);
  const enough = () => found().filter((one) => !query.state || one.state === query.state).length >= Number(query.count || 1);
  if (query.wait) await sim.bell.wait(enough, Math.min(Number(query.wait) || 0, 600) * 1000);
  return { deliveries: found().map(deliveryView) };
}

function webhooks({ world, params }) {
  const list = world.lists.get(params.list);
  if (!list) throw new Error(`no list ${params.list}`);
  return { webhooks: [...list.webhooks.values()] };
}

export const routes = [
  { method: 'GET', path: '/deliveries', handler: deliveries },
  { method: 'POST', path: '/deliveries/release', handler: async ({ world, body }) => ({ released: await release(world, body) }) },
  { method: 'POST', path: '/deliveries/repeat', handler: ({ world, body }) => ({ n: repeat(world, body.n) }) },
  { method: 'GET', path: '/webhooks/{list}', handler: webhooks },
];
