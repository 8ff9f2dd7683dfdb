/**
 * Bytes in memory that cost only where they were written: chunks of a fixed size in a Map. A disk
 * of 64 TiB is as cheap as one of 64 KiB.
 *
 * What was never written reads zeroes, or what a `background` function gives (the stale bytes of a
 * reused disk). `fork` is cheap: both share their chunks until one writes.
 */
import {assert} from './assert.js';
import {alignDown, assertRange, divideDown, KiB} from './units.js';

/** Fills `bytes` with what stands at `offset` before anything is written there. */
export type Background = (offset: number, bytes: Uint8Array) => void;

export interface SparseBytesOptions {
  /** Bytes kept together; the least a single written byte costs. @default 64 KiB */
  chunkSize?: number;
  /** @default zeroes */
  background?: Background;
}

export class SparseBytes {
  /** Bytes. */
  readonly size: number;
  readonly #chunkSize: number;
  readonly #background: Background | undefined;
  #chunks = new Map<number, Uint8Array>();
  /** Chunks that no fork shares; a chunk leaves it with `fork` and comes back when it is copied. */
  #owned = new Set<number>();

  constructor(size: number, options: SparseBytesOptions = {}) {
    assert(Number.isSafeInteger(size) && size >= 0, `size ${size} is a whole number of bytes`);
    this.size = size;
    this.#chunkSize = options.chunkSize ?? 64 * KiB;
    this.#background = options.background;
  }

  /** Bytes of memory in use. */
  get allocated(): number {
    return this.#chunks.size * this.#chunkSize;
  }

  read(offset: number, target: Uint8Array): void {
    assertRange(offset, target.length, this.size);
    this.#each(offset, target.length, (index, inChunk, at, length) => {
      const chunk = this.#chunks.get(index);
      const part = target.subarray(at, at + length);
      if (chunk) part.set(chunk.subarray(inChunk, inChunk + length));
      else if (this.#background) this.#background(offset + at, part);
      else part.fill(0);
    });
  }

  write(offset: number, source: Uint8Array): void {
    assertRange(offset, source.length, this.size);
    this.#each(offset, source.length, (index, inChunk, at, length) => {
      this.#chunkToWrite(index).set(source.subarray(at, at + length), inChunk);
    });
  }

  /** Makes a range read zeroes; whole chunks of it cost nothing afterwards. */
  zero(offset: number, length: number): void {
    assertRange(offset, length, this.size);
    if (this.#background === undefined && length / this.#chunkSize > this.#chunks.size) {
      this.#zeroAllocated(offset, length);
      return;
    }
    this.#each(offset, length, (index, inChunk, _at, count) => {
      this.#zeroInChunk(index, inChunk, count);
    });
  }

  /**
   * Whether nothing is kept for the chunk `offset` lies in, so that it reads zeroes or background.
   */
  isUnallocated(offset: number): boolean {
    return !this.#chunks.has(divideDown(offset, this.#chunkSize));
  }

  /** The end of the chunk `offset` lies in, or the size. */
  chunkEnd(offset: number): number {
    return Math.min(alignDown(offset, this.#chunkSize) + this.#chunkSize, this.size);
  }

  /** The same bytes, from now on apart. */
  fork(): SparseBytes {
    const options = this.#background ? {background: this.#background} : {};
    const copy = new SparseBytes(this.size, {chunkSize: this.#chunkSize, ...options});
    copy.#chunks = new Map(this.#chunks);
    this.#owned = new Set();
    return copy;
  }

  /** Zeroing a range far larger than what is allocated walks the chunks, not the range. */
  #zeroAllocated(offset: number, length: number): void {
    for (const index of [...this.#chunks.keys()]) {
      const start = index * this.#chunkSize;
      const from = Math.max(offset, start);
      const to = Math.min(offset + length, start + this.#chunkSize);
      if (from < to) this.#zeroInChunk(index, from - start, to - from);
    }
  }

  #zeroInChunk(index: number, inChunk: number, count: number): void {
    if (this.#background !== undefined) {
      this.#chunkToWrite(index).fill(0, inChunk, inChunk + count);
    } else if (count === this.#chunkSize) {
      this.#chunks.delete(index);
      this.#owned.delete(index);
    } else if (this.#chunks.has(index)) {
      this.#chunkToWrite(index).fill(0, inChunk, inChunk + count);
    }
  }

  #chunkToWrite(index: number): Uint8Array {
    const present = this.#chunks.get(index);
    if (present && this.#owned.has(index)) return present;
    const chunk = present ? present.slice() : new Uint8Array(this.#chunkSize);
    if (!present) this.#background?.(index * this.#chunkSize, chunk);
    this.#chunks.set(index, chunk);
    this.#owned.add(index);
    return chunk;
  }

  #each(
    offset: number,
    length: number,
    visit: (index: number, inChunk: number, at: number, length: number) => void,
  ): void {
    for (let at = 0; at < length;) {
      const index = divideDown(offset + at, this.#chunkSize);
      const inChunk = offset + at - index * this.#chunkSize;
      const count = Math.min(length - at, this.#chunkSize - inChunk);
      visit(index, inChunk, at, count);
      at += count;
    }
  }
}
