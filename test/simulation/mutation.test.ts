/**
 * Whether the laboratory is a toy: each bug of src/base/seeded-bugs.ts, switched on alone, must be
 * found within a minute of processor time (other tests may run beside this one), and without any
 * the same seeds find nothing.
 */
import test from 'ava';
import {SEEDED_BUGS, type SeededBug} from '../../src/base/seeded-bugs.js';
import {simulate, SimulationError} from '../support/simulation/simulation.js';
import type {WorldConfig} from '../support/simulation/world-config.js';

const FIND_MAX_MS = 60_000;
/** The same seeds every time, so that a bug found today is found tomorrow. */
const FIRST_SEED = 1000;

interface Found {
  seed: number;
  ms: number;
  message: string;
}

/** Bugs of the volume alone: looked for without a backup, and with more crashes. */
const OF_THE_VOLUME: ReadonlySet<SeededBug> = new Set<SeededBug>([
  'no-barrier-before-map',
  'dirty-set-after-sync',
  'late-install',
  'no-intent-mark',
  'mask-not-committed',
  'ack-before-map-sync',
  'zero-settled-early',
  'memory-not-adopted',
  'taken-changes-forgotten',
]);

const OF_THE_BACKUP: ReadonlySet<SeededBug> = new Set<SeededBug>([
  'backlog-after-data',
  'reconnect-set-lost',
  'trim-for-zeroes',
  'strict-parallel-legs',
  'zombie-write',
]);

/** A world of the seed in which a bug has more to do. */
function alone(config: WorldConfig): WorldConfig {
  const {backup, guest} = config;
  const weights = {...guest.weights, crash: 3, backup: 0, decay: 0, replace: 0};
  return {...config, backup: {...backup, mode: 'off'}, guest: {...guest, weights}};
}

/** A world with a busy writer whose backup is seldom left alone. */
function busy(config: WorldConfig): WorldConfig {
  const {backup, guest} = config;
  const weights = {...guest.weights, write: 60, backup: 6, crash: 3, decay: 0, replace: 0};
  return {
    ...config,
    backup: {...backup, mode: backup.mode === 'strict' ? 'strict' : 'sync'},
    guest: {...guest, inFlightMax: 16, weights},
  };
}

type Adjust = (config: WorldConfig) => WorldConfig;

const unchanged: Adjust = (config) => config;

function worldsFor(bug: SeededBug): Adjust {
  if (OF_THE_VOLUME.has(bug)) return alone;
  return OF_THE_BACKUP.has(bug) ? busy : unchanged;
}

/** Milliseconds of processor time this process has used. */
function processorMs(): number {
  const {user, system} = process.cpuUsage();
  return (user + system) / 1000;
}

async function hunt(bug: SeededBug): Promise<Found | undefined> {
  const start = processorMs();
  for (let seed = FIRST_SEED; processorMs() - start < FIND_MAX_MS; seed++) {
    try {
      await simulate({seed, bug, adjust: worldsFor(bug)});
    } catch (error) {
      if (!(error instanceof SimulationError)) throw error;
      return {seed, ms: processorMs() - start, message: error.message};
    }
  }
  return undefined;
}

test.serial(
  'every seeded bug is found within a minute, and without one the same seeds pass',
  async (t) => {
    t.timeout(20 * FIND_MAX_MS);
    const lastSeeds = new Map<Adjust, number>([[unchanged, FIRST_SEED]]);
    for (const bug of Object.keys(SEEDED_BUGS) as SeededBug[]) {
      const found = await hunt(bug);
      t.truthy(found, `${bug} is found`);
      if (!found) continue;
      const {seed, ms, message} = found;
      const adjust = worldsFor(bug);
      lastSeeds.set(adjust, Math.max(lastSeeds.get(adjust) ?? FIRST_SEED, seed));
      t.log(`${bug.padEnd(24)} seed ${seed}  ${(ms / 1000).toFixed(1).padStart(5)} s  ${message}`);
    }
    for (const [adjust, lastSeed] of lastSeeds) {
      for (let seed = FIRST_SEED; seed <= lastSeed; seed++) await simulate({seed, adjust});
      t.log(`${'none'.padEnd(24)} seeds ${FIRST_SEED} to ${lastSeed} pass`);
    }
  },
);
