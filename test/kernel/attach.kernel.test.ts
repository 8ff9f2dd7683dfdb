/**
 * Attaching for real: nbdkit at one end, the kernel's loop device at the other, the command
 * between.
 */
import {randomBytes} from 'node:crypto';
import {spawn} from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {attachTest} from '../support/attach-test.js';
import {hashOf, makeExt4Image, wrongFiles} from '../support/ext4-image.js';

attachTest('a volume is used while it grows back, then the store is the volume', async (t, lab) => {
  const image = makeExt4Image(lab);
  const uri = await lab.serve('--filter=delay', 'file', image.path, 'rdelay=2ms');
  const store = lab.path('store');

  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', store);
  t.regex(device, /^\/dev\/loop\d+$/);
  const folder = lab.mount(device, 'mnt');
  t.deepEqual(wrongFiles(folder, image), []);

  const added = randomBytes(300_000);
  writeFileSync(`${folder}/added`, added);
  lab.tool('umount', folder);

  const before = await lab.status(t, 'vol0');
  t.false(before.isHydrated);
  t.is(before.device, device);
  t.true(before.blocks.copied > 0 && before.blocks.overwritten + before.blocks.partial > 0);
  t.true(before.source.name.includes('nbd'));

  await lab.ok(t, 'hydrate', 'vol0', 'full');
  await lab.ok(t, 'wait', 'vol0', '--hydrated');
  t.regex(await lab.ok(t, 'detach', 'vol0'), /^vol0: complete/);
  t.false(existsSync(lab.path('run', 'vol0.sock')));
  t.false(existsSync(lab.path('run', 'vol0')));

  const alone = lab.mount(lab.loop(store), 'alone');
  t.deepEqual(wrongFiles(alone, image), []);
  t.is(hashOf(readFileSync(`${alone}/added`)), hashOf(added));
  lab.tool('umount', alone);
  lab.tool('fsck.ext4', '-fn', store);
});

attachTest('the image at the source is never written', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const before = hashOf(readFileSync(image.path));
  const device = await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'));
  const folder = lab.mount(device, 'mnt');
  writeFileSync(`${folder}/file0`, 'other');
  lab.tool('umount', folder);
  await lab.ok(t, 'detach', 'vol0');
  t.is(hashOf(readFileSync(image.path)), before);
});

attachTest('I3: after kill -9 of all under load no flushed write is lost', async (t, lab) => {
  const image = makeExt4Image(lab);
  const uri = await lab.serve('file', image.path);
  const device = await lab.ok(
    t,
    'attach',
    uri,
    'vol0',
    '--store',
    lab.path('store'),
    '--hydrate',
    'background',
    '--rate',
    '4M',
  );
  // Beyond the file system, so that the image below stays whole.
  const expected = readFileSync(image.path);
  const disk = openSync(device, 'r+');
  const load = spawn('dd', [`if=${device}`, 'of=/dev/null', 'bs=64k', 'iflag=direct'], {
    stdio: 'ignore',
  });
  const flushed: {offset: number; bytes: Buffer}[] = [];
  for (let i = 0; i < 40; i++) {
    const bytes = randomBytes(5 * 512);
    const offset = i * 300 * 512 + 4096;
    writeSync(disk, bytes, 0, bytes.length, offset);
    if (i % 4 === 3) {
      fsyncSync(disk);
      flushed.push({offset, bytes});
    }
  }
  await lab.kill(t, 'vol0');
  try {
    closeSync(disk);
  } catch {
    // What was not flushed is lost with an error, as it must be.
  }
  load.kill('SIGKILL');
  await sleep(100);

  const again = await lab.ok(t, 'attach', 'vol0', '--hydrate', 'full', '--rate', 'none');
  t.regex(again, /^\/dev\/loop\d+$/);
  const found = readFileSync(again);
  for (const {offset, bytes} of flushed) {
    lab.same(t, found.subarray(offset, offset + bytes.length), bytes);
  }
  t.is(found.length, expected.length);
  await lab.ok(t, 'wait', 'vol0');
  await lab.ok(t, 'verify', 'vol0');
  await lab.ok(t, 'detach', 'vol0');
  lab.same(t, readFileSync(lab.path('store')).subarray(0, found.length), found);
});

