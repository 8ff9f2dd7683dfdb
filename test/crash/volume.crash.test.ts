/**
 * The volume under crashes: at every event of a deterministic workload, with every kind of loss
 * among unsynced sectors of store and map (all, none, a prefix, single requests, torn sectors) and
 * with the death of the process, its memory lost or taken over, recovery gives
 *
 *   I2   no bytes nobody wrote: what the map says is in the store is there
 *   I3   flushed writes, whole; after a take-over all acknowledged ones
 *   I9   per sector the last flushed bytes or later written ones
 *   I11  copied blocks that are what the source holds
 */
import test from 'ava';
import {Prng} from '../../src/base/prng.js';
import {KiB, SECTOR} from '../../src/base/units.js';
import {CUT_MODES} from '../../src/wrap/cut.js';
import {Guest} from '../support/simulation/guest.js';
import {checkCopied} from '../support/simulation/check-copied.js';
import {World, type CrashChoice} from '../support/simulation/world.js';
import {randomConfig, type WorldConfig} from '../support/simulation/world-config.js';

const EVENTS = 260;

/** Losses that are tried at every event; random ones are added. */
const ALWAYS: readonly CrashChoice[] = [
  {kind: 'power cut', storeMode: 'none', mapMode: 'all'},
  {kind: 'power cut', storeMode: 'all', mapMode: 'none'},
  {kind: 'power cut', storeMode: 'none', mapMode: 'none'},
  {kind: 'process death'},
  {kind: 'process death', isTakenOver: true},
];

/**
 * A small world in which all protocols run often: tiny log, short commits, stale bytes everywhere.
 */
function smallWorld(seed: number): World {
  const prng = new Prng(seed);
  const config = randomConfig(prng);
  const size = 9 * 4 * KiB - SECTOR;
  const small: WorldConfig = {
    ...config,
    geometry: {size, blockSize: 4 * KiB},
    content: {...config.content, size, cellSize: 4 * KiB, holes: 1},
    tuning: {map: {logBytes: 4 * KiB, intentCountMax: 2, maskCountMax: 16}, commitIntervalMs: 20},
    mapLimits: {logBytes: 4 * KiB, intentCountMax: 2, maskCountMax: 16},
    hasGarbage: true,
    storeLatency: 0.2,
    syncLatency: 0.3,
    sourceLatency: 0.5,
    backup: {...config.backup, mode: 'sync', hasErrors: false},
  };
  return new World(small, prng);
}

/** Comes back from the crash, reads everything twice, and looks at what counts as copied. */
async function recover(world: World, choice: CrashChoice, prng: Prng): Promise<void> {
  const branch = world.branch(choice, prng);
  const volume = await branch.open();
  if (!volume) throw new Error('the volume opens after a crash');
  volume.selfCheck();
  await checkCopied(branch, volume);
  for (let round = 0; round < 2; round++) {
    const everything = Buffer.alloc(volume.size);
    const read = branch.oracle.beginRead(0, volume.size);
    await branch.scheduler.run(volume.read(0, everything));
    branch.oracle.endRead(read, everything);
  }
  branch.life.isAlive = false;
}

for (const seed of [1, 2, 3, 4, 5, 6]) {
  test(`I2, I3, I9, I11: any event, any loss, recovery is right (workload ${seed})`, async (t) => {
    const world = smallWorld(seed);
    await world.create();
    const {prng, oracle, scheduler, trace, always} = world;
    const guest = new Guest({
      prng,
      oracle,
      scheduler,
      trace,
      blockSize: 4 * KiB,
      hotBlocks: 2,
      mayFail: () => false,
    });
    const choices = new Prng(seed + 100);
    let recoveries = 0;
    for (let event = 0; event < EVENTS; event++) {
      const {volume, life} = world;
      if (!volume) break;
      if (event === EVENTS / 2) volume.setHydration({mode: 'full'});
      const weights = {read: 2, write: 6, zeroes: 1, discard: 1, flush: 3};
      if (guest.inFlight.size < 4 && prng.chance(1, 2))
        guest.send(volume, life, prng.weighted(weights));
      scheduler.after(prng.below(8) / 20, always, () => undefined);
      await scheduler.step();
      if (guest.failure !== undefined) throw guest.failure;
      const sampled: CrashChoice = {
        kind: 'power cut',
        storeMode: choices.pick(CUT_MODES),
        mapMode: choices.pick(CUT_MODES),
      };
      for (const choice of [...ALWAYS, sampled]) {
        await recover(world, choice, choices.fork());
        recoveries++;
      }
    }
    world.life.isAlive = false;
    t.is(recoveries, EVENTS * (ALWAYS.length + 1));
  });
}
