/**
 * Random commands on a volume against a flat array, with shrinking. The model is a list for each
 * sector: the value it held at the last flush, then every value written since. Its last is what a
 * read gives; after a crash any of them may have survived.
 */
import test from 'ava';
import fc from 'fast-check';
import {assert} from '../../src/base/assert.js';
import {Prng} from '../../src/base/prng.js';
import {KiB, SECTOR} from '../../src/base/units.js';
import type {HydrationMode} from '../../src/volume/report.js';
import type {Volume} from '../../src/volume/volume.js';
import type {CrashKind} from '../support/oracle.js';
import {sourceValue} from '../support/simulation/sim-source.js';
import {World} from '../support/simulation/world.js';
import {randomConfig} from '../support/simulation/world-config.js';
import {describeSector, readStamp, stamp, ZERO} from '../support/stamps.js';

const BLOCKS = 6;
const SECTORS = BLOCKS * 8 - 3;

interface Model {
  sectors: number[][];
  writes: number;
}
type Command = fc.AsyncCommand<Model, World>;

function volumeOf(world: World): Volume {
  assert(world.volume !== undefined, 'the volume is open');
  return world.volume;
}

function put(model: Model, start: number, count: number, value: number): void {
  for (let sector = start; sector < start + count; sector++) model.sectors[sector]?.push(value);
}

function command(name: string, run: (model: Model, world: World) => Promise<void>): Command {
  return {
    check: () => true,
    run: async (model, world) => {
      await run(model, world);
      world.volume?.selfCheck();
    },
    toString: () => name,
  };
}

async function readAndCompare(
  model: Model,
  world: World,
  start: number,
  count: number,
  isAfterCrash = false,
): Promise<void> {
  const bytes = Buffer.alloc(count * SECTOR);
  await world.scheduler.run(volumeOf(world).read(start * SECTOR, bytes));
  for (let index = 0; index < count; index++) {
    const values = model.sectors[start + index] ?? [];
    const value = readStamp(bytes, index * SECTOR, (start + index) * SECTOR);
    const isRight = isAfterCrash ? values.includes(value) : value === values.at(-1);
    const found = describeSector(bytes, index * SECTOR, (start + index) * SECTOR);
    assert(isRight, `sector ${start + index} is ${found}, not one of ${values.join(', ')}`);
    if (isAfterCrash) model.sectors[start + index] = [value];
  }
}

async function flush(model: Model, world: World): Promise<void> {
  await world.scheduler.run(volumeOf(world).flush());
  model.sectors = model.sectors.map((values) => values.slice(-1));
}

const range = fc
  .tuple(fc.nat(SECTORS - 1), fc.integer({min: 1, max: 20}))
  .map(([start, count]): [number, number] => [start, Math.min(count, SECTORS - start)]);

const write = range.map(([start, count]) =>
  command(`write ${start}+${count}`, async (model, world) => {
    const value = ++model.writes;
    const bytes = Buffer.alloc(count * SECTOR);
    stamp(bytes, start * SECTOR, value);
    await world.scheduler.run(volumeOf(world).write(start * SECTOR, bytes));
    put(model, start, count, value);
  }),
);

const zero = fc.tuple(range, fc.boolean()).map(([[start, count], isDiscard]) =>
  command(`${isDiscard ? 'discard' : 'zero'} ${start}+${count}`, async (model, world) => {
    const volume = volumeOf(world);
    const [offset, length] = [start * SECTOR, count * SECTOR];
    await world.scheduler.run(
      isDiscard ? volume.discard(offset, length) : volume.writeZeroes(offset, length),
    );
    put(model, start, count, ZERO);
  }),
);

const read = range.map(([start, count]) =>
  command(`read ${start}+${count}`, (model, world) => readAndCompare(model, world, start, count)),
);

const hydrate = fc
  .tuple(
    fc.constantFrom<HydrationMode>('off', 'background', 'full'),
    fc.integer({min: 0, max: 100}),
  )
  .map(([mode, ms]) =>
    command(`hydrate ${mode} for ${ms} ms`, async (_model, world) => {
      volumeOf(world).setHydration({mode});
      await world.scheduler.run(untilPassed(world, ms));
    }),
  );

/** Resolves once so much virtual time has gone by. */
function untilPassed({scheduler, always}: World, ms: number): Promise<void> {
  return new Promise((resolve) => {
    scheduler.after(ms, always, resolve);
  });
}

const crash = fc
  .tuple(fc.constantFrom<CrashKind>('power cut', 'process death'), fc.nat(1e6))
  .map(([kind, seed]) =>
    command(`crash by ${kind}, ${seed}`, async (model, world) => {
      world.crash({kind});
      await world.open();
      await readAndCompare(model, world, 0, SECTORS, true);
      // What the dead process left in the page cache is made durable before the model relies on it.
      await flush(model, world);
    }),
  );

const outage = fc.constant(
  command('write and flush while the source is away', async (model, world) => {
    world.source.setAway(true);
    const value = ++model.writes;
    const bytes = Buffer.alloc(SECTOR);
    stamp(bytes, SECTOR, value);
    await world.scheduler.run(volumeOf(world).write(SECTOR, bytes), 5000);
    put(model, 1, 1, value);
    await world.scheduler.run(volumeOf(world).flush(), 5000);
    model.sectors = model.sectors.map((values) => values.slice(-1));
    world.source.setAway(false);
  }),
);

test('any commands in any order give what a flat array gives', async (t) => {
  const flushes = fc.constant(command('flush', flush));
  const commands = fc.commands([write, write, read, zero, flushes, hydrate, crash, outage], {
    maxCommands: 60,
  });
  const property = fc.asyncProperty(fc.nat(1e6), commands, async (seed, sequence) => {
    const prng = new Prng(seed);
    const config = randomConfig(prng);
    const geometry = {size: SECTORS * SECTOR, blockSize: 4 * KiB};
    const content = {...config.content, size: geometry.size};
    const mapLimits = {logBytes: 4 * KiB, intentCountMax: 2, maskCountMax: 16};
    const tuning = {...config.tuning, map: mapLimits};
    const backup = {...config.backup, mode: 'sync' as const, hasErrors: false};
    const world = new World({...config, geometry, content, mapLimits, tuning, backup}, prng);
    await world.create();
    const sectors = Array.from({length: SECTORS}, (_, index) => [
      sourceValue(content, index * SECTOR),
    ]);
    await fc.asyncModelRun(() => ({model: {sectors, writes: 0}, real: world}), sequence);
    world.life.isAlive = false;
  });
  await fc.assert(property, {numRuns: Number(process.env['REGROW_MODEL_RUNS'] ?? 150)});
  t.pass();
});
