/**
 * Fetches runs of blocks from the source, once each, and installs them in the store.
 *
 *   begin ──▶ reading ──data──▶ arrived ──last user gone──▶ installing ──▶ (gone)
 *                └────error──────────────────────────────────────────────▶ (gone)
 *
 * Requests that miss the same block join the fetch that is under way, at any point until it is
 * gone. A fetch is installed after the requests that wait for it have copied their bytes, so a
 * guest never waits for copy-on-read. Its buffer counts against a budget until it is installed: one
 * for what requests wait for, one for background work, so that neither takes the other's.
 *
 * I4: install locks the blocks, then looks at each again: absent blocks and unmasked sectors of
 * partial ones take the bytes, everything else has been overtaken by the guest and is dropped.
 */
import {assert} from '../base/assert.js';
import {Budget} from '../base/budget.js';
import {deferred, type Deferred} from '../base/deferred.js';
import {messageOf} from '../base/errors.js';
import {settleAll} from '../base/settle-all.js';
import {SECTOR} from '../base/units.js';
import {ABSENT, COPIED, OVERWRITTEN, PARTIAL} from '../map/block-state.js';
import type {VolumeCore} from './core.js';

/** For whom a fetch was begun. */
export type FetchPurpose = 'request' | 'ahead' | 'background';

export interface Fetch {
  /** Blocks [start, end). */
  readonly start: number;
  readonly end: number;
  readonly buffer: Buffer;
  /** Resolves once the buffer holds the source's bytes. */
  readonly data: Promise<void>;
  /** Resolves once they are in the store or were dropped; rejects where either step failed. */
  readonly installed: Promise<void>;
}

/** Bytes of the budget that a request has waited for and not used yet. */
export interface Room {
  bytes: number;
}

interface Entry extends Fetch {
  readonly purpose: FetchPurpose;
  readonly budget: Budget;
  readonly done: Deferred<void>;
  users: number;
  hasArrived: boolean;
  isInstalling: boolean;
  /** The store was replaced meanwhile: what it brings may be older than what was written since. */
  isOutdated: boolean;
}

export class Fetcher {
  readonly #core: VolumeCore;
  readonly #afterChange: () => void;
  readonly #byBlock = new Map<number, Entry>();
  readonly #disowned = new Set<Promise<void>>();
  readonly #requestBudget: Budget;
  readonly #backgroundBudget: Budget;

  /** `afterChange` is called whenever an install has changed the map. */
  constructor(core: VolumeCore, afterChange: () => void) {
    this.#core = core;
    this.#afterChange = afterChange;
    this.#requestBudget = new Budget(core.tuning.requestFetchBytes);
    this.#backgroundBudget = new Budget(core.tuning.backgroundFetchBytes);
  }

  /** Blocks under way. */
  get blocksInFlight(): number {
    return this.#byBlock.size;
  }

  isInFlight(block: number): boolean {
    return this.#byBlock.has(block);
  }

  /**
   * The fetches that cover blocks [start, end), joined or begun, each held for the caller until
   * {@link release}. They end early, at `end`, where there is no room for another buffer: then the
   * caller uses what it holds, releases it, and only then waits for room, so that nobody waits
   * while holding.
   */
  hold(start: number, end: number, room: Room): {fetches: Fetch[]; end: number} {
    const fetches: Entry[] = [];
    let block = start;
    while (block < end) {
      const entry = this.#byBlock.get(block) ?? this.#beginForRequest(block, end, room);
      if (entry === undefined) break;
      entry.users++;
      fetches.push(entry);
      block = entry.end;
    }
    return {fetches, end: Math.min(block, end)};
  }

  /** Waits for room for a fetch from `block` on. What was planned may no longer hold then. */
  async waitForRoom(block: number, end: number, room: Room): Promise<void> {
    const bytes = this.#bytesOf(block, this.#freeRunEnd(block, end));
    await this.#requestBudget.take(bytes);
    room.bytes += bytes;
  }

  /** Gives back what a request waited for and did not need after all. */
  giveBack(room: Room): void {
    if (room.bytes > 0) this.#requestBudget.give(room.bytes);
    room.bytes = 0;
  }

  /** The caller has copied what it needs. */
  release(fetch: Fetch): void {
    const entry = fetch as Entry;
    entry.users--;
    assert(entry.users >= 0, 'a fetch is released as often as held');
    this.#installWhenFree(entry);
  }

