/**
 * Makes a Linux block device of an object with `read` and `write`.
 *
 *   const device = await attachDevice({size, read, write});
 *   device.path                      // '/dev/loop3'
 *   await device.detach();
 *
 * The object is called as block-device.ts says; what it leaves out gets a default. It stays the
 * caller's: detaching neither flushes nor closes it, so the caller does both, in that order, after.
 * An attached device keeps the process alive.
 */
import type {Log} from '../base/environment.js';
import {BlockError} from '../base/errors.js';
import {MiB, SECTOR} from '../base/units.js';
import type {BlockDevice} from './block-device.js';
import {FuseTransport} from './fuse-transport.js';
import type {DeviceHandover, FuseTransportOptions} from './fuse-transport.js';

export type {DeviceHandover} from './fuse-transport.js';

/** Zeroes written at once where a device has no `writeZeroes` of its own. */
const ZERO_PIECE = MiB;

/** A BlockDevice of which only `size` and `read` are needed. */
export interface BlockHandlers extends Pick<BlockDevice, 'size' | 'read'> {
  /** @default none: the device is read-only */
  write?: BlockDevice['write'];
  /** @default zeroes are written, 1 MiB at a time */
  writeZeroes?: BlockDevice['writeZeroes'];
  /** @default as `writeZeroes` */
  discard?: BlockDevice['discard'];
  /** @default nothing: every write is durable when it resolves */
  flush?: BlockDevice['flush'];
  /** Not called by attachDevice. @default nothing */
  close?: BlockDevice['close'];
}

export interface AttachOptions {
  /**
   * Shown in mount tables and losetup; 1 to 63 characters a-z 0-9 . _ -, no sign first.
   * @default device-PID-N
   */
  name?: string;
  /**
   * Absolute path of the directory to mount the files `disk` and `status` on. It and its parent are
   * made where missing, and what was made is removed by detach. A dead mount of regrow there, and
   * its loop devices, are removed first; a living one is EBUSY.
   * @default NAME in $REGROW_RUN_DIR or /run/regrow
   */
  mountDirectory?: string;
  /** Logical block size in bytes, 512 or 4096; the size must be a multiple of it. @default 512 */
  sectorSize?: 512 | 4096;
  /** Writes are refused by the kernel. @default true where there is no `write`, else false */
  readOnly?: boolean;
  /** The kernel makes /dev/loopNp1… of the partitions it finds. @default false */
  partitionScan?: boolean;
  /**
   * Descriptor of the mount namespace in which mount and device appear, as regrow-launcher passes
   * it in REGROW_HOST_MNT_NS. @default that of the process
   */
  hostNamespace?: number;
  /** The text of the file `status`, asked for at each read. @default name, size and mode as JSON */
  status?: () => string;
  /**
   * Native threads that talk to the kernel, 1 to 16. More help only where metadata and many small
   * requests compete. @default 2
   */
  threads?: number;
  /**
   * Requests the device is given at once, 1 to 1024. Each may come to hold 1 MiB of memory.
   * @default 64
   */
  tags?: number;
  /** @default errors and warnings to standard error */
  log?: Log;
  /** Told what a handler threw that is neither BlockError nor system error. @default nothing */
  onBug?: (error: unknown) => void;
  /**
   * Asked when the process exits without detaching: whether another one holds copies of the
   * descriptors and goes on. @default no: the device is taken down
   */
  isHeld?: () => boolean;
}

export interface AttachedDevice {
  /** `/dev/loopN`. */
  readonly path: string;
  /** The directory with `disk` and `status`. */
  readonly mountpoint: string;
  /** Resolves when the device is gone: true if it was detached, false if the connection broke. */
  readonly ended: Promise<boolean>;
  /** What another process needs to go on with the device when this one dies. */
  readonly handover: DeviceHandover;
  /** Request buffers that could not be locked in memory so far. */
  readonly unlockedBuffers: number;
  /** Whether it is mounted, part of another device, or open in a process. */
  isInUse(): Promise<boolean>;
  /**
   * Removes the device; once removed, a second call does nothing. A device in use is EBUSY and goes
   * on working. `force` removes it anyway: requests fail with ESHUTDOWN, also those in work, and
   * /dev/loopN disappears when its last user lets go.
   */
  detach(options?: {force?: boolean}): Promise<void>;
  /** Detaches, by force where it must. */
  [Symbol.asyncDispose](): Promise<void>;
}

/**
 * Makes a block device of `handlers`; resolves when it is ready. TypeError or RangeError for what
 * is wrong in the arguments, BlockError for what the system refuses; nothing is left in either
 * case. Needs root. Any number of devices may be attached at once, also concurrently.
 */
export async function attachDevice(
  handlers: BlockHandlers,
  options: AttachOptions = {},
): Promise<AttachedDevice> {
  const transport = await FuseTransport.start(checkedOptions(handlers, options));
  return new LoopBackedDevice(transport);
}

/**
 * Goes on with a device of another process, which must be dead and reaped, with the same options as
 * it had. What it had not answered arrives first, once more.
 */
export function adoptDevice(
  handlers: BlockHandlers,
  options: AttachOptions,
  handover: DeviceHandover,
): AttachedDevice {
  return new LoopBackedDevice(FuseTransport.adopt(checkedOptions(handlers, options), handover));
}

class LoopBackedDevice implements AttachedDevice {
  readonly #transport: FuseTransport;
  /** The detach in progress or done; a refused one is forgotten. */
  #detached: Promise<void> | undefined;

