/**
 * The intent log in core: which regions carry a durable "may differ" mark (I11).
 *
 * Before the first write to a region that could make the store differ from what the map on disk
 * says (block-state.ts, `writeNeedsIntent`), the region's mark is durable. After an unclean stop,
 * copied blocks of marked regions count as overwritten. A mark is taken off lazily, together with a
 * commit that makes the true states durable, and only when the table is filling up or the volume
 * closes.
 *
 *   (none) ──begin──▶ pending ──record synced──▶ marked ──takeClears──▶ clearing
 *                                                  ▲                     │    │ record built
 *                                                  └──────── begin ──────┘    ▼
 *                                                  (none) ◀──synced──── leaving
 * A write that meets a leaving region waits until it is gone and marks it anew: the two records are
 * then in the order of the decisions. Writes in flight keep a region from being cleared.
 */
import {assert} from '../base/assert.js';
import {Budget} from '../base/budget.js';
import type {Environment} from '../base/environment.js';

type MarkState = 'pending' | 'marked' | 'clearing' | 'leaving';

interface Mark {
  state: MarkState;
  /** Writes in flight in the region. */
  users: number;
  slot: number;
  /** Settles when `pending` has become `marked`, or `leaving` has left. */
  settled: Promise<void> | undefined;
}

export interface IntentLogOptions {
  environment: Environment;
  capacity: number;
  /** Regions of the volume. */
  regionCount: number;
  /** Makes marks for these regions durable. */
  append: (regions: number[]) => Promise<void>;
  /** Asks for a commit, because a write waits for room. */
  needRoom: () => void;
}

/** Regions marked ahead of a sequential writer: 64 MiB. */
const AHEAD_MAX = 16;

/** Regions whose marks go into one record. */
interface Group {
  regions: number[];
  done: Promise<void>;
}

export class IntentLog {
  readonly #options: IntentLogOptions;
  readonly #memory: Float64Array;
  /** By region, least recently used first. */
  readonly #marks = new Map<number, Mark>();
  readonly #freeSlots: number[] = [];
  readonly #room: Budget;
  #pending: Group | undefined;
  #appending: Promise<void> = Promise.resolve();

  constructor(options: IntentLogOptions) {
    this.#options = options;
    const memory = options.environment.allocate('intents', options.capacity * 8);
    const {bytes} = memory;
    // After a take-over the marks are read from the map file, which alone says what is durable.
    if (memory.isInherited === true) memory.release(0, bytes.length);
    this.#memory = new Float64Array(bytes.buffer, bytes.byteOffset, options.capacity);
    this.#room = new Budget(options.capacity);
    for (let slot = options.capacity - 1; slot >= 0; slot--) this.#freeSlots.push(slot);
  }

  get count(): number {
    return this.#marks.size;
  }

