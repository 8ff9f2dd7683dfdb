/** DC12 on real devices: stores that are replaced under a mounted file system, or go bad. */
import {spawn} from 'node:child_process';
import {createHash, randomBytes} from 'node:crypto';
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs';
import {createInterface} from 'node:readline';
import {setTimeout as sleep} from 'node:timers/promises';
import {attachTest} from '../support/attach-test.js';

const MIB = 1024 * 1024;

/** An empty ext4 of so many MiB in a file; its path. */
function ext4(lab: {path: (name: string) => string; tool: Tool}, size: number): string {
  const image = lab.path('image');
  writeFileSync(image, '');
  lab.tool('truncate', '-s', `${size}M`, image);
  lab.tool('mkfs.ext4', '-q', image);
  return image;
}

type Tool = (command: string, ...args: string[]) => string;

/** Writes files until told to stop; their hashes by name. */
function writer(folder: string): {stop: () => Promise<Map<string, string>>} {
  const hashes = new Map<string, string>();
  let isOver = false;
  const run = async (): Promise<void> => {
    for (let count = 0; !isOver; count++) {
      const bytes = randomBytes(64 * 1024 + (count % 7) * 512);
      const name = `file${count % 40}`;
      writeFileSync(`${folder}/${name}`, bytes, {flush: count % 5 === 0});
      hashes.set(name, createHash('sha256').update(bytes).digest('hex'));
      await sleep(2);
    }
  };
  const running = run();
  return {
    stop: async () => {
      isOver = true;
      await running;
      return hashes;
    },
  };
}

function wrong(folder: string, hashes: ReadonlyMap<string, string>): string[] {
  return [...hashes].flatMap(([name, hash]) => {
    const found = createHash('sha256')
      .update(readFileSync(`${folder}/${name}`))
      .digest('hex');
    return found === hash ? [] : [name];
  });
}

for (const mode of ['sync', 'off'] as const) {
  attachTest(`the store is replaced under a busy ext4, write-through ${mode}`, async (t, lab) => {
    const image = ext4(lab, 64);
    const uri = await lab.serveWritable('file', image);
    const [first, second] = [lab.path('store1'), lab.path('store2')];
    const attach = ['attach', uri, 'vol0', '--store', first, '--write-through', mode];
    const device = await lab.ok(t, ...attach);
    const folder = lab.mount(device, 'mnt');
    const load = writer(folder);
    t.teardown(() => load.stop().catch(() => undefined));
    await sleep(1500);
    t.regex(
      await lab.refused(t, 'replace-store', 'vol0', '--store', first),
      /store1 is its store already/,
    );
    await lab.ok(t, 'replace-store', 'vol0', '--store', second);
    await sleep(500);
    const status = await lab.status(t, 'vol0');
    t.is(status.store.path, second);
    lab.tool('rm', first);
    t.deepEqual(
      readdirSync(`${lab.stateDir}/vol0`).filter((name) => name.startsWith('map')),
      ['map.2'],
    );
    await lab.ok(t, 'restart', 'vol0');
    await sleep(500);
    const hashes = await load.stop();
    lab.tool('umount', folder);
    await lab.ok(t, 'detach', 'vol0');
    const again = await lab.ok(t, 'attach', 'vol0');
    lab.tool('e2fsck', '-fn', again);
    lab.mount(again, 'mnt');
    t.deepEqual(wrong(folder, hashes), []);
    t.true(hashes.size > 20);
    lab.tool('umount', folder);
    await lab.ok(t, 'hydrate', 'vol0', 'full');
    await lab.ok(t, 'wait', 'vol0');
    await lab.ok(t, 'detach', 'vol0');
    lab.tool('e2fsck', '-fn', second);
    mkdirSync(lab.path('alone'), {recursive: true});
    const alone = lab.mount(lab.loop(second), 'alone');
    t.deepEqual(wrong(alone, hashes), []);
  });
}

attachTest('a new store is looked at as a first one is', async (t, lab) => {
  writeFileSync(lab.path('source'), randomBytes(4 * MIB));
  await lab.ok(t, 'attach', lab.path('source'), 'vol0', '--store', lab.path('store'));
  writeFileSync(lab.path('small'), Buffer.alloc(MIB));
  const disk = lab.loop(lab.path('small'));
  const refusal = (...args: string[]): Promise<string> =>
    lab.refused(t, 'replace-store', 'vol0', '--store', ...args);
  t.regex(await refusal(disk), /has 1048576 bytes, the volume needs 4194304; take a larger one/);
  t.regex(await refusal(lab.path('source'), '--overwrite-store'), /store and source are the same/);
  t.regex(await refusal(lab.path('store'), '--overwrite-store'), /is its store already/);
  t.regex(await refusal(lab.path('no', 'folder')), /does not exist/);
  writeFileSync(lab.path('old'), '');
  lab.tool('truncate', '-s', '8M', lab.path('old'));
  lab.tool('mkfs.ext4', '-q', lab.path('old'));
  t.regex(await refusal(lab.path('old')), /--overwrite-store/);
  const mounted = lab.loop(lab.path('old'));
  lab.mount(mounted, 'used');
  t.regex(await refusal(mounted, '--overwrite-store'), /mounted/);
  t.is((await lab.status(t, 'vol0')).store.path, lab.path('store'));
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('a disk that cannot read any more is replaced and nothing is lost', async (t, lab) => {
  const image = ext4(lab, 48);
  const uri = await lab.serveWritable('file', image);
  mkdirSync(lab.path('disk'));
  const script = new URL('bad-disk-child.js', import.meta.url).pathname;
  const child = spawn(process.execPath, [script, lab.path('disk')], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => child.kill('SIGKILL'));
  const lines = createInterface({input: child.stdout})[Symbol.asyncIterator]();
  const disk = String((await lines.next()).value);
  const attach = ['attach', uri, 'vol0', '--store', disk, '--write-through', 'sync'];
  const device = await lab.ok(t, ...attach);
  const folder = lab.mount(device, 'mnt');
  const load = writer(folder);
  await sleep(2000);
  const hashes = await load.stop();
  await lab.run('sync', ['-f', folder]);
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  child.stdin.write('1\n');
  await lines.next();
  // What page caches hold would be read from them.
  await lab.run('umount', [folder]);
  await lab.run('blockdev', ['--flushbufs', disk]);
  await lab.run('blockdev', ['--flushbufs', device]);
  writeFileSync('/proc/sys/vm/drop_caches', '3');
  t.is((await lab.run('mount', [device, folder])).exitCode, 0);
  const readAll = async (): Promise<void> => {
    for (const [name, hash] of hashes) {
      const {stdout} = await lab.run('sha256sum', [`${folder}/${name}`]);
      t.is(stdout.slice(0, 64), hash, name);
    }
  };
  await readAll();
  const status = await lab.status(t, 'vol0');
  t.true(status.storeErrors.length > 0);
  t.true(status.storeErrors.every(({done}) => done === 'put back' || done === 'fetched anew'));
  t.log(status.storeErrors.length, 'places', status.counters.storeErrors, 'errors');
  await lab.ok(t, 'replace-store', 'vol0', '--store', lab.path('healthy'));
  child.stdin.write('\n');
  t.not((await lines.next()).value, '0 faults');
  await readAll();
  await lab.run('umount', [folder]);
  t.is((await lab.run('e2fsck', ['-fn', device])).exitCode, 0);
  await lab.ok(t, 'detach', 'vol0');
});