  /**
   * Begins fetches ahead of a reader for what is absent in [start, end), as far as there is room.
   */
  ahead(start: number, end: number): void {
    for (let block = start; block < end;) {
      if (this.#byBlock.has(block) || this.#core.map.get(block) !== ABSENT) {
        block++;
        continue;
      }
      const runEnd = this.#core.map.runEnd(block, this.#freeRunEnd(block, end));
      if (!this.#backgroundBudget.tryTake(this.#bytesOf(block, runEnd))) return;
      this.#begin(block, runEnd, 'ahead', this.#backgroundBudget);
      block = runEnd;
    }
  }

  /**
   * Fetches blocks [start, end) for hydration: waits for room, then begins or joins. The caller
   * waits for `installed` of each. Blocks that are no longer absent or partial when there is room
   * are left out.
   */
  async background(start: number, end: number): Promise<Fetch[]> {
    const bytes = this.#bytesOf(start, end);
    await this.#backgroundBudget.take(bytes);
    let used = 0;
    const fetches: Fetch[] = [];
    for (let block = start; block < end;) {
      const joined = this.#byBlock.get(block);
      const state = this.#core.map.get(block);
      if (joined) {
        fetches.push(joined);
        block = joined.end;
      } else if (state === ABSENT || state === PARTIAL) {
        const runEnd = this.#core.map.runEnd(block, this.#freeRunEnd(block, end));
        used += this.#bytesOf(block, runEnd);
        fetches.push(this.#begin(block, runEnd, 'background', this.#backgroundBudget));
        block = runEnd;
      } else block++;
    }
    this.#backgroundBudget.give(bytes - used);
    return fetches;
  }

  /** What is under way is not to be installed, nor joined by anyone. */
  disown(): void {
    for (const entry of this.#byBlock.values()) {
      entry.isOutdated = true;
      this.#disowned.add(entry.installed.catch(() => undefined));
    }
    this.#byBlock.clear();
  }

  /** Resolves once nothing is under way. */
  async drain(): Promise<void> {
    await Promise.all(this.#disowned);
    while (this.#byBlock.size > 0) {
      const [entry] = this.#byBlock.values();
      await entry?.installed.catch(() => undefined);
    }
  }

  #bytesOf(start: number, end: number): number {
    return this.#core.geometry.offsetOf(end) - this.#core.geometry.offsetOf(start);
  }

  /** The end of the run from `block` that no fetch covers, and that one fetch may take. */
  #freeRunEnd(block: number, end: number): number {
    const {geometry, tuning} = this.#core;
    const blocksMax = Math.max(1, Math.floor(tuning.fetchBytesMax / geometry.blockSize));
    const limit = Math.min(end, block + blocksMax);
    let runEnd = block + 1;
    while (runEnd < limit && !this.#byBlock.has(runEnd)) runEnd++;
    return runEnd;
  }

  /** In the caller's own room if it has some, so that nobody overtakes who has waited. */
  #beginForRequest(block: number, end: number, room: Room): Entry | undefined {
    const {blockSize} = this.#core.geometry;
    const blocksMax = Math.max(1, Math.floor(room.bytes / blockSize));
    const runEnd = this.#freeRunEnd(block, room.bytes > 0 ? Math.min(end, block + blocksMax) : end);
    const bytes = this.#bytesOf(block, runEnd);
    if (bytes <= room.bytes) room.bytes -= bytes;
    else if (!this.#requestBudget.tryTake(bytes)) return undefined;
    return this.#begin(block, runEnd, 'request', this.#requestBudget);
  }

  #begin(start: number, end: number, purpose: FetchPurpose, budget: Budget): Entry {
    const data = deferred<void>();
    const done = deferred<void>();
    const entry: Entry = {
      start,
      end,
      purpose,
      budget,
      done,
      buffer: Buffer.allocUnsafeSlow(this.#bytesOf(start, end)),
      data: data.promise,
      installed: done.promise,
      users: 0,
      hasArrived: false,
      isInstalling: false,
      isOutdated: false,
    };
    for (let block = start; block < end; block++) this.#byBlock.set(block, entry);
    void this.#read(entry, data);
    return entry;
  }

  async #read(entry: Entry, data: Deferred<void>): Promise<void> {
    const {counters, geometry, source} = this.#core;
    try {
      const priority = entry.purpose === 'request' ? 'foreground' : 'background';
      await source.read(geometry.offsetOf(entry.start), entry.buffer, {priority});
    } catch (error) {
      counters.sourceErrors++;
      this.#remove(entry);
      data.reject(error);
      entry.done.reject(error);
      return;
    }
    if (entry.purpose === 'request') counters.fetchedForRequests += entry.buffer.length;
    else if (entry.purpose === 'ahead') counters.fetchedAhead += entry.buffer.length;
    else counters.fetchedInBackground += entry.buffer.length;
    entry.hasArrived = true;
    data.resolve();
    this.#installWhenFree(entry);
  }

  #installWhenFree(entry: Entry): void {
    if (!entry.hasArrived || entry.users > 0 || entry.isInstalling) return;
    entry.isInstalling = true;
    void this.#install(entry);
  }

