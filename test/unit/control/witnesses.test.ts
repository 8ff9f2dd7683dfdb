/** Witnesses: by which blocks a source or store is recognised. */
import test from 'ava';
import {MiB} from '../../../src/base/units.js';
import type {Source, SourceExtent} from '../../../src/source/source.js';
import {findMismatch, pickWitnesses, someOf} from '../../../src/control/witnesses.js';

/** A source of `size` bytes whose data is `data`, [start, end) ranges of a pattern. */
function patternSource(size: number, data: [number, number][], seed = 1): Source {
  const byteAt = (offset: number): number => {
    const isData = data.some(([start, end]) => offset >= start && offset < end);
    return isData ? ((Math.floor(offset / 7) * 31 + offset * seed) % 255) + 1 : 0;
  };
  return {
    name: 'pattern',
    size,
    async read(offset, buffer) {
      for (let i = 0; i < buffer.length; i++) buffer[i] = byteAt(offset + i);
    },
    async extents(offset, length) {
      const extents: SourceExtent[] = [];
      let at = offset;
      for (const [start, end] of data) {
        if (end <= at || start >= offset + length) continue;
        if (start > at) extents.push({offset: at, length: start - at, isZero: true});
        const from = Math.max(start, at);
        const to = Math.min(end, offset + length);
        extents.push({offset: from, length: to - from, isZero: false});
        at = to;
      }
      const rest = offset + length - at;
      if (rest > 0) extents.push({offset: at, length: rest, isZero: true});
      return extents;
    },
    async close() {},
  };
}

/** Repeats exactly. */
function sequence(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state * 16_807) % 2_147_483_647;
    return state / 2_147_483_647;
  };
}

const pick = (source: Source, blockSize = 65_536, seed = 1) =>
  pickWitnesses({source, blockSize, random: sequence(seed), signal: new AbortController().signal});

test('eight witnesses, inside one block each, all of data', async (t) => {
  const source = patternSource(16 * MiB, [
    [MiB, 2 * MiB],
    [5 * MiB, 6 * MiB],
  ]);
  const witnesses = await pick(source);
  t.is(witnesses.length, 8);
  for (const {offset, length} of witnesses) {
    t.is(offset % 65_536, 0);
    t.is(length, 65_536);
    t.true((offset >= MiB && offset < 2 * MiB) || (offset >= 5 * MiB && offset < 6 * MiB));
  }
});

test('small blocks have small witnesses', async (t) => {
  const witnesses = await pick(patternSource(MiB, [[0, MiB]]), 4096);
  t.true(witnesses.every(({offset, length}) => length === 4096 && offset % 4096 === 0));
});

test('a source of zeroes has no witness, a short one has one', async (t) => {
  t.deepEqual(await pick(patternSource(MiB, [])), []);
  const short = await pick(patternSource(1000, [[0, 1000]]));
  t.deepEqual(
    short.map(({offset, length}) => [offset, length]),
    [[0, 1000]],
  );
});

test('a huge source that is nearly empty is recognised by its beginning', async (t) => {
  const witnesses = await pick(patternSource(64 * 2 ** 40, [[0, 2 * MiB]]));
  t.true(witnesses.length >= 1);
});

test('the same content agrees, another does not', async (t) => {
  const source = patternSource(4 * MiB, [[0, 4 * MiB]]);
  const witnesses = await pick(source);
  t.is(await findMismatch(source, witnesses), undefined);
  t.truthy(await findMismatch(patternSource(4 * MiB, [[0, 4 * MiB]], 2), witnesses));
});

test('a source that ends before a witness does not agree', async (t) => {
  const witnesses = await pick(patternSource(4 * MiB, [[3 * MiB, 4 * MiB]]));
  t.truthy(await findMismatch(patternSource(2 * MiB, []), witnesses));
});

test('some of the witnesses are different ones, never more than there are', (t) => {
  const all = Array.from({length: 8}, (_, i) => ({offset: i, length: 1, sha256: ''}));
  const some = someOf(all, 4, sequence(3));
  t.is(new Set(some).size, 4);
  t.is(someOf(all, 20, sequence(3)).length, 8);
  t.is(all.length, 8);
});
