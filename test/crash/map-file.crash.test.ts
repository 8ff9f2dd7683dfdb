/**
 * The map file alone under crashes: at every event of a random series of commits and checkpoints,
 * with every kind of loss among unsynced sectors, what is read back is the map before or after the
 * record that was on its way, whole (I2, I3, I9); also where power fails after the process had
 * died.
 */
import test from 'ava';
import {assert} from '../../src/base/assert.js';
import {Prng} from '../../src/base/prng.js';
import {KiB} from '../../src/base/units.js';
import {withBehindMarks} from '../../src/map/behind-marks.js';
import {BlockSet} from '../../src/map/block-set.js';
import type {StateCode} from '../../src/map/block-state.js';
import {Geometry, REGION_BYTES} from '../../src/map/geometry.js';
import {MapFile, mapFileSize} from '../../src/map/map-file.js';
import {EMPTY_RECORD, emptyRecord, type LogRecord} from '../../src/map/map-log.js';
import {maskBytes, type MaskImage} from '../../src/map/mask-table.js';
import {OverwriteMap} from '../../src/map/overwrite-map.js';
import {CUT_MODES} from '../../src/wrap/cut.js';
import {Scheduler} from '../support/simulation/scheduler.js';
import {VolatileStorage, type StorageTools} from '../support/simulation/volatile-storage.js';
import {virtualTime} from '../support/virtual-time.js';

const BLOCKS = 2 * 8192 + 100;
const INPUT = {size: BLOCKS * 4 * KiB, blockSize: 4 * KiB};
const GEOMETRY = new Geometry(INPUT);
const LIMITS = {logBytes: 8 * KiB, intentCountMax: 8, maskCountMax: 16};

/** What the file must say, as text that is easily compared. */
interface Model {
  map: OverwriteMap;
  behind: BlockSet;
  masks: Map<number, string>;
  intents: Set<number>;
}

function newMap(): OverwriteMap {
  return new OverwriteMap(GEOMETRY, virtualTime().environment);
}

function newBehind(): BlockSet {
  return new BlockSet(GEOMETRY, virtualTime().environment, 'behind');
}

function describe({map, behind, masks, intents}: Model): string {
  const runs: string[] = [];
  for (let block = 0; block < BLOCKS;) {
    const end = map.runEnd(block, BLOCKS);
    runs.push(`${block}-${end}:${map.get(block)}`);
    block = end;
  }
  const maskTexts = [...masks].sort(([a], [b]) => a - b).map(([block, mask]) => `${block}=${mask}`);
  const regions = [...intents].sort((a, b) => a - b);
  const behindRuns = [...behind.runs(0, BLOCKS)].map(({start, count}) => `${start}+${count}`);
  return [runs, maskTexts, regions, behindRuns].map((texts) => texts.join(' ')).join(' | ');
}

function put(model: Model, record: LogRecord): void {
  const {runs, masks, intentsSet, intentsCleared, behindSet, behindCleared} = record;
  for (const run of runs) model.map.restore(run);
  for (const {block, mask} of masks) model.masks.set(block, Buffer.from(mask).toString('hex'));
  for (const region of intentsSet) model.intents.add(region);
  for (const region of intentsCleared) model.intents.delete(region);
  for (const {start, count} of behindSet) model.behind.add(start, start + count);
  for (const {start, count} of behindCleared) model.behind.delete(start, start + count);
  for (const {start, count} of [...behindSet, ...behindCleared])
    model.map.touch(start, start + count);
}

/** Reads everything there is to read in a map file, as a daemon that starts does. */
async function recover(storage: VolatileStorage): Promise<{file: MapFile; model: Model}> {
  const {file, recovery} = await MapFile.open(storage);
  const map = newMap();
  const behind = newBehind();
  file.fillDirectory(map);
  for (let page = 0; page < GEOMETRY.pageCount; page++) {
    if (!map.isPageLoaded(page)) await file.loadPage(map, page, behind);
  }
  const model = {map, behind, masks: new Map<number, string>(), intents: new Set<number>()};
  put(model, {...EMPTY_RECORD, masks: recovery.masks, intentsSet: recovery.intents});
  for (const record of recovery.records) put(model, record);
  map.selfCheck();
  return {file, model};
}

/** One series of commits and checkpoints, watched at every event. */
class Series {
  readonly prng: Prng;
  readonly scheduler: Scheduler;
  storage: VolatileStorage;
  file: MapFile;
  model: Model;
  /**
   * The states the disk may be in: the last durable one and, while a record is on its way, the
   * next.
   */
  allowed: string[];

  constructor(
    prng: Prng,
    scheduler: Scheduler,
    storage: VolatileStorage,
    found: {file: MapFile; model: Model},
  ) {
    this.prng = prng;
    this.scheduler = scheduler;
    this.storage = storage;
    this.file = found.file;
    this.model = found.model;
    this.allowed = [describe(found.model)];
  }

