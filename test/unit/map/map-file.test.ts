import test from 'ava';
import fc from 'fast-check';

import {mapFileSize} from '../../../src/map/map-layout.js';
import {DamagedStateError, MapFile} from '../../../src/map/map-file.js';
import {EMPTY_RECORD} from '../../../src/map/map-log.js';
import {recoverMap} from '../../../src/volume/recovery.js';
import {MemoryStorage} from '../../support/memory-storage.js';
import {plainEnvironment} from '../../support/plain-environment.js';

const GEOMETRY = {size: 20_000 * 4096, blockSize: 4096};
const LIMITS = {logBytes: 8192, intentCountMax: 16, maskCountMax: 16};

async function formatted(): Promise<MemoryStorage> {
  const storage = new MemoryStorage(mapFileSize(GEOMETRY, LIMITS), 0xa5, 'the test’s map');
  await MapFile.format(storage, GEOMETRY, LIMITS);
  return storage;
}

/**
 * A file with a checkpoint of two mixed pages, a mask and a mark, and two log records behind it.
 */
async function filled(): Promise<MemoryStorage> {
  const storage = await formatted();
  const {mapFile, map, masks} = await recoverMap(storage, plainEnvironment());
  map.set(5, 50, 3);
  map.set(9000, 9010, 2);
  masks.tryReserve(1);
  masks.add(100);
  masks.grow(100, 2, 4);
  map.set(100, 101, 1);
  const pages = map.takePageImages();
  await mapFile.checkpoint(() => ({pages, masks: masks.images(), intents: [3], isClean: false}));
  for (const start of [200, 201]) {
    const record = {
      ...EMPTY_RECORD,
      runs: [{start, count: 1, state: 4 as const}],
      intentsSet: [start - 195],
    };
    mustReserve(mapFile.tryReserve(record));
    await mapFile.append(record, () => record);
  }
  return storage;
}

function mustReserve(isRoom: boolean): void {
  if (!isRoom) throw new Error('the log is full');
}

test('a formatted file is a clean volume of absent blocks, whatever lay there before', async (t) => {
  const {map, wasClean} = await recoverMap(await formatted(), plainEnvironment());
  t.true(wasClean);
  t.deepEqual(map.counts(), {absent: 20_000, partial: 0, copied: 0, overwritten: 0, zeroed: 0});
});

test('checkpoint and log come back; copied blocks of marked regions count as overwritten (I11)', async (t) => {
  const {map, masks, wasClean} = await recoverMap(await filled(), plainEnvironment());
  t.false(wasClean);
  t.is(map.get(49), 3);
  t.is(map.get(200), 4);
  t.is(map.get(201), 4);
  t.deepEqual(
    masks.runs(100, 0, 8).filter((run) => run.isMasked),
    [{start: 2, end: 4, isMasked: true}],
  );
  // Regions of 4 MiB hold 1024 blocks: 9000-9010 lie in region 8, which no mark names.
  t.is(map.get(9001), 2);
});

test('any single damaged byte that matters is found, named, and nothing is written', async (t) => {
  const pristine = await filled();
  const {map: expected} = await recoverMap(pristine, plainEnvironment());
  const states = (map: typeof expected): number[] =>
    Array.from({length: 20_000}, (_, at) => map.get(at));
  const right = states(expected);
  let found = 0;
  await fc.assert(
    fc.asyncProperty(
      fc.nat(pristine.size - 1),
      fc.integer({min: 1, max: 255}),
      async (at, flip) => {
        const storage = new MemoryStorage(pristine.size, 0, pristine.name);
        pristine.bytes.copy(storage.bytes);
        storage.bytes[at] = (storage.bytes[at] ?? 0) ^ flip;
        try {
          const {map} = await recoverMap(storage, plainEnvironment());
          // The last log record may be taken for torn by a crash: the one before it must be there.
          const got = states(map);
          if (got[201] !== 4) got[201] = 4;
          t.deepEqual(got, right, `byte ${at}`);
        } catch (error) {
          t.true(error instanceof DamagedStateError, String(error));
          t.regex((error as Error).message, /the test’s map is damaged: /);
          found++;
        }
        t.is(storage.writes, 0);
      },
    ),
    {numRuns: 600},
  );
  t.true(found > 0);
});

test('a commit costs what changed, and the log takes many before a checkpoint', async (t) => {
  const storage = await formatted();
  const {mapFile} = await recoverMap(storage, plainEnvironment());
  const record = {...EMPTY_RECORD, runs: [{start: 7, count: 1, state: 3 as const}]};
  storage.writtenBytes = 0;
  let appended = 0;
  while (mapFile.tryReserve(record)) {
    await mapFile.append(record, () => record);
    appended++;
  }
  t.is(storage.writtenBytes, appended * 512);
  t.is(appended, LIMITS.logBytes / 512);
  t.is(storage.syncs, 3 + appended);
});

test('64 TiB at 64 KiB opens by reading log and directory only; pages are read as needed', async (t) => {
  const geometry = {size: 2 ** 46, blockSize: 65_536};
  const storage = new SparseStorage(mapFileSize(geometry));
  await MapFile.format(storage, geometry);
  const first = await recoverMap(storage, plainEnvironment());
  for (let page = 0; page < 5000; page++) first.map.set(page * 8192 + 1, page * 8192 + 2, 3);
  const pages = first.map.takePageImages();
  await first.mapFile.checkpoint(() => ({pages, masks: [], intents: [], isClean: true}));
  storage.readBytes = 0;
  const {map, mapFile, behind} = await recoverMap(storage, plainEnvironment());
  t.true(storage.readBytes < 8 * 2 ** 20, `${storage.readBytes} bytes read`);
  t.is(map.count(3), 5000);
  t.is(map.firstUnloadedPage(8192 * 4999, 8192 * 5001), 4999);
  await mapFile.loadPage(map, 4999, behind);
  t.is(map.get(4999 * 8192 + 1), 3);
  t.is(map.get(2 ** 30 - 1), 0);
});

/** Only pieces that were written take memory. */
class SparseStorage extends MemoryStorage {
  readonly #pieces = new Map<number, Uint8Array>();
  override readonly size: number;

  constructor(size: number) {
    super(0);
    this.size = size;
  }

  override async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.readBytes += buffer.length;
    for (let at = 0; at < buffer.length; at += 512) {
      const piece = this.#pieces.get(offset + at);
      const length = Math.min(512, buffer.length - at);
      buffer.set(piece?.subarray(0, length) ?? new Uint8Array(length), at);
    }
  }

  override async write(offset: number, buffer: Uint8Array): Promise<void> {
    for (let at = 0; at < buffer.length; at += 512) {
      const piece = new Uint8Array(512);
      piece.set(buffer.subarray(at, at + 512));
      this.#pieces.set(offset + at, piece);
    }
  }

  override async zero(): Promise<void> {}
}
