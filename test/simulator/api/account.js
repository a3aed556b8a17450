// GET / and GET /ping (API.md 5.1).

import { iso } from '../lib/clock.js';
import { FIELDS } from '../lib/query.js';
import * as shapes from './shapes.js';

function root(ctx) {
  const { account, user } = ctx;
  let subscribers = 0;
  for (const list of account.lists.values()) subscribers += list.counts.subscribed;
  return {
    account_id: account.account_id,
    login_id: user.login_id,
    account_name: account.account_name,
    email: account.email,
    first_name: '',
    last_name: '',
    username: account.email,
    avatar_url: '',
    role: user.role,
    member_since: iso(account.created),
    pricing_plan_type: account.pricing_plan_type,
    first_payment: '',
    account_timezone: 'Europe/Amsterdam',
    account_industry: '',
    contact: { company: account.account_name, addr1: '', addr2: '', city: '', state: '', zip: '', country: 'NL' },
    last_login: iso(account.created),
    pro_enabled: account.plan === 'premium',
    industry_stats: { open_rate: 0, bounce_rate: 0, click_rate: 0 },
    total_subscribers: subscribers,
    _links: [],
  };
}

export const routes = [
  { method: 'GET', path: '/', query: FIELDS, shape: shapes.ROOT, handler: root },
  { method: 'GET', path: '/ping', query: FIELDS, shape: shapes.PING, handler: () => ({ health_status: 'Everything\'s Chimpy!' }) },
];
