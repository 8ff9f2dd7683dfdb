/**
 * Take-over for real (I3): the daemon is killed under a busy device, another goes on, nobody gets
 * an I/O error and no acknowledged write is lost.
 */
import {spawn} from 'node:child_process';
import {randomBytes, randomInt} from 'node:crypto';
import {mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import type {ExecutionContext} from 'ava';
import {MIB, makeSource, type AttachLab} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {hashOf, makeExt4Image, wrongFiles} from '../support/ext4-image.js';

const WRITER = fileURLToPath(new URL('../support/file-writer.js', import.meta.url));

/** A generous bound; the figures that are printed are what take-over is about. */
const LONGEST_IO_MS_MAX = 5000;

/** The daemon that runs now; undefined while there is none. */
function childOf(supervisor: number): number | undefined {
  const pids = readFileSync(`/proc/${supervisor}/task/${supervisor}/children`, 'utf8').trim();
  return pids === '' ? undefined : Number(pids.split(' ')[0]);
}

async function nextChild(supervisor: number, before: number | undefined): Promise<number> {
  for (;;) {
    const child = childOf(supervisor);
    if (child !== undefined && child !== before) return child;
    await sleep(1);
  }
}

/** Kills the daemon `count` times, each a random time after the last one was started. */
async function killAtRandom(
  supervisor: number,
  count: number,
  [least, most]: readonly [number, number],
): Promise<void> {
  let child: number | undefined;
  for (let i = 0; i < count; i++) {
    child = await nextChild(supervisor, child);
    await sleep(randomInt(least, most));
    process.kill(child, 'SIGKILL');
  }
}

/** The volume answers and says that it was taken over; the pauses, from its log, in ms. */
async function pausesOf(t: ExecutionContext, lab: AttachLab, name: string): Promise<number[]> {
  const {takeOver} = await lab.status(t, name);
  t.true(takeOver.isPossible, takeOver.problem ?? '');
  t.is(takeOver.unlockedBuffers, 0);
  const log = readFileSync(`${lab.stateDir}/${name}/daemon.log`, 'utf8');
  const pauses = [...log.matchAll(/taken over \{"pauseMs":(\d+)/g)].map((match) =>
    Number(match[1]),
  );
  t.true(takeOver.count > 0 && pauses.length > 0);
  return pauses.sort((a, b) => a - b);
}

function describe(pauses: readonly number[]): string {
  const at = (share: number): number => pauses[Math.floor((pauses.length - 1) * share)] ?? 0;
  return `${pauses.length} take-overs, pause median ${at(0.5)} ms, p95 ${at(0.95)} ms, max ${at(1)} ms`;
}

interface FioJob {
  error: number;
  read: {clat_ns: {max: number}; total_ios: number};
  write: {clat_ns: {max: number}; total_ios: number};
}

interface Verify {
  /** Ends the load and gives its longest I/O in ms. */
  end(): Promise<number>;
}

/** Writes at random and reads back what was acknowledged, until it is told to end. */
function verify(t: ExecutionContext, lab: AttachLab, device: string): Verify {
  const options =
    '--direct=1 --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=4k-64k --verify=crc32c ' +
    '--verify_backlog=64 --verify_fatal=1 --size=24m --offset_increment=24m --numjobs=2 ' +
    '--time_based --runtime=300 --output-format=json --random_generator=tausworthe64';
  const output = lab.path('fio.json');
  const args = [
    '--name=verify',
    `--filename=${device}`,
    `--output=${output}`,
    ...options.split(' '),
  ];
  const fio = spawn('fio', args, {cwd: lab.folder, stdio: 'ignore'});
  const ended = new Promise<number | null>((resolve) => fio.once('exit', resolve));
  t.teardown(() => fio.kill('SIGKILL'));
  return {
    end: async () => {
      fio.kill('SIGINT');
      await ended;
      const text = readFileSync(output, 'utf8');
      const {jobs} = JSON.parse(text.slice(text.indexOf('{'))) as {jobs: FioJob[]};
      t.is(jobs.length, 2);
      for (const {error, read, write} of jobs) {
        t.is(error, 0, text);
        t.true(read.total_ios > 100 && write.total_ios > 100, 'it was busy');
      }
      const longest = jobs.flatMap(({read, write}) => [read.clat_ns.max, write.clat_ns.max]);
      return Math.max(...longest) / 1e6;
    },
  };
}

for (const {title, count, range} of [
  {title: '70 deaths at random moments', count: 70, range: [10, 400]},
  {title: '30 deaths 3 to 9 ms after a start', count: 30, range: [3, 9]},
] as const) {
  attachTest(`I3: ${title} under fio verify: no error, nothing lost`, async (t, lab) => {
    const device = await lab.ok(t, 'attach', makeSource(lab, 64), 'vol0', '--store', lab.path('s'));
    const {supervisor} = await lab.pids(t, 'vol0');
    const load = verify(t, lab, device);
    await sleep(500);
    await killAtRandom(supervisor, count, range);
    await sleep(1000);
    const longest = await load.end();
    t.log(`${describe(await pausesOf(t, lab, 'vol0'))}; longest I/O ${longest.toFixed(0)} ms`);
    t.true(longest < LONGEST_IO_MS_MAX);
    const before = readFileSync(device);
    await lab.ok(t, 'detach', 'vol0');
    lab.same(t, readFileSync(await lab.ok(t, 'attach', 'vol0')), before);
  });
}

attachTest('I3: 20 deaths under a busy ext4: every synced file is there', async (t, lab) => {
  const image = makeExt4Image(lab, 256);
  const uri = await lab.serve('file', image.path);
  const args = ['--store', lab.path('store'), '--hydrate', 'background'];
  const device = await lab.ok(t, 'attach', uri, 'vol0', ...args);
  const folder = lab.mount(device, 'mnt', '-o', 'errors=remount-ro');
  const {supervisor} = await lab.pids(t, 'vol0');
  mkdirSync(`${folder}/tree`);
  const writer = spawn(process.execPath, [WRITER, `${folder}/tree`], {
    stdio: ['pipe', 'pipe', 'inherit'],
  });
  t.teardown(() => writer.kill('SIGKILL'));
  let lines = '';
  writer.stdout.setEncoding('utf8').on('data', (text: string) => (lines += text));
  const ended = new Promise<number | null>((resolve) => writer.once('exit', resolve));
  await sleep(300);
  await killAtRandom(supervisor, 20, [100, 500]);
  await sleep(500);
  writer.stdin.end();
  t.is(await ended, 0, 'the writer met no error');
  lab.tool('umount', folder);
  lab.tool('fsck.ext4', '-fn', device);
  const again = lab.mount(device, 'again');
  const synced = new Map(
    lines
      .trim()
      .split('\n')
      .map((line) => line.split(' ') as [string, string]),
  );
  t.true(synced.size > 20);
  for (const [name, hash] of synced) {
    t.is(hashOf(readFileSync(`${again}/tree/${name}`)), hash, name);
  }
  t.deepEqual(wrongFiles(again, image), []);
  t.log(`${describe(await pausesOf(t, lab, 'vol0'))}; ${synced.size} files`);
  lab.tool('umount', again);
  await lab.ok(t, 'detach', 'vol0');
});

/** Writes without a page cache and without a sync: acknowledged, not flushed. */
function writeDirect(lab: AttachLab, device: string, offset: number, bytes: Buffer): void {
  writeFileSync(lab.path('piece'), bytes);
  const place = [`of=${device}`, 'bs=4k', `seek=${offset / 4096}`, 'oflag=direct', 'conv=notrunc'];
  lab.tool('dd', `if=${lab.path('piece')}`, ...place, 'status=none');
}

attachTest(
  'I3: acknowledged writes that nobody flushed are there after kill -9',
  async (t, lab) => {
    const source = makeSource(lab, 16);
    const expected = readFileSync(source);
    const device = await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
    for (let round = 0; round < 8; round++) {
      // Parts of absent blocks, whole blocks, and what was written before.
      for (const length of [4096, 3 * 4096, 65_536, 300 * 4096]) {
        const offset = randomInt(0, (16 * MIB - length) / 4096) * 4096;
        const bytes = randomBytes(length);
        writeDirect(lab, device, offset, bytes);
        bytes.copy(expected, offset);
      }
      const {daemon} = await lab.pids(t, 'vol0');
      // Alone, and with its process group, which the supervisor must not be in.
      process.kill(round % 2 === 0 ? daemon : -daemon, 'SIGKILL');
      lab.tool('blockdev', '--flushbufs', device);
      lab.same(t, readFileSync(device), expected);
    }
    const {takeOver} = await lab.status(t, 'vol0');
    t.is(takeOver.count, 8);
    t.is(takeOver.lastDeath, 'signal 9');
    await lab.ok(t, 'hydrate', 'vol0', 'full');
    await lab.ok(t, 'wait', 'vol0');
    await lab.ok(t, 'verify', 'vol0');
    t.regex(await lab.ok(t, 'detach', 'vol0'), /complete/);
    lab.same(t, readFileSync(lab.path('store')).subarray(0, expected.length), expected);
  },
);

attachTest('restart replaces the daemon under a mounted file system', async (t, lab) => {
  const image = makeExt4Image(lab);
  const device = await lab.ok(t, 'attach', image.path, 'vol0', '--store', lab.path('store'));
  const folder = lab.mount(device, 'mnt');
  const before = await lab.pids(t, 'vol0');
  const said = await lab.ok(t, 'restart', 'vol0');
  t.log(said);
  t.regex(said, /^vol0: another daemon went on after \d+ ms$/);
  const after = await lab.pids(t, 'vol0');
  t.not(after.daemon, before.daemon);
  t.is(after.supervisor, before.supervisor);
  t.deepEqual(wrongFiles(folder, image), []);
  t.regex(
    await lab.ok(t, 'status', 'vol0'),
    /replaced once, last .* ago \(signal 9\) after \d+ ms/,
  );
  lab.tool('umount', folder);
  await lab.ok(t, 'detach', 'vol0');
  await lab.noDaemon(2000);
  t.deepEqual([lab.daemons(), lab.supervisors(), readdirSync(lab.runDir)], [[], [], []]);
});

attachTest('a store on a disk is free again after take-over and detach', async (t, lab) => {
  const source = makeSource(lab, 8);
  writeFileSync(lab.path('disk.img'), Buffer.alloc(8 * MIB));
  const disk = lab.loop(lab.path('disk.img'));
  await lab.ok(t, 'attach', source, 'vol0', '--store', disk);
  for (let round = 0; round < 3; round++) {
    await lab.ok(t, 'restart', 'vol0');
    await lab.ok(t, 'restart', 'vol0');
    await lab.ok(t, 'detach', 'vol0');
    const device = await lab.ok(t, 'attach', 'vol0');
    lab.same(t, readFileSync(device), readFileSync(source));
  }
});

attachTest('without its supervisor a daemon goes on and says what it lacks', async (t, lab) => {
  const source = makeSource(lab, 8);
  const device = await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  const {daemon, supervisor} = await lab.pids(t, 'vol0');
  const bytes = randomBytes(MIB);
  writeDirect(lab, device, 0, bytes);
  process.kill(supervisor, 'SIGKILL');
  await sleep(100);
  lab.same(t, readFileSync(device).subarray(0, MIB), bytes);
  t.regex(await lab.ok(t, 'status', 'vol0'), /would end the device: its supervisor is gone/);
  t.regex(await lab.refused(t, 'restart', 'vol0'), /^cannot restart vol0: its supervisor is gone/);
  lab.tool('blockdev', '--flushbufs', device);
  lab.tool('dd', `if=${lab.path('piece')}`, `of=${device}`, 'conv=notrunc,fsync', 'status=none');
  process.kill(daemon, 'SIGKILL');
  await lab.noDaemon(2000);
  const again = await lab.ok(t, 'attach', 'vol0');
  lab.same(t, readFileSync(again).subarray(0, MIB), bytes);
  t.true((await lab.status(t, 'vol0')).takeOver.isPossible);
});

attachTest('who takes over a device that is no more ends the volume in order', async (t, lab) => {
  const source = makeSource(lab, 8);
  const device = await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  const {daemon} = await lab.pids(t, 'vol0');
  lab.tool('losetup', '-d', device);
  process.kill(daemon, 'SIGKILL');
  await lab.noDaemon(10_000);
  t.deepEqual([lab.daemons(), lab.supervisors(), readdirSync(lab.runDir)], [[], [], []]);
  lab.same(t, readFileSync(await lab.ok(t, 'attach', 'vol0')), readFileSync(source));
});

attachTest('a volume mounted over its own state is taken over', async (t, lab) => {
  const image = makeExt4Image(lab);
  const uri = await lab.serve('file', image.path);
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  lab.tool('mount', device, lab.stateDir);
  lab.willUnmount(lab.stateDir);
  const {daemon} = await lab.pids(t, 'vol0');
  process.kill(daemon, 'SIGKILL');
  t.deepEqual(wrongFiles(lab.stateDir, image), []);
  writeFileSync(`${lab.stateDir}/new`, randomBytes(MIB));
  lab.tool('sync', '-f', lab.stateDir);
  await lab.ok(t, 'restart', 'vol0');
  t.deepEqual(wrongFiles(lab.stateDir, image), []);
  t.is((await lab.status(t, 'vol0')).takeOver.count, 2);
  lab.tool('umount', lab.stateDir);
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('a source that is away does not hold a take-over up', async (t, lab) => {
  const source = makeSource(lab, 8);
  const bytes = readFileSync(source);
  const socket = lab.path('away.sock');
  const {uri, server} = await lab.serveOn(socket, 'file', source);
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  writeDirect(lab, device, 0, bytes.subarray(0, MIB));
  server.kill('SIGKILL');
  rmSync(socket, {force: true});
  t.log(await lab.ok(t, 'restart', 'vol0'));
  const read = ['if=' + device, 'bs=64k', 'count=16', 'iflag=direct', 'of=' + lab.path('local')];
  lab.tool('dd', ...read, 'status=none');
  lab.same(t, readFileSync(lab.path('local')), bytes.subarray(0, MIB));
  t.not((await lab.status(t, 'vol0')).source.state, 'connected');
  await lab.serveOn(socket, 'file', source);
  const rest = await lab.run('cat', [device]);
  t.is(rest.exitCode, 0);
  lab.same(t, readFileSync(device), bytes);
});
