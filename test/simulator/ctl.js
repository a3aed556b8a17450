// The control interface for shell and Perl: node ctl.js URL METHOD PATH [JSON]. Prints the answer's JSON on one line; the
// exit status is 1 if the answer was no 2xx, 2 if there was none.

const [url, method, path, body] = process.argv.slice(2);

if (!path) {
  process.stderr.write('usage: node ctl.js URL METHOD PATH [JSON]\n');
  process.exit(2);
}

try {
  const answer = await fetch(url.replace(/\/$/, '') + path, {
    method: method.toUpperCase(),
    body,
    headers: body === undefined ? {} : { 'Content-Type': 'application/json' },
  });
  process.stdout.write(`${(await answer.text()).trim()}\n`);
  process.exitCode = answer.ok ? 0 : 1;
} catch (error) {
  process.stderr.write(`${error.cause?.message || error.message}\n`);
  process.exitCode = 2;
}
