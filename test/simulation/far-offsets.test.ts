/**
 * A volume of 2^45 bytes and a bit: work, crashes and recovery around 2^31, 2^32, 2^45 and its end.
 */
import test from 'ava';
import {Prng} from '../../src/base/prng.js';
import {MiB} from '../../src/base/units.js';
import {CUT_MODES} from '../../src/wrap/cut.js';
import {Guest} from '../support/simulation/guest.js';
import {World} from '../support/simulation/world.js';
import {randomConfig} from '../support/simulation/world-config.js';

const BLOCK = MiB / 4;
const SIZE = 2 ** 45 + 3 * BLOCK - 512;
const PLACES = [2 ** 31, 2 ** 32, 2 ** 45].flatMap((offset) => [
  offset / BLOCK - 1,
  offset / BLOCK,
]);

for (const seed of [1, 2, 3]) {
  test(`far offsets are exact through work, crashes and recovery (seed ${seed})`, async (t) => {
    const prng = new Prng(seed);
    const config = randomConfig(prng);
    const geometry = {size: SIZE, blockSize: BLOCK};
    const mapLimits = {logBytes: 8192, intentCountMax: 4, maskCountMax: 16};
    const content = {...config.content, size: SIZE, cellSize: BLOCK};
    const tuning = {map: mapLimits, commitIntervalMs: 50, readAheadMax: 0};
    const backup = {...config.backup, mode: 'sync' as const, hasErrors: false};
    const world = new World({...config, geometry, content, mapLimits, tuning, backup}, prng);
    await world.create();
    const {oracle, scheduler, trace, always} = world;
    const places = [0, ...PLACES, Math.floor(SIZE / BLOCK)];
    const common = {prng, oracle, scheduler, trace, blockSize: BLOCK, hotBlocks: 1, places};
    const guest = new Guest({...common, mayFail: () => false});
    for (let step = 0; step < 900; step++) {
      const {volume, life} = world;
      if (!volume) break;
      const weights = {read: 6, write: 6, zeroes: 1, discard: 1, flush: 2};
      if (guest.inFlight.size < 4) guest.send(volume, life, prng.weighted(weights));
      scheduler.after(prng.below(8) / 10, always, () => undefined);
      await scheduler.step();
      if (guest.failure !== undefined) throw guest.failure;
      if (!prng.chance(1, 60)) continue;
      guest.forget();
      const kind = prng.pick(['power cut', 'process death'] as const);
      world.crash({kind, storeMode: prng.pick(CUT_MODES), mapMode: prng.pick(CUT_MODES)});
      await world.open();
    }
    world.life.isAlive = false;
    t.true(world.crashes > 2 && guest.requests > 20);
  });
}
