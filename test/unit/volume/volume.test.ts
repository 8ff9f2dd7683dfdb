/**
 * What a volume does with single requests; what it does with thousands is the simulation's matter.
 */
import test from 'ava';
import type {ExecutionContext} from 'ava';

import {BlockError} from '../../../src/base/errors.js';
import {mapFileSize, Volume, type VolumeTuning} from '../../../src/volume/volume.js';
import {HeldSource, sourceByte} from '../../support/held-source.js';
import {MemoryStorage} from '../../support/memory-storage.js';
import {plainEnvironment} from '../../support/plain-environment.js';

const KiB = 1024;
const BLOCK = 16 * KiB;
const SIZE = 64 * BLOCK;
/** What the store is full of before: must never be seen. */
const STALE = 0xee;

interface Bench {
  volume: Volume;
  store: MemoryStorage;
  mapFile: MemoryStorage;
  source: HeldSource;
  read: (offset: number, length: number) => Promise<Buffer>;
}

async function makeBench(
  t: ExecutionContext,
  tuning: Partial<VolumeTuning> = {},
  size = SIZE,
): Promise<Bench> {
  const geometry = {size, blockSize: BLOCK};
  const store = new MemoryStorage(size, STALE, 'store');
  const mapFile = new MemoryStorage(mapFileSize(geometry, tuning.map), 0, 'map');
  const source = new HeldSource(size);
  const environment = plainEnvironment();
  const volume = await Volume.create({store, mapFile, source, environment}, geometry, {
    readAheadMax: 0,
    ...tuning,
  });
  t.teardown(() => volume.close().catch(() => undefined));
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(length, 0x77);
    await volume.read(offset, buffer);
    return buffer;
  };
  return {volume, store, mapFile, source, read};
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Lets everything that needs no outside answer happen. */
async function settle(): Promise<void> {
  for (let round = 0; round < 20; round++) await turn();
}

function expected(offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  for (let at = 0; at < length; at += 512) buffer.fill(sourceByte(offset + at), at, at + 512);
  return buffer;
}

test('DC1, DC2: a lost block is read from the source at once, and the second time from the store', async (t) => {
  const {volume, source, store, read} = await makeBench(t);
  t.deepEqual(await read(3 * BLOCK, 1024), expected(3 * BLOCK, 1024));
  await settle();
  t.is(await volume.stateAt(3 * BLOCK), 'copied');
  source.reads.length = 0;
  store.reads = 0;
  t.deepEqual(await read(3 * BLOCK + 512, 4096), expected(3 * BLOCK + 512, 4096));
  t.deepEqual(source.reads, []);
  t.is(store.reads, 1);
});

test('IR4: of a request that is partly local only the missing part is fetched', async (t) => {
  const {volume, source, read} = await makeBench(t);
  await volume.write(BLOCK, Buffer.alloc(BLOCK, 0xaa));
  const bytes = await read(0, 3 * BLOCK);
  t.deepEqual(source.reads, [
    [0, BLOCK],
    [2 * BLOCK, BLOCK],
  ]);
  t.deepEqual(bytes.subarray(0, BLOCK), expected(0, BLOCK));
  t.deepEqual(bytes.subarray(BLOCK, 2 * BLOCK), Buffer.alloc(BLOCK, 0xaa));
  t.deepEqual(bytes.subarray(2 * BLOCK), expected(2 * BLOCK, BLOCK));
});

test('RD3: writing a whole absent block fetches nothing, a part of one neither (BX8)', async (t) => {
  const {volume, source} = await makeBench(t);
  source.isOpen = false;
  await volume.write(0, Buffer.alloc(BLOCK, 1));
  await volume.write(BLOCK + 512, Buffer.alloc(512, 2));
  await volume.flush();
  t.deepEqual(source.reads, []);
  t.is(await volume.stateAt(0), 'overwritten');
  t.is(await volume.stateAt(BLOCK), 'partial');
});

test('a partial block reads the guest’s sectors from the store and the others from the source', async (t) => {
  const {volume, source, read} = await makeBench(t);
  await volume.write(BLOCK + 1024, Buffer.alloc(1024, 0xbb));
  t.deepEqual(await read(BLOCK + 1024, 512), Buffer.alloc(512, 0xbb));
  t.deepEqual(source.reads, [], 'the guest’s own sectors need no source');
  const bytes = await read(BLOCK, 4096);
  t.deepEqual(bytes.subarray(0, 1024), expected(BLOCK, 1024));
  t.deepEqual(bytes.subarray(1024, 2048), Buffer.alloc(1024, 0xbb));
  t.deepEqual(bytes.subarray(2048), expected(BLOCK + 2048, 2048));
  await settle();
  t.is(await volume.stateAt(BLOCK), 'overwritten');
  t.deepEqual(await read(BLOCK, 4096), bytes, 'filled from the source around the guest’s sectors');
});

