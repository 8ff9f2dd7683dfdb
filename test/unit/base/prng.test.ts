/** The seeded generator: the same seed gives the same numbers for ever, choices are in range. */
import test from 'ava';
import {Prng} from '../../../src/base/prng.js';

test('a seed gives the same numbers on every machine and in every version', (t) => {
  const prng = new Prng(42);
  t.deepEqual([prng.uint32(), prng.uint32(), prng.uint32()], [2834941501, 862905087, 383601768]);
});

test('neighbouring seeds and seeds above 2^32 give different numbers', (t) => {
  const firsts = [0, 1, 2, 2 ** 32, 2 ** 32 + 1, 2 ** 53 - 1].map((seed) =>
    new Prng(seed).uint32(),
  );
  t.is(new Set(firsts).size, firsts.length);
});

test('below stays below its limit, also above 2^32', (t) => {
  const prng = new Prng(1);
  for (const limit of [1, 2, 3, 1000, 2 ** 32, 2 ** 45, 2 ** 53]) {
    for (let count = 0; count < 200; count++) {
      const value = prng.below(limit);
      t.true(Number.isSafeInteger(value) && value >= 0 && value < limit);
    }
  }
});

test('weights say how often a key is chosen, and never one with weight 0', (t) => {
  const prng = new Prng(5);
  const seen = {often: 0, seldom: 0, never: 0};
  for (let count = 0; count < 4000; count++) seen[prng.weighted({often: 3, seldom: 1, never: 0})]++;
  t.is(seen.never, 0);
  t.true(seen.often > 2 * seen.seldom && seen.seldom > 700);
});

test('a fork goes its own way', (t) => {
  const [one, two] = [new Prng(9), new Prng(9)];
  const fork = one.fork();
  two.fork();
  fork.uint32();
  t.is(one.uint32(), two.uint32());
});

test('shuffle keeps every item', (t) => {
  const items = Array.from({length: 50}, (_, index) => index);
  const shuffled = new Prng(3).shuffle([...items]);
  t.notDeepEqual(shuffled, items);
  t.deepEqual(
    shuffled.sort((a, b) => a - b),
    items,
  );
});
