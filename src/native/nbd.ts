/**
 * One connection to an NBD server. The addon's thread speaks the protocol
 * (native/nbd_connection.h); this gives it promises. A command's buffer is in use until its promise
 * settles.
 *
 * A command that the server answers with an error rejects with that errno while the connection
 * lives. When the connection is lost, every command in flight rejects once, with ENOTCONN,
 * ETIMEDOUT (silence) or ESHUTDOWN (closed here): isLoss (base/loss.ts) tells the two apart.
 */
import {assert} from '../base/assert.js';
import {BlockError, errnoCode, ERRNO, type ErrnoCode} from '../base/errors.js';
import {addon} from './addon.js';
import {CallTable} from './call-table.js';
import {reasonOf} from './native-error.js';
import {connectError} from './nbd-errors.js';

/** Where a server is and how to speak with it. Paths and names are not checked here. */
export interface NbdTarget {
  /** Empty: `unixPath` is used. */
  host: string;
  port: string;
  unixPath: string;
  exportName: string;
  /** Required if true, never used if false: nothing is negotiated down. */
  tls: boolean;
  /**
   * Directory with ca-cert.pem and perhaps client-cert.pem, client-key.pem; empty: the system's.
   */
  certificates: string;
  /** File of `username:key` lines; empty: certificates are used. */
  pskFile: string;
  username: string;
  verifyPeer: boolean;
}

export interface NbdTimeouts {
  /** ms for connecting and the handshake. @default 10000 */
  connect?: number;
  /**
   * ms of silence, while an answer is owed, after which the connection counts as lost. @default
   * 30000
   */
  io?: number;
}

/** What client and server agreed on. Block sizes are bytes, 0 where the server said nothing. */
export interface NbdFacts {
  readonly size: number;
  readonly minimumBlock: number;
  readonly preferredBlock: number;
  readonly maximumBlock: number;
  readonly isReadOnly: boolean;
  readonly canMultiConn: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canZero: boolean;
  readonly canFastZero: boolean;
  readonly canTrim: boolean;
  readonly canCache: boolean;
  /** base:allocation was agreed on: blockStatus works. */
  readonly hasBlockStatus: boolean;
  readonly hasStructuredReplies: boolean;
  readonly isEncrypted: boolean;
  readonly description: string;
}

/** A run of base:allocation, from the end of the one before on. */
export interface NbdExtent {
  length: number;
  isZero: boolean;
}

const OPERATION = {read: 0, write: 1, zero: 2, flush: 3, blockStatus: 4} as const;
type Operation = keyof typeof OPERATION;

/** libnbd.h, LIBNBD_CMD_FLAG_* */
const FLAG = {fua: 0x01, noHole: 0x02, fastZero: 0x10} as const;

/** NBD_STATE_ZERO of base:allocation. */
const STATE_ZERO = 0x02;

/** One block status command asks for at most this: what fits 32 bits and every server takes. */
export const BLOCK_STATUS_MAX = 2 ** 31;

interface NativeClient {
  submit(
    operation: number,
    slot: number,
    offset: number,
    length: number,
    bytes: Uint8Array | undefined,
    flags: number,
  ): void;
  close(): void;
}

type NativeTarget = NbdTarget & {connectTimeout: number; ioTimeout: number};

const native = addon as {
  NbdClient: new (
    target: NativeTarget,
    ready: (facts: NbdFacts) => void,
    done: (slot: number, error: number, extents?: Uint32Array) => void,
    ended: (error: number, message: string, wasReady: boolean) => void,
  ) => NativeClient;
};

export class NbdConnection {
  /** For messages; no secrets. */
  readonly name: string;
  /**
   * Resolves, never rejects, when the connection has ended: with what ended it, or undefined after
   * close.
   */
  readonly ended: Promise<BlockError | undefined>;
  readonly #client: NativeClient;
  readonly #calls = new CallTable<Uint32Array | undefined>();
  #facts: NbdFacts | undefined;
  #hasEnded = false;
  #isClosing = false;
  #answered = 0;

  private constructor(name: string, target: NativeTarget, onReady: (facts: NbdFacts) => void) {
    this.name = name;
    let resolveEnded: (error: BlockError | undefined) => void;
    this.ended = new Promise((resolve) => {
      resolveEnded = resolve;
    });
    this.#client = new native.NbdClient(
      target,
      (facts) => {
        this.#facts = facts;
        onReady(facts);
      },
      (slot, error, extents) => {
        this.#answered++;
        this.#calls.settle(slot, error, extents);
      },
      (error, message, wasReady) => {
        this.#hasEnded = true;
        if (error === 0) resolveEnded(undefined);
        else if (wasReady) resolveEnded(this.#lossError(error, message));
        else resolveEnded(connectError(name, target, error, message));
      },
    );
  }

