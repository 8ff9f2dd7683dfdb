/** Who is measured: regrow and its peers, each started on the same export of a backup. */
import {closeSync, openSync, readFileSync, rmSync, truncateSync} from 'node:fs';
import {fileURLToPath} from 'node:url';
import type {Target} from './fio.js';
import {loopOn, nbdkit, type Export, type Lab, type Undo} from './lab.js';

export interface Running {
  readonly target: Target;
  readonly pid: number;
  /** Bytes of memory its process holds. */
  memory(): number;
  /** Makes every block local and durable. */
  hydrate(): Promise<void>;
  stop: Undo;
}

export interface Contestant {
  readonly name: string;
  readonly transport: string;
  readonly cache: string;
  readonly fsync: string;
  /** False: it has all the data from the start, so nothing cold can be measured. */
  readonly grows: boolean;
  /** False: it takes no writes on a backup that is read-only. */
  readonly writes: boolean;
  start(lab: Lab, source: Export): Promise<Running>;
}

/** No peer in these jobs writes through. */
export const OFF = ['--write-through', 'off'] as const;

const MAIN = fileURLToPath(new URL('../../bundle/bin/regrow.js', import.meta.url));

export function regrow(lab: Lab, ...args: string[]): Promise<string> {
  return lab.run(process.execPath, MAIN, ...args);
}

export function sparseFile(path: string, size: number): string {
  closeSync(openSync(path, 'w'));
  truncateSync(path, size);
  return path;
}

/** Bytes resident, as the kernel counts them. */
function residentBytes(pid: number): number {
  const kibibytes = /^VmRSS:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kibibytes ?? 0) * 1024;
}

let attached = 0;

/** A volume of regrow on the export; `store` is made in the lab unless given. */
export async function startRegrow(
  lab: Lab,
  source: Export,
  given?: string,
): Promise<Running & {name: string}> {
  attached += 1;
  const name = `v${attached}`;
  const store = given ?? lab.fresh('store');
  const device = (await regrow(lab, 'attach', source.uri, name, '--store', store, ...OFF)).trim();
  const status = JSON.parse(await regrow(lab, 'status', name, '--json')) as {pid: number};
  const stop = lab.undoLater(async () => {
    await regrow(lab, 'detach', name, '--force');
    await regrow(lab, 'forget', name, '--force');
    rmSync(store, {force: true});
  });
  return {
    name,
    stop,
    target: {device},
    pid: status.pid,
    memory: () => residentBytes(status.pid),
    hydrate: async () => {
      await regrow(lab, 'hydrate', name, 'full');
      await regrow(lab, 'wait', name, '--hydrated');
    },
  };
}

async function startLoop(lab: Lab, source: Export, direct: boolean): Promise<Running> {
  const file = lab.fresh('local');
  await lab.run('nbdcopy', '--flush', source.uri, file);
  const {device, stop} = await loopOn(lab, file, direct);
  return {
    target: {device},
    pid: 0,
    memory: () => 0,
    hydrate: async () => undefined,
    stop: async () => {
      await stop();
      rmSync(file, {force: true});
    },
  };
}

async function startStorageDaemon(lab: Lab, source: Export): Promise<Running> {
  const overlay = lab.fresh('overlay');
  const file = sparseFile(lab.fresh('fuse'), 0);
  await lab.run('qemu-img', 'create', '-q', '-f', 'qcow2', overlay, String(source.size));
  const daemon = await lab.serve(
    'qemu-storage-daemon',
    [
      '--blockdev',
      `driver=nbd,node-name=backup,server.type=unix,server.path=${source.socket},read-only=on`,
      '--blockdev',
      `driver=file,node-name=file,filename=${overlay},discard=unmap`,
      '--blockdev',
      'driver=qcow2,node-name=overlay,file=file,backing=backup,discard=unmap',
      '--blockdev',
      'driver=copy-on-read,node-name=top,file=overlay',
      '--export',
      `type=fuse,id=top,node-name=top,mountpoint=${file},writable=on`,
    ],
    () => readFileSync('/proc/mounts', 'utf8').includes(`${file} `),
  );
  const {device, stop: stopLoop} = await loopOn(lab, file, true);
  return {
    target: {device},
    pid: daemon.pid,
    memory: () => residentBytes(daemon.pid),
    hydrate: async () => {
      await lab.run('dd', `if=${device}`, 'of=/dev/null', 'bs=1M', 'iflag=direct', 'status=none');
      await lab.run('sync', device);
    },
    stop: async () => {
      await stopLoop();
      await daemon.stop();
      rmSync(overlay, {force: true});
      rmSync(file, {force: true});
    },
  };
}

async function startNbdkit(lab: Lab, source: Export, args: readonly string[]): Promise<Running> {
  const server = await nbdkit(lab, source.size, args);
  return {
    target: {uri: server.uri},
    pid: server.pid,
    memory: () => residentBytes(server.pid),
    hydrate: async () => void (await lab.run('nbdcopy', '--flush', server.uri, 'null:')),
    stop: server.stop,
  };
}

export const REGROW: Contestant = {
  name: 'regrow',
  grows: true,
  writes: true,
  transport: 'FUSE + loop',
  cache: 'store in the page cache',
  fsync: 'syncs store, then its map',
  start: (lab, source) => startRegrow(lab, source),
};

/** The direct peer: ratios are to it. */
export const STORAGE_DAEMON: Contestant = {
  name: 'QSD FUSE',
  grows: true,
  writes: true,
  transport: 'FUSE + loop',
  cache: 'qcow2 in the page cache',
  fsync: 'syncs the qcow2',
  start: startStorageDaemon,
};

export const CONTESTANTS: readonly Contestant[] = [
  {
    name: 'loop, direct',
    grows: false,
    writes: true,
    transport: 'loop on a file',
    cache: 'none: O_DIRECT to the disk',
    fsync: 'syncs the file',
    start: (lab, source) => startLoop(lab, source, true),
  },
  {
    name: 'loop, buffered',
    grows: false,
    writes: true,
    transport: 'loop on a file',
    cache: 'file in the page cache',
    fsync: 'syncs the file',
    start: (lab, source) => startLoop(lab, source, false),
  },
  STORAGE_DAEMON,
  {
    name: 'nbdkit cow',
    grows: true,
    writes: true,
    transport: 'NBD, Unix socket',
    cache: 'overlay in the page cache',
    fsync: 'ignored (its default)',
    start: (lab, source) =>
      startNbdkit(lab, source, ['--filter=cow', 'nbd', `uri=${source.uri}`, 'cow-on-read=true']),
  },
  {
    name: 'nbdkit cache',
    grows: true,
    writes: false,
    transport: 'NBD, Unix socket',
    cache: 'cache file in the page cache',
    fsync: 'writes back to the backup',
    start: (lab, source) =>
      startNbdkit(lab, source, [
        '--filter=cache',
        'nbd',
        `uri=${source.uri}`,
        'cache-on-read=true',
      ]),
  },
  REGROW,
];
