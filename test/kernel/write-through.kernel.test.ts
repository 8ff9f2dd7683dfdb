/**
 * Write-through on real devices: fio writes and trims while the backup is a real NBD server, or one
 * behind a proxy that delays, reorders, forgets, cuts and lets dead connections write late.
 * Afterwards, once `regrow wait --in-sync` returns, backup and volume are equal by cmp.
 */
import {spawn} from 'node:child_process';
import {copyFileSync, readFileSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {MIB, WRITABLE} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {makeExt4Image, wrongFiles} from '../support/ext4-image.js';
import {
  assertEqual,
  exitOf,
  fioArguments,
  makeImage,
  SERVERS,
  startProxy,
} from '../support/backup-lab.js';
import {FileBackend, type NbdProxy} from '../support/nbd-proxy.js';

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
    lab.tool('blkdiscard', '-o', String(3 * MIB), '-l', String(9 * MIB), device);
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
    const proxy = await startProxy(t, await FileBackend.open(image));
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
  await lab.kill(t, 'vol0');
  await lab.noDaemon(5000);
  ({uri, server} = await lab.serveOn(socket, WRITABLE, 'file', image));
  await lab.ok(t, 'attach', 'vol0');
  await assertEqual(t, lab, image, store);
});
