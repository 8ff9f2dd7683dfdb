import {Buffer} from 'node:buffer';
import test from 'ava';
import {PaddedSource} from '../../../src/source/padded-source.js';
import type {Source} from '../../../src/source/source.js';

function odd(size: number, isZero = false): Source {
  return {
    name: 'odd',
    size,
    read: async (offset, buffer) =>
      void buffer.forEach((_, index) => {
        buffer[index] = ((offset + index) % 251) + 1;
      }),
    extents: async (offset, length) => [{offset, length, isZero}],
    close: async () => undefined,
  };
}

test('the size is rounded up to whole sectors and what was added reads zeroes', async (t) => {
  const source = new PaddedSource(odd(1000));
  t.is(source.size, 1024);
  const buffer = Buffer.alloc(124, 0xee);
  await source.read(900, buffer);
  t.is(buffer[99], (999 % 251) + 1);
  t.deepEqual(buffer.subarray(100), Buffer.alloc(24));
});

test('a read wholly in the padding asks nobody', async (t) => {
  const source = new PaddedSource(odd(4097), 4096);
  t.is(source.size, 8192);
  const buffer = Buffer.alloc(100, 0xee);
  await source.read(5000, buffer);
  t.deepEqual(buffer, Buffer.alloc(100));
});

test('extents include the padding as zero, joined where the end is zero already', async (t) => {
  t.deepEqual(await new PaddedSource(odd(1000)).extents(0, 1024), [
    {offset: 0, length: 1000, isZero: false},
    {offset: 1000, length: 24, isZero: true},
  ]);
  t.deepEqual(await new PaddedSource(odd(1000, true)).extents(512, 512), [
    {offset: 512, length: 512, isZero: true},
  ]);
  t.deepEqual(await new PaddedSource(odd(1000)).extents(1010, 10), [
    {offset: 1010, length: 10, isZero: true},
  ]);
});

test('a whole size stays as it is', async (t) => {
  const source = new PaddedSource(odd(1024));
  t.is(source.size, 1024);
  t.deepEqual(await source.extents(0, 1024), [{offset: 0, length: 1024, isZero: false}]);
});
