/** Replacing the store of a volume in use; crashes at every moment of it are the simulation's. */
import test from 'ava';
import type {ExecutionContext} from 'ava';

import {LostPlacesError, type ReplacementParts} from '../../../src/volume/replacement.js';
import {mapFileSize, Volume} from '../../../src/volume/volume.js';
import {
  BadStorage,
  BLOCK,
  type Bench,
  expected,
  makeBench,
  settle,
  SIZE,
  untilProtected,
} from '../../support/failing-store.js';
import {HeldSource} from '../../support/held-source.js';
import {MemoryStorage} from '../../support/memory-storage.js';
import {plainEnvironment} from '../../support/plain-environment.js';

interface Next {
  parts: ReplacementParts;
  store: BadStorage;
  mapFile: MemoryStorage;
  /** Times the record was switched. */
  commits: () => number;
}

function nextStore(size = SIZE): Next {
  const store = new BadStorage(size, 0xdd, 'new store');
  const mapFile = new MemoryStorage(mapFileSize({size: SIZE, blockSize: BLOCK}), 0x99, 'new map');
  let commits = 0;
  const commit = async (): Promise<void> => {
    commits++;
  };
  return {parts: {store, mapFile, commit}, store, mapFile, commits: () => commits};
}

/** Overwritten, partial, zeroed and copied blocks; what the volume then holds. */
async function fill({volume, read}: Bench): Promise<Buffer> {
  await volume.write(BLOCK, Buffer.alloc(BLOCK, 0x11));
  await volume.write(3 * BLOCK + 512, Buffer.alloc(1024, 0x33));
  await volume.discard(5 * BLOCK, 2 * BLOCK);
  await read(8 * BLOCK, 2 * BLOCK);
  await settle();
  const whole = expected(0, SIZE);
  whole.fill(0x11, BLOCK, 2 * BLOCK);
  whole.fill(0x33, 3 * BLOCK + 512, 3 * BLOCK + 1536);
  whole.fill(0, 5 * BLOCK, 7 * BLOCK);
  return whole;
}

async function states(volume: Volume, ...blocks: number[]): Promise<string[]> {
  return Promise.all(blocks.map((block) => volume.stateAt(block * BLOCK)));
}

/** What a daemon that begins after a power cut reads. */
async function afterCut(t: ExecutionContext, next: Next, source: HeldSource): Promise<Buffer> {
  const mapFile = new MemoryStorage(next.mapFile.size, 0, 'map');
  mapFile.bytes.set(next.mapFile.bytes);
  const environment = plainEnvironment();
  const volume = await Volume.open({store: next.store, mapFile, source, environment});
  t.teardown(() => volume.close().catch(() => undefined));
  const bytes = Buffer.alloc(SIZE);
  await volume.read(0, bytes);
  return bytes;
}

test('without write-through all that was written moves, and only that', async (t) => {
  const bench = await makeBench(t, false);
  const {volume, store, source, read} = bench;
  const whole = await fill(bench);
  const next = nextStore();
  store.reads = 0;
  const report = await volume.replaceStore(next.parts);
  t.like(report, {copiedBytes: 2 * BLOCK, absentAgain: 2, lost: []});
  t.is(next.commits(), 1);
  t.deepEqual(await states(volume, 0, 1, 3, 5, 8), [
    'absent',
    'overwritten',
    'partial',
    'zeroed',
    'absent',
  ]);
  t.deepEqual(await afterCut(t, next, source), whole);
  t.deepEqual(await read(0, SIZE), whole);
  const reads = store.reads;
  await volume.write(2 * BLOCK, Buffer.alloc(BLOCK, 0x22));
  await volume.flush();
  await read(2 * BLOCK, BLOCK);
  t.is(store.reads, reads, 'the old store is not touched any more');
});

