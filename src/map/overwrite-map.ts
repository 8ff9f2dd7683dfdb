/**
 * The overwrite map in core: the state of every block, what changed since the last commit, and how
 * many blocks are in each state. No I/O happens here and no policy: the volume decides, this
 * remembers.
 *
 *   page table   a byte a page: the state of all its blocks, or MIXED, or UNLOADED (still on disk)
 *   page flags   DIRTY: has changes no commit has taken; CHANGED: has some no checkpoint has taken
 *   page counts  blocks in each state, five numbers a page
 *   entries      4 bits a block, only where the page is MIXED: 3 bits state, 1 bit "changed since
 *                the last commit". A page that becomes uniform again gives its memory back.
 *
 * All four lie in memory from the environment (a memfd in production), so that they outlive the
 * JavaScript heap; the lists of dirty and changed pages kept beside them are derived and can be
 * rebuilt.
 *
 * A uniform DIRTY page is changed as a whole. takeChanges() hands over what changed as runs and
 * forgets it, synchronously: a change made after that call belongs to the next commit (I2).
 */
import {assert} from '../base/assert.js';
import {hasFlag, withFlag, withoutFlag} from '../base/bits.js';
import type {Environment, Memory} from '../base/environment.js';
import {
  clearMarks,
  countValues,
  endOfRun,
  fillEntries,
  isMarkedAt,
  nextMarked,
  valueAt,
} from '../base/nibbles.js';
import {repeatFirst} from '../base/repeat.js';
import {
  ABSENT,
  isTransition,
  STATE_COUNT,
  stateName,
  type BlockState,
  type StateCode,
} from './block-state.js';
import {type Geometry, PAGE_BLOCKS, PAGE_BYTES} from './geometry.js';
import {pushRun, type StateRun} from './state-run.js';

export type {StateRun} from './state-run.js';

/** Page kinds beside the state codes 0-4. */
export const MIXED = 14;
const UNLOADED = 15;

const DIRTY = 1;
const CHANGED = 2;

/** A page as a checkpoint writes it; `entries` (a copy, marks cleared) only where it is mixed. */
export interface PageImage {
  page: number;
  kind: number;
  counts: number[];
  entries: Uint8Array | undefined;
}

export class OverwriteMap {
  readonly geometry: Geometry;
  readonly #kinds: Uint8Array;
  readonly #flags: Uint8Array;
  readonly #pageCounts: Uint16Array;
  readonly #entries: Memory;
  /** Blocks in each state, by code; unloaded pages included. */
  readonly #counts: number[] = new Array<number>(STATE_COUNT).fill(0);
  #dirtyPages: number[] = [];
  #changedPages: number[] = [];

