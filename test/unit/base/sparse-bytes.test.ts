/** Sparse memory: what an array would give, for the price of what was written. */
import test from 'ava';
import {Prng} from '../../../src/base/prng.js';
import {SparseBytes} from '../../../src/base/sparse-bytes.js';
import {TiB} from '../../../src/base/units.js';

test('random writes and zeroes give what an array gives, with and without background', (t) => {
  for (const background of [
    undefined,
    (_offset: number, bytes: Uint8Array) => void bytes.fill(0x55),
  ]) {
    const model = new Uint8Array(5000).fill(background ? 0x55 : 0);
    const sparse = new SparseBytes(5000, {chunkSize: 512, ...(background ? {background} : {})});
    const prng = new Prng(11);
    for (let step = 0; step < 500; step++) {
      const offset = prng.below(5000);
      const length = prng.between(0, Math.min(1700, 5000 - offset));
      const value = prng.below(256);
      if (prng.chance(1, 2)) sparse.write(offset, new Uint8Array(length).fill(value));
      else sparse.zero(offset, length);
      model.fill(0, offset, offset + length);
      const found = new Uint8Array(5000);
      sparse.read(0, found);
      const wrote = found[offset] ?? 0;
      model.fill(wrote, offset, offset + length);
      t.true(wrote === 0 || wrote === value || length === 0);
      t.deepEqual(found, model);
    }
  }
});

test('64 TiB cost only what was written, and zeroing them all costs nothing', (t) => {
  const sparse = new SparseBytes(64 * TiB);
  sparse.write(64 * TiB - 8, new Uint8Array(8).fill(1));
  sparse.write(2 ** 45 - 4, new Uint8Array(8).fill(2));
  t.is(sparse.allocated, 3 * 65_536);
  const found = new Uint8Array(8);
  sparse.read(2 ** 45 - 4, found);
  t.deepEqual(found, new Uint8Array(8).fill(2));
  sparse.zero(0, 64 * TiB);
  t.is(sparse.allocated, 0);
});

test('a fork and its origin do not see each other', (t) => {
  const origin = new SparseBytes(4096, {chunkSize: 1024});
  origin.write(0, new Uint8Array(2048).fill(1));
  const fork = origin.fork();
  origin.write(0, new Uint8Array(10).fill(2));
  fork.write(1024, new Uint8Array(10).fill(3));
  const [a, b] = [new Uint8Array(2048), new Uint8Array(2048)];
  origin.read(0, a);
  fork.read(0, b);
  t.deepEqual([a[0], a[1024], b[0], b[1024]], [2, 1, 1, 3]);
});
