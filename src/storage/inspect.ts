/**
 * Looks at what is to become a store before anything is written to it, and says why it must not be
 * one. Looking changes nothing.
 */
import {stat, statfs} from 'node:fs/promises';
import {basename, dirname, join} from 'node:path';
import {BlockError, UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import {File} from '../native/file.js';
import {systemError} from '../native/native-error.js';
import {mounts, namesIn, probeContent, readText, sysfsFolder, withPartitions} from './sysfs.js';

export interface StoreInspection {
  path: string;
  kind: 'absent' | 'file' | 'device' | 'other';
  /** Bytes; 0 where there is nothing. */
  size: number;
  /** Of a file: bytes that are allocated. */
  allocated: number;
  /** Of a file, existing or to be made: bytes that are free on its file system. */
  free: number;
  /**
   * Where it, or a partition of it, is mounted or used as swap, or which devices are built upon it.
   */
  users: string[];
  /** Loop devices over this file. */
  loopDevices: string[];
  /** The kernel gave it exclusively for a moment; always true for files. */
  isFree: boolean;
  /** What blkid found: `ext4 file system, label data`; undefined if nothing. */
  content: string | undefined;
  /** blkid could not tell. */
  contentProblem?: string;
}

/** Rejects with a BlockError where the path cannot even be looked at. */
export async function inspectStore(path: string): Promise<StoreInspection> {
  const nothing = {
    path,
    size: 0,
    allocated: 0,
    free: 0,
    users: [],
    loopDevices: [],
    isFree: true,
    content: undefined,
  };
  const status = await stat(path, {bigint: true}).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw systemError(error, `looking at ${path}`, 'inspect');
  });
  if (status === undefined)
    return {...nothing, kind: 'absent', free: await freeSpace(dirname(path))};
  if (status.isBlockDevice()) {
    const users = await usersOf(status.rdev);
    return {
      ...nothing,
      kind: 'device',
      users,
      ...(await exclusiveSize(path)),
      ...(await contentOf(path)),
    };
  }
  if (!status.isFile()) return {...nothing, kind: 'other'};
  return {
    ...nothing,
    kind: 'file',
    size: Number(status.size),
    allocated: Number(status.blocks) * 512,
    free: await freeSpace(path),
    loopDevices: await loopDevicesOver(status.dev, status.ino),
    ...(status.size > 0n ? await contentOf(path) : {}),
  };
}

export interface StoreDemands {
  /** Bytes the volume has. */
  size: number;
  /**
   * The user insists: content and size of what is there do not matter. Use by others still does.
   */
  overwrite: boolean;
}

/**
 * Why this must not become the store of a new volume, as one sentence and what to do; or undefined.
 */
export function storeRefusal(store: StoreInspection, demands: StoreDemands): UserError | undefined {
  const reason =
    inUse(store) ??
    (demands.overwrite ? undefined : holdsData(store)) ??
    tooSmall(store, demands.size);
  return reason === undefined
    ? undefined
    : new UserError(`using ${store.path} as the store: ${reason}`);
}

function inUse(store: StoreInspection): string | undefined {
  if (store.kind === 'other')
    return 'it is neither a regular file nor a block device; name one of these';
  const [user] = store.users;
  if (user !== undefined) return `it is in use (${user}); free it first`;
  if (!store.isFree) return 'another program uses it exclusively; stop that one first';
  const [loop] = store.loopDevices;
  if (loop !== undefined)
    return `the loop device ${loop} uses it; detach that first (losetup --detach ${loop})`;
  return undefined;
}

function holdsData(store: StoreInspection): string | undefined {
  const hint = 'if it may be lost, add --overwrite-store';
  if (store.content !== undefined) return `it holds data (${store.content}); ${hint}`;
  if (store.kind === 'file' && store.allocated > 0) {
    return `it is a file with ${formatSize(store.allocated)} of data; ${hint}`;
  }
  if (store.contentProblem === undefined) return undefined;
  return `nobody can tell whether it holds data (${store.contentProblem}); ${hint}`;
}

function tooSmall(store: StoreInspection, size: number): string | undefined {
  if (store.kind === 'device') {
    if (store.size >= size) return undefined;
    return `it has ${store.size} bytes, the volume needs ${size}; take a larger one`;
  }
  const room = store.free + store.allocated;
  if (room >= size) return undefined;
  return (
    `its file system has room for ${formatSize(room)}, ` +
    `the volume needs ${formatSize(size)} (I13); ` +
    'make room or take another file system'
  );
}

async function freeSpace(path: string): Promise<number> {
  try {
    const {bavail, bsize} = await statfs(path);
    return bavail * bsize;
  } catch (error) {
    throw systemError(error, `looking at the file system of ${path}`, 'inspect');
  }
}

/** Opening with O_EXCL is the only question the kernel answers for every kind of use. */
async function exclusiveSize(path: string): Promise<{size: number; isFree: boolean}> {
  try {
    const file = await File.open(path, {access: 'read', isExclusive: true});
    const {size} = file;
    await file.close();
    return {size, isFree: true};
  } catch (error) {
    if (!(error instanceof BlockError) || error.code !== 'EBUSY') throw error;
  }
  const file = await File.open(path, {access: 'read'});
  const {size} = file;
  await file.close();
  return {size, isFree: false};
}

async function contentOf(
  path: string,
): Promise<{content: string | undefined; contentProblem?: string}> {
  const {outcome, values, reason} = await probeContent(path);
  if (outcome === 'nothing') return {content: undefined};
  if (outcome === 'failed') return {content: undefined, contentProblem: reason ?? 'blkid failed'};
  const type = values.get('TYPE');
  const table = values.get('PTTYPE');
  const label = values.get('LABEL');
  const parts = [
    ...(type === undefined ? [] : [type]),
    ...(table === undefined ? [] : [`${table} partition table`]),
    ...(label === undefined ? [] : [`label ${label}`]),
  ];
  // A partition is described (PART_ENTRY_…) even if it is empty.
  return {content: parts.length === 0 ? undefined : parts.join(', ')};
}

/** Mounts, swaps and holders of a device and its partitions. */
async function usersOf(device: bigint): Promise<string[]> {
  const folder = await sysfsFolder(device);
  if (folder === undefined) return [];
  const mounted = await mounts();
  const swaps = (await readText('/proc/swaps')) ?? '';
  const users: string[] = [];
  for (const part of await withPartitions(folder)) {
    const name = `/dev/${basename(part)}`;
    const numbers = await readText(join(part, 'dev'));
    for (const mount of mounted) {
      if (mount.device === numbers || mount.source === name)
        users.push(`${name} is mounted on ${mount.mountPoint}`);
    }
    if (swaps.split('\n').some((line) => line.split(/\s/)[0] === name))
      users.push(`${name} is swap space`);
    for (const holder of await namesIn(join(part, 'holders')))
      users.push(`/dev/${holder} is built upon ${name}`);
  }
  return [...new Set(users)];
}

async function loopDevicesOver(device: bigint, inode: bigint): Promise<string[]> {
  const found: string[] = [];
  for (const name of await namesIn('/sys/block')) {
    if (!name.startsWith('loop')) continue;
    const backing = await readText(`/sys/block/${name}/loop/backing_file`);
    if (backing === undefined) continue;
    const status = await stat(backing, {bigint: true}).catch(() => undefined);
    if (status?.dev === device && status.ino === inode) found.push(`/dev/${name}`);
  }
  return found;
}