test('two misses of one block share one fetch', async (t) => {
  const {source, read} = await makeBench(t);
  source.isOpen = false;
  const first = read(0, 512);
  const second = read(1024, 512);
  await settle();
  t.is(source.held.length, 1);
  source.held[0]?.answer();
  t.deepEqual(await first, expected(0, 512));
  t.deepEqual(await second, expected(1024, 512));
});

test('I4: a write during a fetch survives the install', async (t) => {
  const {volume, source, read} = await makeBench(t);
  source.isOpen = false;
  const reading = read(0, 2 * BLOCK);
  await settle();
  await volume.write(0, Buffer.alloc(BLOCK, 0xcc));
  await volume.discard(BLOCK, BLOCK);
  for (const held of source.held) held.answer();
  await reading;
  await settle();
  t.deepEqual(await read(0, BLOCK), Buffer.alloc(BLOCK, 0xcc));
  t.deepEqual(await read(BLOCK, BLOCK), Buffer.alloc(BLOCK, 0));
  t.is(volume.report().counters.droppedBlocks, 2);
});

test('the guest has its bytes before copy-on-read begins', async (t) => {
  const {volume, store, source} = await makeBench(t);
  source.isOpen = false;
  const order: string[] = [];
  const write = store.write.bind(store);
  store.write = async (offset, buffer) => {
    order.push('install');
    await write(offset, buffer);
  };
  const reading = volume.read(0, Buffer.alloc(512)).then(() => order.push('answered'));
  await settle();
  source.held[0]?.answer();
  await reading;
  await settle();
  t.deepEqual(order.sort(), ['answered', 'install']);
  t.is(volume.report().counters.installedBlocks, 1);
});

test('DC9: no stale byte of a reused disk is ever read', async (t) => {
  const {volume, read, store} = await makeBench(t);
  await volume.write(5 * BLOCK + 512, Buffer.alloc(512, 1));
  await volume.discard(6 * BLOCK, BLOCK);
  await volume.write(6 * BLOCK + 512, Buffer.alloc(512, 2));
  const all = await read(0, SIZE);
  t.false(all.includes(STALE));
  volume.setHydration({mode: 'full'});
  await volume.whenHydrated();
  t.false(store.bytes.includes(STALE), 'nor is one left once it is hydrated');
});

test('a discard of 4 GiB costs no I/O to the store and reads zeroes', async (t) => {
  const size = 8 * 2 ** 30;
  const blockSize = 64 * KiB;
  const store = new (class extends MemoryStorage {
    override readonly size = size;
  })(0);
  const mapFile = new MemoryStorage(mapFileSize({size, blockSize}));
  const source = new HeldSource(size);
  const parts = {store, mapFile, source, environment: plainEnvironment()};
  const volume = await Volume.create(parts, {size, blockSize});
  t.teardown(() => volume.close().catch(() => undefined));
  await volume.discard(2 ** 31, 2 ** 32);
  const buffer = Buffer.alloc(4096, 1);
  await volume.read(2 ** 32 + 8192, buffer);
  t.deepEqual(buffer, Buffer.alloc(4096));
  t.is(store.writes + store.reads, 0);
  t.is(volume.report().blocks.zeroed, 65_536);
});

test('hydrated means the store alone is the volume: zeroes physical, all synced (I2)', async (t) => {
  const {volume, store, source} = await makeBench(t);
  source.zeroes = [[10 * BLOCK, 30 * BLOCK]];
  await volume.write(2 * BLOCK, Buffer.alloc(512, 0x55));
  await volume.discard(40 * BLOCK, 2 * BLOCK);
  volume.setHydration({mode: 'full'});
  await volume.whenHydrated();
  t.true(volume.report().isHydrated);
  const whole = expected(0, SIZE);
  whole.fill(0, 10 * BLOCK, 30 * BLOCK);
  whole.fill(0x55, 2 * BLOCK, 2 * BLOCK + 512);
  whole.fill(0, 40 * BLOCK, 42 * BLOCK);
  t.deepEqual(store.bytes, whole);
  t.false(
    source.reads.some(([offset]) => offset >= 10 * BLOCK && offset < 30 * BLOCK),
    'BX3: holes stay put',
  );
});

test('background hydration waits for requests to pass, full hydration does not', async (t) => {
  const {volume, source} = await makeBench(t, {yieldMaxMs: 60_000});
  source.isOpen = false;
  const pending = volume.read(0, Buffer.alloc(512));
  await settle();
  volume.setHydration({mode: 'background'});
  await settle();
  t.is(source.held.length, 1, 'only what the guest waits for');
  t.is(volume.report().hydration.state, 'yielding');
  volume.setHydration({mode: 'full'});
  source.held[0]?.answer();
  await pending;
  source.isOpen = true;
  for (const held of source.held) held.answer();
  await volume.whenHydrated();
  t.pass();
});

