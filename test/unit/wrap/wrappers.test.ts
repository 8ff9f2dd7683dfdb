/** Delay, rate, log and read-only: what each does to time, to the log, to changes. */
import test from 'ava';
import type {LogFields} from '../../../src/base/environment.js';
import {ERRNO, toErrno} from '../../../src/base/errors.js';
import {MiB, SECTOR} from '../../../src/base/units.js';
import {delayDevice} from '../../../src/wrap/delay-device.js';
import {FaultDevice} from '../../../src/wrap/fault-device.js';
import {logDevice} from '../../../src/wrap/log-device.js';
import {MemoryDevice} from '../../../src/wrap/memory-device.js';
import {rateDevice} from '../../../src/wrap/rate-device.js';
import {readOnlyDevice} from '../../../src/wrap/read-only-device.js';
import {virtualTime} from '../../support/virtual-time.js';

const sector = (): Buffer => Buffer.alloc(SECTOR, 7);

test('read-only: changes get EROFS, reads and flushes pass', async (t) => {
  const memory = new MemoryDevice(MiB);
  await memory.write(0, sector());
  const device = readOnlyDevice(memory);
  const changes = [
    () => device.write(0, sector()),
    () => device.writeZeroes(0, SECTOR),
    () => device.discard(0, SECTOR),
  ];
  for (const change of changes) t.is(toErrno(await t.throwsAsync(change())), ERRNO.EROFS);
  const found = Buffer.alloc(SECTOR);
  await device.read(0, found);
  await device.flush();
  t.deepEqual(found, sector());
});

test('delay: each operation takes its own time', async (t) => {
  const {scheduler, environment} = virtualTime();
  const ops = {flush: 20, read: {min: 5, max: 10}};
  const device = delayDevice(new MemoryDevice(MiB), {environment, delay: 1, ops});
  await scheduler.run(device.write(0, sector()));
  t.is(scheduler.now, 1);
  await scheduler.run(device.flush());
  t.is(scheduler.now, 21);
  await scheduler.run(device.read(0, sector()));
  t.true(scheduler.now >= 26 && scheduler.now < 31);
});

test('delay: a negative or backward delay is refused', (t) => {
  const {environment} = virtualTime();
  const memory = new MemoryDevice(MiB);
  t.throws(() => delayDevice(memory, {environment, delay: -1}), {instanceOf: RangeError});
  t.throws(() => delayDevice(memory, {environment, delay: {min: 2, max: 1}}), {
    instanceOf: RangeError,
  });
});

test('rate: many requests at once together keep the limit', async (t) => {
  const {scheduler, environment} = virtualTime();
  const device = rateDevice(new MemoryDevice(MiB), {
    environment,
    bytesPerSecond: 100 * SECTOR,
    burst: 0,
  });
  await scheduler.run(Promise.all(Array.from({length: 50}, () => device.write(0, sector()))));
  t.true(Math.abs(scheduler.now - 500) < 1e-6);
});

test('rate: a pause saves up no more than the burst', async (t) => {
  const {scheduler, environment} = virtualTime();
  const device = rateDevice(new MemoryDevice(MiB), {
    environment,
    bytesPerSecond: 100 * SECTOR,
    burst: 10 * SECTOR,
  });
  await scheduler.run(environment.clock.sleep(10_000));
  await scheduler.run(Promise.all(Array.from({length: 20}, () => device.read(0, sector()))));
  t.true(Math.abs(scheduler.now - 10_100) < 1e-6);
});

test('log: one line for each answer, a warning with the code for a failed one', async (t) => {
  const {environment} = virtualTime();
  const lines: [string, string, LogFields | undefined][] = [];
  const log = {
    clock: environment.clock,
    log: (level: string, message: string, fields?: LogFields) =>
      void lines.push([level, message, fields]),
  };
  const faulty = new FaultDevice(new MemoryDevice(MiB), [{ops: ['flush'], code: 'ENOSPC'}]);
  const device = logDevice(faulty, {environment: log, name: 'disk', level: 'info'});
  await device.write(SECTOR, sector(), {fua: true});
  await t.throwsAsync(device.flush());
  t.deepEqual(lines, [
    ['info', 'disk: write', {offset: SECTOR, length: SECTOR, fua: true, ms: 0}],
    ['warning', 'disk: flush failed', {offset: 0, length: 0, fua: false, ms: 0, code: 'ENOSPC'}],
  ]);
});
