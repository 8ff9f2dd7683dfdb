/**
 * The overwrite map in core: the state of every block, what changed since the last commit, and how
 * many blocks are in each state. No I/O happens here and no policy: the volume decides, this
 * remembers. Its memory, and in which order it is changed, is page-memory.ts; the lists of dirty,
 * changed and taken pages kept beside it are derived.
 *
 * A uniform DIRTY page is changed as a whole. takeChanges() hands over what changed as runs and
 * forgets it, synchronously: a change made after that call belongs to the next commit (I2). Until
 * finishTaken() says that what was taken is durable, its pages carry TAKEN, so that a daemon that
 * takes over commits them again (I3).
 */
import {assert} from '../base/assert.js';
import type {Environment} from '../base/environment.js';
import {
  clearMarks,
  countValues,
  endOfRun,
  fillEntries,
  isMarkedAt,
  nextMarked,
  valueAt,
} from '../base/nibbles.js';
import {
  ABSENT,
  isTransition,
  STATE_COUNT,
  stateName,
  type BlockState,
  type StateCode,
} from './block-state.js';
import {type Geometry, PAGE_BLOCKS} from './geometry.js';
import {CHANGED, DIRTY, MIXED, PageMemory, TAKEN, UNLOADED} from './page-memory.js';
import {type PageImage, pushRun, type StateRun} from './state-run.js';

export {MIXED} from './page-memory.js';
export type {PageImage, StateRun} from './state-run.js';

export class OverwriteMap {
  readonly geometry: Geometry;
  readonly #memory: PageMemory;
  readonly #kinds: Uint8Array;
  readonly #bugs: Environment['bugs'];
  /** Blocks in each state, by code; unloaded pages included. */
  #counts: number[] = new Array<number>(STATE_COUNT).fill(0);
  #dirtyPages: number[] = [];
  #changedPages: number[] = [];
  /** Pages whose changes a commit has taken and not made durable. */
  #takenPages: number[] = [];

  /** All blocks are absent, until recovery or adopt() says otherwise. */
  constructor(geometry: Geometry, environment: Environment, keepsMemory = false) {
    this.geometry = geometry;
    this.#bugs = environment.bugs;
    this.#memory = new PageMemory(geometry, environment);
    this.#kinds = this.#memory.kinds;
    if (keepsMemory) return;
    this.#memory.reset();
    this.#counts[ABSENT] = geometry.blockCount;
  }

  /**
   * Take-over: the map as the memory of a daemon that died has it. `onDisk` gives the counts of a
   * page that was never loaded; a text says why the memory cannot be believed.
   */
  static adopt(
    geometry: Geometry,
    environment: Environment,
    onDisk: (page: number) => readonly number[] | undefined,
  ): OverwriteMap | string {
    const map = new OverwriteMap(geometry, environment, true);
    const found = map.#memory.adopt(onDisk);
    if (typeof found === 'string') return found;
    map.#counts = found.totals;
    map.#dirtyPages = found.dirty;
    map.#changedPages = found.changed;
    return map;
  }

  /** Blocks in a state. */
  count(state: StateCode): number {
    return this.#counts[state] ?? 0;
  }

  counts(): Record<BlockState, number> {
    const entries = this.#counts.map((count, code) => [stateName(code as StateCode), count]);
    return Object.fromEntries(entries) as Record<BlockState, number>;
  }

  /** Pages with changes no checkpoint has taken; a checkpoint costs this many pages. */
  get changedPageCount(): number {
    return this.#changedPages.length;
  }

  /** Whether anything changed since the last takeChanges(). */
  get isDirty(): boolean {
    return this.#dirtyPages.length > 0;
  }

  /** Blocks of a page in a state, loaded or not. */
  countIn(page: number, state: StateCode): number {
    return this.#memory.countIn(page, state);
  }

  isPageLoaded(page: number): boolean {
    return this.#kinds[page] !== UNLOADED;
  }