attachTest('a dead mount and loop are removed, those of another volume are not', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store0'));
  const other = await lab.ok(t, 'attach', image.path, 'vol1', '--store', lab.path('store1'));
  await lab.kill(t, 'vol0');
  await sleep(100);
  await lab.ok(t, 'attach', 'vol0');
  t.is(readFileSync(other).length, 16 * 1024 * 1024);
  const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .filter((line) => line.includes(lab.path('run', 'vol0')));
  t.is(mounts.length, 1);
  const loops = lab
    .tool('losetup', '-nO', 'BACK-FILE')
    .split('\n')
    .filter((line) => line.includes(lab.path('run', 'vol0')));
  t.is(loops.length, 1);
});

attachTest('of two attaches at once one wins and the other is told', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const uri = await lab.serve('file', image.path);
  const attach = () => lab.regrow('attach', uri, 'vol0', '--store', lab.path('store'));
  const outcomes = await Promise.all([attach(), attach(), attach()]);
  const winners = outcomes.filter(({exitCode, stderr}) => {
    return exitCode === 0 && !/already/.test(stderr);
  });
  t.is(winners.length, 1, JSON.stringify(outcomes));
  for (const {exitCode, stderr} of outcomes) {
    if (exitCode !== 0) t.regex(stderr, /another regrow process has its state in use/);
  }
  t.is((await lab.status(t, 'vol0')).device, winners[0]?.stdout.trim());
});

attachTest('attaching again prints the device, and changes what may change', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const store = lab.path('store');
  const device = await lab.ok(t, 'attach', image.path, 'vol0', '--store', store);
  const again = await lab.regrow('attach', image.path, 'vol0', '--store', store);
  t.is(again.stdout, `${device}\n`);
  t.is(again.stderr, 'regrow: vol0 is attached already\n');

  t.is(await lab.ok(t, 'attach', 'vol0', '--hydrate', 'background', '--rate', '1M'), device);
  const {options, hydration} = await lab.status(t, 'vol0');
  t.is(options.hydrate, 'background');
  t.is(hydration.rateLimit, 1024 * 1024);

  t.regex(
    await lab.refused(t, 'attach', 'vol0', '--block-size', '4K'),
    /^cannot attach vol0 with --block-size 4 KiB: it has 64 KiB, and the map is kept in blocks/,
  );
  await lab.ok(t, 'detach', 'vol0');
  t.regex(
    await lab.refused(t, 'attach', 'vol0', '--sector-size', '4096'),
    /^cannot attach vol0 with --sector-size 4096: it has 512/,
  );
  await lab.ok(t, 'attach', 'vol0');
  t.is((await lab.status(t, 'vol0')).options.hydrate, 'background');
});

attachTest('--mount mounts, detach unmounts', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const folder = lab.path('srv');
  mkdirSync(folder);
  lab.willUnmount(folder);
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'), '--mount', folder);
  t.deepEqual(wrongFiles(folder, image), []);
  await lab.ok(t, 'detach', 'vol0');
  t.deepEqual(readdirSync(folder), []);
});

attachTest('a mount that fails undoes the whole first attach', async (t, lab) => {
  const folder = lab.path('srv');
  mkdirSync(folder);
  writeFileSync(lab.path('noise'), randomBytes(1024 * 1024));
  const sentence = await lab.refused(
    t,
    'attach',
    lab.path('noise'),
    'vol0',
    '--store',
    lab.path('store'),
    '--mount',
    folder,
  );
  t.regex(sentence, /^cannot mount the volume at .*\/srv: /);
  t.deepEqual(readdirSync(lab.stateDir), []);
  t.false(existsSync(lab.path('store')));
  t.false(existsSync(lab.path('run', 'vol0')));
});

attachTest('a source whose size is no multiple of 512 is padded with zeroes', async (t, lab) => {
  const bytes = randomBytes(1024 * 1024 + 777);
  writeFileSync(lab.path('odd'), bytes);
  const device = await lab.ok(t, 'attach', lab.path('odd'), 'vol0', '--store', lab.path('store'));
  const found = readFileSync(device);
  t.is(found.length, 1024 * 1024 + 1024);
  lab.same(t, found.subarray(0, bytes.length), bytes);
  t.true(found.subarray(bytes.length).every((byte) => byte === 0));
  await lab.ok(t, 'hydrate', 'vol0', 'full');
  await lab.ok(t, 'wait', 'vol0');
  await lab.ok(t, 'detach', 'vol0');
  lab.same(t, readFileSync(lab.path('store')), found);
});

