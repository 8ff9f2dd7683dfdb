/**
 * Write-through on real devices: fio writes and trims while the backup is a real NBD server, or one
 * behind a proxy that delays, reorders, forgets, cuts and lets dead connections write late.
 * Afterwards, once `regrow wait --in-sync` returns, backup and volume are equal by cmp.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {copyFileSync, readFileSync, truncateSync, writeFileSync} from 'node:fs';
import type {ExecutionContext} from 'ava';
import {type AttachLab, WRITABLE} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {makeExt4Image, wrongFiles} from '../support/ext4-image.js';
import {NbdProxy} from '../support/nbd-proxy.js';
import {FileBackend} from '../support/nbd-proxy/backend.js';
import {startNbdServer} from '../support/nbd-server.js';

const MiB = 1024 * 1024;
const SIZE = 64 * MiB;

/** Random bytes in every other MiB. */
function makeImage(lab: AttachLab): string {
  const path = lab.path('image');
  writeFileSync(path, '');
  truncateSync(path, SIZE);
  lab.tool(
    'sh',
    '-c',
    `for i in $(seq 0 2 63); do dd if=/dev/urandom of=${path} bs=1M count=1 seek=$i conv=notrunc ` +
      'status=none; done',
  );
  return path;
}

type Serve = (lab: AttachLab, image: string, t: ExecutionContext) => Promise<string>;

const SERVERS: Record<string, Serve> = {
  nbdkit: (lab, image) => lab.serveWritable('file', image),
  'qemu-nbd': (lab, image) =>
    started(
      lab,
      'qemu-nbd',
      ['--persistent', '--shared', '8', '--format', 'raw', image],
      '--socket',
    ),
  'nbd-server': async (_lab, image, t) => (await startNbdServer(t, [image])).uri,
};

async function started(
  lab: AttachLab,
  program: string,
  args: string[],
  flag: string,
): Promise<string> {
  const socket = lab.path(`${program}.sock`);
  lab.background(program, flag, socket, ...args);
  return answering(lab, `nbd+unix:///?socket=${socket}`);
}

async function answering(lab: AttachLab, uri: string): Promise<string> {
  for (let tries = 0; tries < 100; tries++) {
    if ((await lab.run('nbdinfo', ['--size', uri])).exitCode === 0) return uri;
    await sleep(50);
  }
  throw new Error(`nothing answers at ${uri}`);
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** fio's own verification beside ours: it reads back what it wrote. */
function fioArguments(device: string, seconds: number, ...more: string[]): string[] {
  return [
    '--name=writer',
    `--filename=${device}`,
    '--ioengine=libaio',
    '--direct=1',
    '--iodepth=8',
    '--rw=randrw',
    '--bsrange=512-128k',
    '--fsync=40',
    '--verify=crc32c',
    '--verify_backlog=64',
    '--verify_fatal=1',
    '--verify_state_save=0',
    '--time_based',
    `--runtime=${seconds}`,
    ...more,
  ];
}

/** In sync, hydrated, detached: store and backup are one. */
async function assertEqual(
  t: ExecutionContext,
  lab: AttachLab,
  image: string,
  store: string,
): Promise<void> {
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  const {protection} = await lab.status(t, 'vol0');
  t.is(protection.state, 'protected');
  t.is(protection.behindBlocks, 0);
  await lab.ok(t, 'hydrate', 'vol0', 'full');
  await lab.ok(t, 'wait', 'vol0', '--hydrated');
  await lab.ok(t, 'detach', 'vol0');
  const {exitCode, stdout} = await lab.run('cmp', [image, store]);
  t.is(exitCode, 0, stdout);
}

for (const [name, serve] of Object.entries(SERVERS)) {
  attachTest(`I8: ${name} as the backup equals the volume after fio and trims`, async (t, lab) => {
    const image = makeImage(lab);
    const store = lab.path('store');
    const uri = await serve(lab, image, t);
    const device = await lab.ok(
      t,
      'attach',
      uri,
      'vol0',
      '--store',
      store,
      '--write-through',
      'sync',
    );
    lab.tool('fio', ...fioArguments(device, 3));
    lab.tool('blkdiscard', '-o', String(3 * MiB), '-l', String(9 * MiB), device);
    lab.tool('fio', ...fioArguments(device, 2, '--rw=randtrimwrite', '--verify=0', '--bs=4k'));
    await assertEqual(t, lab, image, store);
  });
}

interface Fault {
  happens: (proxy: NbdProxy) => Promise<void>;
  counts: readonly (keyof NbdProxy['counts'])[];
}

/** What befalls the backup while fio runs, and which counts must not be zero afterwards. */
const FAULTS: Record<string, Fault> = {
  'delays and reorders between flushes': {
    happens: async (proxy) => {
      proxy.faults.set({delayMs: 4, reorder: true, volatile: true});
      await sleep(6000);
    },
    counts: ['reordered', 'held'],
  },
  'drops after acknowledging and restarts without what was not flushed': {
    happens: async (proxy) => {
      proxy.faults.set({delayMs: 2, volatile: true, reorder: true});
      for (let round = 0; round < 3; round++) {
        await sleep(1500);
        await proxy.powerLoss({downMs: 300});
      }
      await sleep(1500);
    },
    counts: ['lost'],
  },
  'is cut, and dead connections write late': {
    happens: async (proxy) => {
      proxy.faults.set({delayMs: 3, reorder: true, zombieMs: 3000, zombieProbability: 0.7});
      for (let round = 0; round < 3; round++) {
        await sleep(1500);
        // Requests that wait for an answer when the cable is cut are what becomes zombies.
        proxy.faults.set({silent: true});
        await sleep(200);
        await proxy.cut({downMs: 200});
        proxy.faults.set({silent: false});
      }
      await sleep(1500);
    },
    counts: ['zombies', 'zombiesLanded'],
  },
};

for (const [title, {happens, counts}] of Object.entries(FAULTS)) {
  attachTest(`I8: a backup that ${title} ends up equal`, async (t, lab) => {
    const image = makeImage(lab);
    const store = lab.path('store');
    const backend = await FileBackend.open(image);
    const proxy = await NbdProxy.start({backend, seed: 7, canMultiConn: true});
    t.teardown(async () => {
      await proxy.close();
      await backend.close();
    });
    const device = await lab.ok(
      t,
      'attach',
      proxy.uri,
      'vol0',
      '--store',
      store,
      '--write-through',
      'sync',
    );
    const fio = spawn('fio', fioArguments(device, 6), {stdio: 'ignore'});
    const ended = exitOf(fio);
    await happens(proxy);
    t.is(await ended, 0, 'fio saw no error and read what it wrote');
    proxy.faults.clear();
    await lab.ok(t, 'wait', 'vol0', '--in-sync');
    t.deepEqual(proxy.missing(...counts), []);
    t.log(JSON.stringify(proxy.counts));
    // In sync means flushed: what the backup would lose with its power now is nothing.
    await proxy.powerLoss({fate: 'drop'});
    await assertEqual(t, lab, image, store);
  });
}

function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.on('close', resolve));
}

