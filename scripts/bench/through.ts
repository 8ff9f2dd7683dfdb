/**
 * Writes that go to a store and on to a backup, and what remembering them costs.
 *
 * Peers write to a local file and the same NBD server: QSD by `quorum`, which waits for both. Every
 * row flushes each 32 writes, so nobody wins by not syncing. The cost of the intent marks is
 * measured on the production volume in this process, with and without them.
 */
import {readFileSync, rmSync} from 'node:fs';
import type {SeededBug} from '../../src/base/seeded-bugs.js';
import type {BackupTarget} from '../../src/source/backup-target.js';
import {SharedMemory} from '../../src/native/memory.js';
import {FileStorage} from '../../src/storage/file-storage.js';
import {systemEnvironment} from '../../src/control/system-environment.js';
import {mapFileSize, Volume} from '../../src/volume/volume.js';
import {Backup} from './backup.js';
import {regrow, sparseFile, startRegrow, type Running} from './contestants.js';
import {fio, type FioJob} from './fio.js';
import {loopOn, nbdkit, type Export, type Lab} from './lab.js';
import type {Results} from './results.js';
import type {Plan} from './tables.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const FSYNC_EVERY = 32;

type Start = (lab: Lab, source: Export, copy: string) => Promise<Running>;

const WRITERS: Readonly<Record<string, Start>> = {
  'QSD quorum': startQuorum,
  'regrow off': (lab, source) => startWith(lab, source, 'off'),
  'regrow sync': (lab, source) => startWith(lab, source, 'sync'),
  'regrow strict': (lab, source) => startWith(lab, source, 'strict'),
};

export async function measureThrough(lab: Lab, plan: Plan, results: Results): Promise<void> {
  const backup = await Backup.make(lab, plan.hotSize);
  const source = await nbdkit(lab, backup.size, ['file', backup.file]);
  const running = new Map<string, Running>();
  for (const [name, start] of Object.entries(WRITERS)) {
    await results.attempt(`${name}, write-through`, async () => {
      const started = await start(lab, source, backup.file);
      await started.hydrate();
      running.set(name, started);
    });
  }
  const {hotSize: size, seconds} = plan;
  const small = {rw: 'randwrite', blockSize: 4 * KiB, size, seconds, fsync: FSYNC_EVERY} as const;
  const jobs: Record<string, FioJob> = {
    t4k1: {...small, depth: 1},
    t4k16: {...small, depth: 16},
    t128k: {...small, rw: 'write', blockSize: 128 * KiB, depth: 8},
  };
  for (let round = 0; round < plan.rounds; round++) {
    for (const [id, job] of Object.entries(jobs)) {
      for (const [name, {target}] of running) {
        await results.attempt(`${name}, ${id}`, async () => {
          const {iops, bytesPerSecond} = await fio(lab, target, job);
          results.add(id, name, id === 't128k' ? bytesPerSecond / 1e6 : iops);
        });
      }
    }
    await results.attempt('marks', () => measureMarks(lab, plan, results, round));
  }
  for (const {stop} of running.values()) await stop();
  await source.stop();
  backup.remove();
}

async function startWith(lab: Lab, source: Export, mode: string): Promise<Running> {
  const {name, ...started} = await startRegrow(lab, source);
  return {
    ...started,
    hydrate: async () => {
      await started.hydrate();
      await regrow(lab, 'write-through', name, mode);
    },
  };
}

