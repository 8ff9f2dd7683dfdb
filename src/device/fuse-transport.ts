/**
 * BlockDevice → FUSE mount → loop device.
 *
 *   /dev/loopN ──► MOUNTPOINT/disk ──► native threads ──► RequestServer ──► BlockDevice
 *                  MOUNTPOINT/status
 *
 * Order of a start, each step undone in reverse if a later one fails:
 *   1 directory   2 what a dead process left there is removed   3 mount, FUSE_INIT, channels
 *   4 service threads   5 loop device (asks 4 for size and partition table)
 * Order of an end:
 *   1 the loop device goes while requests are still served (it may write back)   2 unmount
 *   3 threads joined, descriptors closed   4 directories that were made
 *
 * All of it but the requests runs on native control threads: each step sends requests that only
 * this thread can answer. A process that exits without detaching aborts the connection, unmounts
 * and lets the loop device go in its exit handler; one that is killed leaves a dead mount and a
 * loop device, which step 2 of the next start at that place removes.
 *
 * Take-over: where another process holds copies of the connection's descriptors, nothing is taken
 * down at exit, and whoever inherits them goes on with adopt(): the kernel is asked to send again
 * what was read and not answered, before any thread of ours reads (else it would send again what
 * this process is already at work on, and one write would run twice at once).
 */
import {dirname} from 'node:path';

import {assert} from '../base/assert.js';
import type {Log} from '../base/environment.js';
import {BlockError, messageOf} from '../base/errors.js';
import {FuseSession, openFuse, resendFuse, unmountFuse, unmountFuseNow} from '../native/fuse.js';
import type {FuseConnection, FuseCounters, FuseFile} from '../native/fuse.js';
import {
  closeDescriptor,
  makeDirectory,
  removeDirectory,
  removeDirectoryNow,
} from '../native/host.js';
import {attachLoop, detachLoop, detachLoopNow, findLoopUsers, removeStale} from '../native/loop.js';
import type {LoopDevice, LoopUsers} from '../native/loop.js';
import type {BlockDevice} from './block-device.js';
import {DISK_NODE, RequestServer, STATUS_NODE} from './serve.js';

/** Times the mountpoint's parent may vanish while it is being made. */
const MAKE_ATTEMPTS = 5;

/** Tags beyond what the kernel hands out at once, for status and metadata while a disk waits. */
const TAGS_RESERVED = 8;

export interface FuseTransportOptions {
  readonly device: BlockDevice;
  readonly name: string;
  readonly mountpoint: string;
  /** Descriptor of the mount namespace to appear in; -1: the current one. */
  readonly namespace: number;
  readonly sectorSize: 512 | 4096;
  readonly readOnly: boolean;
  readonly partitionScan: boolean;
  readonly status: () => string;
  readonly threads: number;
  readonly tags: number;
  readonly log: Log;
  readonly onBug: (error: unknown) => void;
  /** Asked at exit: whether another process goes on with the device. */
  readonly isHeld: () => boolean;
}

/** A device that runs, as another process needs it to go on with it. Plain data but the numbers. */
export interface DeviceHandover {
  /** Descriptors of the connection. */
  readonly channels: readonly number[];
  readonly kernelMinor: number;
  /** Without it no other process can take over. */
  readonly hasResend: boolean;
  readonly loop: LoopDevice;
  /** Directories to remove at detach. */
  readonly madeDirectories: readonly string[];
}

type Undo = () => Promise<unknown>;

export class FuseTransport {
  readonly #options: FuseTransportOptions;
  readonly #session: FuseSession;
  readonly #server: RequestServer;
  readonly #madeDirectories: readonly string[];
  readonly #exit: () => void;
  readonly #whenEnded: Promise<number>;
  readonly #connection: FuseConnection;
  #loop: LoopDevice | undefined;
  #isDetaching = false;

