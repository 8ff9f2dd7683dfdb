/**
 * I3: a process that changes the map is killed, at whatever instruction that hits, and the map it
 * leaves in shared memory can be adopted: each block is in its state before or after the step that
 * was cut short, each mask has the sectors of all steps done, counts add up, and a commit of what
 * counts as changed brings the durable map to the one in core.
 */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import test from 'ava';

import {PARTIAL} from '../../src/map/block-state.js';
import {MaskTable} from '../../src/map/mask-table.js';
import {OverwriteMap} from '../../src/map/overwrite-map.js';
import {SharedMemory} from '../../src/native/memory.js';
import {
  differences,
  imageOf,
  STEP_GEOMETRY,
  step,
  type StepImage,
  type StepTarget,
} from '../support/map-steps.js';
import {makeSteps, openSteps} from '../support/shared-steps.js';
import {plainEnvironment} from '../support/plain-environment.js';

const CHILD = fileURLToPath(new URL('torn-memory-child.js', import.meta.url));
const ROUNDS = 40;
const BLOCKS = STEP_GEOMETRY.blockCount;

/** The same steps where nothing is cut short. */
function twinAfter(seed: number, steps: number): StepTarget {
  const environment = plainEnvironment();
  const map = new OverwriteMap(STEP_GEOMETRY, environment);
  const masks = new MaskTable(STEP_GEOMETRY, environment);
  const twin = {map, masks, durable: new Uint8Array(BLOCKS)};
  for (let index = 0; index < steps; index++) step(twin, seed, index);
  return twin;
}

test('I3: the map is whole whenever the process that changes it is killed', async (t) => {
  t.timeout(240_000);
  let steps = 0;
  let cutShort = 0;
  for (let seed = 1; seed <= ROUNDS; seed++) {
    const memory = SharedMemory.create();
    const {journal} = makeSteps(memory);
    const child = spawn(process.execPath, [CHILD, String(seed)], {
      stdio: ['ignore', 'pipe', 'inherit', memory.fd],
    });
    await once(child.stdout ?? child, 'data');
    await sleep(seed % 4 === 0 ? 60 : (seed % 8) * 2);
    child.kill('SIGKILL');
    await once(child, 'exit');
    const [begun = 0, done = 0] = journal;
    steps += done;
    cutShort += begun - done;
    const {target} = openSteps(memory);
    if (typeof target === 'string') {
      t.fail(`round ${seed}, step ${begun}: ${target}`);
      continue;
    }
    target.map.selfCheck();
    t.is(target.masks.count, target.map.count(PARTIAL));
    const twins = [twinAfter(seed, done), twinAfter(seed, begun)].map((twin) => imageOf(twin));
    t.deepEqual(differences(target, twins[0] as StepImage, twins[1] as StepImage), []);
    for (const run of target.map.takeChanges()) {
      target.durable.fill(run.state, run.start, run.start + run.count);
    }
    t.is(Buffer.compare(target.durable, imageOf(target).states), 0, `round ${seed}`);
    memory.close();
  }
  t.log(`${ROUNDS} kills, ${cutShort} in the middle of a step, after ${steps} steps`);
  t.true(cutShort > ROUNDS / 4 && steps > ROUNDS);
});
