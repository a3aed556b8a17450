// Errors as Mailchimp writes them: application/problem+json with type, title, status, detail, instance and, for validation,
// errors[] (API.md 3). Handlers throw a Problem; the server turns it into an answer.

import { randomUUID } from 'node:crypto';

const TYPE = 'https://mailchimp.com/developer/marketing/docs/errors/';

export class Problem extends Error {
  constructor(status, title, detail, errors) {
    super(detail);
    this.status = status;
    this.title = title;
    this.detail = detail;
    this.errors = errors;
  }

  body() {
    const out = { type: TYPE, title: this.title, status: this.status, detail: this.detail, instance: randomUUID() };
    if (this.errors) out.errors = this.errors;
    return out;
  }
}

const TITLES = {
  400: 'Bad Request', 401: 'API Key Invalid', 403: 'Forbidden', 404: 'Resource Not Found', 405: 'Method Not Allowed',
  414: 'Resource Nesting Too Deep', 422: 'Invalid Method Override', 426: 'Upgrade Required', 429: 'Too Many Requests',
  500: 'Internal Server Error', 502: 'Bad Gateway', 503: 'Service Unavailable', 504: 'Gateway Timeout',
};

export function titleOf(status) {
  return TITLES[status] || 'Error';
}

export function invalid(errors, detail) {
  return new Problem(400, 'Invalid Resource', detail
    || 'The resource submitted could not be validated. For field-specific details, see the \'errors\' array.', errors);
}

export function invalidField(field, message) {
  return invalid([{ field, message }]);
}

export function badRequest(detail) {
  return new Problem(400, 'Bad Request', detail);
}

export function notFound() {
  return new Problem(404, 'Resource Not Found', 'The requested resource could not be found.');
}

export function methodNotAllowed(detail) {
  return new Problem(405, 'Method Not Allowed', detail
    || 'The requested method and resource are not compatible. See the Allow header for this resource\'s available methods.');
}

export function forbidden(detail) {
  return new Problem(403, 'Forbidden', detail || 'You don\'t have permission to access this resource.');
}

export function tooManyRequests(detail) {
  return new Problem(429, 'Too Many Requests', detail || 'You have exceeded the limit of 10 simultaneous connections.');
}

export function memberExists(email) {
  return new Problem(400, 'Member Exists', `${email} is already a list member. Use PUT to insert or update list members.`);
}

export function complianceState(email) {
  return new Problem(400, 'Member In Compliance State',
    `${email} is in a compliance state due to unsubscribe, bounce, or compliance review and cannot be subscribed.`);
}

export function forgotten(email) {
  return new Problem(400, 'Forgotten Email Not Subscribed',
    `${email} was permanently deleted and cannot be re-imported. The contact must re-subscribe to get back on the list.`);
}
