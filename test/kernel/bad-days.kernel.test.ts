/** Bad days: what attach and its companions refuse, each in one sentence that says what to do. */
import {randomBytes} from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {makeSource, MIB, refusedFirst} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {makeExt4Image} from '../support/ext4-image.js';

attachTest('a malformed name', async (t, lab) => {
  t.regex(
    await refusedFirst(t, lab, makeSource(lab), 'Vol 0', '--store', lab.path('store')),
    /^cannot attach "Vol 0": a volume's name has 1 to 63 characters, small letters, digits/,
  );
});

attachTest('a source without a store', async (t, lab) => {
  t.regex(
    await refusedFirst(t, lab, makeSource(lab), 'vol0'),
    /^cannot attach vol0: a source needs a store to grow in; name a file or disk with --store/,
  );
});

attachTest('a name that is taken by another volume', async (t, lab) => {
  const source = makeSource(lab);
  await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  await lab.ok(t, 'detach', 'vol0');
  t.regex(
    await lab.refused(t, 'attach', makeSource(lab, 4, 'b'), 'vol0', '--store', lab.path('other')),
    /^cannot attach vol0: the name is taken by the volume that .*source grows back into .*; choose/,
  );
});

attachTest('a name nobody knows', async (t, lab) => {
  for (const command of ['attach', 'hydrate', 'wait', 'verify', 'detach', 'status', 'forget']) {
    const rest = command === 'hydrate' ? ['full'] : [];
    t.regex(
      await lab.refused(t, command, 'vol0', ...rest),
      /^cannot [a-z ]+ vol0: there is no volume of that name \(.*\/state\/vol0 does not exist\); /,
    );
  }
});

attachTest('commands for a volume that is not attached', async (t, lab) => {
  await lab.ok(t, 'attach', makeSource(lab), 'vol0', '--store', lab.path('store'));
  await lab.ok(t, 'detach', 'vol0');
  for (const command of ['hydrate', 'wait', 'verify', 'detach', 'status']) {
    const rest = command === 'hydrate' ? ['full'] : [];
    t.regex(
      await lab.refused(t, command, 'vol0', ...rest),
      /^cannot [a-z ]+ vol0: it is not attached; attach it first with `regrow attach vol0`$/,
    );
  }
});

attachTest('a store on a disk that is too small', async (t, lab) => {
  writeFileSync(lab.path('disk'), '');
  truncateSync(lab.path('disk'), 3 * MIB);
  const disk = lab.loop(lab.path('disk'));
  t.regex(
    await refusedFirst(t, lab, makeSource(lab), 'vol0', '--store', disk),
    /^cannot attach vol0: using \/dev\/loop\d+ as the store: it has 3145728 bytes, .* 4194304;/,
  );
});

attachTest('a store that is mounted', async (t, lab) => {
  const {path} = makeExt4Image(lab, 16);
  const disk = lab.loop(path);
  const folder = lab.mount(disk, 'mnt');
  t.is(
    await refusedFirst(t, lab, makeSource(lab), 'vol0', '--store', disk, '--overwrite-store'),
    `cannot attach vol0: using ${disk} as the store: it is in use (${disk} is mounted on ` +
      `${folder}); free it first`,
  );
});

attachTest('a store on which blkid finds a file system', async (t, lab) => {
  const {path} = makeExt4Image(lab, 16);
  const disk = lab.loop(path);
  t.regex(
    await refusedFirst(t, lab, makeSource(lab), 'vol0', '--store', disk),
    /^cannot attach vol0: using \/dev\/loop\d+ as the store: it holds data \(ext4\); .*-store$/,
  );
  await lab.ok(t, 'attach', lab.path('source'), 'vol0', '--store', disk, '--overwrite-store');
});

attachTest('a store file with data', async (t, lab) => {
  const store = makeSource(lab, 4, 'store');
  const before = readFileSync(store);
  t.regex(
    await refusedFirst(t, lab, makeSource(lab), 'vol0', '--store', store),
    /^cannot attach vol0: using .*\/store as the store: .* 4 MiB of data; .* --overwrite-store$/,
  );
  lab.same(t, readFileSync(store), before);
});

