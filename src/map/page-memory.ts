/**
 * The memory of the overwrite map, and the order in which it is changed.
 *
 *   page table   a byte a page: the state of all its blocks, or MIXED, or UNLOADED (still on disk)
 *   page flags   DIRTY: has changes no commit has taken; CHANGED: has some no checkpoint has taken;
 *                TAKEN: has some that a commit took and has not made durable yet
 *   page counts  blocks in each state, five numbers a page; derived, for speed
 *   entries      4 bits a block, only where the page is MIXED: 3 bits state, 1 bit "changed since
 *                the last commit". A page that becomes uniform again gives its memory back.
 *
 * All of it lies in memory from the environment (a memfd in production) and outlives the daemon,
 * which may be killed between any two stores. So whoever changes it keeps to this:
 *
 *   1 flags before what they speak of   a page that is flagged in vain is committed once more; a
 *                                       change without its flag would never be committed
 *   2 entries before the kind MIXED     who finds MIXED finds entries that are whole
 *   3 the kind before entries go        who finds a state code looks at no entries
 *   4 TAKEN, DIRTY and CHANGED of a page change in one store of one byte
 *   5 an entry's state and its mark change in one store of one byte (base/nibbles.ts)
 *
 * What a death cut short is a request nobody had answered: it will be sent again. Counts and lists
 * are never believed after a death but counted anew (adopt).
 */
import {hasFlag, withFlag, withoutFlag} from '../base/bits.js';
import type {Environment, Memory} from '../base/environment.js';
import {countValues, markAll} from '../base/nibbles.js';
import {repeatFirst} from '../base/repeat.js';
import {ABSENT, STATE_COUNT, type StateCode} from './block-state.js';
import {type Geometry, PAGE_BYTES} from './geometry.js';

/** Page kinds beside the state codes 0-4. */
export const MIXED = 14;
export const UNLOADED = 15;

export const DIRTY = 1;
export const CHANGED = 2;
export const TAKEN = 4;

/** What adopt() found: totals by state, and the pages whose flags say that they changed. */
export interface AdoptedPages {
  totals: number[];
  dirty: number[];
  changed: number[];
}

export class PageMemory {
  readonly kinds: Uint8Array;
  readonly counts: Uint16Array;
  readonly #geometry: Geometry;
  readonly #flags: Uint8Array;
  readonly #entries: Memory;
  readonly #parts: readonly Memory[];

  constructor(geometry: Geometry, environment: Environment) {
    this.#geometry = geometry;
    const pages = geometry.pageCount;
    const kinds = environment.allocate('map.kinds', pages);
    const flags = environment.allocate('map.flags', pages);
    const counts = environment.allocate('map.counts', pages * STATE_COUNT * 2);
    this.#entries = environment.allocate('map.entries', pages * PAGE_BYTES);
    this.#parts = [kinds, flags, counts, this.#entries];
    this.kinds = kinds.bytes;
    this.#flags = flags.bytes;
    const {buffer, byteOffset} = counts.bytes;
    this.counts = new Uint16Array(buffer, byteOffset, pages * STATE_COUNT);
  }

  /** All blocks absent, nothing changed, whatever it held before. */
  reset(): void {
    const pages = this.#geometry.pageCount;
    for (const memory of this.#parts) {
      if (memory.isInherited === true) memory.release(0, memory.bytes.length);
    }
    this.counts[ABSENT] = this.#geometry.blocksIn(0);
    repeatFirst(this.counts, STATE_COUNT);
    this.counts[(pages - 1) * STATE_COUNT + ABSENT] = this.#geometry.blocksIn(pages - 1);
  }

  entriesOf(page: number): Uint8Array {
    return this.#entries.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
  }

  /** The page is uniform: its entries are no longer looked at. */
  releaseEntries(page: number): void {
    this.#entries.release(page * PAGE_BYTES, PAGE_BYTES);
  }

  countsOf(page: number): number[] {
    return [...this.counts.subarray(page * STATE_COUNT, (page + 1) * STATE_COUNT)];
  }

  countIn(page: number, state: StateCode): number {
    return this.counts[page * STATE_COUNT + state] ?? 0;
  }

  has(page: number, flag: number): boolean {
    return hasFlag(this.#flags[page] as number, flag);
  }

  put(page: number, flag: number): void {
    this.#flags[page] = withFlag(this.#flags[page] as number, flag);
  }

  clear(page: number, flag: number): void {
    this.#flags[page] = withoutFlag(this.#flags[page] as number, flag);
  }

  /** Moves a page's changes, for a commit or a checkpoint, to what is on its way to disk. */
  take(page: number, flag: number): void {
    this.#flags[page] = withFlag(withoutFlag(this.#flags[page] as number, flag), TAKEN);
  }

  /**
   * After a death: counts everything anew, and turns what a commit had taken and not made durable
   * back into changes of the whole page. `onDisk` gives the counts of a page that was never loaded.
   * A text says what cannot be, and then nothing here may be believed.
   *
   * May itself be cut short anywhere and run again: entries are marked while TAKEN still stands.
   */
  adopt(onDisk: (page: number) => readonly number[] | undefined): AdoptedPages | string {
    const totals = new Array<number>(STATE_COUNT).fill(0);
    const found: AdoptedPages = {totals, dirty: [], changed: []};
    for (let page = 0; page < this.#geometry.pageCount; page++) {
      const counts = this.#countAnew(page, onDisk);
      if (typeof counts === 'string') return counts;
      for (let code = 0; code < STATE_COUNT; code++) {
        const count = counts[code] ?? 0;
        this.counts[page * STATE_COUNT + code] = count;
        totals[code] = (totals[code] ?? 0) + count;
      }
      if (this.has(page, TAKEN)) {
        if (this.kinds[page] === MIXED) markAll(this.entriesOf(page));
        this.#flags[page] = DIRTY + CHANGED;
      }
      if (this.has(page, DIRTY)) found.dirty.push(page);
      if (this.has(page, CHANGED)) found.changed.push(page);
    }
    return found;
  }

  #countAnew(
    page: number,
    onDisk: (page: number) => readonly number[] | undefined,
  ): readonly number[] | string {
    const kind = this.kinds[page] as number;
    const blocks = this.#geometry.blocksIn(page);
    const counts = new Array<number>(STATE_COUNT).fill(0);
    if (kind === UNLOADED) {
      if (this.#flags[page] !== 0) return `page ${page} changed without having been loaded`;
      return onDisk(page) ?? `page ${page} was never loaded, and is not on disk either`;
    }
    if (kind === MIXED) countValues(this.entriesOf(page), blocks, counts);
    else if (kind < STATE_COUNT) counts[kind] = blocks;
    else return `page ${page} is of the unknown kind ${kind}`;
    return counts.length === STATE_COUNT ? counts : `page ${page} holds states that cannot be`;
  }
}
