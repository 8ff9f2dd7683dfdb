/**
 * The laboratory's own parts: the simulated disk does everything a disk may and nothing it may not,
 * by the judgement of the oracle, and the oracle refuses what it must.
 */
import test from 'ava';
import {Prng} from '../../src/base/prng.js';
import {KiB, SECTOR} from '../../src/base/units.js';
import type {BlockDevice} from '../../src/device/block-device.js';
import type {Storage} from '../../src/storage/storage.js';
import {Oracle, OracleError} from '../support/oracle.js';
import {Guest} from '../support/simulation/guest.js';
import {Scheduler, type Life} from '../support/simulation/scheduler.js';
import {Trace} from '../support/simulation/trace.js';
import {VolatileStorage, type StorageTools} from '../support/simulation/volatile-storage.js';
import {DAMAGED, GARBAGE, readStamp, SOURCE, stamp, ZERO} from '../support/stamps.js';

/** A disk seen as a block device: the simplest system the oracle can judge. */
function asDevice(storage: Storage): BlockDevice {
  return {
    size: storage.size,
    read: (offset, buffer) => storage.read(offset, buffer),
    write: async (offset, buffer, options) => {
      await storage.write(offset, buffer);
      if (options?.fua) await storage.sync();
    },
    writeZeroes: async (offset, length, options) => {
      await storage.zero(offset, length);
      if (options?.fua) await storage.sync();
    },
    discard: (offset, length) => storage.zero(offset, length),
    flush: () => storage.sync(),
    close: () => storage.close(),
  };
}

async function workOnPlainDisk(seed: number): Promise<{requests: number}> {
  const prng = new Prng(seed);
  const scheduler = new Scheduler(prng.fork());
  const trace = new Trace();
  const oracle = new Oracle(32 * KiB, () => SOURCE);
  const background = (offset: number, bytes: Uint8Array): void => stamp(bytes, offset, SOURCE);
  let life: Life = {isAlive: true};
  const tools = (): StorageTools => ({scheduler, prng, life, latency: () => prng.below(100) / 20});
  let disk = new VolatileStorage({name: 'disk', size: oracle.size, background}, tools());
  const common = {prng, oracle, scheduler, trace, blockSize: 4 * KiB, hotBlocks: 2};
  const guest = new Guest({...common, mayFail: () => false});
  const always = {isAlive: true};
  for (let step = 0; step < 600; step++) {
    if (guest.inFlight.size < 8) {
      const weights = {read: 6, write: 8, zeroes: 1, discard: 1, flush: 2};
      guest.send(asDevice(disk), life, prng.weighted(weights));
    }
    scheduler.after(prng.below(3), always, () => undefined);
    await scheduler.step();
    if (guest.failure !== undefined) throw guest.failure;
    if (!prng.chance(1, 60)) continue;
    life.isAlive = false;
    life = {isAlive: true};
    guest.forget();
    const isPowerCut = prng.chance(1, 2);
    oracle.crash(isPowerCut ? 'power cut' : 'process death', true);
    disk = isPowerCut ? disk.afterPowerCut(tools(), prng) : disk.afterProcessDeath(tools(), prng);
    guest.readAll(asDevice(disk), life);
  }
  return {requests: guest.requests};
}

test('a plain disk with power cuts and process deaths passes the oracle', async (t) => {
  for (let seed = 1; seed <= 40; seed++) t.true((await workOnPlainDisk(seed)).requests > 10);
});

test('the same seed gives the same world, another one another', async (t) => {
  const [one, again, other] = [
    await workOnPlainDisk(5),
    await workOnPlainDisk(5),
    await workOnPlainDisk(6),
  ];
  t.deepEqual(one, again);
  t.notDeepEqual(one, other);
});

test('a stamp names its value and place; a torn, moved or changed sector is damaged', (t) => {
  for (const value of [SOURCE, GARBAGE, 1, 70_000]) {
    for (const offset of [0, 7 * SECTOR, 2 ** 45]) {
      const bytes = new Uint8Array(SECTOR);
      stamp(bytes, offset, value);
      t.is(readStamp(bytes, 0, offset), value);
      t.is(readStamp(bytes, 0, offset + SECTOR), DAMAGED);
      bytes.fill(0, 100, 101);
      bytes[300] = (bytes[300] ?? 0) ^ 1;
      t.is(readStamp(bytes, 0, offset), DAMAGED);
    }
  }
  t.is(readStamp(new Uint8Array(SECTOR), 0, 0), ZERO);
});

