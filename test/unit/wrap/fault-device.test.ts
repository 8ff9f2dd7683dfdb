/** The fault device: each condition of a rule, alone and together. */
import test from 'ava';
import {ERRNO, toErrno} from '../../../src/base/errors.js';
import {MiB, SECTOR} from '../../../src/base/units.js';
import {FaultDevice, type FaultRule} from '../../../src/wrap/fault-device.js';
import {MemoryDevice} from '../../../src/wrap/memory-device.js';

function deviceWith(...rules: FaultRule[]): FaultDevice {
  return new FaultDevice(new MemoryDevice(MiB), rules, {seed: 4});
}

const sector = (): Buffer => Buffer.alloc(SECTOR, 7);

test('a rule without conditions fails everything with EIO', async (t) => {
  const device = deviceWith({});
  t.is(toErrno(await t.throwsAsync(device.read(0, sector()))), ERRNO.EIO);
  t.is(toErrno(await t.throwsAsync(device.flush())), ERRNO.EIO);
  t.is(device.faults, 2);
});

test('a range fails what touches it, by one sector too, and nothing beside it', async (t) => {
  const device = deviceWith({range: {offset: 4096, length: 4096}, code: 'ENOSPC'});
  await device.write(0, Buffer.alloc(4096));
  await device.write(8192, Buffer.alloc(4096));
  await device.flush();
  t.is(toErrno(await t.throwsAsync(device.write(4096 - SECTOR, Buffer.alloc(1024)))), ERRNO.ENOSPC);
  await t.throwsAsync(device.discard(8192 - SECTOR, 1024));
});

test('skip and times pick the n-th request of an operation', async (t) => {
  const device = deviceWith({ops: ['write'], skip: 2, times: 1});
  await device.write(0, sector());
  await device.read(0, sector());
  await device.write(0, sector());
  await t.throwsAsync(device.write(0, sector()));
  await device.write(0, sector());
  t.is(device.faults, 1);
});

test('the same seed fails the same requests', async (t) => {
  const pattern = async (): Promise<string> => {
    const device = deviceWith({probability: 0.3});
    let text = '';
    for (let count = 0; count < 60; count++) {
      text += await device.flush().then(
        () => '.',
        () => 'x',
      );
    }
    return text;
  };
  const first = await pattern();
  t.regex(first, /x.*\..*x/);
  t.is(await pattern(), first);
});

test('with after the bytes are there though the guest sees an error', async (t) => {
  const device = deviceWith({ops: ['write'], after: true});
  await t.throwsAsync(device.write(0, sector()));
  const found = Buffer.alloc(SECTOR);
  await device.read(0, found);
  t.deepEqual(found, sector());
});

test('no rules heal the device, wrong ones are refused', async (t) => {
  const device = deviceWith({});
  device.setRules([]);
  await device.flush();
  t.throws(() => device.setRules([{probability: 2}]), {instanceOf: RangeError});
  t.throws(() => device.setRules([{skip: -1}]), {instanceOf: RangeError});
});