  /** The first page of blocks [start, end) that must be loaded first, or undefined. */
  firstUnloadedPage(start: number, end: number): number | undefined {
    const last = this.geometry.pageOf(end - 1);
    for (let page = this.geometry.pageOf(start); page <= last; page++) {
      if (this.#kinds[page] === UNLOADED) return page;
    }
    return undefined;
  }

  /** The state of a block of a loaded page. */
  get(block: number): StateCode {
    const page = this.geometry.pageOf(block);
    const kind = this.#kinds[page] as number;
    assert(
      kind !== UNLOADED && block < this.geometry.blockCount,
      `block ${block} is in a loaded page`,
    );
    if (kind !== MIXED) return kind as StateCode;
    return valueAt(this.#memory.entriesOf(page), block - page * PAGE_BLOCKS) as StateCode;
  }

  /** Whether a block's state may be newer than what the last takeChanges() took. */
  isChanged(block: number): boolean {
    const page = this.geometry.pageOf(block);
    if (!this.#memory.has(page, DIRTY)) return false;
    if (this.#kinds[page] !== MIXED) return true;
    return isMarkedAt(this.#memory.entriesOf(page), block - page * PAGE_BLOCKS);
  }

  /**
   * The end of the run of blocks in one state that begins at `block`, at most `limit`. Loaded pages
   * only.
   */
  runEnd(block: number, limit: number): number {
    const state = this.get(block);
    let end = block;
    while (end < limit) {
      const page = this.geometry.pageOf(end);
      const first = page * PAGE_BLOCKS;
      const pageEnd = Math.min(first + PAGE_BLOCKS, limit);
      const kind = this.#kinds[page] as number;
      if (kind === MIXED) {
        end = first + endOfRun(this.#memory.entriesOf(page), end - first, pageEnd - first, state);
        if (end < pageEnd) return end;
      } else if (kind === state) end = pageEnd;
      else return end;
    }
    return end;
  }

  /**
   * Puts blocks [start, end) of loaded pages into `state`; each must be allowed to go there (I1,
   * I4).
   */
  set(start: number, end: number, state: StateCode): void {
    this.#change(start, end, state, true);
  }

  /** As set(), without asking the table: recovery, and losses, which ask isLoss(). */
  restore(run: StateRun): void {
    this.#change(run.start, run.start + run.count, run.state, false);
  }

  #change(start: number, end: number, state: StateCode, isChecked: boolean): void {
    assert(
      start < end && end <= this.geometry.blockCount,
      `blocks ${start}-${end} lie in the volume`,
    );
    for (let block = start; block < end;) {
      const page = this.geometry.pageOf(block);
      const first = page * PAGE_BLOCKS;
      const pageEnd = Math.min(first + this.geometry.blocksIn(page), end);
      assert(this.#kinds[page] !== UNLOADED, `page ${page} is loaded before it changes`);
      if (this.#kinds[page] !== state) {
        if (isChecked) this.#assertTransitions(page, block - first, pageEnd - first, state);
        this.#changeInPage(page, block - first, pageEnd - first, state);
      }
      block = pageEnd;
    }
  }

  #assertTransitions(page: number, start: number, end: number, state: StateCode): void {
    const kind = this.#kinds[page] as number;
    const entries = this.#memory.entriesOf(page);
    for (let index = start; index < end;) {
      const from = (kind === MIXED ? valueAt(entries, index) : kind) as StateCode;
      assert(
        isTransition(from, state),
        `I1, I4: block ${page * PAGE_BLOCKS + index} goes from ${stateName(from)} to ${stateName(state)}`,
      );
      index = kind === MIXED ? endOfRun(entries, index, end, from) : end;
    }
  }

  #changeInPage(page: number, start: number, end: number, state: StateCode): void {
    const blocks = this.geometry.blocksIn(page);
    const kind = this.#kinds[page] as number;
    const wasDirty = this.#memory.has(page, DIRTY);
    // In this order, for whoever finds it half done (page-memory.ts).
    this.#flag(page);
    if (start === 0 && end === blocks) {
      this.#kinds[page] = state;
      if (kind === MIXED) this.#memory.releaseEntries(page);
      this.#recount(page, state, blocks);
      return;
    }
    const entries = this.#memory.entriesOf(page);
    if (kind !== MIXED) {
      fillEntries(entries, 0, blocks, kind, wasDirty);
      this.#kinds[page] = MIXED;
    }
    for (let index = start; index < end;) {
      const from = valueAt(entries, index) as StateCode;
      const runEnd = endOfRun(entries, index, end, from);
      if (from !== state) {
        fillEntries(entries, index, runEnd, state, true);
        this.#move(page, from, state, runEnd - index);
      }
      index = runEnd;
    }
  }

  /**
   * Hands over all changes since the last call as runs in block order and forgets them. Cost: the
   * dirty pages. Pages that have become uniform give their memory back.
   */
  takeChanges(): StateRun[] {
    const runs: StateRun[] = [];
    const pages = this.#dirtyPages.sort((a, b) => a - b);
    this.#dirtyPages = [];
    for (const page of pages) {
      const first = page * PAGE_BLOCKS;
      const blocks = this.geometry.blocksIn(page);
      const kind = this.#kinds[page] as number;
      this.#take(page, DIRTY);
      if (kind !== MIXED) {
        pushRun(runs, {start: first, count: blocks, state: kind as StateCode});
        continue;
      }
      const entries = this.#memory.entriesOf(page);
      for (let index = nextMarked(entries, 0, blocks); index < blocks;) {
        const state = valueAt(entries, index) as StateCode;
        let end = index + 1;
        while (end < blocks && isMarkedAt(entries, end) && valueAt(entries, end) === state) end++;
        pushRun(runs, {start: first + index, count: end - index, state});
        index = nextMarked(entries, end, blocks);
      }
      clearMarks(entries);
      this.#collapse(page);
    }
    return runs;
  }

  /**
   * Copies of all pages changed since the last call, as they are now, and forgets that they
   * changed.
   */
  takePageImages(): PageImage[] {
    const pages = this.#changedPages.sort((a, b) => a - b);
    this.#changedPages = [];
    return pages.map((page) => {
      this.#take(page, CHANGED);
      const kind = this.#kinds[page] as number;
      const entries = kind === MIXED ? this.#memory.entriesOf(page).slice() : undefined;
      if (entries) clearMarks(entries);
      return {page, kind, counts: this.#memory.countsOf(page), entries};
    });
  }

  /** The next checkpoint writes the pages of blocks [start, end), changed or not. */
  touch(start: number, end: number): void {
    for (let page = this.geometry.pageOf(start); page * PAGE_BLOCKS < end; page++) {
      if (this.#memory.has(page, CHANGED)) continue;
      this.#changedPages.push(page);
      this.#memory.put(page, CHANGED);
    }
  }

  /** What was taken is durable. */
  finishTaken(): void {
    for (const page of this.#takenPages) this.#memory.clear(page, TAKEN);
    this.#takenPages = [];
  }

  /**
   * Recovery: says what a page on disk is, before anything changes. Mixed pages stay on disk until
   * loaded.
   */
  setPageFromDisk(page: number, kind: number, counts: readonly number[]): void {
    const sum = counts.reduce((total, count) => total + count, 0);
    assert(sum === this.geometry.blocksIn(page), `the counts of page ${page} add up`);
    const pageCounts = this.#memory.counts;
    for (let code = 0; code < STATE_COUNT; code++) {
      const at = page * STATE_COUNT + code;
      const count = counts[code] ?? 0;
      this.#counts[code] = this.count(code as StateCode) + count - (pageCounts[at] as number);
      pageCounts[at] = count;
    }
    this.#kinds[page] = kind === MIXED ? UNLOADED : kind;
  }

  /** Recovery: the entries of an unloaded page; false where they do not match the page's counts. */
  loadPage(page: number, entries: Uint8Array): boolean {
    if (this.#kinds[page] !== UNLOADED) return true;
    const counts = new Array<number>(STATE_COUNT).fill(0);
    countValues(entries, this.geometry.blocksIn(page), counts);
    if (counts.length !== STATE_COUNT) return false;
    if (counts.some((count, code) => count !== this.countIn(page, code as StateCode))) return false;
    this.#memory.entriesOf(page).set(entries);
    this.#kinds[page] = MIXED;
    return true;
  }

  /**
   * Asserts that counts, kinds and lists agree; for tests and after recovery. Cost: the whole map.
   */
  selfCheck(): void {
    const totals = new Array<number>(STATE_COUNT).fill(0);
    for (let page = 0; page < this.geometry.pageCount; page++) {
      const kind = this.#kinds[page] as number;
      const counts = new Array<number>(STATE_COUNT).fill(0);
      const blocks = this.geometry.blocksIn(page);
      if (kind === MIXED) countValues(this.#memory.entriesOf(page), blocks, counts);
      else if (kind !== UNLOADED) counts[kind] = blocks;
      for (let code = 0; code < STATE_COUNT; code++) {
        const recorded = this.countIn(page, code as StateCode);
        assert(
          kind === UNLOADED || counts[code] === recorded,
          `page ${page} counts state ${code} right`,
        );
        totals[code] = (totals[code] ?? 0) + recorded;
      }
      const isListed = (flag: number, pages: number[]): boolean =>
        !this.#memory.has(page, flag) || pages.includes(page);
      assert(isListed(DIRTY, this.#dirtyPages), `dirty page ${page} is listed`);
      assert(isListed(CHANGED, this.#changedPages), `changed page ${page} is listed`);
      assert(isListed(TAKEN, this.#takenPages), `taken page ${page} is listed`);
    }
    assert(
      totals.every((total, code) => total === this.#counts[code]),
      'the counts add up',
    );
  }

  /** All blocks of a page are now in one state. */
  #recount(page: number, state: StateCode, blocks: number): void {
    const {counts} = this.#memory;
    for (let code = 0; code < STATE_COUNT; code++) {
      const at = page * STATE_COUNT + code;
      const count = code === state ? blocks : 0;
      this.#counts[code] = this.count(code as StateCode) + count - (counts[at] as number);
      counts[at] = count;
    }
  }

  #move(page: number, from: StateCode, to: StateCode, count: number): void {
    const base = page * STATE_COUNT;
    const {counts} = this.#memory;
    counts[base + from] = this.countIn(page, from) - count;
    counts[base + to] = this.countIn(page, to) + count;
    this.#counts[from] = this.count(from) - count;
    this.#counts[to] = this.count(to) + count;
  }

  #flag(page: number): void {
    if (!this.#memory.has(page, DIRTY)) this.#dirtyPages.push(page);
    if (!this.#memory.has(page, CHANGED)) this.#changedPages.push(page);
    this.#memory.put(page, DIRTY + CHANGED);
  }

  #take(page: number, flag: number): void {
    if (this.#bugs.has('taken-changes-forgotten')) {
      this.#memory.clear(page, flag);
      return;
    }
    if (!this.#memory.has(page, TAKEN)) this.#takenPages.push(page);
    this.#memory.take(page, flag);
  }

  /** A clean mixed page whose blocks are all in one state becomes uniform. */
  #collapse(page: number): void {
    const blocks = this.geometry.blocksIn(page);
    const state = this.#memory.countsOf(page).indexOf(blocks);
    if (state < 0) return;
    this.#kinds[page] = state;
    this.#memory.releaseEntries(page);
  }
}
