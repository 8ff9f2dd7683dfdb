/**
 * Starts that end half-way, disks that are full or full of old bytes, volumes over their own state.
 */
import {spawn} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {attachTest} from '../support/attach-test.js';
import {makeExt4Image, wrongFiles} from '../support/ext4-image.js';

const MIB = 1024 * 1024;

attachTest('an attach that is killed at any moment leaves nothing, or a volume', async (t, lab) => {
  writeFileSync(lab.path('source'), randomBytes(4 * MIB));
  const store = lab.path('store');
  for (let ms = 40; ms < 260; ms += 20) {
    const args = [lab.main, 'attach', lab.path('source'), 'vol0', '--store', store];
    const child = spawn(process.execPath, args, {env: lab.environment, stdio: 'ignore'});
    await sleep(ms);
    child.kill('SIGKILL');
    await lab.noDaemon(1500);
    if (lab.daemons().length > 0) {
      await lab.ok(t, 'detach', 'vol0');
      await lab.ok(t, 'forget', 'vol0', '--force');
      await lab.run('rm', ['-f', store]);
    }
    t.deepEqual(existsSync(lab.stateDir) ? readdirSync(lab.stateDir) : [], [], `after ${ms} ms`);
    t.deepEqual(existsSync(lab.runDir) ? readdirSync(lab.runDir) : [], [], `after ${ms} ms`);
    t.false(existsSync(store), `after ${ms} ms`);
  }
});

attachTest('a daemon killed during its first attach is no obstacle to the next', async (t, lab) => {
  writeFileSync(lab.path('source'), randomBytes(4 * MIB));
  const args = ['attach', lab.path('source'), 'vol0', '--store', lab.path('store')];
  for (let ms = 60; ms < 260; ms += 20) {
    const attach = lab.regrow(...args);
    await sleep(ms);
    for (const pid of lab.daemons()) process.kill(pid, 'SIGKILL');
    await attach;
    await lab.noDaemon(1000);
    const device = (await lab.ok(t, ...args)).trim();
    lab.same(t, readFileSync(device), readFileSync(lab.path('source')));
    await lab.ok(t, 'detach', 'vol0');
    await lab.ok(t, 'forget', 'vol0', '--force');
    await lab.run('rm', ['-f', lab.path('store')]);
  }
});

attachTest('an old disk full of stale bytes becomes the volume, nothing else', async (t, lab) => {
  const image = makeExt4Image(lab, 32);
  const stale = Buffer.alloc(48 * MIB, 'STALE!');
  writeFileSync(lab.path('old'), stale);
  const disk = lab.loop(lab.path('old'));
  const uri = await lab.serve('file', image.path);
  const device = await lab.ok(
    t,
    'attach',
    uri,
    'vol0',
    '--store',
    disk,
    '--overwrite-store',
    '--hydrate',
    'background',
  );
  lab.tool('blkdiscard', '-o', String(30 * MIB), '-l', String(MIB), device);
  await lab.ok(t, 'wait', 'vol0');
  const whole = readFileSync(device);
  await lab.ok(t, 'detach', 'vol0');
  const alone = readFileSync(disk).subarray(0, 32 * MIB);
  lab.same(t, alone, whole);
  t.is(alone.indexOf('STALE!STALE!'), -1);
  t.deepEqual(wrongFiles(lab.mount(disk, 'alone'), image), []);
});

attachTest('a full disk under the store is the error of the writer', async (t, lab) => {
  mkdirSync(lab.path('small'));
  lab.tool('mount', '-t', 'tmpfs', '-o', 'size=6m', 'none', lab.path('small'));
  lab.willUnmount(lab.path('small'));
  const bytes = randomBytes(16 * MIB);
  writeFileSync(lab.path('source'), bytes);
  const store = lab.path('small', 'store');
  const device = await lab.ok(t, 'attach', lab.path('source'), 'vol0', '--store', store);
  const {exitCode, stderr} = await lab.run('dd', [
    'if=/dev/zero',
    `of=${device}`,
    'bs=1M',
    'count=16',
    'oflag=direct',
    'conv=fsync',
    'status=none',
  ]);
  t.not(exitCode, 0);
  t.regex(stderr, /No space left|Input\/output error/);
  // What does not fit is still read from the source.
  lab.same(t, readFileSync(device).subarray(15 * MIB), bytes.subarray(15 * MIB));
  await lab.ok(t, 'detach', 'vol0');
  await lab.ok(t, 'attach', 'vol0');
});

attachTest('a volume mounted over its own state goes on', async (t, lab) => {
  const image = makeExt4Image(lab, 32);
  const uri = await lab.serve('--filter=delay', 'file', image.path, 'rdelay=1ms');
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  lab.tool('mount', device, lab.stateDir);
  lab.willUnmount(lab.stateDir);
  t.deepEqual(wrongFiles(lab.stateDir, image), []);
  writeFileSync(`${lab.stateDir}/new`, randomBytes(MIB));
  lab.tool('sync', '-f', lab.stateDir);
  t.is((await lab.status(t, 'vol0')).state, 'attached');
  await lab.ok(t, 'hydrate', 'vol0', 'full');
  await lab.ok(t, 'wait', 'vol0');
  lab.tool('umount', lab.stateDir);
  await lab.ok(t, 'detach', 'vol0');
  t.regex(await lab.ok(t, 'list'), /vol0 +detached +- +32 MiB +100\.0 %/);
});

attachTest('a volume of 64 TiB is attached as fast as a small one', async (t, lab) => {
  const uri = await lab.serve('memory', '64T');
  mkdirSync(lab.path('xfs'));
  lab.tool('truncate', '-s', '2G', lab.path('xfs.img'));
  lab.tool('mkfs.xfs', '-q', lab.path('xfs.img'));
  lab.tool('mount', '-o', 'loop', lab.path('xfs.img'), lab.path('xfs'));
  lab.willUnmount(lab.path('xfs'));
  const startedAt = performance.now();
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('xfs', 'store'));
  const elapsedMs = performance.now() - startedAt;
  t.log(`attached in ${Math.round(elapsedMs)} ms`);
  t.is(lab.tool('blockdev', '--getsize64', device).trim(), String(64 * 2 ** 40));
  t.true(elapsedMs < 3000);
});
