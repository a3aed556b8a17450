// A server that answers badly, below what the simulator of Mailchimp can do: sockets, headers, compression.
// server.js prints one line, {"http": port, "tls": port, ...}, and ends when its standard input closes.
//
//   http    by path: see answers
//   tls     accepts connections and never says anything
//   upload  reads a little of each request and resets the connection
//   again   answers the first request on a connection, and closes it on each later one
//   header  closes the connection in the middle of the header
//   open    a good header that announces no length, and nothing after it
//   noise   answers with something that is no HTTP
import http from 'node:http';
import net from 'node:net';
import zlib from 'node:zlib';

const json = { 'Content-Type': 'application/json', 'X-Request-Id': 'abc-1' };

const answers = {
  '/ok': (request, response) => response.writeHead(200, json).end('{}'),
  '/length': (request, response) => response.writeHead(200, json).end(String(request.headers['content-length'])),
  '/empty': (request, response) => response.writeHead(204).end(),
  '/gzip': (request, response) =>
    response.writeHead(200, { ...json, 'Content-Encoding': 'gzip' }).end(zlib.gzipSync('x'.repeat(1000000))),
  '/later': (request, response) => setTimeout(() => response.writeHead(429, { 'Retry-After': '7' }).end(), 50),
  '/never': (request, response) => response.writeHead(429, { 'Retry-After': '99999999999' }).end(),
  '/away': (request, response) => response.writeHead(302, { Location: '/ok' }).end(),
  '/odd': (request, response) => response.writeHead(200, { 'Content-Type': 'a\xffb' }).end('{}'),
  '/hang': () => {},
  '/reset': (request) => request.socket.resetAndDestroy(),
  '/cut': (request, response) => {
    response.writeHead(200, { ...json, 'Content-Length': 100 }).write('{"half":');
    setTimeout(() => request.socket.destroy(), 20);
  },
};

const servers = {
  http: http.createServer((request, response) => {
    request.resume().on('end', () => answers[request.url](request, response));
  }),
  tls: net.createServer(),
  upload: net.createServer((socket) => socket.once('data', () => {
    socket.pause();
    setTimeout(() => socket.destroy(), 50);
  })),
  again: net.createServer((socket) => {
    let requests = 0;
    socket.on('data', () => {
      if (++requests === 1) socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}');
      else socket.destroy();
    });
  }),
  header: net.createServer((socket) => socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Le'))),
  open: net.createServer((socket) => socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\n\r\n'))),
  noise: net.createServer((socket) => socket.once('data', () => socket.end('\x00\x01 noise\r\n\r\n'))),
};

const ports = {};
for (const [name, server] of Object.entries(servers)) {
  server.on('connection', (socket) => socket.on('error', () => {}));
  server.listen(0, '127.0.0.1', () => {
    ports[name] = server.address().port;
    if (Object.keys(ports).length === Object.keys(servers).length) console.log(JSON.stringify(ports));
  });
}
process.stdin.resume().on('end', () => process.exit(0));