  constructor(geometry: Geometry, environment: Environment) {
    this.geometry = geometry;
    const pages = geometry.pageCount;
    this.#kinds = environment.allocate('map.kinds', pages).bytes;
    this.#flags = environment.allocate('map.flags', pages).bytes;
    const counts = environment.allocate('map.counts', pages * STATE_COUNT * 2).bytes;
    this.#pageCounts = new Uint16Array(counts.buffer, counts.byteOffset, pages * STATE_COUNT);
    this.#entries = environment.allocate('map.entries', pages * PAGE_BYTES);
    this.#pageCounts[ABSENT] = geometry.blocksIn(0);
    repeatFirst(this.#pageCounts, STATE_COUNT);
    this.#pageCounts[(pages - 1) * STATE_COUNT + ABSENT] = geometry.blocksIn(pages - 1);
    this.#counts[ABSENT] = geometry.blockCount;
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
    return this.#pageCounts[page * STATE_COUNT + state] ?? 0;
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
    return valueAt(this.#entriesOf(page), block - page * PAGE_BLOCKS) as StateCode;
  }

  /** Whether a block's state may be newer than what the last takeChanges() took. */
  isChanged(block: number): boolean {
    const page = this.geometry.pageOf(block);
    if (!this.#has(page, DIRTY)) return false;
    if (this.#kinds[page] !== MIXED) return true;
    return isMarkedAt(this.#entriesOf(page), block - page * PAGE_BLOCKS);
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
        end = first + endOfRun(this.#entriesOf(page), end - first, pageEnd - first, state);
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

  /** As set(), without asking the table: what recovery reads from disk. */
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
    const entries = this.#entriesOf(page);
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
    if (start === 0 && end === blocks) {
      if (kind === MIXED) this.#entries.release(page * PAGE_BYTES, PAGE_BYTES);
      this.#kinds[page] = state;
      this.#recount(page, state, blocks);
      this.#flag(page);
      return;
    }
    const entries = this.#entriesOf(page);
    if (kind !== MIXED) {
      fillEntries(entries, 0, blocks, kind, this.#has(page, DIRTY));
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
    this.#flag(page);
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
      this.#flags[page] = withoutFlag(this.#flags[page] as number, DIRTY);
      if (kind !== MIXED) {
        pushRun(runs, {start: first, count: blocks, state: kind as StateCode});
        continue;
      }
      const entries = this.#entriesOf(page);
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
      this.#flags[page] = withoutFlag(this.#flags[page] as number, CHANGED);
      const kind = this.#kinds[page] as number;
      const entries = kind === MIXED ? this.#entriesOf(page).slice() : undefined;
      if (entries) clearMarks(entries);
      return {page, kind, counts: this.#countsOf(page), entries};
    });
  }

  /** The next checkpoint writes the pages of blocks [start, end), changed or not. */
  touch(start: number, end: number): void {
    for (let page = this.geometry.pageOf(start); page * PAGE_BLOCKS < end; page++) {
      if (this.#has(page, CHANGED)) continue;
      this.#changedPages.push(page);
      this.#flags[page] = withFlag(this.#flags[page] as number, CHANGED);
    }
  }

  /**
   * Recovery: says what a page on disk is, before anything changes. Mixed pages stay on disk until
   * loaded.
   */
  setPageFromDisk(page: number, kind: number, counts: readonly number[]): void {
    const sum = counts.reduce((total, count) => total + count, 0);
    assert(sum === this.geometry.blocksIn(page), `the counts of page ${page} add up`);
    for (let code = 0; code < STATE_COUNT; code++) {
      const at = page * STATE_COUNT + code;
      const count = counts[code] ?? 0;
      this.#counts[code] = this.count(code as StateCode) + count - (this.#pageCounts[at] as number);
      this.#pageCounts[at] = count;
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
    this.#entriesOf(page).set(entries);
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
      if (kind === MIXED) countValues(this.#entriesOf(page), blocks, counts);
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
        !this.#has(page, flag) || pages.includes(page);
      assert(isListed(DIRTY, this.#dirtyPages), `dirty page ${page} is listed`);
      assert(isListed(CHANGED, this.#changedPages), `changed page ${page} is listed`);
    }
    assert(
      totals.every((total, code) => total === this.#counts[code]),
      'the counts add up',
    );
  }

  #entriesOf(page: number): Uint8Array {
    return this.#entries.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  }

  #countsOf(page: number): number[] {
    return [...this.#pageCounts.subarray(page * STATE_COUNT, (page + 1) * STATE_COUNT)];
  }

  /** All blocks of a page are now in one state. */
  #recount(page: number, state: StateCode, blocks: number): void {
    for (let code = 0; code < STATE_COUNT; code++) {
      const at = page * STATE_COUNT + code;
      const count = code === state ? blocks : 0;
      this.#counts[code] = this.count(code as StateCode) + count - (this.#pageCounts[at] as number);
      this.#pageCounts[at] = count;
    }
  }

  #move(page: number, from: StateCode, to: StateCode, count: number): void {
    const base = page * STATE_COUNT;
    this.#pageCounts[base + from] = this.countIn(page, from) - count;
    this.#pageCounts[base + to] = this.countIn(page, to) + count;
    this.#counts[from] = this.count(from) - count;
    this.#counts[to] = this.count(to) + count;
  }

  #flag(page: number): void {
    if (!this.#has(page, DIRTY)) this.#dirtyPages.push(page);
    if (!this.#has(page, CHANGED)) this.#changedPages.push(page);
    this.#flags[page] = DIRTY + CHANGED;
  }

  #has(page: number, flag: number): boolean {
    return hasFlag(this.#flags[page] as number, flag);
  }

  /** A clean mixed page whose blocks are all in one state becomes uniform. */
  #collapse(page: number): void {
    const blocks = this.geometry.blocksIn(page);
    const state = this.#countsOf(page).indexOf(blocks);
    if (state < 0) return;
    this.#kinds[page] = state;
    this.#entries.release(page * PAGE_BYTES, PAGE_BYTES);
  }
}
