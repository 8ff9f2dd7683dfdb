import test from 'ava';

import {Geometry} from '../../../src/map/geometry.js';
import {MaskTable} from '../../../src/map/mask-table.js';
import {plainEnvironment} from '../../support/plain-environment.js';

/** Three blocks of 16 sectors, the last one short: 5 sectors. */
const GEOMETRY = new Geometry({size: 2 * 8192 + 5 * 512, blockSize: 8192});

function makeTable(capacity?: number): MaskTable {
  return new MaskTable(GEOMETRY, plainEnvironment(), capacity);
}

test('a mask grows until it is full; a short last block is full earlier', (t) => {
  const table = makeTable();
  t.true(table.tryReserve(2));
  table.add(0);
  table.add(2);
  t.false(table.grow(0, 0, 8));
  t.false(table.grow(0, 9, 16));
  t.true(table.grow(0, 8, 9));
  t.false(table.grow(2, 0, 4));
  t.true(table.grow(2, 4, 5));
});

test('runs tell the guest’s sectors from the others', (t) => {
  const table = makeTable();
  table.tryReserve(1);
  table.add(1);
  table.grow(1, 2, 5);
  t.deepEqual(table.runs(1, 0, 16), [
    {start: 0, end: 2, isMasked: false},
    {start: 2, end: 5, isMasked: true},
    {start: 5, end: 16, isMasked: false},
  ]);
  t.deepEqual(table.runs(1, 3, 4), [{start: 3, end: 4, isMasked: true}]);
});

test('the table is bounded: who finds it full waits until a mask leaves', async (t) => {
  const table = makeTable(16);
  t.is(table.capacity, 16);
  t.true(table.tryReserve(16));
  t.false(table.tryReserve(1));
  let isServed = false;
  const waiting = table.reserve(1).then(() => (isServed = true));
  t.is(table.waiters, 1);
  await Promise.resolve();
  t.false(isServed);
  table.add(0);
  table.drop(0);
  await waiting;
  t.true(isServed);
});

test('changes are taken once, and a dropped mask is not among them', (t) => {
  const table = makeTable();
  table.tryReserve(2);
  table.add(0);
  table.add(1);
  table.grow(0, 0, 1);
  table.grow(1, 3, 4);
  table.drop(0);
  t.deepEqual(
    table.takeChanges().map(({block}) => block),
    [1],
  );
  t.deepEqual(table.takeChanges(), []);
  t.is(table.images()[0]?.mask[0], 0b1000);
});

test('a place used again begins with an empty mask', (t) => {
  const table = makeTable();
  table.tryReserve(1);
  table.add(0);
  table.grow(0, 0, 15);
  table.dropRange(0, 3);
  table.tryReserve(1);
  table.add(1);
  t.deepEqual(table.runs(1, 0, 16), [{start: 0, end: 16, isMasked: false}]);
});