  /** Starts a random commit or checkpoint. */
  next(wantsCheckpoint = this.prng.chance(1, 6)): Promise<void> {
    const record = randomRecord(this.prng);
    put(this.model, record);
    this.allowed.push(describe(this.model));
    this.model.map.takeChanges();
    if (!wantsCheckpoint && this.file.tryReserve(record)) {
      return this.file.append(record, () => record);
    }
    const masks = [...this.model.masks].map(([block, mask]): MaskImage => ({
      block,
      mask: new Uint8Array(Buffer.from(mask, 'hex')),
    }));
    const {map, behind} = this.model;
    const pages = map.takePageImages().map((image) => withBehindMarks(image, behind, GEOMETRY));
    const content = {pages, masks, isClean: false};
    return this.file.checkpoint(() => ({...content, intents: [...this.model.intents]}));
  }

  done(): void {
    this.allowed = this.allowed.slice(-1);
  }
}

function randomRecord(prng: Prng): LogRecord {
  const record = emptyRecord();
  for (let count = prng.between(0, 4); count > 0; count--) {
    const start = prng.chance(1, 2) ? prng.below(40) : prng.below(BLOCKS);
    const length = prng.pick([1, 1, 5, 300, BLOCKS]);
    const state = prng.below(5) as StateCode;
    record.runs.push({start, count: Math.min(length, BLOCKS - start), state});
  }
  if (prng.chance(1, 3)) {
    const mask = new Uint8Array(maskBytes(GEOMETRY)).fill(prng.below(256));
    record.masks.push({block: prng.below(12), mask});
  }
  const region = prng.below(Math.min(6, Math.ceil(INPUT.size / REGION_BYTES)));
  if (prng.chance(1, 3)) record.intentsSet.push(region);
  else if (prng.chance(1, 3)) record.intentsCleared.push(region);
  const start = prng.below(BLOCKS);
  const run = {start, count: Math.min(prng.pick([1, 9, 700]), BLOCKS - start)};
  if (prng.chance(1, 3)) record.behindSet.push(run);
  else if (prng.chance(1, 3)) record.behindCleared.push(run);
  return record;
}

function toolsOf(scheduler: Scheduler, prng: Prng): StorageTools {
  return {scheduler, prng, life: {isAlive: true}, latency: () => prng.below(100) / 50};
}

/** What crashes at this very moment leave must be one of the allowed states. */
async function checkCrashes(series: Series, samples: number): Promise<void> {
  const {prng, storage, allowed} = series;
  const modes = [...prng.shuffle([...CUT_MODES]).slice(0, samples), 'process death'] as const;
  for (const mode of modes) {
    const scheduler = new Scheduler(prng.fork());
    const tools = toolsOf(scheduler, prng);
    const disk =
      mode === 'process death'
        ? storage.afterProcessDeath(tools, prng)
        : storage.afterPowerCut(tools, prng, mode);
    const {model} = await scheduler.run(recover(disk));
    const found = describe(model);
    assert(
      allowed.includes(found),
      `I3, I9 after ${mode}: found ${found}, allowed ${allowed.join('\nor ')}`,
    );
  }
}

/** Works until `operations` are done; checks crashes at every event on the way. */
async function work(
  series: Series,
  operations: number,
  samples: number,
  first?: 'checkpoint',
): Promise<void> {
  for (let count = 0; count < operations; count++) {
    const running = series.next(count === 0 && first === 'checkpoint' ? true : undefined);
    let isDone = false;
    const settle = (): void => {
      isDone = true;
    };
    running.then(settle, settle);
    while (!isDone) {
      await checkCrashes(series, samples);
      await series.scheduler.step();
    }
    await running;
    series.done();
    await checkCrashes(series, samples);
  }
}

async function newSeries(seed: number): Promise<Series> {
  const prng = new Prng(seed);
  const scheduler = new Scheduler(prng.fork());
  const size = mapFileSize(INPUT, LIMITS);
  const background = (_offset: number, bytes: Uint8Array): void => void bytes.fill(0xa5);
  const storage = new VolatileStorage({name: 'map', size, background}, toolsOf(scheduler, prng));
  await scheduler.run(MapFile.format(storage, INPUT, LIMITS));
  return new Series(prng, scheduler, storage, await scheduler.run(recover(storage)));
}

for (const seed of [1, 2, 3, 4]) {
  test(`a crash leaves the map before or after its last record (seed ${seed})`, async (t) => {
    const series = await newSeries(seed);
    await work(series, 25, 3);
    t.pass();
  });
}

test('I3, I9: the map of a process that died survives a power cut under the next', async (t) => {
  for (let seed = 20; seed < 32; seed++) {
    const series = await newSeries(seed);
    for (let round = 0; round < 6; round++) {
      await work(series, series.prng.between(0, 3), 0);
      void series.next(series.prng.chance(1, 2));
      for (let steps = series.prng.below(14); steps > 0; steps--) await series.scheduler.step();
      const {scheduler, prng} = series;
      const survivor = series.storage.afterProcessDeath(toolsOf(scheduler, prng), prng);
      const found = await scheduler.run(recover(survivor));
      assert(
        series.allowed.includes(describe(found.model)),
        'I9: the next process finds one of the allowed maps',
      );
      // What the dead process left in the page cache may still vanish with the power.
      const before = series.allowed;
      series.storage = survivor;
      series.file = found.file;
      series.model = found.model;
      series.allowed = [...before, describe(found.model)];
      await work(series, 1, 4, series.prng.chance(1, 2) ? 'checkpoint' : undefined);
    }
  }
  t.pass();
});
