import test from 'ava';
import fc from 'fast-check';

import {
  clearMarks,
  countValues,
  endOfRun,
  fillEntries,
  isMarkedAt,
  nextMarked,
  setAt,
  valueAt,
} from '../../../src/base/nibbles.js';

const LENGTH = 64;

/** The obvious twin: an object an entry. */
interface Entry {
  value: number;
  marked: boolean;
}

const change = fc.record({
  start: fc.nat(LENGTH),
  end: fc.nat(LENGTH),
  value: fc.integer({min: 0, max: 7}),
  marked: fc.boolean(),
});

test('four-bit entries behave as an array of objects would', (t) => {
  fc.assert(
    fc.property(fc.array(change, {maxLength: 30}), (changes) => {
      const bytes = new Uint8Array(LENGTH / 2);
      const twin: Entry[] = Array.from({length: LENGTH}, () => ({value: 0, marked: false}));
      for (const {start, end, value, marked} of changes) {
        fillEntries(bytes, start, end, value, marked);
        if (start < end) twin.fill({value, marked}, start, end);
        else if (start < LENGTH) {
          setAt(bytes, start, value, marked);
          twin[start] = {value, marked};
        }
      }
      const read = twin.map((_, index) => ({
        value: valueAt(bytes, index),
        marked: isMarkedAt(bytes, index),
      }));
      t.deepEqual(read, twin);
      checkSearches(t.deepEqual.bind(t), bytes, twin);
    }),
  );
  t.pass();
});

function checkSearches(
  equal: (a: unknown, b: unknown) => void,
  bytes: Uint8Array,
  twin: Entry[],
): void {
  for (let start = 0; start < LENGTH; start++) {
    const value = twin[start]?.value ?? 0;
    const run = twin.findIndex((entry, index) => index >= start && entry.value !== value);
    equal(endOfRun(bytes, start, LENGTH, value), run < 0 ? LENGTH : run);
    const marked = twin.findIndex((entry, index) => index >= start && entry.marked);
    equal(nextMarked(bytes, start, LENGTH), marked < 0 ? LENGTH : marked);
  }
  const counts: number[] = [];
  countValues(bytes, LENGTH, counts);
  for (let value = 0; value < 8; value++) {
    equal(counts[value] ?? 0, twin.filter((entry) => entry.value === value).length);
  }
  const cleared = bytes.slice();
  clearMarks(cleared);
  equal(nextMarked(cleared, 0, LENGTH), LENGTH);
  for (let index = 0; index < LENGTH; index++) equal(valueAt(cleared, index), twin[index]?.value);
}
