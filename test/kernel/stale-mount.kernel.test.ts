/**
 * What a process that dies leaves, and who clears it; and the launcher's namespaces. Needs root.
 * The process is this file's own helper, attach-child.js, started under /tmp.
 */
import {spawn} from 'node:child_process';
import type {ChildProcess} from 'node:child_process';
import {once} from 'node:events';
import {mkdtemp, rm, stat} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';

import test from 'ava';
import type {ExecutionContext} from 'ava';

import {attachDevice} from '../../src/device/attach-device.js';
import {MiB} from '../../src/base/units.js';
import {findStale, listLoops, removeStale} from '../../src/native/loop.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';
import {run, shell} from '../support/kernel-device.js';

const CHILD = fileURLToPath(new URL('attach-child.js', import.meta.url));
const LAUNCHER = fileURLToPath(new URL('../../../build/Release/regrow-launcher', import.meta.url));

interface Started {
  readonly child: ChildProcess;
  readonly path: string;
}

/** Runs the helper, by way of the launcher where asked, until it has printed its device. */
async function start(
  t: ExecutionContext,
  mountDirectory: string,
  launcher?: string,
): Promise<Started> {
  const command = [...(launcher ? [launcher] : []), process.execPath, CHILD, mountDirectory];
  const [program, ...arguments_] = command;
  const child = spawn(program ?? '', arguments_, {stdio: ['pipe', 'pipe', 'inherit']});
  t.teardown(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  return {child, path: String(line).trim()};
}

async function kill({child}: Started): Promise<void> {
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function mountDirectory(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'regrow-stale-'));
  t.teardown(() => rm(directory, {recursive: true, force: true}));
  t.teardown(() => removeStale(join(directory, 'volume'), -1));
  return join(directory, 'volume');
}

test.serial(
  'kill -9 leaves a dead mount and a loop device; the next attach there removes both',
  async (t) => {
    const place = await mountDirectory(t);
    const started = await start(t, place);
    t.is((await findStale(place, -1)).liveMounts, 1);
    await kill(started);
    const remains = await findStale(place, -1);
    t.is(remains.mounts, 1);
    t.deepEqual(
      remains.loops.map((number) => `/dev/loop${number}`),
      [started.path],
    );
    const messages: string[] = [];
    const device = await attachDevice(new MemoryDevice(MiB), {
      mountDirectory: place,
      log: (_level, message) => messages.push(message),
    });
    t.teardown(() => device.detach({force: true}));
    t.regex(messages.join(), /a dead process left/);
    await run('dd', `if=${device.path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'status=none');
    await device.detach();
    t.deepEqual(
      (await listLoops()).filter(({backing}) => backing.startsWith(place)),
      [],
    );
  },
);

test.serial('a living mount, and whatever lies elsewhere, is not touched', async (t) => {
  const place = await mountDirectory(t);
  const other = await mountDirectory(t);
  const living = await start(t, place);
  await kill(await start(t, other));
  t.is((await removeStale(place, -1)).liveMounts, 1);
  t.deepEqual((await removeStale(join(place, 'disk'), -1)).loops, []);
  await run('dd', `if=${living.path}`, 'of=/dev/null', 'bs=4096', 'count=1', 'status=none');
  t.is((await findStale(other, -1)).mounts, 1);
  await kill(living);
});

test.serial('stale remains under a mounted file system go once it is unmounted', async (t) => {
  const place = await mountDirectory(t);
  const started = await start(t, place);
  const directory = await mkdtemp(join(tmpdir(), 'regrow-test-'));
  t.teardown(() => rm(directory, {recursive: true, force: true}));
  await run('mkfs.ext4', '-q', started.path);
  await run('mount', started.path, directory);
  t.teardown(() => run('umount', '-l', directory).catch(() => undefined));
  await kill(started);
  const removed = await removeStale(place, -1);
  t.is(removed.mounts, 1);
  t.is(removed.loopsInUse.length, 1);
  await run('umount', directory);
  t.false(
    (await run('losetup', '--list', '--noheadings', '--output', 'NAME')).includes(started.path),
  );
});

test.serial('a process that exits without detaching leaves nothing', async (t) => {
  const place = await mountDirectory(t);
  const started = await start(t, place);
  started.child.stdin?.write('exit\n');
  t.deepEqual(await once(started.child, 'exit'), [3, null]);
  await t.throwsAsync(stat(place), {code: 'ENOENT'});
  t.deepEqual(
    (await listLoops()).filter(({path}) => path === started.path),
    [],
  );
});

test.serial('a launched daemon mounts in the namespace of its launcher', async (t) => {
  const place = await mountDirectory(t);
  const started = await start(t, place, LAUNCHER);
  t.true((await stat(join(place, 'disk'))).isFile());
  await run('mkfs.ext4', '-q', started.path);
  started.child.stdin?.write('detach\n');
  t.deepEqual(await once(started.child, 'exit'), [0, null]);
  await t.throwsAsync(stat(place), {code: 'ENOENT'});
});

for (const [propagation, isApart] of [
  ['shared', true],
  ['private', false],
] as const) {
  const where = isApart ? 'another namespace' : 'the same, as a copy would keep what was mounted';
  test.serial(`where / is ${propagation}, a launched daemon lives in ${where}`, async (t) => {
    const show = 'readlink /proc/self/ns/mnt';
    const script = `${show}; '${LAUNCHER}' ${show}; '${LAUNCHER}' sh -c 'echo \\$REGROW_HOST_MNT_NS'`;
    const shown = await shell(`unshare --mount --propagation ${propagation} sh -c "${script}"`);
    const [own, launched, host] = shown.split('\n');
    t.is(own !== launched, isApart);
    t.is(host !== '', isApart);
  });
}