/** An oracle with one sector of source content, and words for what happens to it. */
function oneSector(): {
  oracle: Oracle;
  write: (value: number, fua?: boolean) => void;
  flush: () => void;
  see: (value: number) => void;
} {
  const oracle = new Oracle(SECTOR, () => SOURCE);
  return {
    oracle,
    write: (value, fua = false) => oracle.acknowledge(oracle.beginWrite(0, SECTOR, value), fua),
    flush: () => oracle.acknowledgeFlush(oracle.beginFlush()),
    see: (value) => {
      const bytes = new Uint8Array(SECTOR);
      stamp(bytes, 0, value);
      oracle.check(0, bytes);
    },
  };
}

test('live: only the last answered write may be read', (t) => {
  const {write, see} = oneSector();
  see(SOURCE);
  write(1);
  see(1);
  t.throws(() => see(SOURCE), {instanceOf: OracleError});
  write(2);
  t.throws(() => see(1), {message: /I4, I5, I6/});
  t.throws(() => see(GARBAGE), {message: /I2, I9/});
});

test('live: while a write is in flight old and new may be read, then one of them stays', (t) => {
  const {oracle, write, see} = oneSector();
  write(1);
  const pending = oracle.beginWrite(0, SECTOR, 2);
  see(2);
  see(1);
  oracle.acknowledge(pending);
  t.throws(() => see(1), {instanceOf: OracleError});
  see(2);
});

test('live: of two overlapping writes either may win, but only one', (t) => {
  const {oracle, see} = oneSector();
  const [one, two] = [oracle.beginWrite(0, SECTOR, 1), oracle.beginWrite(0, SECTOR, 2)];
  oracle.acknowledge(two);
  oracle.acknowledge(one);
  see(2);
  see(2);
  t.throws(() => see(1), {instanceOf: OracleError});
});

test('after a power cut: flushed or later written, never older', (t) => {
  for (const [value, isAllowed] of [
    [SOURCE, false],
    [1, false],
    [2, true],
    [3, true],
    [4, true],
  ] as const) {
    const {oracle, write, flush, see} = oneSector();
    write(1);
    write(2);
    flush();
    write(3);
    oracle.beginWrite(0, SECTOR, 4);
    oracle.crash('power cut');
    if (isAllowed) t.notThrows(() => see(value));
    else t.throws(() => see(value), {message: /I3, I9/});
  }
});

test('after a power cut: what was read stays through the next one', (t) => {
  const {oracle, write, see} = oneSector();
  write(1);
  oracle.crash('power cut');
  see(1);
  oracle.crash('power cut');
  t.throws(() => see(SOURCE), {message: /I3, I9/});
});

test('a write answered during a flush is not covered by it', (t) => {
  const {oracle, see} = oneSector();
  const began = oracle.beginFlush();
  oracle.acknowledge(oracle.beginWrite(0, SECTOR, 1));
  oracle.acknowledgeFlush(began);
  oracle.crash('power cut');
  t.notThrows(() => see(SOURCE));
});

test('FUA is durable by itself', (t) => {
  const {oracle, write, see} = oneSector();
  write(1, true);
  oracle.crash('power cut');
  t.throws(() => see(SOURCE), {instanceOf: OracleError});
});

test('after the death of the process answered writes survive where that is promised', (t) => {
  for (const isPromised of [true, false]) {
    const {oracle, write, see} = oneSector();
    write(1);
    oracle.crash('process death', isPromised);
    if (isPromised) t.throws(() => see(SOURCE), {instanceOf: OracleError});
    else t.notThrows(() => see(SOURCE));
  }
});

test('a failed write leaves old or new bytes', (t) => {
  for (const value of [SOURCE, 1]) {
    const {oracle, see} = oneSector();
    oracle.fail(oracle.beginWrite(0, SECTOR, 1));
    t.notThrows(() => see(value));
  }
});
