import {execFileSync, spawnSync} from 'node:child_process';
import {copyFile, rename, rm, truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import test from 'ava';
import {UserError} from '../../../src/base/errors.js';
import {
  compareIdentity,
  describeIdentity,
  identifyStore,
  type DeviceIdentity,
} from '../../../src/storage/identity.js';
import {temporaryDirectory} from '../../support/temporary.js';

test('a file stays itself under another name and size', async (t) => {
  const folder = await temporaryDirectory(t);
  await writeFile(join(folder, 'a'), 'x');
  const before = await identifyStore(join(folder, 'a'));
  await rename(join(folder, 'a'), join(folder, 'b'));
  await truncate(join(folder, 'b'), 100_000);
  t.is(compareIdentity(before, await identifyStore(join(folder, 'b'))), 'same');
  t.regex(describeIdentity(before), /^inode \d+$/);
  t.deepEqual(JSON.parse(JSON.stringify(before)), before);
});

test('a copy is another file, and so is one made anew in its place', async (t) => {
  const folder = await temporaryDirectory(t);
  const path = join(folder, 'a');
  await writeFile(path, 'x');
  const before = await identifyStore(path);
  await copyFile(path, join(folder, 'b'));
  t.is(compareIdentity(before, await identifyStore(join(folder, 'b'))), 'different');
  await rm(path);
  await writeFile(path, 'x');
  t.is(compareIdentity(before, await identifyStore(path)), 'different');
});

test('what is not there, or no disk, is named', async (t) => {
  const folder = await temporaryDirectory(t);
  await t.throwsAsync(identifyStore(join(folder, 'none')), {code: 'ENOENT', message: /none/});
  await t.throwsAsync(identifyStore(folder), {instanceOf: UserError, message: /neither/});
  await t.throwsAsync(identifyStore('/dev/null'), {instanceOf: UserError, message: /neither/});
});

test('disks are compared by what they say of themselves, whatever their names', (t) => {
  const disk = (fields: Partial<DeviceIdentity>): DeviceIdentity => ({
    kind: 'device',
    size: 1000,
    ...fields,
  });
  const one = disk({wwid: 'naa.1', serial: 'A'});
  t.is(compareIdentity(one, disk({wwid: 'naa.1', serial: 'A'})), 'same');
  t.is(compareIdentity(one, disk({wwid: 'naa.2', serial: 'A'})), 'different');
  t.is(compareIdentity(one, {...one, size: 2000}), 'different');
  t.is(compareIdentity(one, disk({serial: 'A'})), 'same');
  t.is(compareIdentity(disk({}), disk({})), 'unknown');
  t.is(compareIdentity(one, disk({})), 'unknown');
  const partition = disk({wwid: 'naa.1', partitionUuid: 'p1', partitionStart: 2048});
  t.is(compareIdentity(partition, {...partition, partitionUuid: 'p2'}), 'different');
  t.is(compareIdentity(partition, {...partition, partitionStart: 4096}), 'different');
  t.is(compareIdentity(one, {kind: 'file', inode: '1'}), 'different');
});

test('a loop device is known by its file, and has its size', async (t) => {
  if (spawnSync('losetup', ['--find']).status !== 0) {
    t.pass('no loop device to be had');
    return;
  }
  const path = join(await temporaryDirectory(t), 'backing');
  await writeFile(path, Buffer.alloc(1024 * 1024));
  const device = execFileSync('losetup', ['--find', '--show', path], {encoding: 'utf8'}).trim();
  t.teardown(() => void execFileSync('losetup', ['--detach', device]));
  t.deepEqual(await identifyStore(device), {kind: 'device', backingFile: path, size: 1024 * 1024});
});