  /** Mounts and makes the device. When it fails nothing is left. */
  static async start(options: FuseTransportOptions): Promise<FuseTransport> {
    const undo: Undo[] = [];
    try {
      const made = await makeDirectories(options);
      undo.push(() => removeDirectories(made, options));
      await clearStale(options);
      const connection = await openFuse({
        mountpoint: options.mountpoint,
        source: `regrow:${options.name}`,
        namespace: options.namespace,
        channels: options.threads,
        maxBackground: options.tags,
      });
      undo.push(() => unmountFuse(options.mountpoint, options.namespace, true));
      const transport = new FuseTransport(options, connection, made);
      undo.push(() => transport.#session.stop());
      await transport.#bind();
      return transport;
    } catch (error) {
      for (const step of undo.reverse()) await step().catch(() => undefined);
      throw error;
    }
  }

  /** Goes on with a device whose process is dead and reaped. Owns the descriptors. */
  static adopt(options: FuseTransportOptions, handover: DeviceHandover): FuseTransport {
    const transport = new FuseTransport(options, handover, handover.madeDirectories, true);
    transport.#loop = handover.loop;
    return transport;
  }

  private constructor(
    options: FuseTransportOptions,
    connection: FuseConnection,
    madeDirectories: readonly string[],
    isAdopted = false,
  ) {
    this.#options = options;
    this.#madeDirectories = madeDirectories;
    this.#connection = connection;
    this.#session = makeSession(options, connection, isAdopted);
    this.#server = new RequestServer({
      ...options,
      complete: (tag, result) => this.#session.complete(tag, result),
    });
    if (isAdopted) resendFuse(connection);
    this.#whenEnded = new Promise((resolve) => {
      this.#session.start((request) => this.#server.handle(request), resolve);
    });
    void this.#whenEnded.then((errno) => this.#noticeEnd(errno));
    this.#exit = () => this.#leave();
    // One listener a device is no leak.
    process.setMaxListeners(process.getMaxListeners() + 1);
    process.on('exit', this.#exit);
  }

  get loop(): LoopDevice {
    assert(this.#loop !== undefined, 'the transport has started');
    return this.#loop;
  }

  get mountpoint(): string {
    return this.#options.mountpoint;
  }

  /** Resolves to the errno that ended the connection, 0 where it was detached. */
  get whenEnded(): Promise<number> {
    return this.#whenEnded;
  }

  get counters(): FuseCounters {
    return this.#session.counters();
  }

  get handover(): DeviceHandover {
    const {channels, kernelMinor, hasResend} = this.#connection;
    const madeDirectories = this.#madeDirectories;
    return {channels, kernelMinor, hasResend, loop: this.loop, madeDirectories};
  }

  findUsers(): Promise<LoopUsers> {
    return findLoopUsers(this.loop.number, this.#options.namespace);
  }

  /**
   * Takes everything down. Without `force` it is refused (EBUSY) while someone uses the device, and
   * nothing has changed then. With `force` requests fail with ESHUTDOWN from now on, and a loop
   * device in use goes when its last user does.
   */
  async detach(force: boolean): Promise<void> {
    const {namespace} = this.#options;
    if (force) this.#server.shutDown();
    await detachLoop(this.loop, {namespace, force});
    this.#isDetaching = true;
    await this.#unmount(force);
    await this.#session.stop();
    this.#server.shutDown();
    this.#forgetExit();
    await removeDirectories(this.#madeDirectories, this.#options);
  }

  async #bind(): Promise<void> {
    const {mountpoint, namespace, name, sectorSize, readOnly, partitionScan} = this.#options;
    try {
      this.#loop = await attachLoop({
        backing: `${mountpoint}/disk`,
        label: `regrow:${name}`,
        namespace,
        sectorSize,
        readOnly,
        scanPartitions: partitionScan,
      });
    } catch (error) {
      this.#isDetaching = true;
      this.#server.shutDown();
      this.#forgetExit();
      throw error;
    }
  }

  async #unmount(force: boolean): Promise<void> {
    const {mountpoint, namespace, log} = this.#options;
    try {
      await unmountFuse(mountpoint, namespace, force);
    } catch (error) {
      // EINVAL: someone unmounted it before us. Otherwise a reader of `status` must not hold it up.
      if (error instanceof BlockError && error.code === 'EINVAL') return;
      log('warning', `unmounting by force: ${messageOf(error)}`);
      await unmountFuse(mountpoint, namespace, true);
    }
  }

  /** The connection ended: expected while detaching, else somebody unmounted or aborted it. */
  #noticeEnd(errno: number): void {
    if (this.#isDetaching || errno === 0) return;
    const {log, mountpoint} = this.#options;
    log('error', `the connection of ${mountpoint} ended by itself`, {errno});
    this.#server.shutDown();
    // Owned here: stop never rejects, and detach may call it again.
    void this.#session.stop();
  }

  /** Exit handler: JavaScript ends here, so nothing may wait for it. */
  #leave(): void {
    const {mountpoint, namespace, isHeld} = this.#options;
    this.#isDetaching = true;
    if (isHeld()) return;
    // Closing the descriptors ends the connection, so that nothing below waits for an answer.
    this.#session.abandon();
    if (this.#loop) detachLoopNow(this.#loop, namespace);
    unmountFuseNow(mountpoint, namespace);
    for (const path of this.#madeDirectories) removeDirectoryNow(path, namespace);
  }

  #forgetExit(): void {
    process.off('exit', this.#exit);
    process.setMaxListeners(Math.max(0, process.getMaxListeners() - 1));
  }
}

