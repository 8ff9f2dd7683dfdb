/**
 * Whether the laboratory is a toy: each bug of src/base/seeded-bugs.ts, switched on alone, must be
 * found within a minute, and without any the same seeds find nothing.
 */
import test from 'ava';
import {SEEDED_BUGS, type SeededBug} from '../../src/base/seeded-bugs.js';
import {simulate, SimulationError} from '../support/simulation/simulation.js';

const FIND_MAX_MS = 60_000;
/** The same seeds every time, so that a bug found today is found tomorrow. */
const FIRST_SEED = 1000;

interface Found {
  seed: number;
  ms: number;
  message: string;
}

async function hunt(bug: SeededBug): Promise<Found | undefined> {
  const start = performance.now();
  for (let seed = FIRST_SEED; performance.now() - start < FIND_MAX_MS; seed++) {
    try {
      await simulate({seed, bug});
    } catch (error) {
      if (!(error instanceof SimulationError)) throw error;
      return {seed, ms: performance.now() - start, message: error.message};
    }
  }
  return undefined;
}

test.serial(
  'every seeded bug is found within a minute, and without one the same seeds pass',
  async (t) => {
    t.timeout(10 * FIND_MAX_MS);
    let lastSeed = FIRST_SEED;
    for (const bug of Object.keys(SEEDED_BUGS) as SeededBug[]) {
      const found = await hunt(bug);
      t.truthy(found, `${bug} is found`);
      if (!found) continue;
      const {seed, ms, message} = found;
      lastSeed = Math.max(lastSeed, seed);
      t.log(`${bug.padEnd(24)} seed ${seed}  ${(ms / 1000).toFixed(1).padStart(5)} s  ${message}`);
    }
    for (let seed = FIRST_SEED; seed <= lastSeed; seed++) await simulate({seed});
    t.log(`${'none'.padEnd(24)} seeds ${FIRST_SEED} to ${lastSeed} pass`);
  },
);
