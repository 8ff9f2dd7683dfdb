/**
 * The addon's FUSE part: opening a connection, and serving it by batches of requests.
 *
 * Opening and serving are apart because the descriptors may be held by another process, which then
 * answers FUSE_INIT and hands them over. Requests arrive as fixed-layout descriptors in memory
 * shared with native threads (native/fuse_session.h has the same layout); this file alone reads it.
 * Numbers above 2^32 arrive as two words and are plain numbers from here on.
 *
 * A request's buffer is borrowed from the moment it is delivered until `complete` is called for it,
 * exactly once (I5). After that the kernel may fill it with something else.
 */
import {addon} from './addon.js';
import {assert} from '../base/assert.js';
import {addonPart, nativeCall} from './shape.js';

/** What a request asks for; mirrors `FuseOperation`. */
export const FUSE_OPERATION = {read: 1, write: 2, flush: 3, zero: 4} as const;
export type FuseOperation = (typeof FUSE_OPERATION)[keyof typeof FUSE_OPERATION];

/** Largest read or write in bytes. */
export const FUSE_PAYLOAD_SIZE = 1_048_576;

/** Words (4 bytes) of a request descriptor; mirrors `FuseRequest`. */
const REQUEST_WORDS = 8;
const STRIDE = FUSE_PAYLOAD_SIZE + 4096;

/** A file of the mount's one directory; mirrors `FuseFile`. */
export interface FuseFile {
  /** Inode number, above 1. */
  readonly node: number;
  readonly name: string;
  /** Permission bits. Without a write bit the file is never opened for writing. */
  readonly mode: number;
  /** Bytes; 0 for a text. */
  readonly size: number;
  /** A text is made at each read and has no size. */
  readonly isText: boolean;
  /** An adopted connection already has a writer of this file. */
  readonly isHeld: boolean;
}

export interface FuseRequest {
  /** Names the request until it is completed. */
  readonly tag: number;
  readonly operation: FuseOperation;
  readonly node: number;
  /** Bytes; inside the file. */
  readonly offset: number;
  readonly length: number;
  /** Of `zero`: the range may be deallocated. */
  readonly mayTrim: boolean;
  /** Of a text: tells its readers apart. */
  readonly handle: number;
  /** `length` bytes of a read or write: to be filled, or to be stored. Else empty. */
  readonly buffer: Buffer;
}

export interface FuseConnection {
  /** Descriptors, owned by the caller until a session adopts them. The first is the mount's. */
  readonly channels: readonly number[];
  readonly kernelMinor: number;
  /** The kernel can send unanswered requests again (Linux 6.9). */
  readonly hasResend: boolean;
}

export interface FuseCounters {
  /** Requests answered without JavaScript; requests delivered; batches they came in. */
  readonly metadata: number;
  readonly data: number;
  readonly wakes: number;
  /** Replies the kernel did not take, because the connection had ended. */
  readonly refused: number;
  /** Requests delivered and not completed. */
  readonly borrowed: number;
  /** Buffers that could not be locked in memory: a death of this process may cost an I/O error. */
  readonly unlocked: number;
}

export interface FuseOpenOptions {
  /** An existing directory. */
  mountpoint: string;
  /** Shown as the source in mount tables. */
  source: string;
  /** Descriptor of the mount namespace to mount in; -1: the current one. */
  namespace: number;
  /** Descriptors to open, one for each service thread. */
  channels: number;
  /** Asynchronous requests the kernel hands out at once, at most 65,535. */
  maxBackground: number;
}

interface NativeSession {
  readonly slab: ArrayBuffer;
  readonly layout: {readonly batchOffset: number; readonly payloadOffset: number};
  start(onBatch: (count: number) => void, onEnd: (errno: number) => void): void;
  complete(tag: number, result: number): boolean;
  stop(): Promise<void>;
  abandon(): void;
  counters(): FuseCounters;
}

interface FuseSessionOptions {
  readonly channels: readonly number[];
  readonly tags: number;
  readonly files: readonly FuseFile[];
}

interface FusePart {
  readonly layout: {
    readonly requestSize: number;
    readonly payloadSize: number;
    readonly stride: number;
  };
  open(options: FuseOpenOptions): Promise<FuseConnection>;
  unmount(mountpoint: string, namespace: number, force: boolean): Promise<void>;
  unmountNow(mountpoint: string, namespace: number): boolean;
  resend(channel: number): void;
  readonly Session: new (options: FuseSessionOptions) => NativeSession;
}

