/**
 * An NBD export as a source, over several connections.
 *
 *   connections ready     foreground reads take      background reads take
 *   1                     it                         it, two at a time
 *   n                     the first half             the others
 *
 * So a background read never stands in a queue before a foreground one, save for those two. Within
 * its lane a read takes the connection with the fewest commands in flight; each connection
 * pipelines. Reading by several connections needs no promise from the server; still, some admit
 * only one client, so the first connection is what open() waits for and the others join when they
 * are ready, or never.
 *
 * The loss of a connection that ever served is the loss of the source: all others are closed, every
 * command rejects once with an error for which isLoss holds, and `lost` resolves. Nothing
 * is tried again here (resilient-source.ts does).
 */
import type {Log} from '../base/environment.js';
import {BlockError} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import {alignDown, alignUp, assertRange, MiB} from '../base/units.js';
import {BLOCK_STATUS_MAX, NbdConnection, type NbdFacts, type NbdTimeouts} from '../native/nbd.js';
import {assertNotAborted} from './file-source.js';
import type {NbdUri} from './nbd-uri.js';
import type {Source, SourceExtent, SourceReadOptions} from './source.js';

/**
 * Longer reads go in pieces of this, so that connections share them; the server's limit may be
 * less.
 */
const PIECE = 4 * MiB;
/** What every server takes unless it says otherwise (the protocol's default). */
const DEFAULT_MAXIMUM = 32 * MiB;
/** Background commands in flight on a connection that also serves the foreground. */
const SHARED_BACKGROUND_DEPTH = 2;
/** ms a further connection may take: a server that admits one client leaves the others hanging. */
const EXTRA_CONNECT_TIMEOUT = 3000;

/** Block status commands in flight for one question: 64 TiB need 32,768 of them. */
const STATUS_BATCH = 16;

type Priority = NonNullable<SourceReadOptions['priority']>;

export interface NbdSourceOptions {
  /** How many connections to try for, 1 to 16. @default 4 */
  connections?: number;
  timeouts?: NbdTimeouts;
  signal?: AbortSignal;
  log?: Log;
}

export class NbdSource implements Source {
  readonly name: string;
  readonly facts: NbdFacts;
  /** Resolves, never rejects, once the source is lost; never after close. */
  readonly lost: Promise<BlockError>;
  readonly #connections: NbdConnection[] = [];
  readonly #joining: Promise<void>[] = [];
  readonly #stop = new AbortController();
  readonly #backgroundQueue: (() => void)[] = [];
  #sharedBackground = 0;
  #loss: BlockError | undefined;
  #resolveLost: (error: BlockError) => void = () => undefined;

  private constructor(first: NbdConnection) {
    this.name = first.name;
    this.facts = first.facts;
    this.lost = new Promise((resolve) => {
      this.#resolveLost = resolve;
    });
    this.#add(first);
  }

  /** Rejects with a BlockError that says precisely why the server cannot be used. */
  static async open(uri: NbdUri, options: NbdSourceOptions = {}): Promise<NbdSource> {
    const {connections = 4, timeouts = {}, signal, log} = options;
    const first = await NbdConnection.connect(uri.name, uri.target, timeouts, signal);
    const source = new NbdSource(first);
    for (let index = 1; index < connections; index++) {
      source.#joining.push(source.#join(uri, timeouts, log));
    }
    return source;
  }

  get size(): number {
    return this.facts.size;
  }

  /** Connections that are ready. */
  get connectionCount(): number {
    return this.#connections.length;
  }