function makeSession(
  options: FuseTransportOptions,
  connection: FuseConnection,
  isAdopted: boolean,
): FuseSession {
  const files: FuseFile[] = [
    {
      node: DISK_NODE,
      name: 'disk',
      mode: options.readOnly ? 0o400 : 0o600,
      size: options.device.size,
      isText: false,
      isHeld: isAdopted && !options.readOnly,
    },
    {node: STATUS_NODE, name: 'status', mode: 0o400, size: 0, isText: true, isHeld: false},
  ];
  try {
    return new FuseSession(connection, options.tags + TAGS_RESERVED, files);
  } catch (error) {
    for (const channel of connection.channels) closeDescriptor(channel);
    throw error;
  }
}

/** The mountpoint and its parent, where they are not there; resolves to those made, inner first. */
async function makeDirectories({mountpoint, namespace}: FuseTransportOptions): Promise<string[]> {
  const parent = dirname(mountpoint);
  for (let attempt = 1; ; attempt++) {
    const madeParent = await makeDirectory(parent, namespace);
    try {
      const madeItself = await makeDirectory(mountpoint, namespace);
      return [...(madeItself ? [mountpoint] : []), ...(madeParent ? [parent] : [])];
    } catch (error) {
      // Another device that was detached just then took the parent along.
      const isRace = error instanceof BlockError && error.code === 'ENOENT';
      if (!isRace || attempt === MAKE_ATTEMPTS) throw error;
    }
  }
}

/** A directory that someone else uses by now stays. */
async function removeDirectories(
  paths: readonly string[],
  {namespace}: FuseTransportOptions,
): Promise<void> {
  for (const path of paths) await removeDirectory(path, namespace).catch(() => false);
}

async function clearStale({mountpoint, namespace, log}: FuseTransportOptions): Promise<void> {
  const remains = await removeStale(mountpoint, namespace);
  if (remains.liveMounts > 0) {
    throw new BlockError('EBUSY', `${mountpoint} is in use by another process`, {op: 'mount'});
  }
  const {mounts, loops, loopsInUse} = remains;
  if (mounts + loops.length === 0) return;
  log('warning', `removed what a dead process left at ${mountpoint}`, {
    mounts,
    loops: loops.join(),
    loopsInUse: loopsInUse.join(),
  });
}
