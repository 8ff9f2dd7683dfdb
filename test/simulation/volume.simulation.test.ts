/**
 * The whole volume under seeded chance: seeds that once failed always run, new ones until they have
 * taken a million steps (REGROW_SIM_STEPS; SIM_SEED starts at a seed of one's choice).
 *
 *   to replay a failure:  node dist/test/simulation/run.js --seed N --trace
 */
import {randomInt} from 'node:crypto';
import test, {type ExecutionContext} from 'ava';
import {simulate, SimulationError} from '../support/simulation/simulation.js';

/** Seeds that found something once: in the volume or in the laboratory. */
const ONCE_FAILED = [3, 9, 27, 88, 108, 109, 338, 1050, 1100, 60_539, 100_049];

const stepsWanted = Number(process.env['REGROW_SIM_STEPS'] ?? 1e6);

/** Runs a seed; a failure shows the end of the trace and how to replay it. */
async function runSeed(t: ExecutionContext, seed: number): Promise<number> {
  try {
    return (await simulate({seed})).steps;
  } catch (error) {
    if (error instanceof SimulationError) {
      t.log(error.trace);
      t.log(`replay: node dist/test/simulation/run.js --seed ${seed} --trace`);
    }
    throw error;
  }
}

for (const seed of ONCE_FAILED) {
  test(`seed ${seed}, which once failed, passes`, async (t) => {
    t.true((await runSeed(t, seed)) > 0);
  });
}

test('the same seed takes the same steps', async (t) => {
  t.deepEqual(await simulate({seed: 4}), await simulate({seed: 4}));
});

test('a million steps of new seeds find nothing', async (t) => {
  t.timeout(15 * 60_000);
  const first = Number(process.env['SIM_SEED'] ?? randomInt(1, 2 ** 40));
  const start = performance.now();
  let steps = 0;
  let seed = first;
  for (; steps < stepsWanted; seed++) steps += await runSeed(t, seed);
  const rate = Math.round(steps / ((performance.now() - start) / 1000));
  t.log(`seeds ${first} to ${seed - 1}: ${steps} steps, ${rate} a second`);
  t.true(steps >= stepsWanted);
});