attachTest('a store of another volume', async (t, lab) => {
  const source = makeSource(lab);
  const store = lab.path('store');
  await lab.ok(t, 'attach', source, 'vol0', '--store', store);
  const args = ['attach', source, 'vol1', '--store', store, '--overwrite-store'];
  const refuse = (): Promise<string> => lab.refused(t, ...args);
  const sentence = /^cannot attach vol1: the store .*\/store belongs to the volume vol0; name/;
  t.regex(await refuse(), sentence);
  await lab.ok(t, 'detach', 'vol0');
  t.regex(await refuse(), sentence);
  t.false(existsSync(lab.path('state', 'vol1')));
});

attachTest('a store that is the source', async (t, lab) => {
  const source = makeSource(lab);
  t.regex(
    await refusedFirst(t, lab, source, 'vol0', '--store', source, '--overwrite-store'),
    /^cannot attach vol0: store and source are the same, .*\/source; name another store, so/,
  );
});

attachTest('a store in a folder that does not exist, or that is a folder', async (t, lab) => {
  const source = makeSource(lab);
  t.regex(
    await refusedFirst(t, lab, source, 'vol0', '--store', lab.path('no', 'store')),
    /^cannot attach vol0: the store .*no\/store cannot be made: its folder .*no does not exist;/,
  );
  t.regex(
    await refusedFirst(t, lab, source, 'vol0', '--store', lab.folder),
    /^cannot attach vol0: using .* as the store: it is neither a regular file nor a block device;/,
  );
});

attachTest('a different disk under the same name', async (t, lab) => {
  const source = makeSource(lab);
  const store = lab.path('store');
  await lab.ok(t, 'attach', source, 'vol0', '--store', store);
  await lab.ok(t, 'detach', 'vol0');
  renameSync(store, `${store}.old`);
  writeFileSync(store, randomBytes(4 * MIB));
  const before = readFileSync(store);
  t.regex(
    await lab.refused(t, 'attach', 'vol0'),
    /^cannot attach vol0: .*\/store is not its store: it is .* and not .*; /,
  );
  lab.same(t, readFileSync(store), before);
  renameSync(`${store}.old`, store);
  await lab.ok(t, 'attach', 'vol0');
});

attachTest('a store that is gone', async (t, lab) => {
  const store = lab.path('store');
  await lab.ok(t, 'attach', makeSource(lab), 'vol0', '--store', store);
  await lab.ok(t, 'detach', 'vol0');
  renameSync(store, `${store}.away`);
  t.regex(
    await lab.refused(t, 'attach', 'vol0'),
    /^cannot attach vol0: its store .*\/store does not exist; /,
  );
});

attachTest('a store whose content was changed from outside', async (t, lab) => {
  const store = lab.path('store');
  await lab.ok(t, 'attach', makeSource(lab), 'vol0', '--store', store, '--hydrate', 'full');
  await lab.ok(t, 'wait', 'vol0');
  for (let i = 0; i < 100 && (await lab.status(t, 'vol0')).witnesses === 0; i++) await sleep(20);
  await lab.ok(t, 'detach', 'vol0');
  writeFileSync(store, randomBytes(4 * MIB), {flag: 'r+'});
  t.regex(
    await lab.refused(t, 'attach', 'vol0'),
    /^cannot attach vol0: the store .* no longer holds at byte \d+ what was copied there/,
  );
});

attachTest('block sizes out of range', async (t, lab) => {
  const source = makeSource(lab);
  for (const size of ['2K', '8M', '48K']) {
    t.regex(
      await refusedFirst(
        t,
        lab,
        source,
        'vol0',
        '--store',
        lab.path('store'),
        '--block-size',
        size,
      ),
      /^cannot attach vol0: block size \d+ is not a power of two from 4K to 4M; choose another/,
    );
    t.false(existsSync(lab.path('store')));
  }
});

attachTest('damaged state: refused, named, untouched', async (t, lab) => {
  const source = makeSource(lab);
  await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  await lab.ok(t, 'detach', 'vol0');
  const record = lab.path('state', 'vol0', 'volume.json');
  const map = lab.path('state', 'vol0', 'map');
  for (const [path, damage] of [
    [record, Buffer.from('{')],
    [record, Buffer.from('{"version":9}')],
    [map, Buffer.alloc(8192, 7)],
  ] as const) {
    const good = readFileSync(path);
    writeFileSync(path, damage, {flag: path === map ? 'r+' : 'w'});
    const bad = readFileSync(path);
    const sentence = await lab.refused(t, 'attach', 'vol0');
    t.regex(sentence, /^cannot attach vol0: its state is damaged.*nothing was touched/);
    t.true(sentence.includes(path), sentence);
    lab.same(t, readFileSync(path), bad);
    writeFileSync(path, good);
  }
  await lab.ok(t, 'attach', 'vol0');
});

