/**
 * A set of blocks as a bitmap, in pages of the map's size; pages that were never touched cost
 * nothing. The write-through backlog is two of them (volume/backlog.ts).
 *
 * Bits and "touched" bytes lie in memory from the environment, so that a successor of this process
 * finds them; the counts are derived and rebuilt from the touched pages. A page is flagged before
 * its first bit is set, so a process that dies between the two leaves nothing unseen.
 */
import {assert} from '../base/assert.js';
import {clearBits, countBits, endOfBitRun, isBitSet, nextSetBit, setBits} from '../base/bits.js';
import type {Environment} from '../base/environment.js';
import {type Geometry, PAGE_BLOCKS} from './geometry.js';

const BYTES_PER_PAGE = PAGE_BLOCKS / 8;

/** Blocks [start, start+count). */
export interface BlockRun {
  start: number;
  count: number;
}

export class BlockSet {
  readonly #geometry: Geometry;
  readonly #bits: Uint8Array;
  readonly #touched: Uint8Array;
  readonly #counts: Uint16Array;
  #count = 0;

  /**
   * `name`: of its two sections of memory. What another process left there is taken over where
   * `isAdopted`, else forgotten.
   */
  constructor(geometry: Geometry, environment: Environment, name: string, isAdopted = false) {
    const pages = geometry.pageCount;
    this.#geometry = geometry;
    const bits = environment.allocate(`${name}.bits`, pages * BYTES_PER_PAGE);
    const touched = environment.allocate(`${name}.touched`, pages);
    for (const memory of [bits, touched]) {
      if (memory.isInherited === true && !isAdopted) memory.release(0, memory.bytes.length);
    }
    this.#bits = bits.bytes;
    this.#touched = touched.bytes;
    this.#counts = new Uint16Array(pages);
    for (let page = this.#touched.indexOf(1); page >= 0; page = this.#touched.indexOf(1, page + 1))
      this.#recount(page);
  }

  /** Blocks in the set. */
  get count(): number {
    return this.#count;
  }

  countIn(page: number): number {
    return this.#counts[page] ?? 0;
  }

  has(block: number): boolean {
    const page = this.#geometry.pageOf(block);
    if (this.#counts[page] === 0) return false;
    return isBitSet(this.#page(page), block - page * PAGE_BLOCKS);
  }

  /** Whether any of blocks [start, end) is in the set. */
  hasAny(start: number, end: number): boolean {
    const found = this.next(start, end);
    return found !== undefined;
  }

  add(start: number, end: number): void {
    this.#change(start, end, (bits, from, to) => setBits(bits, from, to));
  }

  delete(start: number, end: number): void {
    this.#change(start, end, (bits, from, to) => clearBits(bits, from, to));
  }

  /** The first block of the set in [start, end). */
  next(start: number, end: number): number | undefined {
    for (let block = start; block < end;) {
      const page = this.#geometry.pageOf(block);
      const first = page * PAGE_BLOCKS;
      const stop = Math.min(first + PAGE_BLOCKS, end);
      if (this.#counts[page] !== 0) {
        const found = first + nextSetBit(this.#page(page), block - first, stop - first);
        if (found < stop) return found;
      }
      block = stop;
    }
    return undefined;
  }

  /** The end of the run of blocks from `block` on that are all in the set, or all not. */
  runEnd(block: number, limit: number): number {
    const isIn = this.has(block);
    let end = block;
    while (end < limit) {
      const page = this.#geometry.pageOf(end);
      const first = page * PAGE_BLOCKS;
      const stop = Math.min(first + PAGE_BLOCKS, limit);
      if (this.has(end) !== isIn) return end;
      if (this.#counts[page] === 0) end = stop;
      else end = first + endOfBitRun(this.#page(page), end - first, stop - first);
      if (end < stop) return end;
    }
    return end;
  }

  /** The runs of the set inside [start, end). */
  *runs(start: number, end: number): Generator<BlockRun> {
    for (let block = this.next(start, end); block !== undefined;) {
      const stop = this.runEnd(block, end);
      yield {start: block, count: stop - block};
      block = this.next(stop, end);
    }
  }

  /** Asserts that the counts are right; for tests. */
  selfCheck(): void {
    let sum = 0;
    for (let page = 0; page < this.#geometry.pageCount; page++) {
      const count = this.#counts[page] ?? 0;
      if (this.#touched[page] === 1) {
        assert(countBits(this.#page(page), PAGE_BLOCKS) === count, `page ${page} counts its bits`);
      }
      sum += count;
    }
    assert(sum === this.#count, 'the counts of a block set add up');
  }

  #change(
    start: number,
    end: number,
    change: (bits: Uint8Array, from: number, to: number) => void,
  ): void {
    assert(start < end && end <= this.#geometry.blockCount, 'blocks lie in the volume');
    for (let block = start; block < end;) {
      const page = this.#geometry.pageOf(block);
      const first = page * PAGE_BLOCKS;
      const stop = Math.min(first + PAGE_BLOCKS, end);
      this.#touched[page] = 1;
      if (stop === block + 1) this.#changeOne(page, block - first, change);
      else {
        change(this.#page(page), block - first, stop - first);
        this.#recount(page);
      }
      block = stop;
    }
  }

  /** A single block, as most writes touch, without counting its page anew. */
  #changeOne(
    page: number,
    index: number,
    change: (bits: Uint8Array, from: number, to: number) => void,
  ): void {
    const bits = this.#page(page);
    const before = isBitSet(bits, index) ? 1 : 0;
    change(bits, index, index + 1);
    const more = (isBitSet(bits, index) ? 1 : 0) - before;
    this.#counts[page] = (this.#counts[page] ?? 0) + more;
    this.#count += more;
  }

  #recount(page: number): void {
    const count = countBits(this.#page(page), PAGE_BLOCKS);
    this.#count += count - (this.#counts[page] ?? 0);
    this.#counts[page] = count;
  }

  #page(page: number): Uint8Array {
    return this.#bits.subarray(page * BYTES_PER_PAGE, (page + 1) * BYTES_PER_PAGE);
  }
}
