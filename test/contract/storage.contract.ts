/**
 * What every {@link Storage} does. A storage joins with one line:
 *
 *   storageContract('file', async (t, size) => …);
 *
 * `make` gives a storage of `size` bytes that reads zeroes.
 */
import {Buffer} from 'node:buffer';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {KiB, MiB} from '../../src/base/units.js';
import type {Storage} from '../../src/storage/storage.js';

export type MakeStorage = (t: ExecutionContext, size: number) => Promise<Storage>;

const SIZE = 4 * MiB;

async function readRange(storage: Storage, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length, 0xee);
  await storage.read(offset, buffer);
  return buffer;
}

export function storageContract(name: string, make: MakeStorage): void {
  test(`${name}: a fresh storage has its size and reads zeroes`, async (t) => {
    const storage = await make(t, SIZE);
    t.is(storage.size, SIZE);
    t.deepEqual(await readRange(storage, SIZE - 100, 100), Buffer.alloc(100));
    await storage.close();
  });

  test(`${name}: a read gives what was last written, at any offset and length`, async (t) => {
    const storage = await make(t, SIZE);
    const oracle = Buffer.alloc(SIZE);
    const range = fc.tuple(
      fc.nat(SIZE - 1),
      fc.integer({min: 1, max: 200 * KiB}),
      fc.integer({min: 1, max: 255}),
    );
    for (const [offset, wanted, value] of fc.sample(range, 40)) {
      const length = Math.min(wanted, SIZE - offset);
      const bytes = Buffer.alloc(length, value);
      oracle.set(bytes, offset);
      await storage.write(offset, bytes);
    }
    t.is(Buffer.compare(await readRange(storage, 0, SIZE), oracle), 0);
    await storage.close();
  });

  test(`${name}: concurrent writes that do not overlap all arrive`, async (t) => {
    const storage = await make(t, SIZE);
    const writes = Array.from({length: 64}, (_, index) =>
      storage.write(index * 4096, Buffer.alloc(4096, index + 1)),
    );
    await Promise.all(writes);
    const bytes = await readRange(storage, 0, 64 * 4096);
    for (let index = 0; index < 64; index++) t.is(bytes[index * 4096 + 4095], index + 1);
    await storage.close();
  });

  test(`${name}: zero clears exactly its range, aligned or not`, async (t) => {
    const storage = await make(t, SIZE);
    await storage.write(0, Buffer.alloc(SIZE, 0xaa));
    for (const [offset, length] of [
      [8192, 4096],
      [100_001, 77],
      [1_000_000, 300_001],
    ] as const) {
      await storage.zero(offset, length);
      const around = await readRange(storage, offset - 1, length + 2);
      t.is(around[0], 0xaa);
      t.is(around[length + 1], 0xaa);
      t.true(around.subarray(1, length + 1).every((byte) => byte === 0));
    }
    await storage.close();
  });

  test(`${name}: extents cover the range exactly and no hole hides data`, async (t) => {
    const storage = await make(t, SIZE);
    await storage.write(MiB, Buffer.alloc(64 * KiB, 1));
    await storage.write(3 * MiB + 5, Buffer.alloc(1, 1));
    const extents = await storage.extents(1000, SIZE - 2000);
    let at = 1000;
    for (const extent of extents) {
      t.is(extent.offset, at);
      t.true(extent.length > 0);
      at += extent.length;
      if (!extent.isHole) continue;
      const bytes = await readRange(storage, extent.offset, extent.length);
      t.true(bytes.every((byte) => byte === 0));
    }
    t.is(at, SIZE - 1000);
    await storage.close();
  });

  test(`${name}: an empty range is allowed everywhere`, async (t) => {
    const storage = await make(t, SIZE);
    await storage.read(SIZE, Buffer.alloc(0));
    await storage.write(0, Buffer.alloc(0));
    await storage.zero(SIZE, 0);
    t.deepEqual(await storage.extents(5, 0), []);
    await storage.sync();
    await storage.close();
  });

  test(`${name}: close waits for calls in flight`, async (t) => {
    const storage = await make(t, SIZE);
    const buffers = Array.from({length: 32}, () => Buffer.alloc(64 * KiB, 0xee));
    let done = 0;
    const reads = buffers.map(async (buffer, index) => {
      await storage.read(index * 64 * KiB, buffer);
      done++;
    });
    await storage.close();
    await Promise.all(reads);
    t.is(done, 32);
    t.true(buffers.every((buffer) => buffer.every((byte) => byte === 0)));
  });
}
