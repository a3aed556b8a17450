// Prism between a client and the simulator, behind a recorder that tells Prism's objections from answers of the simulator.

import http from 'node:http';
import { createRequire } from 'node:module';
import { once } from 'node:events';
import { spawn } from 'node:child_process';

function freePort() {
  return new Promise((resolve) => {
    const server = http.createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address();
      server.close(() => resolve(port));
    });
  });
}

// Starts Prism before a server; ends with its message if it does not come up.
export async function startPrism(folder, description, upstream) {
  const port = await freePort();
  const main = createRequire(`${folder}/package.json`).resolve('@stoplight/prism-cli/dist/index.js');
  const child = spawn(process.execPath, [main, 'proxy', description, upstream, '--errors', '-h', '127.0.0.1', '-p', port], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let said = '';
  await new Promise((resolve, reject) => {
    child.stdout.on('data', (text) => {
      said = (said + text).slice(-4000);
      if (said.includes('Prism is listening')) resolve();
    });
    child.on('exit', () => reject(new Error(`Prism ended: ${said}`)));
  });
  return { url: `http://127.0.0.1:${port}`, stop: () => { child.kill(); return once(child, 'exit'); } };
}

// Prism's own errors, and no other's, have this in their type.
const OURS = /stoplight\.io\/prism\/errors#(\w+)/;

// Passes everything on to Prism and notes what it objected to: { objection, method, path, validation }.
export function startRecorder(upstream) {
  const agent = new http.Agent({ keepAlive: true });
  const seen = { requests: 0, objections: [] };
  const server = http.createServer((req, res) => {
    const out = http.request(upstream + req.url, { method: req.method, headers: req.headers, agent }, (answer) => {
      const chunks = [];
      answer.on('data', (chunk) => chunks.push(chunk));
      answer.on('end', () => {
        const body = Buffer.concat(chunks);
        const found = OURS.exec(body.toString('latin1'));
        seen.requests += 1;
        if (found) {
          seen.objections.push({
            objection: found[1], method: req.method, path: req.url.split('?')[0], validation: JSON.parse(body).validation,
          });
        }
        const headers = { ...answer.headers };
        delete headers['transfer-encoding'];
        res.writeHead(answer.statusCode, answer.statusCode === 204 ? headers : { ...headers, 'content-length': body.length });
        res.end(body);
      });
    });
    out.on('error', () => res.destroy());
    req.pipe(out);
  });
  server.keepAliveTimeout = 0;
  return new Promise((resolve) => {
    server.listen(0, '127.0.0.1', () => resolve({
      url: `http://127.0.0.1:${server.address().port}`,
      seen,
      stop: () => { agent.destroy(); server.close(); server.closeAllConnections(); },
    }));
  });
}