attachTest('the file status in the mount says what status --json says', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'));
  const file = JSON.parse(readFileSync(lab.path('run', 'vol0', 'status'), 'utf8')) as object;
  t.deepEqual(Object.keys(file), Object.keys(await lab.status(t, 'vol0')));
});

attachTest('SIGTERM leaves a mounted volume alone until it is unmounted', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const device = await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'));
  const folder = lab.mount(device, 'mnt');
  const {pid} = await lab.status(t, 'vol0');
  process.kill(pid, 'SIGTERM');
  await sleep(300);
  t.is((await lab.status(t, 'vol0')).state, 'stopping');
  t.deepEqual(wrongFiles(folder, image), []);
  lab.tool('umount', folder);
  for (let i = 0; i < 100 && existsSync(`/proc/${pid}`); i++) await sleep(50);
  t.false(existsSync(`/proc/${pid}`));
  t.regex(await lab.ok(t, 'list'), /vol0 +detached/);
  await lab.ok(t, 'attach', 'vol0');
});

attachTest('list shows volumes, attached or not', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  t.is(await lab.ok(t, 'list'), 'NAME  STATE  DEVICE  SIZE  LOCAL  SOURCE');
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store0'));
  await lab.ok(t, 'attach', image.path, 'vol1', '--store', lab.path('store1'));
  await lab.ok(t, 'detach', 'vol1');
  const all = JSON.parse(await lab.ok(t, 'list', '--json')) as {name: string; state: string}[];
  const states = all.map(({name, state}) => [name, state]);
  t.deepEqual(states, [
    ['vol0', 'attached'],
    ['vol1', 'detached'],
  ]);
});

attachTest('forget removes the state, not the store', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const store = lab.path('store');
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', store, '--hydrate', 'full');
  await lab.ok(t, 'wait', 'vol0');
  await lab.ok(t, 'detach', 'vol0');
  await lab.ok(t, 'forget', 'vol0');
  t.deepEqual(readdirSync(lab.stateDir), []);
  lab.same(t, readFileSync(store), readFileSync(image.path));
});

attachTest('three volumes are attached at the same time', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const names = ['vol0', 'vol1', 'vol2'];
  const outcomes = await Promise.all(
    names.map((name) => {
      return lab.regrow('attach', image.path, name, '--store', lab.path(`${name}.store`));
    }),
  );
  for (const {exitCode, stderr} of outcomes) t.is(exitCode, 0, stderr);
  t.is(new Set(outcomes.map(({stdout}) => stdout)).size, 3);
});

attachTest('after kill -9 --mount replaces the mount of the dead device', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const [own, other] = [lab.path('srv'), 'other'];
  mkdirSync(own);
  lab.willUnmount(own);
  const first = await lab.ok(
    t,
    'attach',
    image.path,
    'vol0',
    '--store',
    lab.path('store'),
    '--mount',
    own,
  );
  const elsewhere = lab.mount(first, other);
  await lab.kill(t, 'vol0');
  await sleep(200);
  const {exitCode, stderr, stdout} = await lab.regrow('attach', 'vol0');
  t.is(exitCode, 0, stderr);
  t.regex(stderr, /\/other still shows the volume from before its daemon died and gives errors; /);
  t.notRegex(stderr, /\/srv still shows/);
  t.deepEqual(wrongFiles(own, image), []);
  lab.tool('umount', '-l', elsewhere);
  t.not(stdout.trim(), '');
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('a device that is taken away from outside ends its daemon in order', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'), '--hydrate', 'full');
  await lab.ok(t, 'wait', 'vol0');
  lab.tool('umount', '-l', '-f', lab.path('run', 'vol0'));
  await lab.noDaemon(10_000);
  t.deepEqual(lab.daemons(), []);
  await lab.ok(t, 'attach', 'vol0');
  t.true((await lab.status(t, 'vol0')).isHydrated);
});
