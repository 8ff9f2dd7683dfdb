import test from 'ava';

import {Budget} from '../../../src/base/budget.js';
import {RangeLock} from '../../../src/base/range-lock.js';

const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

test('overlapping ranges are held one after the other, in order of arrival', async (t) => {
  const lock = new RangeLock();
  const order: string[] = [];
  const take = async (name: string, start: number, end: number): Promise<() => void> => {
    const hold = await lock.acquire(start, end);
    order.push(name);
    return () => hold.release();
  };
  const releaseFirst = await take('first', 0, 10);
  const second = take('second', 5, 15);
  const third = take('third', 12, 20);
  const apart = take('apart', 100, 110);
  await settle();
  t.deepEqual(order, ['first', 'apart'], 'the third waits for the second, which came before it');
  releaseFirst();
  await settle();
  t.deepEqual(order, ['first', 'apart', 'second']);
  (await second)();
  (await third)();
  (await apart)();
  t.deepEqual(order, ['first', 'apart', 'second', 'third']);
  t.is(lock.count, 0);
});

test('ranges that only touch do not wait for each other', async (t) => {
  const lock = new RangeLock();
  const a = await lock.acquire(0, 10);
  const b = await lock.acquire(10, 20);
  t.is(lock.count, 2);
  a.release();
  b.release();
});

test('a budget serves takers in order, and one that wants more than all of it alone', async (t) => {
  const budget = new Budget(10);
  await budget.take(8);
  const served: string[] = [];
  const large = budget.take(25).then(() => served.push('large'));
  const small = budget.take(1).then(() => served.push('small'));
  await settle();
  t.deepEqual(served, [], 'the small one fits but does not overtake');
  t.is(budget.waiters, 2);
  budget.give(8);
  await large;
  t.deepEqual(served, ['large']);
  budget.give(25);
  await small;
  t.deepEqual(served, ['large', 'small']);
  t.is(budget.used, 1);
});
