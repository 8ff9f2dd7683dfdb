import test from 'ava';
import fc from 'fast-check';

import {isTransition, STATE_COUNT, type StateCode} from '../../../src/map/block-state.js';
import {Geometry, PAGE_BLOCKS} from '../../../src/map/geometry.js';
import {MIXED, OverwriteMap, type StateRun} from '../../../src/map/overwrite-map.js';
import {plainEnvironment} from '../../support/plain-environment.js';

const BLOCK = 4096;
/** Two whole pages and a short one. */
const BLOCKS = 2 * PAGE_BLOCKS + 1000;

function makeMap(blocks = BLOCKS): OverwriteMap {
  return new OverwriteMap(
    new Geometry({size: blocks * BLOCK, blockSize: BLOCK}),
    plainEnvironment(),
  );
}

/** Puts blocks [start, end) of the twin into a state wherever the table allows it, run by run. */
function change(
  map: OverwriteMap,
  twin: Uint8Array,
  start: number,
  end: number,
  state: StateCode,
): void {
  for (let block = start; block < end;) {
    const runEnd = map.runEnd(block, end);
    if (isTransition(twin[block] as StateCode, state)) {
      map.set(block, runEnd, state);
      twin.fill(state, block, runEnd);
    }
    block = runEnd;
  }
}

function applyRuns(twin: Uint8Array, runs: readonly StateRun[]): void {
  for (const {start, count, state} of runs) twin.fill(state, start, start + count);
}

const step = fc.record({
  start: fc.nat(BLOCKS - 1),
  length: fc.oneof(fc.integer({min: 1, max: 50}), fc.integer({min: 1, max: BLOCKS})),
  state: fc.integer({min: 0, max: STATE_COUNT - 1}),
  take: fc.integer({min: 0, max: 4}),
});

test('the map agrees with an array of states, and its changes carry one array to the next', (t) => {
  fc.assert(
    fc.property(fc.array(step, {maxLength: 25}), (steps) => {
      const map = makeMap();
      const twin = new Uint8Array(BLOCKS);
      const committed = new Uint8Array(BLOCKS);
      for (const {start, length, state, take} of steps) {
        change(map, twin, start, Math.min(BLOCKS, start + length), state as StateCode);
        map.selfCheck();
        if (take === 0) {
          applyRuns(committed, map.takeChanges());
          t.deepEqual(committed, twin, 'taken changes say all that changed');
          t.false(map.isDirty);
        }
      }
      for (let block = 0; block < BLOCKS; block++) {
        if (map.get(block) !== twin[block]) t.fail(`block ${block}`);
      }
    }),
    {numRuns: 60},
  );
  t.pass();
});

test('a change after the changes were taken belongs to the next commit', (t) => {
  const map = makeMap();
  map.set(5, 9, 3);
  t.deepEqual(map.takeChanges(), [{start: 5, count: 4, state: 3}]);
  t.false(map.isChanged(6));
  map.set(6, 7, 4);
  t.true(map.isChanged(6));
  t.false(map.isChanged(7));
  t.deepEqual(map.takeChanges(), [{start: 6, count: 1, state: 4}]);
});

test('I1, I4: a transition that the table does not know is refused before anything changes', (t) => {
  const map = makeMap();
  map.set(10, 20, 3);
  t.throws(() => map.set(5, 15, 2), {message: /I1, I4: block 10 goes from overwritten to copied/});
  t.is(map.get(5), 0);
  t.throws(() => map.set(12, 13, 0), {message: /from overwritten to absent/});
});

test('pages that are uniform again give their memory back and are written as one byte', (t) => {
  const released: number[] = [];
  const environment = plainEnvironment();
  const allocate = environment.allocate;
  const map = new OverwriteMap(new Geometry({size: BLOCKS * BLOCK, blockSize: BLOCK}), {
    ...environment,
    allocate: (name, length) => {
      const memory = allocate(name, length);
      const release = (offset: number, count: number): void => {
        released.push(offset / count);
        memory.release(offset, count);
      };
      return name === 'map.entries' ? {...memory, release} : memory;
    },
  });
  map.set(0, 100, 2);
  map.set(100, PAGE_BLOCKS, 2);
  map.takeChanges();
  t.deepEqual(released, [0]);
  const [image] = map.takePageImages();
  t.like(image, {page: 0, kind: 2, entries: undefined});
  map.set(7, 8, 3);
  t.is(map.takePageImages()[0]?.kind, MIXED);
});

test('a page image is the page as it was: later changes and marks are not in it', (t) => {
  const map = makeMap();
  map.set(0, 10, 3);
  const [image] = map.takePageImages();
  const before = image?.entries?.slice();
  map.set(10, 20, 3);
  t.deepEqual(image?.entries, before);
  t.is((image?.entries?.[0] ?? 0xff) & 0x88, 0, 'no change marks on disk');
});

test('blocks above 2^31 bytes and 2^30 blocks are told apart', (t) => {
  const size = 2 ** 46;
  const map = new OverwriteMap(new Geometry({size, blockSize: 65_536}), {
    ...plainEnvironment(),
    // Sparse, as the memfd is: 512 MiB of zeroed memory that nobody touches costs nothing.
    allocate: (_name, length) => ({bytes: new Uint8Array(length), release: () => undefined}),
  });
  const last = 2 ** 30 - 1;
  map.set(last, last + 1, 3);
  map.set(2 ** 29, 2 ** 29 + 3, 2);
  t.is(map.get(last), 3);
  t.is(map.get(last - 1), 0);
  t.deepEqual(map.counts(), {
    absent: 2 ** 30 - 4,
    partial: 0,
    copied: 3,
    overwritten: 1,
    zeroed: 0,
  });
  map.set(0, 2 ** 30, 4);
  t.is(map.count(4), 2 ** 30);
  t.deepEqual(map.takeChanges(), [{start: 0, count: 2 ** 30, state: 4}]);
});