/** Both children must have a write before it is answered; reads come from the first. */
async function startQuorum(lab: Lab, source: Export, copy: string): Promise<Running> {
  const local = lab.fresh('local');
  await lab.run('cp', '--sparse=always', copy, local);
  const file = sparseFile(lab.fresh('fuse'), 0);
  const daemon = await lab.serve(
    'qemu-storage-daemon',
    [
      '--blockdev',
      `driver=nbd,node-name=backup,server.type=unix,server.path=${source.socket}`,
      '--blockdev',
      `driver=file,node-name=local,filename=${local},discard=unmap`,
      '--blockdev',
      'driver=quorum,node-name=both,children.0=local,children.1=backup,vote-threshold=2,' +
        'read-pattern=fifo',
      '--export',
      `type=fuse,id=both,node-name=both,mountpoint=${file},writable=on`,
    ],
    () => readFileSync('/proc/mounts', 'utf8').includes(`${file} `),
  );
  const {device, stop: stopLoop} = await loopOn(lab, file, true);
  return {
    target: {device},
    pid: daemon.pid,
    memory: () => 0,
    hydrate: () => Promise.resolve(),
    stop: async () => {
      await stopLoop();
      await daemon.stop();
      for (const path of [local, file]) rmSync(path, {force: true});
    },
  };
}

/** Nothing but the volume: a backup that takes everything at once, in this process. */
/** The two take turns in going first, after a turn of each that does not count. */
async function measureMarks(
  lab: Lab,
  {seconds}: Plan,
  results: Results,
  round: number,
): Promise<void> {
  const variants: SeededBug[][] = [[], ['no-intent-mark']];
  if (round % 2 === 1) variants.reverse();
  if (round === 0) {
    for (const bugs of variants) await writesPerSecond(lab, 'sequential', bugs, seconds / 2);
  }
  for (const pattern of ['sequential', 'random'] as const) {
    for (const bugs of variants) {
      const name = bugs.length === 0 ? 'with marks' : 'without marks';
      const rate = await writesPerSecond(lab, pattern, bugs, seconds);
      results.add(pattern === 'random' ? 'marksRandom' : 'marksSequential', name, rate);
    }
  }
}

async function writesPerSecond(
  lab: Lab,
  pattern: 'sequential' | 'random',
  bugs: readonly SeededBug[],
  seconds: number,
): Promise<number> {
  const size = 1024 * MiB;
  const geometry = {size, blockSize: 64 * KiB};
  const [storePath, mapPath] = [lab.fresh('marks-store'), lab.fresh('marks-map')];
  const store = await FileStorage.open(storePath, {createSize: size});
  const mapFile = await FileStorage.open(mapPath, {createSize: mapFileSize(geometry)});
  const environment = {
    ...systemEnvironment(() => undefined, SharedMemory.create()),
    bugs: new Set(bugs),
  };
  const volume = await Volume.create(
    {
      ...{store, mapFile, environment, source: emptySource(size)},
      backup: {
        open: () => Promise.resolve(takesAll(size)),
        verify: () => Promise.resolve(),
        isSource: true,
        known: {consistentAsOf: undefined, inconsistentSince: undefined},
        remember: () => Promise.resolve(),
      },
    },
    geometry,
  );
  volume.resumeWriteThrough('sync');
  const buffer = Buffer.alloc(4 * KiB, 7);
  const end = performance.now() + seconds * 1000;
  let writes = 0;
  const write = async (): Promise<void> => {
    while (performance.now() < end) {
      const slot = writes++;
      const block = pattern === 'random' ? Math.floor(Math.random() * (size / (4 * KiB))) : slot;
      await volume.write((block * 4 * KiB) % size, buffer);
      if (slot % FSYNC_EVERY === 0) await volume.flush();
    }
  };
  await Promise.all(Array.from({length: 8}, write));
  await volume.close();
  for (const path of [storePath, mapPath]) rmSync(path, {force: true});
  return writes / seconds;
}

function emptySource(size: number) {
  return {
    name: 'nothing',
    size,
    read: (_: number, bytes: Uint8Array) => Promise.resolve(void bytes.fill(0)),
    extents: (offset: number, length: number) => Promise.resolve([{offset, length, isZero: true}]),
    close: () => Promise.resolve(),
  };
}

function takesAll(size: number): BackupTarget {
  const done = (): Promise<void> => Promise.resolve();
  const lost = new Promise<never>(() => undefined);
  return {
    name: 'takes all',
    size,
    lost,
    read: done,
    write: done,
    zero: done,
    flush: done,
    close: done,
  };
}
