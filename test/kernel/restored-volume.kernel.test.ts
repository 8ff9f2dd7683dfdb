/**
 * A restoring volume under real programs: fio, file systems that are killed and replayed, partition
 * tables, sources that fail, another machine.
 */
import {randomBytes} from 'node:crypto';
import {mkdirSync, readFileSync, statfsSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import type {ExecutionContext} from 'ava';
import type {AttachLab} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {makeExt4Image, wrongFiles} from '../support/ext4-image.js';

const MiB = 1024 * 1024;
/** A partition table as text, without the disk's name. */
function partitionTable(lab: AttachLab, disk: string): string {
  return lab.tool('sfdisk', '-d', disk).replaceAll(`${disk}p`, 'disk').replaceAll(disk, 'disk');
}

/** An image of random bytes with a hole in its middle; its path. */
function makeImage(lab: AttachLab, mebibytes: number): string {
  const path = lab.path('image');
  const bytes = randomBytes(mebibytes * MiB);
  bytes.fill(0, (mebibytes / 4) * MiB, (mebibytes / 2) * MiB);
  writeFileSync(path, bytes);
  lab.tool('fallocate', '--dig-holes', path);
  return path;
}

async function fio(
  t: ExecutionContext,
  lab: AttachLab,
  device: string,
  ...job: string[]
): Promise<void> {
  const {exitCode, stdout, stderr} = await lab.run('fio', [
    '--name=verify',
    `--filename=${device}`,
    '--direct=1',
    '--ioengine=libaio',
    '--iodepth=8',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--verify_state_save=0',
    '--randrepeat=0',
    ...job,
  ]);
  t.is(exitCode, 0, stdout + stderr);
  t.regex(stdout, /err= 0/);
}

for (const rw of ['randrw', 'randtrimwrite']) {
  attachTest(`fio ${rw} finds what it wrote while the volume hydrates`, async (t, lab) => {
    const uri = await lab.serve('--filter=delay', 'file', makeImage(lab, 64), 'rdelay=1ms');
    const store = lab.path('store');
    const device = await lab.ok(
      t,
      'attach',
      uri,
      'vol0',
      '--store',
      store,
      '--hydrate',
      'background',
    );
    await fio(t, lab, device, `--rw=${rw}`, '--bsrange=512-1M', '--size=64M');
    await lab.ok(t, 'hydrate', 'vol0', 'full');
    await lab.ok(t, 'wait', 'vol0', '--hydrated');
    await lab.ok(t, 'verify', 'vol0');
    const volume = readFileSync(device);
    t.regex(await lab.ok(t, 'detach', 'vol0'), /complete/);
    lab.same(t, readFileSync(store).subarray(0, volume.length), volume);
  });
}

const FILE_SYSTEMS = [
  {name: 'ext4', make: ['mkfs.ext4', '-q'], check: ['fsck.ext4', '-fn']},
  {name: 'xfs', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n']},
] as const;

for (const {name, make, check} of FILE_SYSTEMS) {
  attachTest(
    `${name} on a volume: kill -9 of all under load, attach, replay, check`,
    async (t, lab) => {
      const image = lab.path('empty');
      lab.tool('truncate', '-s', '512M', image);
      const uri = await lab.serve('file', image);
      const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
      const [command, ...options] = make;
      lab.tool(command, ...options, device);
      const folder = lab.mount(device, 'mnt');
      const kept = randomBytes(2 * MiB);
      writeFileSync(`${folder}/kept`, kept);
      lab.tool('sync', '-f', folder);
      const write = `dd if=/dev/urandom of=${folder}/f$i bs=64k count=8 conv=fsync status=none`;
      const script = `i=0; while ${write}; do i=$(((i+1)%40)); done`;
      const load = lab.background('sh', '-c', script);
      await sleep(700);
      await lab.kill(t, 'vol0');
      await new Promise((resolve) => load.once('exit', resolve));
      lab.tool('umount', '-l', folder);

      const again = await lab.ok(t, 'attach', 'vol0');
      const replayed = lab.mount(again, 'again');
      lab.same(t, readFileSync(`${replayed}/kept`), kept);
      lab.tool('umount', replayed);
      const [checker, ...how] = check;
      lab.tool(checker, ...how, again);
      await lab.ok(t, 'detach', 'vol0');
    },
  );
}

attachTest('a partition table written to the volume is in the store', async (t, lab) => {
  const uri = await lab.serve('memory', '64M');
  const store = lab.path('store');
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', store, '--hydrate', 'full');
  lab.tool(
    'sh',
    '-c',
    `printf 'label: gpt\\nsize=20M\\nsize=10M\\n' | sfdisk -q --no-reread ${device}`,
  );
  const written = partitionTable(lab, device);
  await lab.ok(t, 'wait', 'vol0', '--hydrated');
  await lab.ok(t, 'detach', 'vol0');
  t.is(partitionTable(lab, store), written);
  t.regex(written, /size=\s+40960/);
});

for (const fault of ['EIO', 'ENOMEM']) {
  attachTest(
    `a source that answers ${fault} now and then still becomes the volume`,
    async (t, lab) => {
      const image = makeImage(lab, 32);
      const uri = await lab.serve(
        '--filter=error',
        'file',
        image,
        `error-pread=${fault}`,
        'error-pread-rate=10%',
      );
      const store = lab.path('store');
      await lab.ok(t, 'attach', uri, 'vol0', '--store', store, '--hydrate', 'full');
      await lab.ok(t, 'wait', 'vol0', '--hydrated');
      t.regex(await lab.ok(t, 'detach', 'vol0'), /complete/);
      lab.same(t, readFileSync(store), readFileSync(image));
    },
  );
}

attachTest(
  'IR10: a volume is restored on another machine, with another network and root',
  async (t, lab) => {
    const image = makeExt4Image(lab, 16);
    const [backup, primary] = [`rgb${process.pid}`, `rgp${process.pid}`];
    const quietly = (...command: string[]): void =>
      void lab.run(command[0] ?? '', command.slice(1));
    t.teardown(() => {
      quietly('ip', 'netns', 'del', backup);
      quietly('ip', 'netns', 'del', primary);
    });
    for (const name of [backup, primary]) lab.tool('ip', 'netns', 'add', name);
    lab.tool(
      'ip',
      'link',
      'add',
      'v0',
      'netns',
      backup,
      'type',
      'veth',
      'peer',
      'v0',
      'netns',
      primary,
    );
    for (const [name, address] of [
      [backup, '10.91.7.1/30'],
      [primary, '10.91.7.2/30'],
    ] as const) {
      lab.tool('ip', '-n', name, 'addr', 'add', address, 'dev', 'v0');
      lab.tool('ip', '-n', name, 'link', 'set', 'v0', 'up');
    }
    lab.background(
      'ip',
      'netns',
      'exec',
      backup,
      'nbdkit',
      '-f',
      '-r',
      '-i',
      '10.91.7.1',
      'file',
      image.path,
    );

    // The other root has the system's folders, its own /var, /run, /root and store, nothing of
    // ours.
    const root = lab.path('root');
    mkdirSync(root);
    const regrow = `"${process.execPath}" /regrow/dist/bundle/bin/regrow.js`;
    const script = [
      `set -e; mount -t tmpfs none ${root}; cd ${root}`,
      'mkdir -p proc sys dev tmp var run root etc usr regrow lab old',
      'for d in bin sbin lib lib64; do',
      '  if [ -L /$d ]; then cp -a /$d .; else mkdir $d; mount --bind /$d $d; fi',
      'done',
      'mount --bind /usr usr; mount --bind /etc etc; mount --rbind /dev dev',
      `mount -t proc none proc; mount -t sysfs none sys; mount --bind ${process.cwd()} regrow`,
      `mount --bind ${lab.folder} lab; pivot_root . old; umount -l /old`,
      `${regrow} attach nbd://10.91.7.1/ vol0 --store /root/store --hydrate full >/dev/null`,
      `${regrow} wait vol0 --hydrated; ${regrow} detach vol0; cat /root/store > /lab/restored`,
    ].join('\n');
    const {exitCode, stderr} = await lab.run('ip', [
      ...['netns', 'exec', primary, 'unshare', '--mount', '--propagation', 'private'],
      ...['env', '-u', 'REGROW_STATE_DIR', '-u', 'REGROW_RUN_DIR', 'bash', '-c', script],
    ]);
    t.is(exitCode, 0, stderr);
    const folder = lab.mount(lab.loop(lab.path('restored')), 'mnt');
    t.deepEqual(wrongFiles(folder, image), []);
    lab.tool('umount', folder);
  },
);

attachTest('a full disk under the state: commits go on in the room they have', async (t, lab) => {
  lab.tool('truncate', '-s', '32M', lab.path('small'));
  lab.tool('mkfs.ext4', '-q', lab.path('small'));
  const state = lab.mount(lab.loop(lab.path('small')), 'state');
  const image = makeImage(lab, 32);
  const device = await lab.ok(t, 'attach', image, 'vol0', '--store', lab.path('store'));
  const {bavail, bsize} = statfsSync(state);
  lab.tool('fallocate', '-l', String(bavail * bsize), `${state}/filler`);
  await fio(t, lab, device, '--rw=randwrite', '--bs=4k', '--size=8M', '--fsync=8');
  t.is((await lab.status(t, 'vol0')).mode, 'read-write');
  await lab.ok(t, 'detach', 'vol0');
  lab.tool('rm', `${state}/filler`);
  await lab.ok(t, 'attach', 'vol0');
  await lab.ok(t, 'detach', 'vol0');
});
