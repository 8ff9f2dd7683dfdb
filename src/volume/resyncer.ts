/**
 * Resync: sends the backlog in block order, a few pieces at a time, below the guest's requests and
 * within a rate; afterwards a flush makes it count, and what was doubtful is read back.
 *
 * A piece is read from the store while its range is locked, and takes its turn to the backup before
 * the lock goes: a later write of the guest is sent after it. A partial block sends its masked
 * sectors only where the backup is the source, since the others are there; else it is completed
 * from the source first, as an absent one is.
 */
import {Budget} from '../base/budget.js';
import {messageOf} from '../base/errors.js';
import {settleAll} from '../base/settle-all.js';
import {Signal} from '../base/signal.js';
import {SECTOR} from '../base/units.js';
import {ABSENT, COPIED, PARTIAL, ZEROED} from '../map/block-state.js';
import type {BackupTarget} from '../source/backup-target.js';
import type {Piece} from './backup-sends.js';
import {BadRanges} from './bad-ranges.js';
import type {VolumeCore} from './core.js';
import type {Fetcher} from './fetcher.js';
import {isMediumError} from './mender.js';
import {Pace} from './pace.js';
import type {ProtectionReport, ProtectionState} from './protection.js';
import type {WriteThrough} from './write-through.js';

/** Pieces under way at once. */
const DEPTH = 4;
/** Milliseconds between two looks when blocks wait for their time or an error was answered. */
const REST_MS = 100;

/** A part of a range: [start, end) in bytes. */
interface Span {
  start: number;
  end: number;
}

export class Resyncer {
  readonly #core: VolumeCore;
  readonly #through: WriteThrough;
  readonly #fetcher: Fetcher;
  readonly #pace: Pace;
  readonly #slots = new Budget(DEPTH);
  /** Blocks that the store could not read: sent alone, and later. */
  readonly #unreadable: BadRanges;
  readonly #wake = new Signal();
  #rateLimit: number | undefined;
  #cursor = 0;
  #loop: Promise<void> = Promise.resolve();
  #hasFailed = false;

  constructor(core: VolumeCore, through: WriteThrough, fetcher: Fetcher) {
    this.#core = core;
    this.#through = through;
    this.#fetcher = fetcher;
    this.#pace = new Pace(core);
    this.#unreadable = new BadRanges(core);
    through.onWork = () => this.poke();
  }

  start(): void {
    this.#loop = this.#run();
  }

  poke(): void {
    this.#wake.fire();
  }

  /** Bytes a second at most; undefined: no limit. */
  setRate(limit: number | undefined): void {
    this.#rateLimit = limit;
    this.#pace.setLimit(limit);
    this.#pace.interrupt();
  }

  /** After the volume's stopping signal: ends with what is under way. */
  async stop(): Promise<void> {
    this.#pace.interrupt();
    this.poke();
    await this.#loop;
  }

