/**
 * The power-cut laboratory: nothing flushed is lost, everything else may be, and a seed replays.
 */
import test from 'ava';
import {ERRNO, toErrno} from '../../../src/base/errors.js';
import {Prng} from '../../../src/base/prng.js';
import {MiB, SECTOR} from '../../../src/base/units.js';
import {CUT_MODES} from '../../../src/wrap/cut.js';
import {MemoryDevice} from '../../../src/wrap/memory-device.js';
import {VolatileDevice} from '../../../src/wrap/volatile-device.js';
import {Oracle} from '../../support/oracle.js';
import {stamp, ZERO} from '../../support/stamps.js';

const filled = (value: number, sectors = 1): Buffer => Buffer.alloc(sectors * SECTOR, value);

async function readSector(device: VolatileDevice, index: number): Promise<number> {
  const buffer = Buffer.alloc(SECTOR);
  await device.read(index * SECTOR, buffer);
  return buffer[0] ?? -1;
}

test('what was flushed or written with FUA survives every cut', async (t) => {
  for (let seed = 0; seed < 50; seed++) {
    const device = new VolatileDevice(new MemoryDevice(MiB));
    await device.write(0, filled(1, 4));
    await device.flush();
    await device.write(8 * SECTOR, filled(2), {fua: true});
    await device.cut(seed);
    device.powerOn();
    t.deepEqual(
      [await readSector(device, 0), await readSector(device, 3), await readSector(device, 8)],
      [1, 1, 2],
    );
  }
});

test('of an unflushed write a cut leaves all, nothing, or some sectors', async (t) => {
  const outcomes = new Set<string>();
  for (let seed = 0; seed < 200; seed++) {
    const device = new VolatileDevice(new MemoryDevice(MiB));
    await device.write(0, filled(1, 2));
    await device.write(0, filled(2, 2));
    await device.cut(seed);
    device.powerOn();
    outcomes.add(`${await readSector(device, 0)}${await readSector(device, 1)}`);
  }
  t.deepEqual([...outcomes].sort(), ['00', '01', '02', '10', '11', '12', '20', '21', '22']);
});

test('while the power is off everything fails with ENODEV', async (t) => {
  const device = new VolatileDevice(new MemoryDevice(MiB));
  await device.cut();
  t.true(device.isOff);
  t.is(toErrno(await t.throwsAsync(device.read(0, filled(0)))), ERRNO.ENODEV);
  t.is(toErrno(await t.throwsAsync(device.write(0, filled(0)))), ERRNO.ENODEV);
  t.is(toErrno(await t.throwsAsync(device.flush())), ERRNO.ENODEV);
  device.powerOn();
  await device.flush();
});

test('a flush in progress at the cut fails and promises nothing', async (t) => {
  const device = new VolatileDevice(new MemoryDevice(MiB));
  await device.write(0, filled(1, 64));
  const flushing = t.throwsAsync(device.flush());
  await device.cut(3);
  t.is(toErrno(await flushing), ERRNO.ENODEV);
});

test('the same seed and requests lose the same, and the record says what', async (t) => {
  const run = async (): Promise<unknown> => {
    const device = new VolatileDevice(new MemoryDevice(MiB), {seed: 77});
    for (let index = 0; index < 40; index++)
      await device.write((index % 9) * SECTOR, filled(index, 3));
    const record = await device.cut();
    t.is(record.newest + record.older + record.dropped, record.sectors);
    t.is(record.lost.length, record.older + record.dropped);
    return device.cuts;
  };
  t.deepEqual(await run(), await run());
});

test('every mode of loss comes up', async (t) => {
  const device = new VolatileDevice(new MemoryDevice(MiB));
  const modes = new Set<string>();
  for (let count = 0; count < 200; count++) {
    modes.add((await device.cut()).mode);
    device.powerOn();
  }
  t.deepEqual([...modes].sort(), [...CUT_MODES].sort());
});

test('the cache stays within its bound', async (t) => {
  const device = new VolatileDevice(new MemoryDevice(16 * MiB), {cacheMax: MiB});
  for (let index = 0; index < 64; index++)
    await device.write(index * 128 * 1024, filled(index, 256));
  t.true(device.unflushed <= MiB);
  await device.writeZeroes(0, 16 * MiB);
  t.true(device.unflushed <= MiB);
});

test('random work and cuts keep what the oracle of block devices allows', async (t) => {
  for (let seed = 0; seed < 30; seed++) {
    const prng = new Prng(seed);
    const device = new VolatileDevice(new MemoryDevice(64 * SECTOR), {seed});
    const oracle = new Oracle(device.size, () => ZERO);
    for (let step = 1; step < 200; step++) await randomStep(device, oracle, prng, step);
    const everything = Buffer.alloc(device.size);
    await device.read(0, everything);
    oracle.check(0, everything);
  }
  t.pass();
});

async function randomStep(
  device: VolatileDevice,
  oracle: Oracle,
  prng: Prng,
  step: number,
): Promise<void> {
  const offset = prng.below(56) * SECTOR;
  const length = prng.between(1, 8) * SECTOR;
  const action = prng.weighted({write: 8, read: 8, flush: 2, cut: 1});
  if (action === 'cut') {
    await device.cut();
    device.powerOn();
    oracle.crash('power cut');
  } else if (action === 'flush') {
    const began = oracle.beginFlush();
    await device.flush();
    oracle.acknowledgeFlush(began);
  } else if (action === 'read') {
    const read = oracle.beginRead(offset, length);
    const buffer = Buffer.alloc(length);
    await device.read(offset, buffer);
    oracle.endRead(read, buffer);
  } else {
    const fua = prng.chance(1, 5);
    const buffer = Buffer.alloc(length);
    stamp(buffer, offset, step);
    const write = oracle.beginWrite(offset, length, step);
    await device.write(offset, buffer, {fua});
    oracle.acknowledge(write, fua);
  }
}
