/**
 * Measures regrow and its peers in one run; writes docs/BENCHMARKS.md and, if asked, the samples.
 *
 *   sudo scripts/bench/run [--rounds 3] [--seconds 1.5] [--hot-size 256] [--cold-size 512]
 *                          [--only LIST] [--folder DIR] [--markdown PATH] [--json PATH]
 */
import {statfsSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import {parseArgs} from 'node:util';
import {measureCold, measureHot} from './jobs.js';
import {Lab} from './lab.js';
import {measureReady} from './ready.js';
import {renderReport} from './report.js';
import {Results} from './results.js';
import type {Plan} from './tables.js';
import {measureThrough} from './through.js';

const USAGE = `Usage: sudo scripts/bench/run [options]
Measures regrow and its peers, taking turns, and writes medians to docs/BENCHMARKS.md. Takes under
ten minutes and 6 GB of disk with the defaults.
  --rounds N       medians of this many (default 3)
  --seconds S      of one job (default 1.5)
  --hot-size MIB   volume of the hot jobs (default 256)
  --cold-size MIB  volume of the cold jobs (default 512)
  --only LIST      of hot, through, cold, ready, with commas (default all)
  --folder DIR     where stores and backups lie (default /var/tmp)
  --markdown PATH  "-" prints it (default docs/BENCHMARKS.md)
  --json PATH      all samples
`;

const MEASUREMENTS = {
  hot: measureHot,
  through: measureThrough,
  cold: measureCold,
  ready: measureReady,
};
const FREE_BYTES_PER_VOLUME = 10;
const MARKDOWN = fileURLToPath(new URL('../../../docs/BENCHMARKS.md', import.meta.url));

function parse() {
  const {values} = parseArgs({
    options: {
      rounds: {type: 'string', default: '3'},
      seconds: {type: 'string', default: '1.5'},
      'hot-size': {type: 'string', default: '256'},
      'cold-size': {type: 'string', default: '512'},
      only: {type: 'string', default: 'hot,through,cold,ready'},
      folder: {type: 'string', default: '/var/tmp'},
      markdown: {type: 'string', default: MARKDOWN},
      json: {type: 'string'},
      help: {type: 'boolean', short: 'h', default: false},
    },
  });
  const plan: Plan = {
    rounds: positive('--rounds', values.rounds),
    seconds: positive('--seconds', values.seconds),
    hotSize: positive('--hot-size', values['hot-size']) * 2 ** 20,
    coldSize: positive('--cold-size', values['cold-size']) * 2 ** 20,
  };
  const names = values.only.split(',');
  const unknown = names.find((name) => !(name in MEASUREMENTS));
  if (unknown !== undefined)
    throw new Error(`--only takes hot, through, cold and ready, not ${unknown}`);
  return {...values, plan, names: names as (keyof typeof MEASUREMENTS)[]};
}

function positive(flag: string, text: string): number {
  const value = Number(text);
  if (value > 0 && Number.isFinite(value)) return value;
  throw new Error(`${flag} takes a number above 0, not ${text}`);
}

function checkRoom(folder: string, plan: Plan): void {
  const {bavail, bsize} = statfsSync(folder);
  const needed = FREE_BYTES_PER_VOLUME * Math.max(plan.hotSize, plan.coldSize);
  if (bavail * bsize >= needed) return;
  throw new Error(
    `${folder} has ${Math.round((bavail * bsize) / 1e6)} MB free and ` +
      `${Math.round(needed / 1e6)} MB ` +
      'are needed; make room, choose another --folder, or smaller sizes',
  );
}

async function main(): Promise<void> {
  const options = parse();
  if (options.help) return void process.stdout.write(USAGE);
  checkRoom(options.folder, options.plan);
  const results = new Results();
  await using lab = new Lab(options.folder);
  const interrupt = (): void => {
    void lab[Symbol.asyncDispose]().then(() => process.exit(130));
  };
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  for (const name of options.names) {
    const since = performance.now();
    process.stderr.write(`bench: ${name} …\n`);
    await results.attempt(name, () => MEASUREMENTS[name](lab, options.plan, results));
    process.stderr.write(
      `bench: ${name} took ${Math.round((performance.now() - since) / 1000)} s\n`,
    );
  }
  const report = renderReport(results, options.plan);
  if (options.markdown === '-') process.stdout.write(report);
  else writeFileSync(options.markdown, report);
  if (options.json !== undefined) {
    writeFileSync(options.json, `${JSON.stringify({plan: options.plan, ...results}, null, 2)}\n`);
  }
  if (results.failures.length > 0) process.exitCode = 1;
}

try {
  await main();
} catch (error) {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 2;
}