  /** Sends one block now, for a strict write that needs it. */
  async bring(block: number): Promise<void> {
    const {target} = this.#through;
    if (!target || !(await this.#prepare(block))) return;
    await this.#through.declareInconsistent();
    await this.#send(target, block, block + 1);
  }

  report(): ProtectionReport {
    const {backlog, link, lastError, memory, mode} = this.#through;
    const {blockSize} = this.#core.geometry;
    const rate = this.#pace.rate();
    const behindBytes = backlog.behindCount * blockSize;
    return {
      mode,
      state: this.#state(),
      ...memory,
      behindBlocks: backlog.behindCount,
      behindBytes,
      unflushedBlocks: backlog.liveCount,
      link: link.health(),
      lastError,
      resync: {
        rateLimit: this.#rateLimit,
        rate,
        etaMs: rate === 0 || behindBytes === 0 ? undefined : (behindBytes / rate) * 1000,
      },
    };
  }

  #state(): ProtectionState {
    const {backlog, memory, mode} = this.#through;
    if (mode === 'off') return 'off';
    if (memory.inconsistentSince !== undefined) return 'resync';
    if (backlog.behindCount > 0 || memory.consistentAsOf === undefined) return 'behind';
    return 'protected';
  }

  async #run(): Promise<void> {
    while (!this.#core.isStopping) {
      const target = this.#isAtWork() ? this.#through.target : undefined;
      if (!target) {
        await this.#wake.wait();
        continue;
      }
      try {
        await this.#step(target);
      } catch (error) {
        this.#core.environment.log('warning', `resync: ${messageOf(error)}`);
        this.#hasFailed = true;
      }
      if (!this.#hasFailed) continue;
      this.#hasFailed = false;
      await this.#pace.rest(REST_MS);
    }
    while (this.#slots.used > 0) await this.#wake.wait();
  }

  #isAtWork(): boolean {
    return this.#through.backlog.behindCount > 0 && this.#core.mode === 'read-write';
  }

  async #step(target: BackupTarget): Promise<void> {
    const {backlog} = this.#through;
    const doubtful = backlog.unproved();
    if (doubtful.length > 0) return this.#prove(target, doubtful);
    const next = this.#nextToSend(this.#cursor) ?? this.#nextToSend(0);
    if (next === undefined) {
      if (this.#slots.used > 0) return await this.#wake.wait();
      this.#through.commitSoon();
      await this.#pace.rest(REST_MS);
      return;
    }
    await this.#through.declareInconsistent();
    if (!(await this.#prepare(next))) {
      this.#cursor = next + 1;
      return;
    }
    const end = this.#pieceEnd(next);
    const bytes = this.#core.geometry.offsetOf(end) - this.#core.geometry.offsetOf(next);
    await this.#pace.beforeFetch(bytes, true);
    await this.#slots.take(1);
    this.#cursor = end;
    void this.#send(target, next, end)
      .then(() => this.#pace.fetched(bytes))
      .catch(() => {
        this.#hasFailed = true;
      })
      .finally(() => {
        this.#slots.give(1);
        if (this.#through.backlog.behindCount === 0) this.#through.commitSoon();
        this.poke();
      });
  }

  /** The next block from `from` on that may be sent and that the store is thought to read. */
  #nextToSend(from: number): number | undefined {
    const {backlog} = this.#through;
    let next = backlog.nextToSend(from);
    while (next !== undefined && this.#unreadable.isResting(next))
      next = backlog.nextToSend(next + 1);
    return next;
  }

  /** Blocks from `block` on that may go in one piece, as the map is now. */
  #pieceEnd(block: number): number {
    const {geometry, map, tuning} = this.#core;
    const blocksMax = Math.max(1, Math.floor(tuning.fetchBytesMax / geometry.blockSize));
    const limit = Math.min(block + blocksMax, geometry.blockCount, geometry.pageEnd(block));
    const runEnd = map.runEnd(block, limit);
    let end = block + 1;
    if (this.#unreadable.isSuspect(block)) return end;
    while (end < runEnd && this.#through.backlog.maySend(end) && !this.#unreadable.isSuspect(end))
      end++;
    return end;
  }

  /** Sees to it that the store has all there is to send; false where that must wait. */
  async #prepare(block: number): Promise<boolean> {
    await this.#core.ensureLoaded(block, block + 1);
    const state = this.#core.map.get(block);
    const isMissing = state === ABSENT || state === PARTIAL;
    if (!isMissing || this.#through.isSource) return true;
    try {
      const fetches = await this.#fetcher.background(block, block + 1);
      await Promise.all(fetches.map((fetch) => fetch.installed));
    } catch (error) {
      this.#core.environment.log('warning', `resync: ${messageOf(error)}`);
      this.#hasFailed = true;
      return false;
    }
    const now = this.#core.map.get(block);
    return now !== ABSENT && now !== PARTIAL;
  }

  /** Blocks [start, end), as far as they still are behind and of one state. */
  async #send(target: BackupTarget, start: number, end: number): Promise<void> {
    const {geometry, locks, map} = this.#core;
    const {backlog} = this.#through;
    const hold = await locks.acquire(geometry.offsetOf(start), geometry.offsetOf(end));
    let sending: Promise<void>;
    try {
      let stop = start;
      const state = map.get(start);
      const limit = state === PARTIAL ? start + 1 : end;
      while (stop < limit && backlog.maySend(stop) && map.get(stop) === state) stop++;
      if (stop === start || this.#through.target !== target) return;
      if (!this.#canSend(start)) return;
      const pieces = await this.#readOrNote(start, stop);
      if (this.#core.isAbandoned || this.#through.target !== target) return;
      for (let block = start; block < stop; block++) if (!backlog.maySend(block)) return;
      backlog.resend(start, stop);
      sending = this.#through.sends.transmit(target, {start, count: stop - start}, pieces);
    } finally {
      hold.release();
    }
    await sending;
  }

  /** It was so when prepared, and may have changed before the lock. */
  #canSend(block: number): boolean {
    const state = this.#core.map.get(block);
    return this.#through.isSource || (state !== ABSENT && state !== PARTIAL);
  }

  /**
   * As #read(); where the store cannot, notes it and rejects. Of several blocks each is then read
   * alone; a single one is nowhere else, unless it was copied: then the source still has it.
   */
  async #readOrNote(start: number, end: number): Promise<Piece[]> {
    const {counters, geometry, isAbandoned, map, storeErrors} = this.#core;
    try {
      const pieces = await this.#read(start, end);
      this.#unreadable.succeeded(start, end);
      return pieces;
    } catch (error) {
      if (isAbandoned || !isMediumError(error)) throw error;
      counters.storeErrors++;
      this.#unreadable.failed(start, end, messageOf(error));
      if (end - start === 1) {
        const isCopied = map.get(start) === COPIED;
        if (isCopied) this.#core.lose(start);
        const offset = geometry.offsetOf(start);
        const length = geometry.offsetOf(end) - offset;
        storeErrors.note(offset, length, isCopied ? 'fetched anew' : 'lost');
      }
      throw error;
    }
  }

  /** What the backup must be sent for blocks [start, end), which are in one state and locked. */
  async #read(start: number, end: number): Promise<Piece[]> {
    const {geometry, map, store} = this.#core;
    const offset = geometry.offsetOf(start);
    const length = geometry.offsetOf(end) - offset;
    const state = map.get(start);
    if (state === ABSENT) return [];
    if (state === ZEROED) return [{offset, length, bytes: undefined}];
    const spans = state === PARTIAL ? this.#masked(start) : [{start: offset, end: offset + length}];
    return Promise.all(
      spans.map(async (span) => {
        const bytes = Buffer.alloc(span.end - span.start);
        await store.read(span.start, bytes);
        return {offset: span.start, length: bytes.length, bytes};
      }),
    );
  }

  #masked(block: number): Span[] {
    const {geometry, masks} = this.#core;
    const offset = geometry.offsetOf(block);
    return masks
      .runs(block, 0, geometry.sectorsIn(block))
      .filter((run) => run.isMasked)
      .map((run) => ({start: offset + run.start * SECTOR, end: offset + run.end * SECTOR}));
  }

  /** Reads doubtful blocks back: what was sent again and flushed must be what is there. */
  async #prove(target: BackupTarget, blocks: readonly number[]): Promise<void> {
    for (let index = 0; index < blocks.length; index += DEPTH) {
      await settleAll(
        blocks.slice(index, index + DEPTH).map((block) => this.#proveBlock(target, block)),
      );
    }
    this.#through.commitSoon();
  }

  async #proveBlock(target: BackupTarget, block: number): Promise<void> {
    const {geometry, locks, tuning} = this.#core;
    const {backlog} = this.#through;
    const hold = await locks.acquire(geometry.offsetOf(block), geometry.offsetOf(block + 1));
    try {
      if (this.#through.target !== target || this.#core.isStopping) return;
      if (!backlog.isUnproved(block)) return;
      const isEqual = await this.#isEqual(target, block);
      if (!this.#core.isAbandoned) backlog.proved(block, isEqual, tuning.zombieGraceMs);
    } finally {
      hold.release();
    }
  }

  /** What the store cannot read is not proved. */
  async #isEqual(target: BackupTarget, block: number): Promise<boolean> {
    const pieces = await this.#readOrNote(block, block + 1).catch((error: unknown) => {
      if (!isMediumError(error)) throw error;
    });
    if (pieces === undefined) return false;
    for (const {offset, length, bytes} of pieces) {
      const there = Buffer.alloc(length);
      await target.read(offset, there);
      if (!there.equals(bytes ?? Buffer.alloc(length))) return false;
    }
    return true;
  }
}
