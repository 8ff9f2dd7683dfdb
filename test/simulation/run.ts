/**
 * The simulation from the command line:
 *
 *   node dist/test/simulation/run.js [--seed N] [--steps N] [--seconds S] [--count N] [--bug NAME]
 *   [--trace] [--progress]
 *
 * --progress names each seed as it begins: a run that spins for ever is then known.
 * Without --count and --seconds it runs the one seed; env SIM_SEED is the default of --seed. It
 * ends with 1 at the first failure, after printing the seed and the trace.
 */
import {parseArgs} from 'node:util';
import {SEEDED_BUGS, type SeededBug} from '../../src/base/seeded-bugs.js';
import {simulate, SimulationError} from '../support/simulation/simulation.js';

const {values} = parseArgs({
  options: {
    seed: {type: 'string', default: process.env['SIM_SEED'] ?? '1'},
    steps: {type: 'string', default: '1500'},
    seconds: {type: 'string'},
    count: {type: 'string'},
    bug: {type: 'string'},
    trace: {type: 'boolean', default: false},
    progress: {type: 'boolean', default: false},
  },
});

function isSeededBug(name: string): name is SeededBug {
  return Object.hasOwn(SEEDED_BUGS, name);
}

const bug = values.bug;
if (bug !== undefined && !isSeededBug(bug)) {
  process.stderr.write(`--bug is one of ${Object.keys(SEEDED_BUGS).join(', ')}\n`);
  process.exit(2);
}

const seconds = values.seconds === undefined ? Infinity : Number(values.seconds);
const only = values.seconds === undefined ? 1 : Infinity;
const count = values.count === undefined ? only : Number(values.count);
const start = performance.now();
const total = {runs: 0, steps: 0, requests: 0, crashes: 0};
const elapsed = (): number => (performance.now() - start) / 1000;

try {
  for (let seed = Number(values.seed); total.runs < count && elapsed() < seconds; seed++) {
    if (values.progress) process.stderr.write(`${seed} `);
    const result = await simulate({
      seed,
      steps: Number(values.steps),
      ...(bug ? {bug} : {}),
      ...(values.trace ? {traceMax: 1e6} : {}),
    });
    total.runs++;
    total.steps += result.steps;
    total.requests += result.requests;
    total.crashes += result.crashes;
  }
} catch (error) {
  if (!(error instanceof SimulationError)) throw error;
  const lines = values.trace ? error.trace : error.trace.split('\n').slice(-25).join('\n');
  const cause = error.cause instanceof Error ? (error.cause.stack ?? '') : '';
  process.stdout.write(`${lines}\n${error.message}\n${cause}\n`);
  process.stdout.write(`found after ${elapsed().toFixed(1)} s, ${total.runs} good runs\n`);
  process.exitCode = 1;
}
const rate = Math.round(total.steps / elapsed());
const {runs, steps, requests, crashes} = total;
const sums = `${runs} runs, ${steps} steps, ${requests} writes, ${crashes} crashes`;
process.stdout.write(`${sums} in ${elapsed().toFixed(1)} s: ${rate} steps/s\n`);