  /** Rejects with a BlockError that says precisely why there is no connection; or on abort. */
  static async connect(
    name: string,
    target: NbdTarget,
    timeouts: NbdTimeouts = {},
    signal?: AbortSignal,
  ): Promise<NbdConnection> {
    const {connect: connectTimeout = 10_000, io: ioTimeout = 30_000} = timeouts;
    assert(connectTimeout > 0 && ioTimeout > 0, 'time-outs are positive');
    const aborted = (): BlockError =>
      new BlockError('ECANCELED', `connecting to ${name}: given up`, {op: 'connect'});
    if (signal?.aborted === true) throw aborted();
    return await new Promise((resolve, reject) => {
      const connection: NbdConnection = new NbdConnection(
        name,
        {...target, connectTimeout, ioTimeout},
        () => {
          // From here on the signal has no say: close() ends the connection.
          signal?.removeEventListener('abort', onAbort);
          resolve(connection);
        },
      );
      const onAbort = (): void => {
        connection.#client.close();
        reject(aborted());
      };
      signal?.addEventListener('abort', onAbort, {once: true});
      void connection.ended.then((error) => {
        signal?.removeEventListener('abort', onAbort);
        reject(error ?? aborted());
      });
    });
  }

  get facts(): NbdFacts {
    assert(this.#facts !== undefined, 'a connection is used once it is ready');
    return this.#facts;
  }

  /** Commands sent and not answered. */
  get inFlight(): number {
    return this.#calls.size;
  }

  /** True if the server ever answered a command, be it with an error. */
  get hasServed(): boolean {
    return this.#answered > 0;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    await this.#submit('read', offset, buffer.byteLength, buffer);
  }

  async write(offset: number, buffer: Uint8Array, options: {fua?: boolean} = {}): Promise<void> {
    const flags = options.fua === true ? FLAG.fua : 0;
    await this.#submit('write', offset, buffer.byteLength, buffer, flags);
  }

  /**
   * `mayTrim`: the server may deallocate. `fast`: it fails with EOPNOTSUPP rather than write
   * zeroes.
   */
  async zero(
    offset: number,
    length: number,
    options: {fua?: boolean; mayTrim?: boolean; fast?: boolean} = {},
  ): Promise<void> {
    let flags = options.fua === true ? FLAG.fua : 0;
    if (options.mayTrim !== true) flags |= FLAG.noHole;
    if (options.fast === true) flags |= FLAG.fastZero;
    await this.#submit('zero', offset, length, undefined, flags);
  }

  async flush(): Promise<void> {
    await this.#submit('flush', 0, 0);
  }

  /**
   * Extents from `offset` on, clipped to the range, of which they may cover only a first part, but
   * at least a byte. `length`: at most {@link BLOCK_STATUS_MAX}.
   */
  async blockStatus(offset: number, length: number): Promise<NbdExtent[]> {
    assert(length > 0 && length <= BLOCK_STATUS_MAX, 'one block status command covers the range');
    const numbers = await this.#submit('blockStatus', offset, length);
    const extents: NbdExtent[] = [];
    let left = length;
    for (
      let index = 0;
      numbers !== undefined && index + 1 < numbers.length && left > 0;
      index += 2
    ) {
      const run = Math.min(numbers[index] ?? 0, left);
      if (run === 0) break;
      extents.push({length: run, isZero: ((numbers[index + 1] ?? 0) & STATE_ZERO) !== 0});
      left -= run;
    }
    if (extents.length > 0) return extents;
    const range = `${offset}+${length}`;
    const message = `block status of ${this.name} at ${range}: the server named no extent`;
    throw new BlockError('EIO', message, {op: 'blockStatus', offset, length});
  }

  /**
   * Ends the connection; commands in flight reject with ESHUTDOWN. Resolves when its thread has
   * ended.
   */
  async close(): Promise<void> {
    this.#isClosing = true;
    if (!this.#hasEnded) this.#client.close();
    await this.ended;
  }

  #submit(
    operation: Operation,
    offset: number,
    length: number,
    buffer?: Uint8Array,
    flags = 0,
  ): Promise<Uint32Array | undefined> {
    assert(Number.isSafeInteger(offset) && offset >= 0, 'an offset is a safe integer');
    assert(Number.isSafeInteger(length) && length >= 0, 'a length is a safe integer');
    const describe = (error: number): BlockError => this.#error(operation, offset, length, error);
    if (this.#isClosing) return Promise.reject(describe(ERRNO.ESHUTDOWN));
    if (this.#hasEnded) return Promise.reject(describe(ERRNO.ENOTCONN));
    return this.#calls.begin(
      (slot) => this.#client.submit(OPERATION[operation], slot, offset, length, buffer, flags),
      describe,
      buffer,
    );
  }

  #error(op: Operation, offset: number, length: number, error: number): BlockError {
    const code = errnoCode(error);
    const reason = LOSS_REASONS[code] ?? `the server answers ${reasonOf(code)}`;
    const message = `${op} of ${this.name} at ${offset}+${length}: ${reason}`;
    return new BlockError(code, message, {op, offset, length});
  }

  #lossError(error: number, message: string): BlockError {
    const code = errnoCode(error) === 'ETIMEDOUT' ? 'ETIMEDOUT' : 'ENOTCONN';
    return new BlockError(code, `the connection to ${this.name} is lost: ${message}`, {
      op: 'connect',
    });
  }
}

const LOSS_REASONS: Partial<Record<ErrnoCode, string>> = {
  ENOTCONN: 'the connection is lost (ENOTCONN)',
  ETIMEDOUT: 'the server is silent, the connection counts as lost (ETIMEDOUT)',
  ESHUTDOWN: 'the connection is closed (ESHUTDOWN)',
};
