// Templates and sending domains (API.md 5.7).

import { iso } from '../lib/clock.js';
import { FIELDS, PAGE, page, sortBy, within } from '../lib/query.js';
import { notFound } from '../lib/problem.js';
import * as shapes from './shapes.js';

function view(account, template) {
  return {
    id: template.id,
    type: template.type,
    name: template.name,
    drag_and_drop: template.content_type !== 'html',
    responsive: true,
    category: '',
    date_created: iso(template.created),
    date_edited: iso(template.edited),
    created_by: account.account_name,
    edited_by: account.account_name,
    active: template.active,
    folder_id: '',
    thumbnail: '',
    share_url: `https://share.test/${template.id}`,
    content_type: template.content_type,
    _links: [],
  };
}

const SORT = { date_created: 'created', date_edited: 'edited', name: 'name' };

function all(ctx) {
  const q = ctx.query;
  let templates = [...ctx.account.templates.values()].filter((template) => (!q.type || template.type === q.type)
    && (!q.content_type || template.content_type === q.content_type)
    && within(template.created, q.since_date_created, q.before_date_created));
  if (q.sort_field) templates = sortBy(templates, (template) => template[SORT[q.sort_field]], q.sort_dir || 'DESC');
  return {
    templates: page(templates, q).map((template) => view(ctx.account, template)),
    total_items: templates.length,
    _links: [],
  };
}

function templateOf(ctx) {
  const template = ctx.account.templates.get(Number(ctx.params.template_id));
  if (!template) throw notFound();
  return template;
}

function defaultContent(ctx) {
  const template = templateOf(ctx);
  // Templates of the new editor expose no sections.
  if (template.content_type === 'multichannel') return { sections: {}, _links: [] };
  // API.md says text; the vendor's description says an object, so a contract test may ask for that.
  const asObject = ctx.world.config.default_content === 'object';
  const sections = Object.entries(template.sections).map(([name, html]) => [name, asObject ? { html } : html]);
  return { sections: Object.fromEntries(sections), _links: [] };
}

const FREE = /^(gmail|yahoo|hotmail|outlook|aol|icloud)\./;

function domainView(domain) {
  const status = domain.authenticated ? 'AUTHENTICATED' : domain.verified ? 'VERIFIED' : 'VERIFICATION_IN_PROGRESS';
  return {
    domain: domain.domain,
    verified: domain.verified,
    authenticated: domain.authenticated,
    status,
    verification_email: `owner@${domain.domain}`,
    verification_sent: iso(domain.sent),
    is_free_email_provider: FREE.test(domain.domain),
  };
}

function domains(ctx) {
  const found = [...ctx.account.domains.values()].map(domainView);
  return { domains: found, total_items: found.length, _links: [] };
}

function domain(ctx) {
  const found = ctx.account.domains.get(ctx.params.domain_name.toLowerCase());
  if (!found) throw notFound();
  return domainView(found);
}

export const routes = [
  {
    method: 'GET', path: '/templates', shape: shapes.TEMPLATES, handler: all,
    query: {
      ...FIELDS, ...PAGE, since_date_created: 'date', before_date_created: 'date', type: 'text',
      sort_field: ['date_created', 'date_edited', 'name'], sort_dir: ['ASC', 'DESC'],
      content_type: ['html', 'template', 'multichannel'],
    },
  },
  {
    method: 'GET', path: '/templates/{template_id}', query: FIELDS, shape: shapes.TEMPLATE,
    handler: (ctx) => view(ctx.account, templateOf(ctx)),
  },
  {
    method: 'GET', path: '/templates/{template_id}/default-content', query: FIELDS, shape: shapes.DEFAULT_CONTENT,
    handler: defaultContent,
  },
  { method: 'GET', path: '/verified-domains', query: FIELDS, shape: shapes.DOMAINS, handler: domains },
  { method: 'GET', path: '/verified-domains/{domain_name}', query: {}, handler: domain },
];
