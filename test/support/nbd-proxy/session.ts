/**
 * One client's connection. Requests are taken in order and served all at once; each goes
 *
 *   arrive ─ delay ─ silence ─ order ─ do ─ delay ─ silence ─ order ─ reply
 *
 * and its connection may die at any of these places. Changes that overlap are done in the order
 * they arrived, whatever else is reordered.
 */
import type {Socket} from 'node:net';
import {toErrno, ERRNO} from '../../../src/base/errors.js';
import type {Prng} from '../../../src/base/prng.js';
import type {RangeLock} from '../../../src/base/range-lock.js';
import {ByteReader} from './byte-reader.js';
import type {CutStage, Faults, Plan} from './faults.js';
import {shakeHands, type Export} from './handshake.js';
import type {Count, Ledger} from './ledger.js';
import {parseRequest, PAYLOAD_MAX, REQUEST_SIZE, simpleReply} from './protocol.js';
import type {Op, Request} from './protocol.js';
import type {Shuffle} from './shuffle.js';
import type {Change, WriteCache} from './write-cache.js';
import type {Zombies} from './zombies.js';

/** What all connections share. */
export interface Shared {
  readonly served: Export;
  readonly faults: Faults;
  readonly ledger: Ledger;
  readonly cache: WriteCache;
  readonly zombies: Zombies;
  /** Changes on their way to being done. */
  readonly order: RangeLock;
  readonly changeShuffle: Shuffle;
  readonly replyShuffle: Shuffle;
  /** Ends this connection, or all, as the settings say. */
  readonly cut: (session: Session) => void;
}

/** `cut`: the way broke. `client`: it left without a word. `power`: the server died. */
export type Death = 'cut' | 'client' | 'power';

interface Outcome {
  readonly errno: number;
  readonly data?: Buffer;
}

type Served = Request & {readonly op: Op};

const IN_FLIGHT_MAX = 256;
const SILENCE_POLL_MS = 10;
const CUT_COUNTS = {
  receiving: 'cutReceiving',
  before: 'cutBefore',
  after: 'cutAfter',
  replying: 'cutReplying',
} as const satisfies Record<CutStage, Count>;

export class Session {
  readonly id: number;
  readonly #shared: Shared;
  readonly #socket: Socket;
  readonly #reader: ByteReader;
  readonly #prng: Prng;
  #death: Death | undefined;
  /** Half a reply was sent: nothing may follow it. */
  #isMuted = false;
  #inFlight = 0;
  /** Those who wait for time to pass, or for the connection to die. */
  readonly #waiting = new Set<() => void>();
  /** Those who wait for a request to end. */
  #whenOneEnds: (() => void)[] = [];

  constructor(id: number, socket: Socket, shared: Shared, prng: Prng) {
    this.id = id;
    this.#shared = shared;
    this.#socket = socket;
    this.#reader = new ByteReader(socket);
    this.#prng = prng;
  }

