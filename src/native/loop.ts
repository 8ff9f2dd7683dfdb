/**
 * The addon's loop part: binds a file to /dev/loopN, lets it go, and clears what a dead process
 * left.
 *
 * Each call may send requests to the file itself and wait for their answers; they run on native
 * threads and only settle a promise here. Loop numbers are reused by whoever asks first; a device
 * is touched only while its sequence number, which the kernel never gives twice, is the one it had.
 */
import {addon} from './addon.js';
import {addonPart, nativeCall} from './shape.js';

export interface LoopOptions {
  /** Path of the file. */
  backing: string;
  /** Shown by losetup where the kernel keeps it; cut at 63 bytes. */
  label: string;
  /** Descriptor of the mount namespace in which paths are resolved; -1: the current one. */
  namespace: number;
  /** Logical block size in bytes. */
  sectorSize: 512 | 4096;
  readOnly: boolean;
  /** Makes /dev/loopNp1… for the partitions the kernel finds. */
  scanPartitions: boolean;
}

export interface LoopDevice {
  readonly number: number;
  /** Tells this use of the number from others. */
  readonly sequence: number;
  /** `/dev/loopN`. */
  readonly path: string;
  /** Largest discard and write-zeroes in bytes; 0: not supported by this kernel. */
  readonly discardBytesMax: number;
  readonly zeroesBytesMax: number;
}

export interface LoopUsers {
  /** Mounted, used as swap, or part of a device mapper or RAID device; partitions included. */
  readonly hasClaim: boolean;
  /** Processes that have it or a partition of it open. */
  readonly processes: readonly number[];
}

export interface LoopEntry {
  readonly number: number;
  readonly path: string;
  readonly backing: string;
}

/** What a dead process left at a mountpoint. */
export interface StaleRemains {
  /** Mounts of a process that lives; then nothing else is looked at or touched. */
  readonly liveMounts: number;
  /** Dead mounts. */
  readonly mounts: number;
  /** Loop devices bound to the mountpoint's disk, by number. */
  readonly loops: readonly number[];
  /** Those of them that someone still uses; after a removal they go with their last user. */
  readonly loopsInUse: readonly number[];
}

interface LoopPart {
  attach(options: LoopOptions): Promise<LoopDevice>;
  detach(number: number, sequence: number, namespace: number, force: boolean): Promise<void>;
  detachNow(number: number, sequence: number, namespace: number): boolean;
  users(number: number, namespace: number): Promise<LoopUsers>;
  list(): Promise<LoopEntry[]>;
  sweepStale(mountpoint: string, namespace: number, remove: boolean): Promise<StaleRemains>;
}

const loop = addonPart<LoopPart>(addon, 'loop', [
  'attach',
  'detach',
  'detachNow',
  'users',
  'list',
  'sweepStale',
]);

/** Binds a free device with direct I/O. When it fails no device stays bound. */
export function attachLoop(options: LoopOptions): Promise<LoopDevice> {
  return nativeCall(`making a loop device of ${options.backing}`, loop.attach(options));
}

export interface LoopDetachOptions {
  namespace: number;
  /** Does not mind users: the device then goes when the last of them lets go. */
  force: boolean;
}

/** Lets a device go. EBUSY where someone uses it; fine where it is not ours any more. */
export function detachLoop(device: LoopDevice, options: LoopDetachOptions): Promise<void> {
  const {number, sequence, path} = device;
  const {namespace, force} = options;
  return nativeCall(`detaching ${path}`, loop.detach(number, sequence, namespace, force));
}

/** Forced, and blocking: for a process that is about to exit and whose connection has ended. */
export function detachLoopNow({number, sequence}: LoopDevice, namespace: number): boolean {
  return loop.detachNow(number, sequence, namespace);
}

export function findLoopUsers(number: number, namespace: number): Promise<LoopUsers> {
  return nativeCall(`looking for users of /dev/loop${number}`, loop.users(number, namespace));
}

/** Every bound loop device of the host. */
export function listLoops(): Promise<readonly LoopEntry[]> {
  return nativeCall('listing loop devices', loop.list());
}

/** What a process that died left at `mountpoint`. Changes nothing. */
export function findStale(mountpoint: string, namespace: number): Promise<StaleRemains> {
  return nativeCall(`looking at ${mountpoint}`, loop.sweepStale(mountpoint, namespace, false));
}

/** Removes exactly what {@link findStale} finds, and says what that was. */
export function removeStale(mountpoint: string, namespace: number): Promise<StaleRemains> {
  return nativeCall(`clearing ${mountpoint}`, loop.sweepStale(mountpoint, namespace, true));
}