  /** Regions whose mark is or may be on disk. */
  regions(): number[] {
    return [...this.#marks].flatMap(([region, mark]) => (mark.state === 'leaving' ? [] : [region]));
  }

  /**
   * Takes regions [first, last] into use by one write; resolves once their marks are durable. Ended
   * with
   * {@link end} unless it rejects. Waits for room while it holds nothing, so writes cannot block
   * each other.
   */
  async begin(first: number, last: number): Promise<void> {
    if (this.#options.environment.bugs.has('no-intent-mark')) return;
    await this.#addMissing(first, last);
    const pending: Promise<void>[] = [];
    for (let region = first; region <= last; region++) {
      const mark = this.#marks.get(region);
      assert(mark !== undefined && mark.state !== 'leaving', 'a region is marked before its use');
      mark.users++;
      if (mark.state === 'clearing') mark.state = 'marked';
      if (mark.state === 'pending' && mark.settled) pending.push(mark.settled);
      this.#marks.delete(region);
      this.#marks.set(region, mark);
    }
    if (pending.length === 0) return;
    try {
      await Promise.all(pending);
    } catch (error) {
      this.end(first, last);
      throw error;
    }
  }

  /** As begin() of one region, at once, where its mark is durable already; else false. */
  tryBegin(region: number): boolean {
    const mark = this.#marks.get(region);
    if (mark === undefined || (mark.state !== 'marked' && mark.state !== 'clearing')) return false;
    mark.state = 'marked';
    if (mark.users === 0) {
      this.#marks.delete(region);
      this.#marks.set(region, mark);
    }
    mark.users++;
    return true;
  }

  /** One more use of a region that is in use already. Ended with {@link end}. */
  retain(region: number): void {
    const mark = this.#marks.get(region);
    if (!mark) return;
    mark.users++;
    if (mark.state === 'clearing') mark.state = 'marked';
  }

  end(first: number, last: number): void {
    for (let region = first; region <= last; region++) {
      const mark = this.#marks.get(region);
      if (mark && mark.users > 0) mark.users--;
    }
    if (this.#room.waiters > 0) this.#options.needRoom();
  }

  /** Sees to it that each of the regions has a mark that is not leaving, pending at least. */
  async #addMissing(first: number, last: number): Promise<void> {
    const regions = Array.from({length: last - first + 1}, (_, index) => first + index);
    let taken = 0;
    for (;;) {
      const leaving = regions
        .map((region) => this.#marks.get(region))
        .find((mark) => mark?.state === 'leaving');
      const missing = regions.filter((region) => !this.#marks.has(region));
      if (!leaving && (missing.length <= taken || this.#room.tryTake(missing.length - taken))) {
        if (taken > missing.length) this.#room.give(taken - missing.length);
        const added = [...missing, ...this.#ahead(missing)];
        for (const region of added) this.#add(region, 'pending');
        for (const region of added) this.#makeDurable(region);
        return;
      }
      if (taken > 0) this.#room.give(taken);
      taken = 0;
      if (leaving) {
        await leaving.settled;
        continue;
      }
      const room = this.#room.take(missing.length);
      this.#options.needRoom();
      await room;
      taken = missing.length;
    }
  }

  /**
   * Regions that a sequential writer will want next: those behind one whose neighbour before it is
   * marked already. They ride the same record, so that it waits for one sync in many regions. A
   * mark in vain costs nothing but a larger resync after an unclean stop.
   */
  #ahead(missing: readonly number[]): number[] {
    const last = missing.at(-1);
    const {capacity, regionCount} = this.#options;
    if (last === undefined || !this.#marks.has((missing[0] ?? 0) - 1)) return [];
    const ahead: number[] = [];
    for (let region = last + 1; ahead.length < AHEAD_MAX && region < regionCount; region++) {
      const isRoomy = this.count + missing.length + ahead.length < capacity / 2;
      if (this.#marks.has(region) || !isRoomy || !this.#room.tryTake(1)) break;
      ahead.push(region);
    }
    return ahead;
  }

  /**
   * Joins the next record; one is on its way at a time, so marks asked for meanwhile share one
   * sync.
   */
  #makeDurable(region: number): void {
    const group = this.#pending ?? this.#startGroup();
    group.regions.push(region);
    const mark = this.#marks.get(region);
    if (mark) mark.settled = group.done;
  }

  #startGroup(): Group {
    const group: Group = {regions: [], done: Promise.resolve()};
    this.#pending = group;
    group.done = this.#appending.then(async () => {
      this.#pending = undefined;
      await this.#options.append(group.regions);
      for (const marked of group.regions) {
        const mark = this.#marks.get(marked);
        if (mark?.state === 'pending') mark.state = 'marked';
      }
    });
    this.#appending = group.done.catch(() => undefined);
    return group;
  }

  /**
   * Begins to clear marks that no write uses: `all`, or down to half once three quarters are taken.
   * Called with the dirty set; the states of their blocks ride the same commit.
   */
  takeClears(all: boolean): number {
    const {capacity} = this.#options;
    const isFull = this.count >= Math.ceil(capacity * 0.75) || this.#room.waiters > 0;
    let toClear = all ? this.count : isFull ? this.count - Math.floor(capacity / 2) : 0;
    let count = 0;
    for (const mark of this.#marks.values()) {
      if (toClear <= 0) break;
      if (mark.state !== 'marked' || mark.users > 0) continue;
      mark.state = 'clearing';
      toClear--;
      count++;
    }
    return count;
  }

  /**
   * The regions still to be cleared, now that their record is built. `gone` resolves after
   * {@link finishClears}, or rejects where the record failed: then whoever waits for it fails too.
   */
  buildClears(gone: Promise<void>): number[] {
    const regions: number[] = [];
    for (const [region, mark] of this.#marks) {
      if (mark.state !== 'clearing') continue;
      mark.state = 'leaving';
      mark.settled = gone;
      regions.push(region);
    }
    return regions;
  }

  /** The record is durable: the marks are gone. */
  finishClears(regions: readonly number[]): void {
    for (const region of regions) this.#remove(region);
  }

  #add(region: number, state: MarkState): Mark {
    const slot = this.#freeSlots.pop();
    assert(slot !== undefined, 'a taken place in the intent log is there');
    const mark: Mark = {state, users: 0, slot, settled: undefined};
    this.#memory[slot] = region + 1;
    this.#marks.set(region, mark);
    return mark;
  }

  #remove(region: number): void {
    const mark = this.#marks.get(region);
    assert(
      mark !== undefined && mark.users === 0,
      'I11: a mark leaves only while no write uses it',
    );
    this.#memory[mark.slot] = 0;
    this.#freeSlots.push(mark.slot);
    this.#marks.delete(region);
    this.#room.give(1);
  }
}
