/**
 * The server's volatile write cache: changes that were taken, in order, and have not landed in the
 * backend. Reads see them; a power loss takes them.
 *
 *   hold ── held ──(flush or FUA covers it, cache full, not volatile)── landing ── in the backend
 *             └─────────────(power loss)── kept | torn at 512 bytes | lost
 *
 * - Changes land in order where they overlap: before one lands, older ones under it do.
 * - A change stays held until it has landed, so a read that looks first at what is held, then at
 *   the backend, misses nothing.
 * - One that the backend refuses is gone, and whoever made it land is told.
 *
 * "Ordering of messages and writes": a flush covers what was *answered* before it was sent. Without
 * NBD_FLAG_CAN_MULTI_CONN it covers its own connection's changes only.
 */
import type {Prng} from '../../../src/base/prng.js';
import {RangeLock} from '../../../src/base/range-lock.js';
import {alignUp, MiB, SECTOR} from '../../../src/base/units.js';
import type {Backend} from './backend.js';
import type {Ledger} from './ledger.js';

export interface Change {
  readonly op: 'write' | 'zero' | 'trim';
  /** Bytes; the length is not 0. */
  readonly offset: number;
  readonly length: number;
  /** Of a write. */
  readonly bytes: Uint8Array | undefined;
  readonly mayTrim: boolean;
}

export interface Held {
  readonly change: Change;
  /** Number of the connection. */
  readonly owner: number;
  /** While it is on its way into the backend. */
  landing: Promise<void> | undefined;
}

/** What a power loss does to changes that no flush covered; `random`: to each something else. */
export type Fate = 'keep' | 'drop' | 'random';

const HELD_MAX = 8192;
const HELD_BYTES_MAX = 256 * MiB;

export class WriteCache {
  readonly #backend: Backend;
  readonly #ledger: Ledger;
  /** Oldest first. */
  readonly #held = new Set<Held>();
  #heldBytes = 0;
  readonly #lock = new RangeLock();
  /** Of a change that made room for others: the next flush tells. */
  #evictionError: unknown;

  constructor(backend: Backend, ledger: Ledger) {
    this.#backend = backend;
    this.#ledger = ledger;
  }

  /** Changes that a power loss would take. */
  get heldCount(): number {
    return this.#held.size;
  }

