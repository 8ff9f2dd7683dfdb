import {execFileSync, spawnSync} from 'node:child_process';
import {truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {MiB, TiB} from '../../../src/base/units.js';
import {FileStorage} from '../../../src/storage/file-storage.js';
import {inspectStore, storeRefusal, type StoreInspection} from '../../../src/storage/inspect.js';
import {testRequiring} from '../../support/requires.js';
import {temporaryDirectory} from '../../support/temporary.js';

const SIZE = 8 * MiB;

const NOTHING: StoreInspection = {
  path: '/store',
  kind: 'absent',
  size: 0,
  allocated: 0,
  free: TiB,
  users: [],
  loopDevices: [],
  isFree: true,
  content: undefined,
};

/** A sparse file, and a loop device over it, or undefined where this machine gives none. */
async function loopDevice(
  t: ExecutionContext,
): Promise<{path: string; device: string} | undefined> {
  if (spawnSync('losetup', ['--find']).status !== 0) return undefined;
  const path = join(await temporaryDirectory(t), 'backing');
  await writeFile(path, '');
  await truncate(path, SIZE);
  const device = execFileSync('losetup', ['--find', '--show', path], {encoding: 'utf8'}).trim();
  t.teardown(() => void spawnSync('losetup', ['--detach', device]));
  return {path, device};
}

test('a path where nothing is will do, if its file system has room', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  const store = await inspectStore(path);
  t.like(store, {kind: 'absent', size: 0, content: undefined});
  t.true(store.free > 0);
  t.is(storeRefusal(store, {size: SIZE, overwrite: false}), undefined);
  const refusal = storeRefusal(store, {size: store.free + 1, overwrite: true});
  t.regex(refusal?.message ?? '', /has room for .* the volume needs .*make room/);
});

test('an empty sparse file will do, one with data only if it may be lost', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  await writeFile(path, '');
  await truncate(path, SIZE);
  t.is(storeRefusal(await inspectStore(path), {size: SIZE, overwrite: false}), undefined);
  await writeFile(path, Buffer.alloc(MiB, 7));
  const store = await inspectStore(path);
  t.like(store, {kind: 'file', size: MiB});
  const refusal = storeRefusal(store, {size: SIZE, overwrite: false});
  t.regex(refusal?.message ?? '', /with 1 MiB of data; .*--overwrite-store/);
  t.is(storeRefusal(store, {size: SIZE, overwrite: true}), undefined);
});

testRequiring(['mkfs.ext4', 'blkid'], 'a file system is named', async (t) => {
  const path = join(await temporaryDirectory(t), 'store');
  execFileSync('mkfs.ext4', ['-q', '-L', 'photos', path, '8M']);
  const store = await inspectStore(path);
  t.is(store.content, 'ext4, label photos');
  t.regex(
    storeRefusal(store, {size: SIZE, overwrite: false})?.message ?? '',
    /holds data \(ext4, label photos\)/,
  );
});

test('a file that a loop device uses is refused, even if it may be lost', async (t) => {
  const loop = await loopDevice(t);
  if (loop === undefined) {
    t.pass('no loop device to be had');
    return;
  }
  const store = await inspectStore(loop.path);
  t.deepEqual(store.loopDevices, [loop.device]);
  const refusal = storeRefusal(store, {size: SIZE, overwrite: true});
  t.regex(refusal?.message ?? '', /losetup --detach \/dev\/loop\d+/);
});

test('a block device is free, or used exclusively, or too small', async (t) => {
  const loop = await loopDevice(t);
  if (loop === undefined) {
    t.pass('no loop device to be had');
    return;
  }
  const store = await inspectStore(loop.device);
  t.like(store, {kind: 'device', size: SIZE, isFree: true, users: [], content: undefined});
  t.is(storeRefusal(store, {size: SIZE, overwrite: false}), undefined);
  t.regex(
    storeRefusal(store, {size: SIZE + 1, overwrite: true})?.message ?? '',
    /take a larger one/,
  );
  const owner = await FileStorage.open(loop.device);
  const used = await inspectStore(loop.device);
  t.false(used.isFree);
  t.regex(storeRefusal(used, {size: SIZE, overwrite: true})?.message ?? '', /uses it exclusively/);
  await owner.close();
});

testRequiring(['mkfs.ext4', 'mount'], 'a mounted device is refused and says where', async (t) => {
  const loop = await loopDevice(t);
  const folder = await temporaryDirectory(t);
  if (loop === undefined || process.getuid?.() !== 0) {
    t.pass('no loop device to be had');
    return;
  }
  execFileSync('mkfs.ext4', ['-q', loop.device]);
  execFileSync('mount', [loop.device, folder]);
  t.teardown(() => void spawnSync('umount', [folder]));
  const store = await inspectStore(loop.device);
  const refusal = storeRefusal(store, {size: SIZE, overwrite: true});
  t.true(refusal?.message.includes(`is mounted on ${folder}`), refusal?.message);
});

test('what is no store at all, or cannot be looked into, is refused', async (t) => {
  const demands = {size: SIZE, overwrite: false};
  t.regex(
    storeRefusal(await inspectStore('/dev/null'), demands)?.message ?? '',
    /neither a regular file/,
  );
  const blind = {
    ...NOTHING,
    kind: 'device' as const,
    size: SIZE,
    contentProblem: 'blkid: not found',
  };
  t.regex(storeRefusal(blind, demands)?.message ?? '', /nobody can tell.*blkid: not found/);
  t.is(storeRefusal(blind, {...demands, overwrite: true}), undefined);
  await t.throwsAsync(inspectStore('/none/store'), {code: 'ENOENT', message: /\/none/});
});