const fuse = addonPart<FusePart>(addon, 'fuse', [
  'layout',
  'open',
  'unmount',
  'unmountNow',
  'resend',
  'Session',
]);
assert(fuse.layout.requestSize === REQUEST_WORDS * 4, 'request descriptors have the known size');
assert(fuse.layout.payloadSize === FUSE_PAYLOAD_SIZE, 'payloads have the known size');
assert(fuse.layout.stride === STRIDE, 'buffers have the known distance');

/** Mounts and negotiates. When it fails nothing stays mounted or open. */
export function openFuse(options: FuseOpenOptions): Promise<FuseConnection> {
  return nativeCall(`mounting ${options.mountpoint}`, fuse.open(options));
}

/** Unmounts; `force` ends the connection first and does not mind open files. */
export function unmountFuse(mountpoint: string, namespace: number, force: boolean): Promise<void> {
  return nativeCall(`unmounting ${mountpoint}`, fuse.unmount(mountpoint, namespace, force));
}

/** Forced, and blocking: for a process that is about to exit. False if nothing was mounted. */
export function unmountFuseNow(mountpoint: string, namespace: number): boolean {
  return fuse.unmountNow(mountpoint, namespace);
}

/** Asks the kernel to send again what was read and not answered; before a session starts. */
export function resendFuse(connection: FuseConnection): void {
  const [channel] = connection.channels;
  assert(channel !== undefined && connection.hasResend, 'the connection can resend');
  fuse.resend(channel);
}

/**
 * Serves a connection. Life: constructed, started once, stopped once. Between start and stop it
 * keeps the process alive.
 */
export class FuseSession {
  readonly #native: NativeSession;
  readonly #words: Uint32Array;
  readonly #batch: Uint32Array;
  /** The payload of every tag, cut once. */
  readonly #payloads: readonly Buffer[];

  /** Adopts the connection's descriptors: they are closed by `stop`. */
  constructor(connection: FuseConnection, tags: number, files: readonly FuseFile[]) {
    this.#native = new fuse.Session({channels: connection.channels, tags, files});
    const {slab, layout} = this.#native;
    this.#words = new Uint32Array(slab, 0, tags * REQUEST_WORDS);
    this.#batch = new Uint32Array(slab, layout.batchOffset, tags);
    this.#payloads = Array.from({length: tags}, (_, tag) =>
      Buffer.from(slab, layout.payloadOffset + tag * STRIDE, FUSE_PAYLOAD_SIZE),
    );
  }

  /**
   * `onRequest` gets each request once and must not throw. `onEnd`: no request will come any more;
   * errno says why, 0 after `stop`.
   */
  start(onRequest: (request: FuseRequest) => void, onEnd: (errno: number) => void): void {
    this.#native.start((count) => {
      for (const tag of this.#batch.subarray(0, count)) onRequest(this.#request(tag));
    }, onEnd);
  }

  /**
   * Answers a request: bytes for a read or write, 0 for the rest, or a negative errno. Never blocks
   * on anything but memory; after `stop` it has no effect. Asserts that the tag is borrowed (I5).
   */
  complete(tag: number, result: number): void {
    assert(
      this.#native.complete(tag, result),
      `I5: request ${tag} is completed once, by ${result}`,
    );
  }

  /**
   * Ends and joins the service threads and closes the descriptors. Requests still borrowed lose
   * their buffer to nobody: they may be completed later without effect. Does not wait for them.
   */
  stop(): Promise<void> {
    return this.#native.stop();
  }

  /** `stop`, blocking: for a process that is about to exit. */
  abandon(): void {
    this.#native.abandon();
  }

  counters(): FuseCounters {
    return this.#native.counters();
  }

  #request(tag: number): FuseRequest {
    const base = tag * REQUEST_WORDS;
    const operation = this.#word(base);
    assert(isOperation(operation), `operation ${operation} is known`);
    const length = this.#word(base + 4) + this.#word(base + 5) * 2 ** 32;
    const hasBuffer = operation === FUSE_OPERATION.read || operation === FUSE_OPERATION.write;
    const payload = this.#payloads[tag];
    assert(payload !== undefined, `tag ${tag} exists`);
    return {
      tag,
      operation,
      node: this.#word(base + 1),
      offset: this.#word(base + 2) + this.#word(base + 3) * 2 ** 32,
      length,
      mayTrim: this.#word(base + 6) === 1,
      handle: this.#word(base + 7),
      buffer: payload.subarray(0, hasBuffer ? length : 0),
    };
  }

  #word(index: number): number {
    const word = this.#words[index];
    assert(word !== undefined, `word ${index} lies inside the descriptors`);
    return word;
  }
}

function isOperation(value: number): value is FuseOperation {
  return value >= FUSE_OPERATION.read && value <= FUSE_OPERATION.zero;
}