  /** Resolves once every further connection has joined or was given up. */
  async settled(): Promise<void> {
    await Promise.all(this.#joining);
  }

  async read(offset: number, buffer: Uint8Array, options: SourceReadOptions = {}): Promise<void> {
    const length = buffer.byteLength;
    assertRange(offset, length, this.size);
    assertNotAborted(this.name, options.signal);
    if (length === 0) return;
    const {start, end} = this.#aligned(offset, length);
    if (start === offset && end === offset + length) {
      await this.#readPieces(start, buffer, options.priority);
    } else {
      const around = new Uint8Array(end - start);
      await this.#readPieces(start, around, options.priority);
      buffer.set(around.subarray(offset - start, offset - start + length));
    }
    assertNotAborted(this.name, options.signal);
  }

  async extents(
    offset: number,
    length: number,
    options: SourceReadOptions = {},
  ): Promise<SourceExtent[]> {
    assertRange(offset, length, this.size);
    const extents: SourceExtent[] = [];
    const add = (from: number, to: number, isZero: boolean): void => {
      const start = Math.max(from, offset);
      const clipped = Math.min(to, offset + length) - start;
      const last = extents.at(-1);
      if (clipped <= 0) return;
      if (last?.isZero === isZero) last.length += clipped;
      else extents.push({offset: start, length: clipped, isZero});
    };
    const {start, end} = this.#aligned(offset, length);
    for (let at = start; at < end; at += STATUS_BATCH * BLOCK_STATUS_MAX) {
      const pieces: Promise<SourceExtent[]>[] = [];
      for (
        let from = at;
        from < Math.min(end, at + STATUS_BATCH * BLOCK_STATUS_MAX);
        from += BLOCK_STATUS_MAX
      ) {
        pieces.push(this.#extentsOfPiece(from, Math.min(end, from + BLOCK_STATUS_MAX), options));
      }
      for (const extent of (await Promise.all(pieces)).flat()) {
        add(extent.offset, extent.offset + extent.length, extent.isZero);
      }
    }
    return extents;
  }

  /** Reads in flight reject with ESHUTDOWN. Never hangs. */
  async close(): Promise<void> {
    this.#stop.abort();
    await Promise.all([
      ...this.#connections.map((connection) => connection.close()),
      ...this.#joining,
    ]);
  }

  async #join(uri: NbdUri, timeouts: NbdTimeouts, log: Log | undefined): Promise<void> {
    const connect = Math.min(timeouts.connect ?? EXTRA_CONNECT_TIMEOUT, EXTRA_CONNECT_TIMEOUT);
    try {
      const connection = await NbdConnection.connect(
        uri.name,
        uri.target,
        {...timeouts, connect},
        this.#stop.signal,
      );
      if (this.#stop.signal.aborted) await connection.close();
      else this.#add(connection);
    } catch (error) {
      if (this.#stop.signal.aborted) return;
      const reason = error instanceof Error ? error.message : String(error);
      log?.('debug', 'a further connection to the source is not to be had', {
        source: this.name,
        reason,
      });
    }
  }

  #add(connection: NbdConnection): void {
    this.#connections.push(connection);
    void connection.ended.then((error) => {
      this.#connections.splice(this.#connections.indexOf(connection), 1);
      if (error === undefined || this.#stop.signal.aborted) return;
      // One that was thrown out before it was of any use is one that the server does not admit.
      if (connection.hasServed || this.#connections.length === 0) this.#lose(error);
    });
  }

  #lose(error: BlockError): void {
    this.#loss = error;
    this.#stop.abort();
    for (const connection of this.#connections) void connection.close();
    this.#resolveLost(error);
  }

  /** All pieces settle before the promise does: until then the buffer is in use. */
  async #readPieces(
    offset: number,
    buffer: Uint8Array,
    priority: Priority = 'foreground',
  ): Promise<void> {
    const piece = Math.min(PIECE, this.facts.maximumBlock || DEFAULT_MAXIMUM);
    const reads: Promise<void>[] = [];
    for (let at = 0; at < buffer.byteLength; at += piece) {
      const part = buffer.subarray(at, Math.min(at + piece, buffer.byteLength));
      reads.push(this.#run(priority, (connection) => connection.read(offset + at, part)));
    }
    for (const result of await Promise.allSettled(reads)) {
      if (result.status === 'rejected') throw result.reason;
    }
  }

  /** Of a range that one command may ask for; the server may need several to answer. */
  async #extentsOfPiece(
    start: number,
    end: number,
    {priority, signal}: SourceReadOptions,
  ): Promise<SourceExtent[]> {
    const extents: SourceExtent[] = [];
    let at = start;
    while (this.facts.hasBlockStatus && at < end) {
      assertNotAborted(this.name, signal);
      const runs = await this.#blockStatus(at, end - at, priority);
      if (runs === undefined) break;
      for (const {length, isZero} of runs) {
        extents.push({offset: at, length, isZero});
        at += length;
      }
    }
    if (at < end) extents.push({offset: at, length: end - at, isZero: false});
    return extents;
  }

  /** Undefined where the server cannot tell after all. */
  async #blockStatus(
    offset: number,
    length: number,
    priority: Priority = 'foreground',
  ): Promise<{length: number; isZero: boolean}[] | undefined> {
    try {
      return await this.#run(priority, (connection) => connection.blockStatus(offset, length));
    } catch (error) {
      if (isLoss(error)) throw error;
      return undefined;
    }
  }

  /** Runs a command on the best connection for its priority. */
  async #run<Result>(
    priority: Priority,
    command: (connection: NbdConnection) => Promise<Result>,
  ): Promise<Result> {
    if (priority === 'foreground' || this.#connections.length > 1)
      return await command(this.#pick(priority));
    while (this.#sharedBackground >= SHARED_BACKGROUND_DEPTH) {
      await new Promise<void>((resolve) => this.#backgroundQueue.push(resolve));
    }
    this.#sharedBackground++;
    try {
      return await command(this.#pick(priority));
    } finally {
      this.#sharedBackground--;
      this.#backgroundQueue.shift()?.();
    }
  }

  #pick(priority: Priority): NbdConnection {
    const count = this.#connections.length;
    const cut = Math.ceil(count / 2);
    const isShared = count === 1;
    const from = priority === 'foreground' || isShared ? 0 : cut;
    const to = priority === 'background' || isShared ? count : cut;
    let best: NbdConnection | undefined;
    for (let index = from; index < to; index++) {
      const connection = this.#connections[index];
      if (connection !== undefined && connection.inFlight < (best?.inFlight ?? Infinity))
        best = connection;
    }
    if (best !== undefined && !this.#stop.signal.aborted) return best;
    const code = this.#loss === undefined ? 'ESHUTDOWN' : 'ENOTCONN';
    const reason = this.#loss === undefined ? 'it is closed' : 'the connection is lost';
    throw new BlockError(code, `reading ${this.name}: ${reason} (${code})`, {
      op: 'read',
      ...(this.#loss === undefined ? {} : {cause: this.#loss}),
    });
  }

  /** The range widened to the server's smallest block. */
  #aligned(offset: number, length: number): {start: number; end: number} {
    const unit = Math.max(1, this.facts.minimumBlock);
    const end = alignUp(offset + length, unit);
    return {
      start: alignDown(offset, unit),
      end: Math.min(end, Math.max(this.size, offset + length)),
    };
  }
}