  /** Resolves once the connection has ended and none of its requests is being served. */
  async run(): Promise<void> {
    const {faults, ledger} = this.#shared;
    if (faults.now.silentHandshake) ledger.add('silenced', {connection: this.id});
    while (faults.now.silentHandshake && !this.#death) await this.#wait(SILENCE_POLL_MS);
    const isReady = await shakeHands(this.#socket, this.#reader, this.#shared.served);
    // "Terminating the transmission phase": what came before NBD_CMD_DISC is served to its end.
    if (isReady && !(await this.#takeRequests())) this.die('client');
    await this.#atMost(0);
    this.#socket.end();
    this.#socket.destroySoon();
  }

  die(cause: Death): void {
    // A dead one may still have requests on their way, which a power loss takes all the same.
    if (this.#death !== undefined && cause !== 'power') return;
    this.#death = cause;
    this.#socket.destroy();
    for (const wake of [...this.#waiting]) wake();
  }

  /** True if the client said that it leaves. */
  async #takeRequests(): Promise<boolean> {
    for (;;) {
      await this.#atMost(IN_FLIGHT_MAX - 1);
      const header = await this.#reader.read(REQUEST_SIZE);
      const request = header && parseRequest(header);
      if (!request) return false;
      if (request.op === 'disconnect') return true;
      const {op, offset, length} = request;
      const plan = this.#shared.faults.plan(op ?? 'read', offset, length, this.#prng.fork());
      const isWrite = op === 'write';
      if (isWrite && length > PAYLOAD_MAX) return false;
      if (isWrite && plan.cut === 'receiving' && length > 0) {
        await this.#reader.read(plan.dice.below(length));
        this.#cut('receiving', request);
        return false;
      }
      const payload = isWrite ? await this.#reader.read(length) : undefined;
      if (isWrite && !payload) return false;
      void this.#serve(request, payload, plan);
    }
  }

  async #serve(request: Request, payload: Buffer | undefined, plan: Plan): Promise<void> {
    this.#inFlight++;
    const refusal = this.#refusal(request);
    if (refusal !== undefined) {
      this.#count('refused', request);
      await this.#reply(request, {errno: refusal}, plan);
    } else {
      const served = request as Served;
      this.#count(served.op, request);
      if (served.fua) this.#count('fua', request);
      const change = changeOf(served, payload);
      const outcome = change
        ? await this.#serveChange(served, change, plan)
        : await this.#serveOther(served, plan);
      if (outcome) await this.#reply(request, outcome, plan);
    }
    this.#inFlight--;
    for (const wake of this.#whenOneEnds.splice(0)) wake();
  }

  /** The errno for what no client may ask ("Error values"). */
  #refusal({op, offset, length, hasStrangeFlags}: Request): number | undefined {
    const {size, isReadOnly} = this.#shared.served;
    if (op === undefined || hasStrangeFlags) return ERRNO.EINVAL;
    if (op === 'flush') return undefined;
    if (op !== 'read' && isReadOnly) return ERRNO.EPERM;
    if (offset + length > size) return op === 'read' || op === 'trim' ? ERRNO.EINVAL : ERRNO.ENOSPC;
    return op === 'read' && length > PAYLOAD_MAX ? ERRNO.EOVERFLOW : undefined;
  }

  /** Undefined if the connection died before it was done. */
  async #serveChange(request: Served, change: Change, plan: Plan): Promise<Outcome | undefined> {
    const {order, faults, changeShuffle, zombies, ledger} = this.#shared;
    if (change.length === 0) return {errno: 0};
    const hold = await order.acquire(change.offset, change.offset + change.length);
    try {
      await this.#beforeDoing(request, plan);
      if (faults.now.reorder && !this.#death) {
        const isEarly = await changeShuffle.pass(faults.now.reorderHoldMs);
        if (isEarly) ledger.add('reordered', this.#details(request));
      }
      if (this.#death) {
        await this.#abandon(change, plan);
        return undefined;
      }
      zombies.note(change);
      return await this.#attempt(() => this.#change(request, change, plan));
    } finally {
      hold.release();
    }
  }

  async #change(request: Served, change: Change, plan: Plan): Promise<Outcome> {
    const {cache, faults} = this.#shared;
    const {errno = 0, effect = 'all'} = plan.failure ?? {};
    if (errno !== 0) this.#count('errors', request, `${errno}, done: ${effect}`);
    if (effect === 'part') await cache.landInPart(change, this.id, plan.dice);
    if (effect !== 'all' || (change.op === 'trim' && !plan.doesTrim)) return {errno};
    const held = cache.hold(change, this.id);
    if (faults.now.volatile && !request.fua) {
      this.#count('held', request);
      return {errno};
    }
    await cache.land([held]);
    if (request.fua) await cache.flushBackend();
    return {errno};
  }

  async #serveOther(request: Served, plan: Plan): Promise<Outcome | undefined> {
    await this.#beforeDoing(request, plan);
    if (this.#death) return undefined;
    return await this.#attempt(() =>
      request.op === 'flush' ? this.#flush(request, plan) : this.#read(request, plan),
    );
  }

  async #read(request: Served, plan: Plan): Promise<Outcome> {
    if (plan.failure) {
      this.#count('errors', request, String(plan.failure.errno));
      return {errno: plan.failure.errno};
    }
    const data = Buffer.alloc(request.length);
    await this.#shared.cache.read(request.offset, data);
    return {errno: 0, data};
  }

  async #flush(request: Served, plan: Plan): Promise<Outcome> {
    const {cache, served} = this.#shared;
    const owner = served.canMultiConn ? undefined : this.id;
    const {errno = 0, effect = 'all'} = plan.failure ?? {};
    if (errno !== 0) this.#count('errors', request, `${errno}, done: ${effect}`);
    if (effect === 'part') await cache.flushInPart(owner, plan.dice);
    if (effect === 'all') await cache.flush(owner);
    return {errno};
  }

  /** A failure of the backend is the server's answer. */
  async #attempt(call: () => Promise<Outcome>): Promise<Outcome> {
    try {
      return await call();
    } catch (error) {
      this.#shared.ledger.add('upstreamFailures', {connection: this.id, note: String(error)});
      return {errno: replyErrno(toErrno(error))};
    }
  }

