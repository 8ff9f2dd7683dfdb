/**
 * Which blocks the backup may lack, and why a crash at any moment does not forget one (I8).
 *
 *             a write is sent                     all answered, then a flush
 *   in step ───────────────────▶ live ─────────────────────────────────────────▶ in step
 *      │                        │    ▲
 *      │ not sent               │    │ resync sends it
 *      └──────────▶ behind ◀────┘────┘
 *                      a send failed, the connection was lost, it is switched off
 *
 *   lacking   blocks that are live or behind, in memory that outlives the process
 *   on disk   what the map on disk says is behind; it may say so for too long, never too briefly
 *   entry     a block of `lacking` that is live, or that the disk does not know of yet
 *
 * A block is in `lacking` before any byte of it goes to store or backup. Until the disk knows of
 * it, its entry keeps the region's intent mark (map/intent-log.ts): after a power cut a marked
 * region is behind as a whole.
 *
 * A *doubtful* block had a write under way when a connection died. A server may still carry that
 * write out later (a zombie), over what the next connection sent. So it is sent again only after a
 * time of grace, flushed, and read back; until then it counts as behind.
 */
import {assert} from '../base/assert.js';
import {BlockSet, type BlockRun} from '../map/block-set.js';
import type {VolumeCore} from './core.js';

interface Entry {
  /** Sends under way. */
  inFlight: number;
  /** Sent to since the last flush that was begun. */
  isTouched: boolean;
  isBehind: boolean;
  /** Sent again and flushed, but doubtful: it is to be read back. */
  isUnproved: boolean;
  /** It keeps a use of its region's intent mark. */
  hasMark: boolean;
}

/** What a commit writes of the backlog. */
export interface BacklogChanges {
  behindSet: BlockRun[];
  behindCleared: BlockRun[];
}

export class Backlog {
  readonly #core: VolumeCore;
  readonly #lacking: BlockSet;
  readonly #entries = new Map<number, Entry>();
  /** Blocks that left `lacking` while the disk says they are behind. */
  readonly #cleared = new Set<number>();
  readonly #doubtful: BlockSet;
  /** Until when (clock time) no doubtful block may be sent again. */
  #doubtUntil = -Infinity;
  #bulk: BlockRun[] = [];
  #live = 0;
  #falls = 0;
  #unproved = 0;

  constructor(core: VolumeCore, lacking: BlockSet) {
    this.#core = core;
    this.#lacking = lacking;
    this.#doubtful = new BlockSet(core.geometry, core.environment, 'doubtful');
  }

  /** Blocks known to be missing on the backup. */
  get behindCount(): number {
    return this.#lacking.count - this.#live + this.#unproved;
  }

  /** Blocks sent and not yet covered by a flush. */
  get liveCount(): number {
    return this.#live - this.#unproved;
  }

  /** Rises whenever a block falls behind: equal at two moments, none did in between. */
  get falls(): number {
    return this.#falls;
  }

  get unprovedCount(): number {
    return this.#unproved;
  }

  /** Behind, or sent and not flushed. */
  isLacking(block: number): boolean {
    return this.#lacking.has(block);
  }

