// Starts the simulator: node main.js [--port N] [--seed N] [--port-file FILE] [--exit-with-stdin]. See README.md.

import { renameSync, writeFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { Simulator } from './server.js';

const { values } = parseArgs({
  options: {
    port: { type: 'string', default: '0' },
    seed: { type: 'string', default: '1' },
    'port-file': { type: 'string' },
    'exit-with-stdin': { type: 'boolean', default: false },
  },
});

const simulator = new Simulator({ seed: Number(values.seed) });

function stop() {
  simulator.close();
  process.exit(0);
}

process.on('SIGTERM', stop);
process.on('SIGINT', stop);
if (values['exit-with-stdin']) {
  // A test that dies takes the simulator along: the system closes the pipe.
  process.stdin.on('end', stop).on('close', stop).on('error', stop);
  process.stdin.resume();
}

const port = await simulator.listen(Number(values.port));
if (values['port-file']) {
  // Whoever waits for the file must never read half of it.
  writeFileSync(`${values['port-file']}.tmp`, `${port}\n`);
  renameSync(`${values['port-file']}.tmp`, values['port-file']);
}
process.stdout.write(`listening on http://127.0.0.1:${port}\n`);