  constructor(transport: FuseTransport) {
    this.#transport = transport;
  }

  get path(): string {
    return this.#transport.loop.path;
  }

  get mountpoint(): string {
    return this.#transport.mountpoint;
  }

  get ended(): Promise<boolean> {
    return this.#transport.whenEnded.then(() => this.#detached !== undefined);
  }

  get handover(): DeviceHandover {
    return this.#transport.handover;
  }

  get unlockedBuffers(): number {
    return this.#transport.counters.unlocked;
  }

  async isInUse(): Promise<boolean> {
    if (this.#detached) return false;
    const {hasClaim, processes} = await this.#transport.findUsers();
    return hasClaim || processes.length > 0;
  }

  detach(options: {force?: boolean} = {}): Promise<void> {
    this.#detached ??= this.#transport.detach(options.force ?? false).catch((error: unknown) => {
      this.#detached = undefined;
      throw error;
    });
    return this.#detached;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.detach();
    } catch (error) {
      if (!(error instanceof BlockError) || error.code !== 'EBUSY') throw error;
      await this.detach({force: true});
    }
  }
}

/** What the handlers leave out, filled in. */
function completeDevice(handlers: BlockHandlers): BlockDevice {
  const write: BlockDevice['write'] = (offset, buffer, options) => {
    if (handlers.write) return handlers.write(offset, buffer, options);
    throw new BlockError('EROFS', 'the device has no write', {op: 'write', offset});
  };
  const writeZeroes: BlockDevice['writeZeroes'] = async (offset, length, options) => {
    if (handlers.writeZeroes) return handlers.writeZeroes(offset, length, options);
    for (let done = 0; done < length; done += ZERO_PIECE) {
      await write(offset + done, Buffer.alloc(Math.min(ZERO_PIECE, length - done)), options);
    }
  };
  return {
    size: handlers.size,
    read: (offset, buffer) => handlers.read(offset, buffer),
    write,
    writeZeroes,
    discard: (offset, length) =>
      handlers.discard ? handlers.discard(offset, length) : writeZeroes(offset, length),
    flush: async () => handlers.flush?.(),
    close: async () => handlers.close?.(),
  };
}

function checkedOptions(handlers: BlockHandlers, options: AttachOptions): FuseTransportOptions {
  const name = options.name ?? nextName();
  const sectorSize = options.sectorSize ?? SECTOR;
  checkHandlers(handlers, sectorSize);
  if (!/^[a-z0-9][a-z0-9._-]{0,62}$/.test(name)) {
    throw new TypeError(`name is 1 to 63 characters a-z 0-9 . _ -, not ${JSON.stringify(name)}`);
  }
  const runDirectory = process.env['REGROW_RUN_DIR'] ?? '/run/regrow';
  const mountpoint = options.mountDirectory ?? `${runDirectory}/${name}`;
  if (!/^\/[^/]/.test(mountpoint) || /\/$|\/\/|\/\.{1,2}(\/|$)/.test(mountpoint)) {
    throw new TypeError(
      `mountDirectory is a plain absolute path, not ${JSON.stringify(mountpoint)}`,
    );
  }
  const namespace = options.hostNamespace ?? -1;
  const readOnly = options.readOnly ?? handlers.write === undefined;
  if (!readOnly && handlers.write === undefined) {
    throw new TypeError('a device without write can only be read-only');
  }
  return {
    device: completeDevice(handlers),
    name,
    mountpoint,
    namespace,
    readOnly,
    sectorSize: sectorSize === 4096 ? 4096 : 512,
    partitionScan: options.partitionScan ?? false,
    status: options.status ?? (() => `${JSON.stringify({name, size: handlers.size, readOnly})}\n`),
    threads: checkedCount('threads', options.threads ?? 2, 16),
    tags: checkedCount('tags', options.tags ?? 64, 1024),
    log: options.log ?? logToStandardError,
    onBug: options.onBug ?? (() => undefined),
    isHeld: options.isHeld ?? (() => false),
  };
}

function checkHandlers(handlers: BlockHandlers, sectorSize: number): void {
  if (sectorSize !== 512 && sectorSize !== 4096) {
    throw new RangeError(`sectorSize is 512 or 4096, not ${sectorSize}`);
  }
  const {size} = handlers;
  if (!Number.isSafeInteger(size) || size <= 0 || size % sectorSize !== 0) {
    throw new RangeError(`a device's size is a positive multiple of ${sectorSize}, not ${size}`);
  }
  if (typeof handlers.read !== 'function') throw new TypeError('a device needs a read function');
  for (const member of ['write', 'writeZeroes', 'discard', 'flush', 'close'] as const) {
    const handler = handlers[member];
    if (handler !== undefined && typeof handler !== 'function') {
      throw new TypeError(`${member} is a function or left out`);
    }
  }
}

function checkedCount(name: string, value: number, max: number): number {
  if (Number.isInteger(value) && value >= 1 && value <= max) return value;
  throw new RangeError(`${name} is a whole number from 1 to ${max}, not ${value}`);
}

/** Unique on this host: two calls of one process never see the same tick. */
function nextName(): string {
  return `device-${process.pid}-${process.hrtime.bigint().toString(36)}`;
}

function logToStandardError(level: string, message: string, fields: object = {}): void {
  if (level !== 'error' && level !== 'warning') return;
  process.stderr.write(`regrow: ${message} ${JSON.stringify(fields)}\n`);
}
