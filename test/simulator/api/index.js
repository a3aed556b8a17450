// All routes that the simulator was taught, relative to /3.0.

import { routes as account } from './account.js';
import { routes as lists } from './lists.js';
import { routes as batch } from './batch_subscribe.js';
import { routes as batches } from './batches.js';
import { routes as members } from './members.js';
import { routes as tags } from './tags.js';
import { routes as mergeFields } from './merge_fields.js';
import { routes as segments } from './segments.js';
import { routes as templates } from './templates.js';
import { routes as campaigns } from './campaigns.js';
import { routes as actions } from './campaign_actions.js';
import { routes as reports } from './reports.js';
import { routes as webhooks } from './webhooks.js';

export const routes = [
  ...account, ...lists, ...batch, ...batches, ...members, ...tags, ...mergeFields, ...segments, ...templates, ...campaigns, ...actions,
  ...reports, ...webhooks,
];