attachTest('detach while it is mounted', async (t, lab) => {
  const {path} = makeExt4Image(lab, 16);
  const device = await lab.ok(t, 'attach', path, 'vol0', '--store', lab.path('store'));
  const folder = lab.mount(device, 'mnt');
  t.is(
    await lab.refused(t, 'detach', 'vol0'),
    `cannot detach vol0: ${device} is mounted at ${folder}; unmount it first`,
  );
  lab.tool('umount', folder);
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('forget of a volume that is attached, or that still needs its map', async (t, lab) => {
  await lab.ok(t, 'attach', makeSource(lab), 'vol0', '--store', lab.path('store'));
  t.is(
    await lab.refused(t, 'forget', 'vol0'),
    'cannot forget vol0: it is attached; detach it first with `regrow detach vol0`',
  );
  t.regex(await lab.ok(t, 'detach', 'vol0'), /^vol0: needs its map, 64 blocks absent/);
  t.regex(
    await lab.refused(t, 'forget', 'vol0'),
    /^cannot forget vol0: .*\/store alone is not the volume yet \(64 blocks absent\).*--force/,
  );
  await lab.ok(t, 'forget', 'vol0', '--force');
});

attachTest('a mount folder that is missing or not empty', async (t, lab) => {
  const {path} = makeExt4Image(lab, 16);
  const attach = (folder: string): Promise<string> =>
    refusedFirst(t, lab, path, 'vol0', '--store', lab.path('store'), '--mount', folder);
  t.is(
    await attach(lab.path('none')),
    `cannot attach vol0: --mount ${lab.path('none')} does not exist; make it first`,
  );
  t.is(
    await attach(lab.path('files')),
    `cannot attach vol0: --mount ${lab.path('files')} is not empty; name an empty folder`,
  );
});

attachTest('I13: too little room for the whole volume is a warning, no refusal', async (t, lab) => {
  mkdirSync(lab.path('small'));
  lab.tool('mount', '-t', 'tmpfs', '-o', 'size=4m', 'none', lab.path('small'));
  lab.willUnmount(lab.path('small'));
  const {exitCode, stderr} = await lab.regrow(
    'attach',
    makeSource(lab, 16),
    'vol0',
    '--store',
    lab.path('small', 'store'),
  );
  t.is(exitCode, 0, stderr);
  t.regex(stderr, /has 4 MiB left and the volume may come to need 16 MiB; /);
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('no /dev/fuse, no loop devices, no root', async (t, lab) => {
  const source = makeSource(lab);
  const hidden = (script: string): Promise<string> =>
    lab.refusedIn(
      t,
      ['unshare', '-m', 'sh', '-c', `${script}; exec "$@"`, 'sh'],
      'attach',
      source,
      'vol0',
      '--store',
      lab.path('store'),
    );
  const bare =
    'd=$(mktemp -d) && mount -t tmpfs none $d && cp -a /dev/null /dev/zero /dev/urandom $d';
  t.regex(
    await hidden(`${bare} && cp -a /dev/loop-control $d && mount --move $d /dev`),
    /^cannot attach vol0: \/dev\/fuse does not exist; load the module with `modprobe fuse`/,
  );
  t.regex(
    await hidden(`${bare} && cp -a /dev/fuse $d && mount --move $d /dev`),
    /^cannot attach vol0: \/dev\/loop-control does not exist; load the module with `modprobe loop`/,
  );
  t.regex(
    await lab.refusedIn(
      t,
      ['setpriv', '--reuid=65534', '--clear-groups'],
      'attach',
      source,
      'vol0',
      '--store',
      lab.path('store'),
    ),
    /^cannot attach vol0: making a device needs root; run it with sudo$/,
  );
  t.false(existsSync(lab.path('store')));
});

attachTest('a store file is as large as the volume and holds nothing yet', async (t, lab) => {
  const {path} = makeExt4Image(lab, 16);
  await lab.ok(t, 'attach', path, 'vol0', '--store', lab.path('store'));
  const {size, blocks, mode} = statSync(lab.path('store'));
  t.is(size, 16 * MIB);
  t.true(blocks * 512 < 4 * MIB);
  t.is(mode & 0o777, 0o600);
});
