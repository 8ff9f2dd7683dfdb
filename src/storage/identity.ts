/**
 * Which disk or file is this? An answer that survives a reboot, a new /dev/sdX and a rename, so
 * that a volume never resumes on something else.
 *
 * A block device is recognised by what it says of itself (world-wide name, serial number), a
 * partition also by its partition UUID and place, a device-mapper volume by its own UUID; a file by
 * the file system it lies on, its inode and the moment it was made: a copy or a file made anew is
 * another one.
 */
import {stat} from 'node:fs/promises';
import {basename, dirname, join} from 'node:path';
import {UserError} from '../base/errors.js';
import {systemError} from '../native/native-error.js';
import {deviceNumbers, mounts, probeContent, readText, sysfsFolder} from './sysfs.js';

export interface FileIdentity {
  kind: 'file';
  /** Absent where the file system has none or nobody may ask. */
  filesystemUuid?: string;
  /** Decimal; inode numbers do not fit a double. */
  inode: string;
  /** Nanoseconds since 1970, decimal; absent where the file system does not keep it. */
  birthTime?: string;
}

export interface DeviceIdentity {
  kind: 'device';
  /** World-wide name as the kernel gives it: naa.…, eui.…, t10.…, or a device-mapper UUID. */
  wwid?: string;
  serial?: string;
  partitionUuid?: string;
  /** Of a partition: its first sector, in units of 512 bytes. */
  partitionStart?: number;
  /** Of a loop device: the file behind it. */
  backingFile?: string;
  /** Bytes. */
  size: number;
}

export type StoreIdentity = FileIdentity | DeviceIdentity;

/** Identifies what lies at a path, following links. Rejects with a BlockError if nothing does. */
export async function identifyStore(path: string): Promise<StoreIdentity> {
  let status;
  try {
    status = await stat(path, {bigint: true});
  } catch (error) {
    throw systemError(error, `identifying ${path}`, 'identify');
  }
  if (status.isBlockDevice()) return await identifyDevice(path, status.rdev);
  if (!status.isFile()) {
    throw new UserError(`identifying ${path}: it is neither a regular file nor a block device`);
  }
  const filesystemUuid = await filesystemOf(status.dev);
  return {
    kind: 'file',
    ...(filesystemUuid === undefined ? {} : {filesystemUuid}),
    inode: String(status.ino),
    ...(status.birthtimeNs > 0n ? {birthTime: String(status.birthtimeNs)} : {}),
  };
}

/**
 * Whether two identities are of one thing: `unknown` where they share nothing that could tell, as
 * with a virtual disk that has no serial number. Then only its content can (witnesses).
 */
export function compareIdentity(
  one: StoreIdentity,
  other: StoreIdentity,
): 'same' | 'different' | 'unknown' {
  if (one.kind === 'file') {
    return other.kind === 'file' ? compareFields(one, other, FILE_FIELDS) : 'different';
  }
  if (other.kind !== 'device' || one.size !== other.size) return 'different';
  return compareFields(one, other, DEVICE_FIELDS);
}

/** For messages: `WWN naa.5000…`, `serial X`, `inode 12`. */
export function describeIdentity(identity: StoreIdentity): string {
  if (identity.kind === 'file') return `inode ${identity.inode}`;
  const {wwid, serial, partitionUuid, backingFile} = identity;
  if (partitionUuid !== undefined) return `partition ${partitionUuid}`;
  if (wwid !== undefined) return `WWN ${wwid}`;
  if (serial !== undefined) return `serial ${serial}`;
  return backingFile === undefined
    ? 'a disk without a serial number'
    : `loop device over ${backingFile}`;
}

const FILE_FIELDS = ['inode', 'filesystemUuid', 'birthTime'] as const;
const DEVICE_FIELDS = ['wwid', 'serial', 'partitionUuid', 'partitionStart', 'backingFile'] as const;
/** These make a thing unique; the others only tell things apart. */
const PROOF = new Set<string>(['inode', 'wwid', 'serial', 'partitionUuid', 'backingFile']);

function compareFields<Field extends string>(
  one: {[field in Field]?: unknown},
  other: {[field in Field]?: unknown},
  fields: readonly Field[],
): 'same' | 'different' | 'unknown' {
  let isProved = false;
  for (const field of fields) {
    if (one[field] === undefined || other[field] === undefined) continue;
    if (one[field] !== other[field]) return 'different';
    isProved ||= PROOF.has(field);
  }
  return isProved ? 'same' : 'unknown';
}

async function identifyDevice(path: string, device: bigint): Promise<DeviceIdentity> {
  const folder = await sysfsFolder(device);
  if (folder === undefined)
    throw new UserError(`identifying ${path}: the kernel knows no such disk`);
  const start = await readText(join(folder, 'start'));
  const isPartition = (await readText(join(folder, 'partition'))) !== undefined;
  const disk = isPartition ? dirname(folder) : folder;
  const first = async (...files: string[]): Promise<string | undefined> => {
    for (const file of files) {
      const text = await readText(join(disk, file));
      if (text !== undefined) return text;
    }
    return undefined;
  };
  const wwid = await first('wwid', 'device/wwid', 'dm/uuid', 'md/uuid');
  const serial = await first('serial', 'device/serial');
  const partitionUuid = isPartition ? await partitionUuidOf(path, folder) : undefined;
  const backingFile = await first('loop/backing_file');
  return {
    kind: 'device',
    ...(wwid === undefined ? {} : {wwid}),
    ...(serial === undefined ? {} : {serial}),
    ...(partitionUuid === undefined ? {} : {partitionUuid}),
    ...(isPartition && start !== undefined ? {partitionStart: Number(start)} : {}),
    ...(backingFile === undefined ? {} : {backingFile}),
    size: Number((await readText(join(folder, 'size'))) ?? 0) * 512,
  };
}

/** Newer kernels say it themselves; else blkid reads it from the disk's table. */
async function partitionUuidOf(path: string, folder: string): Promise<string | undefined> {
  const event = await readText(join(folder, 'uevent'));
  const line = /^PARTUUID=(.+)$/m.exec(event ?? '');
  return line?.[1] ?? (await probeContent(path)).values.get('PART_ENTRY_UUID');
}

/**
 * The UUID of a mounted file system by its device number; also of those with a made-up number
 * (btrfs).
 */
async function filesystemOf(device: bigint): Promise<string | undefined> {
  const {major, minor} = deviceNumbers(device);
  const mount = (await mounts()).find((candidate) => candidate.device === `${major}:${minor}`);
  const isDisk = mount?.source.startsWith('/dev/') === true;
  if (mount === undefined || !isDisk || basename(mount.source) === 'root') return undefined;
  return (await probeContent(mount.source)).values.get('UUID');
}