test('in sync with a backup that is the source nothing moves: it grows back', async (t) => {
  const bench = await makeBench(t, true, true);
  const {volume, read} = bench;
  const whole = await fill(bench);
  await untilProtected(volume);
  const next = nextStore();
  const report = await volume.replaceStore(next.parts);
  t.like(report, {copiedBytes: 0, lost: []});
  t.is(volume.report().blocks.absent, 64);
  t.deepEqual(await read(0, SIZE), whole);
  volume.setHydration({mode: 'full'});
  await volume.whenHydrated();
  t.deepEqual(next.store.bytes, whole);
});

test('where the backup is not the source, unreadable blocks come from the backup', async (t) => {
  const bench = await makeBench(t, true);
  const {volume, store, read} = bench;
  const whole = await fill(bench);
  await untilProtected(volume);
  store.bad.add(BLOCK + 1024);
  store.bad.add(3 * BLOCK + 512);
  store.bad.add(3 * BLOCK + 4096);
  const report = await volume.replaceStore(nextStore().parts);
  t.like(report, {copiedBytes: 2 * BLOCK, lost: []});
  t.deepEqual(await read(0, SIZE), whole);
});

test('what nobody can read is refused before anything changes, and given up where forced', async (t) => {
  const bench = await makeBench(t, false);
  const {volume, store, read} = bench;
  const whole = await fill(bench);
  store.bad.add(BLOCK + 1024);
  const refused = nextStore();
  const error = await t.throwsAsync(volume.replaceStore(refused.parts), {
    instanceOf: LostPlacesError,
  });
  t.deepEqual(error?.places, [{offset: BLOCK + 1024, length: 512}]);
  t.is(refused.commits(), 0);
  t.deepEqual(await read(0, BLOCK), whole.subarray(0, BLOCK), 'the old store goes on');
  const forced = nextStore();
  const report = await volume.replaceStore({...forced.parts, isForced: true});
  t.deepEqual(report.lost, [{offset: BLOCK + 1024, length: 512}]);
  whole.fill(0, BLOCK + 1024, BLOCK + 1536);
  t.deepEqual(await read(0, SIZE), whole);
});

test('writes while blocks are copied are in the new store', async (t) => {
  const bench = await makeBench(t, false);
  const {volume, read} = bench;
  await volume.write(0, Buffer.alloc(SIZE, 1));
  const next = nextStore();
  const writes: Promise<void>[] = [];
  let count = 0;
  const report = await volume.replaceStore({
    ...next.parts,
    onProgress: () => {
      count++;
      if (count % 4 === 0) writes.push(volume.write((count % 64) * BLOCK, Buffer.alloc(512, 7)));
    },
  });
  await Promise.all(writes);
  t.true(report.copiedBytes > SIZE, 'what changed was copied again');
  const whole = Buffer.alloc(SIZE, 1);
  for (let block = 4; block < 64; block += 4) whole.fill(7, block * BLOCK, block * BLOCK + 512);
  whole.fill(7, 0, 512);
  const now = await read(0, SIZE);
  now.fill(7, 0, 512);
  t.deepEqual(now, whole);
});

test('requests that do not end leave the store as it was, as does a record that fails', async (t) => {
  const {volume, source, read} = await makeBench(t, false, false, {replaceHoldMs: 20});
  await volume.write(BLOCK, Buffer.alloc(BLOCK, 0x11));
  source.isOpen = false;
  const waiting = read(9 * BLOCK, 512);
  await t.throwsAsync(volume.replaceStore(nextStore().parts), {code: 'ETIMEDOUT'});
  source.isOpen = true;
  for (const held of source.held) held.answer();
  await waiting;
  const commit = (): Promise<void> => Promise.reject(new Error('disk full'));
  await t.throwsAsync(volume.replaceStore({...nextStore().parts, commit}), {message: 'disk full'});
  t.deepEqual(await read(BLOCK, BLOCK), Buffer.alloc(BLOCK, 0x11));
  await t.throwsAsync(volume.replaceStore(nextStore(SIZE - 512).parts), {code: 'EINVAL'});
  await volume.flush();
});
