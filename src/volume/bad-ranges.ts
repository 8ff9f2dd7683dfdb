/**
 * Blocks that could not be brought home: tried again one at a time, later and later, while the rest
 * goes on. A failed fetch of many blocks makes each of them suspect; only a block that failed alone
 * is bad.
 */
import {stateRow} from '../map/block-state.js';
import type {VolumeCore} from './core.js';
import type {HydrationReport} from './report.js';

/** Ranges that a report lists. */
const LISTED_MAX = 64;
/** Bad blocks kept; with more, hydration rests instead of looking for others. */
const BAD_BLOCKS_MAX = 65_536;
/** The longest wait is this many times the first. */
const BACKOFF_MAX = 100;

interface BadBlock {
  /** Times it failed alone. */
  attempts: number;
  dueAt: number;
  error: string;
}

export class BadRanges {
  readonly #core: VolumeCore;
  readonly #blocks = new Map<number, BadBlock>();

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  get isFull(): boolean {
    return this.#blocks.size >= BAD_BLOCKS_MAX;
  }

  /** Whether a block failed and is not to be tried yet. */
  isResting(block: number): boolean {
    const bad = this.#blocks.get(block);
    return bad !== undefined && this.#core.environment.clock.now() < bad.dueAt;
  }

  /** Whether a block is to be fetched alone. */
  isSuspect(block: number): boolean {
    return this.#blocks.has(block);
  }

  failed(start: number, end: number, error: string): void {
    const {clock} = this.#core.environment;
    for (let block = start; block < end; block++) {
      const attempts = (this.#blocks.get(block)?.attempts ?? 0) + (end - start === 1 ? 1 : 0);
      const factor = attempts === 0 ? 0 : Math.min(BACKOFF_MAX, 2 ** (attempts - 1));
      const dueAt = clock.now() + factor * this.#core.tuning.badRetryMs;
      this.#blocks.set(block, {attempts, dueAt, error});
    }
  }

  succeeded(start: number, end: number): void {
    if (this.#blocks.size === 0) return;
    for (let block = start; block < end; block++) this.#blocks.delete(block);
  }

  /** All are due at once. */
  retryNow(): void {
    for (const bad of this.#blocks.values()) bad.dueAt = 0;
  }

  /**
   * Bad blocks as ranges in order of place. Blocks the guest has overwritten since are forgotten.
   */
  list(): HydrationReport['badRanges'] {
    const {geometry, map} = this.#core;
    const ranges: HydrationReport['badRanges'] = [];
    const blocks = [...this.#blocks]
      .filter(([, bad]) => bad.attempts > 0)
      .sort(([a], [b]) => a - b);
    for (const [block, {attempts, error}] of blocks) {
      if (
        map.firstUnloadedPage(block, block + 1) === undefined &&
        stateRow(map.get(block)).fetched === undefined
      ) {
        this.#blocks.delete(block);
        continue;
      }
      const offset = geometry.offsetOf(block);
      const length = geometry.offsetOf(block + 1) - offset;
      const last = ranges.at(-1);
      if (last && last.offset + last.length === offset && last.error === error)
        last.length += length;
      else if (ranges.length < LISTED_MAX) ranges.push({offset, length, error, attempts});
    }
    return ranges;
  }
}
