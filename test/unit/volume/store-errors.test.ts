/** DC12: a store that fails under a volume in use; thousands of faults are the simulation’s. */
import test from 'ava';

import {Volume} from '../../../src/volume/volume.js';
import {
  BLOCK,
  expected,
  makeBench,
  settle,
  SIZE,
  untilProtected,
} from '../../support/failing-store.js';
import {HeldSource} from '../../support/held-source.js';
import {MemoryStorage} from '../../support/memory-storage.js';
import {plainEnvironment} from '../../support/plain-environment.js';

test('DC12: an unreadable copied block is fetched anew and the guest notices nothing', async (t) => {
  const {volume, store, source, read} = await makeBench(t, false);
  await read(3 * BLOCK, BLOCK);
  await settle();
  t.is(await volume.stateAt(3 * BLOCK), 'copied');
  store.bad.add(3 * BLOCK + 1024);
  source.reads.length = 0;
  t.deepEqual(await read(3 * BLOCK, BLOCK), expected(3 * BLOCK, BLOCK));
  t.deepEqual(
    source.reads[0],
    [3 * BLOCK + 1024, 512],
    'a bad sector does not cost its neighbours',
  );
  await settle();
  t.is(await volume.stateAt(3 * BLOCK), 'copied', 'and is in the store once more');
  t.is(store.bad.size, 0);
  t.like(volume.report().storeErrors[0], {
    offset: 3 * BLOCK + 1024,
    length: 512,
    count: 1,
    done: 'fetched anew',
  });
});

test('DC12: an unreadable overwritten block is put back from the backup', async (t) => {
  const {volume, store, source, read} = await makeBench(t, true);
  await volume.write(5 * BLOCK, Buffer.alloc(BLOCK, 0x55));
  await untilProtected(volume);
  for (let at = 5 * BLOCK + 4096; at < 5 * BLOCK + 8192; at += 512) store.bad.add(at);
  t.deepEqual(await read(5 * BLOCK, BLOCK), Buffer.alloc(BLOCK, 0x55));
  t.deepEqual(source.reads, []);
  t.is(store.bad.size, 0);
  t.is(await volume.stateAt(5 * BLOCK), 'overwritten');
  t.like(volume.report().storeErrors, [{offset: 5 * BLOCK + 4096, length: 4096, done: 'put back'}]);
});

test('DC12: of a partial block the guest’s sectors come from the backup', async (t) => {
  const {volume, store, source, read} = await makeBench(t, true);
  await volume.write(7 * BLOCK + 512, Buffer.alloc(1024, 0x66));
  await untilProtected(volume);
  t.is(await volume.stateAt(7 * BLOCK), 'partial');
  store.bad.add(7 * BLOCK + 512);
  t.deepEqual(await read(7 * BLOCK + 512, 1024), Buffer.alloc(1024, 0x66));
  t.deepEqual(source.reads, []);
  t.is(store.bad.size, 0);
});

test('DC12, I5: what nobody else has is an error for who reads it, listed, until it is written', async (t) => {
  const {volume, store, read} = await makeBench(t, false);
  await volume.write(5 * BLOCK, Buffer.alloc(BLOCK, 0x55));
  store.bad.add(5 * BLOCK + 512);
  await t.throwsAsync(read(5 * BLOCK, BLOCK), {
    code: 'EIO',
    message: 'store cannot read the volume at 82432, and write-through is off',
  });
  t.deepEqual(await read(5 * BLOCK + 1024, 1024), Buffer.alloc(1024, 0x55), 'its neighbours can');
  t.like(volume.report().storeErrors, [{offset: 5 * BLOCK + 512, length: 512, done: 'lost'}]);
  await volume.write(5 * BLOCK, Buffer.alloc(1024, 0x56));
  t.deepEqual(await read(5 * BLOCK, 1024), Buffer.alloc(1024, 0x56));
});

test('I11: a lost block is marked before the guest writes to it: the disk calls it copied', async (t) => {
  const {volume, store, source, mapFile, read} = await makeBench(t, false);
  await read(3 * BLOCK, BLOCK);
  await settle();
  await volume.flush();
  store.bad.add(3 * BLOCK + 512);
  source.isOpen = false;
  const waiting = t.throwsAsync(read(3 * BLOCK, BLOCK));
  await settle();
  t.is(await volume.stateAt(3 * BLOCK), 'absent');
  await volume.write(3 * BLOCK + 1024, Buffer.alloc(512, 0x33));
  const environment = plainEnvironment();
  const disk = new MemoryStorage(mapFile.size, 0, 'map');
  disk.bytes.set(mapFile.bytes);
  const parts = {store, mapFile: disk, source: new HeldSource(SIZE), environment};
  const after = await Volume.open(parts);
  t.is(await after.stateAt(3 * BLOCK), 'overwritten', 'a power cut now does not bring a lie back');
  await after.close();
  await volume.close();
  await waiting;
});

test('DC12: verify finds unreadable blocks, and hydration brings them home again', async (t) => {
  const {volume, store, source} = await makeBench(t, false);
  volume.setHydration({mode: 'full'});
  await volume.whenHydrated();
  store.bad.add(9 * BLOCK);
  store.bad.add(11 * BLOCK + 512);
  source.isOpen = true;
  const report = await volume.verify();
  t.like(report, {unreadableBlocks: 2, differingBlocks: 0});
  await volume.whenHydrated();
  t.true(volume.report().isHydrated);
  t.is(store.bad.size, 0);
  t.deepEqual(store.bytes, expected(0, SIZE));
});

test('DC12: a write that fails once is done again; one that fails twice is the guest’s error', async (t) => {
  const {volume, store, read} = await makeBench(t, false);
  await read(0, BLOCK);
  await settle();
  store.failsWrites = 1;
  await volume.write(BLOCK, Buffer.alloc(512, 1));
  store.failsWrites = 2;
  await t.throwsAsync(volume.write(0, Buffer.alloc(512, 2)), {code: 'EIO'});
  t.is(await volume.stateAt(0), 'overwritten', 'I11: nobody knows what the copy is now');
  t.like(volume.report().storeErrors, [{offset: 0, length: 512, done: 'not written'}]);
});

test('DC12: the resync passes an unreadable block by and says that the backup lacks it', async (t) => {
  const {volume, store, target} = await makeBench(t, true);
  await untilProtected(volume);
  await volume.setWriteThrough('off');
  await volume.write(2 * BLOCK, Buffer.alloc(3 * BLOCK, 0x22));
  store.bad.add(3 * BLOCK + 512);
  await volume.setWriteThrough('sync');
  for (let wait = 0; wait < 500 && volume.protection().behindBlocks > 1; wait++) {
    await volume.flush();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  t.is(volume.protection().behindBlocks, 1);
  t.not(volume.protection().state, 'protected');
  t.deepEqual(target.bytes.subarray(4 * BLOCK, 5 * BLOCK), Buffer.alloc(BLOCK, 0x22));
  t.like(volume.report().storeErrors, [{offset: 3 * BLOCK, length: BLOCK, done: 'lost'}]);
  t.false(volume.isOnBackup(3 * BLOCK));
});