  isBehind(block: number): boolean {
    if (!this.#lacking.has(block)) return false;
    const entry = this.#entries.get(block);
    return entry === undefined || entry.isBehind || entry.isUnproved;
  }

  /** Whether any of blocks [start, end) is behind. */
  isAnyBehind(start: number, end: number): boolean {
    for (let block = this.#lacking.next(start, end); block !== undefined;) {
      if (this.isBehind(block)) return true;
      block = this.#lacking.next(block + 1, end);
    }
    return false;
  }

  /** The first block from `from` on that may be sent now. */
  nextToSend(from: number): number | undefined {
    const end = this.#core.geometry.blockCount;
    for (let block = this.#lacking.next(from, end); block !== undefined;) {
      if (this.maySend(block)) return block;
      block = this.#lacking.next(block + 1, end);
    }
    return undefined;
  }

  maySend(block: number): boolean {
    if (!this.isBehind(block) || this.isUnproved(block)) return false;
    return !this.#doubtful.has(block) || this.#doubtUntil <= this.#core.environment.clock.now();
  }

  isUnproved(block: number): boolean {
    return this.#entries.get(block)?.isUnproved === true;
  }

  /** Blocks that were doubtful, are sent and flushed, and must be read back. */
  unproved(): number[] {
    if (this.#unproved === 0) return [];
    return [...this.#entries].flatMap(([block, entry]) => (entry.isUnproved ? [block] : []));
  }

  /**
   * Blocks [start, end) are about to be sent by a request whose intent marks are durable. Those
   * behind are left out: the resync sends them whole. Returns the runs to send.
   */
  begin(start: number, end: number): BlockRun[] {
    const runs: BlockRun[] = [];
    for (let block = start; block < end; block++) {
      if (this.isBehind(block)) {
        this.note(block, block + 1);
        continue;
      }
      this.#send(block, true);
      const last = runs.at(-1);
      if (last && last.start + last.count === block) last.count++;
      else runs.push({start: block, count: 1});
    }
    return runs;
  }

  /** The resync is about to send blocks [start, end), which are behind. */
  resend(start: number, end: number): void {
    for (let block = start; block < end; block++) this.#send(block, false);
  }

  /** Blocks [start, end) change and are not sent. The caller's intent marks are durable. */
  note(start: number, end: number): void {
    for (let block = start; block < end; block++) {
      const entry = this.#entries.get(block);
      if (entry) this.#fallBehind(block, entry);
      else if (!this.#lacking.has(block)) this.#add(block, {isBehind: true, keepMark: true});
    }
  }

  /** A send of these blocks has ended. */
  answered({start, count}: BlockRun, isDone: boolean): void {
    for (let block = start; block < start + count; block++) {
      const entry = this.#entries.get(block);
      assert(entry !== undefined && entry.inFlight > 0, 'I5: a send ends once');
      entry.inFlight--;
      if (!isDone) this.#fallBehind(block, entry);
      if (entry.isBehind) this.#drop(block, entry);
    }
  }

  /**
   * The connection is lost, or no longer wanted: nothing since the last answered flush counts.
   * Writes under way may still arrive for `graceMs`.
   */
  loseUnflushed(graceMs: number): void {
    const {bugs, clock} = this.#core.environment;
    this.#doubtUntil = clock.now() + graceMs;
    for (const [block, entry] of this.#entries) {
      if (entry.isBehind) continue;
      if (entry.inFlight > 0 && !bugs.has('zombie-write')) this.#doubtful.add(block, block + 1);
      if (entry.inFlight === 0 && bugs.has('reconnect-set-lost')) continue;
      this.#fallBehind(block, entry);
    }
  }

  /** What a flush that begins now will cover; give it to {@link covered} when it was answered. */
  beginFlush(): number[] {
    const blocks: number[] = [];
    for (const [block, entry] of this.#entries) {
      if (entry.isBehind || entry.isUnproved || entry.inFlight > 0) continue;
      entry.isTouched = false;
      blocks.push(block);
    }
    return blocks;
  }

  covered(blocks: readonly number[]): void {
    for (const block of blocks) {
      const entry = this.#entries.get(block);
      if (!entry || entry.isBehind || entry.inFlight > 0 || entry.isTouched) continue;
      if (this.#doubtful.has(block)) {
        entry.isUnproved = true;
        this.#unproved++;
      } else this.#leave(block, entry);
    }
  }

  /** A block was read back: it is in step, or it is not and must be sent once more. */
  proved(block: number, isEqual: boolean, graceMs: number): void {
    const entry = this.#entries.get(block);
    if (!entry?.isUnproved) return;
    if (isEqual) {
      this.#settleProof(entry);
      this.#doubtful.delete(block, block + 1);
      this.#leave(block, entry);
      return;
    }
    this.#doubtUntil = this.#core.environment.clock.now() + graceMs;
    this.#fallBehind(block, entry);
  }

  /** Blocks [start, end) are behind from now on; durable at the next commit. */
  addBulk(start: number, end: number): void {
    for (let block = start; block < end; block++) {
      const entry = this.#entries.get(block);
      if (entry) this.#fallBehind(block, entry);
    }
    this.#lacking.add(start, end);
    this.#falls++;
    this.#bulk.push({start, count: end - start});
  }

  /**
   * The backlog as the disk knows it, at opening, and the disk's view of it made the same for the
   * checkpoint that opening ends with. All of it is doubtful, after a clean stop too: the server
   * may still work on what the last daemon sent on a connection that it lost before it ended.
   */
  open(graceMs: number): void {
    const {behind, environment, geometry, map} = this.#core;
    for (const set of [behind, this.#lacking]) {
      for (const {start, count} of set.runs(0, geometry.blockCount)) {
        map.touch(start, start + count);
      }
    }
    for (const {start, count} of behind.runs(0, geometry.blockCount)) {
      this.#lacking.add(start, start + count);
    }
    for (const {start, count} of this.#lacking.runs(0, geometry.blockCount)) {
      behind.add(start, start + count);
      if (!environment.bugs.has('zombie-write')) this.#doubtful.add(start, start + count);
    }
    this.#doubtUntil = environment.clock.now() + graceMs;
  }

  /**
   * What the disk does not know yet; undefined where it knows everything. Called after the flushes
   * of a commit, since only they say what is in step.
   */
  takeChanges(): BacklogChanges | undefined {
    const {behind, map} = this.#core;
    const set: number[] = [];
    for (const [block, entry] of this.#entries) {
      if (!entry.isBehind || behind.has(block)) continue;
      behind.add(block, block + 1);
      set.push(block);
    }
    const cleared = [...this.#cleared].filter(
      (block) => !this.#lacking.has(block) && behind.has(block),
    );
    this.#cleared.clear();
    for (const block of cleared) behind.delete(block, block + 1);
    for (const block of [...set, ...cleared]) map.touch(block, block + 1);
    const bulk = this.#bulk;
    this.#bulk = [];
    for (const {start, count} of bulk) {
      behind.add(start, start + count);
      map.touch(start, start + count);
    }
    if (set.length + cleared.length + bulk.length === 0) return undefined;
    return {behindSet: [...bulk, ...runsOf(set)], behindCleared: runsOf(cleared)};
  }

  /** What takeChanges() gave is durable: entries that only waited for that are gone. */
  committed(): void {
    for (const [block, entry] of this.#entries) if (entry.isBehind) this.#drop(block, entry);
  }

  /** Asserts what must hold between any two steps; for tests. */
  selfCheck(): void {
    this.#lacking.selfCheck();
    let live = 0;
    for (const [block, entry] of this.#entries) {
      assert(this.#lacking.has(block), 'I8: a block with an entry is in the backlog');
      if (!entry.isBehind) live++;
    }
    assert(live === this.#live, 'live blocks are counted right');
  }

  #send(block: number, keepMark: boolean): void {
    const entry = this.#entries.get(block) ?? this.#add(block, {isBehind: false, keepMark});
    if (entry.isBehind) {
      entry.isBehind = false;
      this.#live++;
    }
    entry.inFlight++;
    entry.isTouched = true;
  }

  #add(block: number, {isBehind, keepMark}: {isBehind: boolean; keepMark: boolean}): Entry {
    const {geometry, intents} = this.#core;
    this.#lacking.add(block, block + 1);
    if (keepMark) intents.retain(geometry.regionOf(geometry.offsetOf(block)));
    const entry = {inFlight: 0, isTouched: false, isBehind, isUnproved: false, hasMark: keepMark};
    this.#entries.set(block, entry);
    if (isBehind) this.#falls++;
    else this.#live++;
    return entry;
  }

  #fallBehind(block: number, entry: Entry): void {
    this.#settleProof(entry);
    if (entry.isBehind) return;
    this.#falls++;
    entry.isBehind = true;
    this.#live--;
    this.#drop(block, entry);
  }

  #settleProof(entry: Entry): void {
    if (!entry.isUnproved) return;
    entry.isUnproved = false;
    this.#unproved--;
  }

  /** The block is in step. */
  #leave(block: number, entry: Entry): void {
    this.#live--;
    this.#lacking.delete(block, block + 1);
    if (this.#core.behind.has(block)) this.#cleared.add(block);
    this.#forget(block, entry);
  }

  /** An entry that is behind goes once the disk knows of it and nothing is under way. */
  #drop(block: number, entry: Entry): void {
    const isKnown = this.#core.behind.has(block) && !this.#core.isCommitting;
    if (entry.inFlight > 0 || !isKnown || this.#entries.get(block) !== entry) return;
    this.#forget(block, entry);
  }

  #forget(block: number, entry: Entry): void {
    const {geometry, intents} = this.#core;
    this.#entries.delete(block);
    if (!entry.hasMark) return;
    const region = geometry.regionOf(geometry.offsetOf(block));
    intents.end(region, region);
  }
}

function runsOf(blocks: number[]): BlockRun[] {
  const runs: BlockRun[] = [];
  for (const block of blocks.sort((a, b) => a - b)) {
    const last = runs.at(-1);
    if (last && last.start + last.count === block) last.count++;
    else runs.push({start: block, count: 1});
  }
  return runs;
}