  async #beforeDoing(request: Request, plan: Plan): Promise<void> {
    // A request without payload cannot be cut in the middle of it.
    if (plan.cut === 'before' || plan.cut === 'receiving') this.#cut('before', request);
    await this.#linger(request, plan.requestDelayMs);
  }

  /** A delay, then silence. */
  async #linger(request: Request, delayMs: number): Promise<void> {
    const {faults} = this.#shared;
    if (delayMs > 0 && !this.#death) {
      this.#count('delayed', request);
      await this.#wait(delayMs);
    }
    if (faults.now.silent && !this.#death) this.#count('silenced', request);
    while (faults.now.silent && !this.#death) await this.#wait(SILENCE_POLL_MS);
  }

  async #reply(request: Request, {errno, data}: Outcome, plan: Plan): Promise<void> {
    const {faults, ledger, replyShuffle} = this.#shared;
    if (plan.cut === 'after') this.#cut('after', request);
    await this.#linger(request, plan.replyDelayMs);
    if (faults.now.reorder && !this.#death) {
      const isEarly = await replyShuffle.pass(faults.now.reorderHoldMs);
      if (isEarly) ledger.add('repliesReordered', this.#details(request));
    }
    if (this.#death || this.#isMuted) return;
    const header = simpleReply(request.cookie, errno);
    const message = data && errno === 0 ? Buffer.concat([header, data]) : header;
    if (plan.cut === 'replying') {
      this.#isMuted = true;
      const part = message.subarray(0, plan.dice.between(1, message.length - 1));
      await new Promise<void>((resolve) => this.#socket.write(part, () => resolve()));
      this.#cut('replying', request);
      return;
    }
    this.#count('replies', request);
    this.#socket.write(message);
  }

  /** What becomes of a change that was not done when its connection died. */
  async #abandon(change: Change, plan: Plan): Promise<void> {
    const {faults, zombies, ledger, cache} = this.#shared;
    const {zombieMs, silent} = faults.now;
    if (this.#death !== 'power' && zombieMs > 0 && plan.isZombie) {
      zombies.raise(change, this.id, plan.zombieFraction * zombieMs);
    } else if (this.#death === 'client' && !silent) {
      // It left, and the server goes on with what it has got.
      const held = cache.hold(change, this.id);
      if (!faults.now.volatile) await this.#attempt(() => cache.land([held]).then(() => DONE));
    } else {
      ledger.add('lostInFlight', {connection: this.id, ...rangeOf(change)});
    }
  }

  #cut(stage: CutStage, request: Request): void {
    if (this.#death) return;
    this.#count(CUT_COUNTS[stage], request);
    this.#shared.cut(this);
  }

  #count(what: Count, request: Request, note?: string): void {
    this.#shared.ledger.add(what, {...this.#details(request), note});
  }

  #details(request: Request): {connection: number; offset: number; length: number} {
    return {connection: this.id, ...rangeOf(request)};
  }

  /** Returns once at most `count` requests are being served. */
  async #atMost(count: number): Promise<void> {
    while (this.#inFlight > count) {
      await new Promise<void>((resolve) => this.#whenOneEnds.push(resolve));
    }
  }

  /** Returns after `ms`, or at once when the connection is dead. */
  async #wait(ms: number): Promise<void> {
    if (this.#death) return;
    await new Promise<void>((resolve) => {
      const wake = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(wake);
        resolve();
      };
      const timer = setTimeout(wake, ms);
      this.#waiting.add(wake);
    });
  }
}

const DONE: Outcome = {errno: 0};

function rangeOf({offset, length}: {offset: number; length: number}): {
  offset: number;
  length: number;
} {
  return {offset, length};
}

/** Undefined for a request that changes nothing. */
function changeOf(request: Served, bytes: Buffer | undefined): Change | undefined {
  const {op, offset, length, mayTrim} = request;
  return op === 'read' || op === 'flush' ? undefined : {op, offset, length, bytes, mayTrim};
}

/** "Error values": those that a reply may carry. */
function replyErrno(errno: number): number {
  const known: readonly number[] = [
    ERRNO.EPERM,
    ERRNO.ENOMEM,
    ERRNO.EINVAL,
    ERRNO.ENOSPC,
    ERRNO.EOVERFLOW,
    ERRNO.EOPNOTSUPP,
    ERRNO.ESHUTDOWN,
  ];
  return known.includes(errno) ? errno : ERRNO.EIO;
}
