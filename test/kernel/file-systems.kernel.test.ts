/** Real file systems and fio's verification on an attached device. Needs root. */
import {mkdtemp, rmdir} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

import test from 'ava';
import type {ExecutionContext} from 'ava';

import {GiB, MiB} from '../../src/base/units.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';
import {attachFor, run, shell} from '../support/kernel-device.js';

const KINDS = [
  {name: 'ext4', make: 'mkfs.ext4 -q -E lazy_itable_init=0', check: 'fsck.ext4 -fn'},
  {name: 'xfs', make: 'mkfs.xfs -q', check: 'xfs_repair -n'},
] as const;

for (const {name, make, check} of KINDS) {
  test.serial(
    `${name}: made, mounted, filled, trimmed, unmounted, checked and found again`,
    async (t) => {
      const memory = new MemoryDevice(GiB);
      const {path} = await attachFor(t, memory);
      const directory = await temporaryDirectory(t);
      await shell(`${make} ${path}`);
      await run('mount', path, directory);
      t.teardown(() => run('umount', directory).catch(() => undefined));
      await shell(`cp -r /usr/include/linux ${directory}/first
      cp -r ${directory}/first ${directory}/second
      dd if=/dev/urandom of=${directory}/random bs=1M count=64 conv=fsync status=none
      rm -r ${directory}/first && fstrim ${directory}`);
      const before = await checksums(directory);
      await run('umount', directory);
      await shell(`${check} ${path}`);
      await run('mount', '-o', 'ro', path, directory);
      t.is(await checksums(directory), before);
      await run('umount', directory);
    },
  );
}

test.serial('ext4: a mounted device is in use and can be detached after the unmount', async (t) => {
  const device = await attachFor(t, new MemoryDevice(64 * MiB));
  const directory = await temporaryDirectory(t);
  await run('mkfs.ext4', '-q', device.path);
  await run('mount', device.path, directory);
  t.teardown(() => run('umount', '-l', directory).catch(() => undefined));
  t.true(await device.isInUse());
  await t.throwsAsync(device.detach(), {code: 'EBUSY'});
  await run('umount', directory);
  t.false(await device.isInUse());
  await device.detach();
});

test.serial('ext4: detach by force under load ends, and so does the load', async (t) => {
  const device = await attachFor(t, new MemoryDevice(256 * MiB));
  const directory = await temporaryDirectory(t);
  await run('mkfs.ext4', '-q', device.path);
  await run('mount', device.path, directory);
  t.teardown(() => run('umount', '-l', directory).catch(() => undefined));
  const load = run(
    'fio',
    '--name=load',
    `--directory=${directory}`,
    '--size=64M',
    '--rw=randwrite',
    '--bs=4k',
    '--ioengine=libaio',
    '--iodepth=16',
    '--direct=1',
    '--time_based',
    '--runtime=60',
  );
  const ended = t.throwsAsync(load);
  while ((await shell(`ls ${directory}`)).includes('load') === false)
    await new Promise(setImmediate);
  await device.detach({force: true});
  await ended;
  await run('umount', directory);
});

const VERIFY = [
  '--direct=1',
  '--ioengine=libaio',
  '--iodepth=16',
  '--size=32M',
  '--verify=crc32c',
  '--verify_fatal=1',
  '--verify_backlog=128',
  '--serialize_overlap=1',
] as const;

for (const range of ['512-512', '512-1M']) {
  for (const pattern of ['randrw', 'randtrimwrite']) {
    test.serial(`fio ${pattern} in blocks of ${range} finds what it wrote`, async (t) => {
      const {path} = await attachFor(t, new MemoryDevice(128 * MiB));
      const job = ['--name=verify', `--filename=${path}`, `--rw=${pattern}`, `--bsrange=${range}`];
      t.regex(await run('fio', ...job, ...VERIFY), /err= 0/);
    });
  }
}

async function temporaryDirectory(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'regrow-test-'));
  t.teardown(() => rmdir(directory));
  return directory;
}

function checksums(directory: string): Promise<string> {
  return shell(`cd ${directory} && find . -type f | sort | xargs sha1sum`);
}
