// Writing answers, right ones and wrong ones.

import { randomUUID } from 'node:crypto';
import { gzipSync } from 'node:zlib';
import { Problem, titleOf } from './problem.js';

const JSON_TYPE = 'application/json; charset=utf-8';
const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

// A text stays a text: Node then writes head and body in one go.
function compress(res, world, headers, text) {
  if (!world.config.compress || text.length < 1024) return text;
  if (!/\bgzip\b/.test(res.req.headers['accept-encoding'] || '')) return text;
  headers['Content-Encoding'] = 'gzip';
  return gzipSync(text, { level: 1 });
}

// status, body object or undefined for an empty answer.
export function reply(res, world, status, body, more) {
  const headers = { 'X-Request-Id': randomUUID(), ...more };
  if (body === undefined) {
    // 204 has neither a body nor a length.
    res.writeHead(status, headers);
    res.end();
    return;
  }
  const text = compress(res, world, headers, JSON.stringify(body));
  headers['Content-Type'] = status >= 400 ? PROBLEM_TYPE : JSON_TYPE;
  headers['Content-Length'] = Buffer.byteLength(text);
  res.writeHead(status, headers);
  res.end(text);
}

function raw(res, status, type, body, more) {
  const headers = { ...more, 'Content-Length': Buffer.byteLength(body) };
  if (type && !Object.keys(headers).some((name) => name.toLowerCase() === 'content-type')) headers['Content-Type'] = type;
  res.writeHead(status, headers);
  res.end(body);
}

function plannedStatus(res, world, fault) {
  const { status, body, headers } = fault;
  if (fault.json) reply(res, world, status, new Problem(status, titleOf(status), 'Planned by a test.').body(), headers);
  else if (body !== null && typeof body === 'object') raw(res, status, JSON_TYPE, JSON.stringify(body), headers);
  else raw(res, status, 'text/plain', body ?? '', headers);
}

const page = (title) => `<html>\r\n<head><title>${title}</title></head>\r\n<body><center><h1>${title}</h1></center></body>\r\n</html>\r\n`;

function huge(res, bytes) {
  res.writeHead(200, { 'Content-Type': JSON_TYPE });
  const block = `"${'x'.repeat(65534)}",`;
  let left = bytes;
  const more = () => {
    while (left > 0) {
      left -= block.length;
      if (!res.write(block)) {
        res.once('drain', more);
        return;
      }
    }
    res.end('""]}');
  };
  res.write('{"members":[');
  more();
}

function cut(res, answer) {
  const text = Buffer.from(JSON.stringify(answer.body ?? { cut: 'before the end' }));
  res.writeHead(answer.body === undefined ? 200 : answer.status, {
    'Content-Type': JSON_TYPE, 'Content-Length': text.length, 'X-Request-Id': randomUUID(),
  });
  res.write(text.subarray(0, Math.floor(text.length / 2)), () => res.destroy());
}

// Each gets (res, world, fault, answer) and gives the status that went out, or null.
const WRONG = {
  status: (res, world, fault) => { plannedStatus(res, world, fault); return fault.status; },
  bare_429: (res) => { raw(res, 429, null, ''); return 429; },
  bare_403: (res) => { raw(res, 403, 'text/html', 'Forbidden'); return 403; },
  html_502: (res) => { raw(res, 502, 'text/html', page('502 Bad Gateway')); return 502; },
  html_504_after: (res) => { raw(res, 504, 'text/html', page('504 Gateway Time-out')); return 504; },
  reset_before: (res) => { res.destroy(); return null; },
  reset_after: (res) => { res.destroy(); return null; },
  cut: (res, world, fault, answer) => { cut(res, answer); return null; },
  garbage: (res) => { raw(res, 200, JSON_TYPE, '{"total_created": 1, "errors": [}'); return 200; },
  huge: (res, world, fault) => { huge(res, fault.bytes); return 200; },
};

export function wrongReply(res, world, fault, answer) {
  return WRONG[fault.type](res, world, fault, answer);
}
