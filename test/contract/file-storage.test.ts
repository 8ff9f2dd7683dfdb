/** FileStorage on a regular file and, where loop devices exist, on a block device. */
import {execFile} from 'node:child_process';
import {truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {promisify} from 'node:util';
import test, {type ExecutionContext} from 'ava';
import {TiB} from '../../src/base/units.js';
import {FileStorage} from '../../src/storage/file-storage.js';
import {temporaryDirectory} from '../support/temporary.js';
import {storageContract} from './storage.contract.js';

const run = promisify(execFile);

async function makeFile(t: ExecutionContext, size: number): Promise<FileStorage> {
  const path = join(await temporaryDirectory(t), 'store');
  return await FileStorage.open(path, {createSize: size, isNew: true});
}

storageContract('file', makeFile);

/** A loop device over a fresh file, or undefined where this machine gives none. */
async function loopDevice(t: ExecutionContext, size: number): Promise<string | undefined> {
  const path = join(await temporaryDirectory(t), 'backing');
  await writeFile(path, '');
  await truncate(path, size);
  try {
    const {stdout} = await run('losetup', ['--find', '--show', path]);
    const device = stdout.trim();
    t.teardown(() => run('losetup', ['--detach', device]));
    return device;
  } catch {
    return undefined;
  }
}

test('block device: bytes, zeroes at any alignment and exclusive use', async (t) => {
  const size = 1024 * 1024;
  const device = await loopDevice(t, size);
  if (device === undefined) {
    t.log('skipped: no loop device to be had');
    t.pass();
    return;
  }
  const storage = await FileStorage.open(device);
  t.is(storage.size, size);
  t.true(storage.isBlockDevice);
  await storage.write(0, new Uint8Array(size).fill(7));
  await storage.zero(5000, 100_000);
  const bytes = new Uint8Array(size);
  await storage.read(0, bytes);
  t.is(bytes[4999], 7);
  t.is(bytes[105_000], 7);
  t.true(bytes.subarray(5000, 105_000).every((byte) => byte === 0));
  t.deepEqual(await storage.extents(512, 4096), [{offset: 512, length: 4096, isHole: false}]);
  await storage.sync();
  await t.throwsAsync(FileStorage.open(device), {code: 'EBUSY', message: /in use/});
  await storage.close();
  const again = await FileStorage.open(device);
  await again.close();
});

test('file: offsets above 2^43 keep their place', async (t) => {
  const storage = await makeFile(t, 15 * TiB);
  const offset = 14 * TiB + 12_345;
  await storage.write(offset, new Uint8Array([1, 2, 3]));
  const bytes = new Uint8Array(5);
  await storage.read(offset - 1, bytes);
  t.deepEqual([...bytes], [0, 1, 2, 3, 0]);
  const extents = await storage.extents(0, storage.size);
  t.is(extents.length, 3);
  t.true(extents[0]?.isHole === true && extents[2]?.isHole === true);
  await storage.zero(0, storage.size);
  t.is((await storage.extents(0, storage.size)).length, 1);
  await storage.close();
});

test('file: a file with thousands of extents is told completely', async (t) => {
  const count = 9000;
  const storage = await makeFile(t, count * 8192);
  for (let index = 0; index < count; index += 100) {
    await Promise.all(
      Array.from({length: 100}, (_, step) =>
        storage.write((index + step) * 8192, new Uint8Array(4096).fill(1)),
      ),
    );
  }
  const extents = await storage.extents(0, storage.size);
  t.is(extents.length, 2 * count);
  t.is(
    extents.reduce((sum, extent) => sum + extent.length, 0),
    storage.size,
  );
  await storage.close();
});

test('file: opening what is not there, and creating what is, name the path', async (t) => {
  const directory = await temporaryDirectory(t);
  const path = join(directory, 'store');
  await t.throwsAsync(FileStorage.open(path), {code: 'ENOENT', message: new RegExp(path)});
  await writeFile(path, 'x');
  await t.throwsAsync(FileStorage.open(path, {createSize: 10, isNew: true}), {code: 'EEXIST'});
  await t.throwsAsync(FileStorage.open(directory), {code: 'EISDIR'});
});

test('file: createSize grows a shorter file and keeps its bytes', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  await writeFile(path, 'abc');
  const storage = await FileStorage.open(path, {createSize: 1000});
  t.is(storage.size, 1000);
  const bytes = new Uint8Array(4);
  await storage.read(0, bytes);
  t.deepEqual([...bytes], [97, 98, 99, 0]);
  await storage.close();
});

test('file: a read beyond a file that shrank is EIO and names the range', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  const storage = await FileStorage.open(path, {createSize: 8192});
  await truncate(path, 4096);
  const failure = {code: 'EIO', offset: 4096, length: 10, message: /ends before the range/};
  const error = await t.throwsAsync(storage.read(4096, new Uint8Array(10)));
  t.like(error, {code: failure.code, offset: failure.offset, length: failure.length});
  t.regex(error?.message ?? '', failure.message);
  await storage.close();
});

test('file: a write to a file opened for reading fails and a closed file refuses', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  await writeFile(path, 'abc');
  const storage = await FileStorage.open(path, {access: 'read'});
  await t.throwsAsync(storage.write(0, new Uint8Array(1)), {code: 'EBADF'});
  await storage.close();
  await t.throwsAsync(storage.read(0, new Uint8Array(1)), {code: 'EBADF'});
});

test('file: only one process has the lock', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  const first = await FileStorage.open(path, {createSize: 1});
  const second = await FileStorage.open(path);
  t.true(first.tryLock());
  t.false(second.tryLock());
  await first.close();
  t.true(second.tryLock());
  await second.close();
});