attachTest('a file system on a written-through volume is on the backup', async (t, lab) => {
  const image = makeExt4Image(lab, 16);
  const copy = lab.path('served');
  copyFileSync(image.path, copy);
  const uri = await lab.serveWritable('file', copy);
  const device = await lab.ok(
    t,
    'attach',
    uri,
    'vol0',
    '--store',
    lab.path('store'),
    '--backup',
    uri,
  );
  const folder = lab.mount(device, 'mnt');
  writeFileSync(`${folder}/new`, 'written through');
  lab.tool('umount', folder);
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  t.regex(await lab.ok(t, 'status', 'vol0'), /sync: protected, backup consistent as of 20/);
  await lab.ok(t, 'detach', 'vol0');
  lab.tool('fsck.ext4', '-fn', copy);
  const alone = lab.mount(lab.loop(copy, '--read-only'), 'alone', '-o', 'ro');
  t.is(readFileSync(`${alone}/new`, 'utf8'), 'written through');
  t.deepEqual(wrongFiles(alone, image), []);
});

attachTest('off, then sync under load: what the backup lacked is sent', async (t, lab) => {
  const image = makeImage(lab);
  const store = lab.path('store');
  const uri = await lab.serveWritable('file', image);
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', store);
  t.regex((await lab.regrow('wait', 'vol0', '--in-sync')).stderr, /write-through is off, so no/);
  lab.tool('fio', ...fioArguments(device, 2));
  const fio = spawn('fio', fioArguments(device, 3), {stdio: 'ignore'});
  const ended = exitOf(fio);
  t.regex(
    (await lab.regrow('write-through', 'vol0', 'sync', '--rate', '40M')).stderr,
    /vol0: sync/,
  );
  t.is(await ended, 0);
  await lab.ok(t, 'write-through', 'vol0', 'strict', '--rate', 'none');
  lab.tool('fio', ...fioArguments(device, 1));
  await assertEqual(t, lab, image, store);
});

attachTest('kill -9 of daemon and backup in turn: resync makes them equal', async (t, lab) => {
  const image = makeImage(lab);
  const store = lab.path('store');
  const socket = lab.path('backup.sock');
  let {uri, server} = await lab.serveOn(socket, WRITABLE, 'file', image);
  const device = await lab.ok(
    t,
    'attach',
    uri,
    'vol0',
    '--store',
    store,
    '--write-through',
    'sync',
  );
  spawn('fio', fioArguments(device, 10), {stdio: 'ignore'});
  await sleep(1000);
  server.kill('SIGKILL');
  await sleep(1000);
  const behind = (await lab.status(t, 'vol0')).protection;
  t.is(behind.state, 'behind');
  t.true(behind.behindBlocks > 0);
  for (const pid of lab.daemons()) process.kill(pid, 'SIGKILL');
  await lab.noDaemon(5000);
  ({uri, server} = await lab.serveOn(socket, WRITABLE, 'file', image));
  await lab.ok(t, 'attach', 'vol0');
  await assertEqual(t, lab, image, store);
});