test('a range the source cannot read is listed and tried again while the rest goes on', async (t) => {
  const {volume, source} = await makeBench(t, {badRetryMs: 5});
  const read = source.read.bind(source);
  let isBroken = true;
  source.read = (offset, buffer, options) => {
    const isHit = offset <= 7 * BLOCK && offset + buffer.length > 7 * BLOCK;
    if (!isBroken || !isHit) return read(offset, buffer, options);
    return Promise.reject(new BlockError('EIO', 'bad sector', {op: 'read', isPermanent: true}));
  };
  volume.setHydration({mode: 'full'});
  for (let wait = 0; wait < 500 && volume.report().blocks.absent > 1; wait++) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  t.is(volume.report().blocks.absent, 1);
  t.like(volume.report().hydration.badRanges[0], {
    offset: 7 * BLOCK,
    length: BLOCK,
    error: 'bad sector',
  });
  isBroken = false;
  await volume.whenHydrated();
  t.deepEqual(volume.report().hydration.badRanges, []);
});

test('I13: a full store is the guest’s error and nothing else', async (t) => {
  const {volume, store, read} = await makeBench(t);
  const write = store.write.bind(store);
  store.write = () => Promise.reject(new BlockError('ENOSPC', 'no space left', {op: 'write'}));
  await t.throwsAsync(volume.write(0, Buffer.alloc(512)), {code: 'ENOSPC'});
  t.deepEqual(await read(0, 512), expected(0, 512), 'reads go on, unkept');
  store.write = write;
  await volume.write(0, Buffer.alloc(512, 9));
  await volume.flush();
  t.is(volume.mode, 'read-write');
});

test('a failed sync is final: read-only, and the flush and all later ones fail', async (t) => {
  const {volume, store, read} = await makeBench(t);
  await volume.write(0, Buffer.alloc(512, 3));
  store.sync = () => Promise.reject(new BlockError('EIO', 'medium error', {op: 'sync'}));
  await t.throwsAsync(volume.flush(), {code: 'EIO'});
  store.sync = async () => undefined;
  t.is(volume.mode, 'read-only');
  await t.throwsAsync(volume.flush(), {code: 'EIO'});
  await t.throwsAsync(volume.write(0, Buffer.alloc(512)), {code: 'EROFS'});
  t.deepEqual(await read(0, 512), Buffer.alloc(512, 3));
});

test('the mask table full: the write waits, is counted, and goes on once a block was filled', async (t) => {
  const {volume, source} = await makeBench(t, {map: {maskCountMax: 16}});
  source.isOpen = false;
  const writes: Promise<void>[] = [];
  for (let block = 0; block < 17; block++)
    writes.push(volume.write(block * BLOCK, Buffer.alloc(512, 1)));
  await settle();
  t.is(volume.report().waitingForMasks, 1);
  source.isOpen = true;
  for (const held of source.held) held.answer();
  await Promise.all(writes);
  t.is(volume.report().waitingForMasks, 0);
});

test('a sequential reader is read ahead of, a random one is not', async (t) => {
  const {source, read} = await makeBench(t, {readAheadMax: 256 * KiB});
  for (const block of [40, 3, 21, 9]) await read(block * BLOCK, BLOCK);
  t.is(source.reads.length, 4);
  source.reads.length = 0;
  for (let offset = 0; offset <= BLOCK; offset += 4096) await read(offset, 4096);
  const ahead = source.reads.filter(([offset]) => offset > BLOCK);
  t.true(ahead.length > 0 && ahead.every(([offset]) => offset < 24 * BLOCK));
});

test('the last, short block is whole when its sectors are', async (t) => {
  const size = 3 * BLOCK + 5 * 512;
  const {volume, store, read} = await makeBench(t, {}, size);
  await volume.write(3 * BLOCK, Buffer.alloc(5 * 512, 4));
  t.is(await volume.stateAt(3 * BLOCK), 'overwritten');
  await volume.discard(3 * BLOCK, 5 * 512);
  t.deepEqual(await read(3 * BLOCK, 5 * 512), Buffer.alloc(5 * 512));
  volume.setHydration({mode: 'full'});
  await volume.whenHydrated();
  t.is(store.bytes.length, size);
});

test('what no kernel would send is refused before anything happens', async (t) => {
  const {volume} = await makeBench(t);
  await t.throwsAsync(volume.read(100, Buffer.alloc(512)), {code: 'EINVAL'});
  await t.throwsAsync(volume.write(SIZE - 512, Buffer.alloc(1024)), {code: 'EINVAL'});
  await t.throwsAsync(volume.discard(-512, 512), {code: 'EINVAL'});
});

test('closing answers who waits for the source, and says clean', async (t) => {
  const {volume, source} = await makeBench(t);
  source.isOpen = false;
  const waiting = t.throwsAsync(volume.read(0, Buffer.alloc(512)));
  await settle();
  await volume.close();
  await waiting;
  await t.throwsAsync(volume.read(0, Buffer.alloc(512)), {code: 'ESHUTDOWN'});
});