  /** Takes a change; reads see it from now on. */
  hold(change: Change, owner: number): Held {
    const held: Held = {change, owner, landing: undefined};
    this.#held.add(held);
    this.#heldBytes += bytesOf(change);
    if (this.#held.size > HELD_MAX || this.#heldBytes > HELD_BYTES_MAX) this.#evict();
    return held;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    const range = {offset, length: buffer.length};
    const above = [...this.#held].filter(({change}) => overlap(change, range));
    await this.#backend.read(offset, buffer);
    for (const {change} of above) {
      const from = Math.max(change.offset, offset);
      const to = Math.min(change.offset + change.length, offset + buffer.length);
      const part = buffer.subarray(from - offset, to - offset);
      if (change.bytes) part.set(change.bytes.subarray(from - change.offset, to - change.offset));
      else part.fill(0);
    }
  }

  /** Makes these changes land, and the older ones under them; rejects if one could not. */
  async land(wanted: readonly Held[]): Promise<void> {
    const isWanted = new Set(wanted);
    const chosen: Held[] = [];
    for (const held of [...this.#held].reverse()) {
      const isUnder = (): boolean => chosen.some(({change}) => overlap(change, held.change));
      if (isWanted.has(held) || isUnder()) chosen.push(held);
    }
    await settleAll(chosen.reverse().map((held) => this.#landOne(held)));
  }

  /** Makes durable what the connection `owner` changed; undefined: everything. */
  async flush(owner: number | undefined): Promise<void> {
    await this.land(this.#covered(owner));
    const error = this.#evictionError;
    this.#evictionError = undefined;
    if (error !== undefined) throw error;
    await this.flushBackend();
  }

  async flushBackend(): Promise<void> {
    await this.#backend.flush();
  }

  /** A flush that fails: of what it covers some lands, and the rest is gone. */
  async flushInPart(owner: number | undefined, dice: Prng): Promise<void> {
    const covered = this.#covered(owner);
    for (const held of covered) {
      if (held.landing || dice.chance(1, 2)) continue;
      this.#forget(held);
      this.#ledger.add('lost', rangeOf(held));
    }
    await this.land(covered.filter((held) => this.#held.has(held)));
  }

  /** Some sectors of a change land, as of one that failed half-way. */
  async landInPart(change: Change, owner: number, dice: Prng): Promise<void> {
    await this.land(piecesOf(change, dice).map((piece) => this.hold(piece, owner)));
  }

  /**
   * The power goes: each held change is kept, torn or lost, and those kept land in any order. Only
   * while no connection is open.
   */
  async losePower(dice: Prng, fate: Fate): Promise<void> {
    await Promise.allSettled([...this.#held].map(({landing}) => landing));
    const held = dice.shuffle([...this.#held]);
    for (const one of held) this.#forget(one);
    for (const one of held) {
      const outcome = fate === 'random' ? dice.weighted({keep: 1, tear: 1, drop: 1}) : fate;
      const pieces = outcome === 'tear' ? piecesOf(one.change, dice) : [one.change];
      const isTorn = outcome === 'tear' && one.change.length > SECTOR;
      this.#ledger.add(outcome === 'drop' ? 'lost' : isTorn ? 'torn' : 'kept', rangeOf(one));
      if (outcome !== 'drop') for (const piece of pieces) await this.#write(piece);
    }
  }

  #covered(owner: number | undefined): Held[] {
    return [...this.#held].filter((held) => owner === undefined || held.owner === owner);
  }

  #evict(): void {
    const [oldest] = [...this.#held].filter(({landing}) => landing === undefined);
    if (!oldest) return;
    this.#ledger.add('evicted', rangeOf(oldest));
    this.#landOne(oldest).catch((error: unknown) => {
      this.#evictionError = error;
    });
  }

  #landOne(held: Held): Promise<void> {
    held.landing ??= this.#landNow(held);
    return held.landing;
  }

  /** Calls for one range wait for each other in the order they are made. */
  async #landNow(held: Held): Promise<void> {
    const {offset, length} = held.change;
    const hold = await this.#lock.acquire(offset, offset + length);
    try {
      await this.#write(held.change);
      this.#ledger.add('landed', rangeOf(held));
    } finally {
      this.#forget(held);
      hold.release();
    }
  }

  async #write({op, offset, length, bytes, mayTrim}: Change): Promise<void> {
    if (bytes) await this.#backend.write(offset, bytes);
    else if (op === 'trim') await this.#backend.trim(offset, length);
    else await this.#backend.zero(offset, length, {mayTrim});
  }

  #forget(held: Held): void {
    if (this.#held.delete(held)) this.#heldBytes -= bytesOf(held.change);
  }
}

export function overlap(
  one: {offset: number; length: number},
  other: {offset: number; length: number},
): boolean {
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length;
}

function bytesOf({bytes}: Change): number {
  return bytes?.length ?? 0;
}

function rangeOf({owner, change}: Held): {connection: number; offset: number; length: number} {
  return {connection: owner, offset: change.offset, length: change.length};
}

/** A random choice of a change's sectors, at least one of them. */
function piecesOf(change: Change, dice: Prng): Change[] {
  const {offset, length, bytes} = change;
  const pieces: Change[] = [];
  for (let at = offset; at < offset + length;) {
    const end = Math.min(alignUp(at + 1, SECTOR), offset + length);
    pieces.push({
      ...change,
      offset: at,
      length: end - at,
      bytes: bytes?.subarray(at - offset, end - offset),
    });
    at = end;
  }
  const kept = pieces.filter(() => dice.chance(1, 2));
  if (kept.length > 0 && kept.length < pieces.length) return kept;
  return [dice.pick(pieces)];
}

/** Waits for all, then rejects as the first of those that did. */
async function settleAll(promises: readonly Promise<void>[]): Promise<void> {
  const outcomes = await Promise.allSettled(promises);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
}