  #remove(entry: Entry): void {
    for (let block = entry.start; block < entry.end; block++)
      if (this.#byBlock.get(block) === entry) this.#byBlock.delete(block);
    entry.budget.give(entry.buffer.length);
  }

  async #install(entry: Entry): Promise<void> {
    const {counters, environment, geometry, locks} = this.#core;
    let failure: unknown;
    if (this.#core.mode === 'read-write' && !this.#core.isAbandoned) {
      const hold = await locks.acquire(
        geometry.offsetOf(entry.start),
        geometry.offsetOf(entry.end),
      );
      try {
        if (!entry.isOutdated) await this.#installLocked(entry);
      } catch (error) {
        failure = error;
        counters.storeErrors++;
        environment.log('warning', `fetched blocks could not be kept: ${messageOf(error)}`);
      } finally {
        hold.release();
      }
    }
    this.#remove(entry);
    if (failure === undefined) entry.done.resolve();
    else entry.done.reject(failure);
  }

  /** Under the lock of all its blocks: nobody else changes their state or bytes. */
  async #installLocked(entry: Entry): Promise<void> {
    const {counters, environment, map, masks} = this.#core;
    const isLate = environment.bugs.has('late-install');
    const absentRuns: [number, number][] = [];
    const partialBlocks: number[] = [];
    const writes: Promise<void>[] = [];
    for (let block = entry.start; block < entry.end;) {
      const state = map.get(block);
      const runEnd = map.runEnd(block, entry.end);
      if (state === ABSENT) absentRuns.push([block, runEnd]);
      else if (state === PARTIAL) for (let at = block; at < runEnd; at++) partialBlocks.push(at);
      else counters.droppedBlocks += runEnd - block;
      if (state === ABSENT || isLate) writes.push(this.#writeSectors(entry, block, runEnd));
      block = runEnd;
    }
    if (!isLate) for (const block of partialBlocks) writes.push(...this.#fillPartial(entry, block));
    await settleAll(writes);
    if (this.#core.isAbandoned) return;
    for (const [start, end] of absentRuns) map.set(start, end, COPIED);
    for (const block of partialBlocks) {
      map.set(block, block + 1, OVERWRITTEN);
      masks.drop(block);
    }
    counters.installedBlocks += partialBlocks.length;
    for (const [start, end] of absentRuns) counters.installedBlocks += end - start;
    this.#afterChange();
  }

  #writeSectors(entry: Entry, startBlock: number, endBlock: number): Promise<void> {
    const {geometry, store} = this.#core;
    const base = geometry.offsetOf(entry.start);
    const start = geometry.offsetOf(startBlock);
    return store.write(
      start,
      entry.buffer.subarray(start - base, geometry.offsetOf(endBlock) - base),
    );
  }

  #fillPartial(entry: Entry, block: number): Promise<void>[] {
    const {geometry, masks, store} = this.#core;
    const base = geometry.offsetOf(entry.start);
    const offset = geometry.offsetOf(block);
    return masks
      .runs(block, 0, geometry.sectorsIn(block))
      .filter((run) => !run.isMasked)
      .map((run) => {
        const start = offset + run.start * SECTOR;
        const end = offset + run.end * SECTOR;
        return store.write(start, entry.buffer.subarray(start - base, end - base));
      });
  }
}
