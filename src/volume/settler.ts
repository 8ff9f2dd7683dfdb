/**
 * Puts the zeroes of zeroed blocks into the store, so that the store alone is the volume; the
 * blocks then count as overwritten.
 *
 * Only blocks whose zeroed state is on disk are settled: until then the map on disk may still say
 * *copied* about them, and changing what the store holds would make that a lie after a crash (I11).
 */
import {MiB} from '../base/units.js';
import {OVERWRITTEN, ZEROED} from '../map/block-state.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import type {VolumeCore} from './core.js';

/** Bytes zeroed under one lock: what a write to the same place may have to wait for. */
const SETTLE_BYTES_MAX = 64 * MiB;

export class Settler {
  readonly #core: VolumeCore;
  #cursor = 0;

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  /**
   * Settles the next run of zeroed blocks. `waits` means that there are some, but the map must be
   * committed first; `done`, that there are none.
   */
  async step(): Promise<'settled' | 'waits' | 'done'> {
    const {map} = this.#core;
    if (map.count(ZEROED) === 0) return 'done';
    const run = (await this.#nextRun(this.#cursor)) ?? (await this.#nextRun(0));
    if (run === undefined) return 'waits';
    await this.#settle(run.start, run.end);
    this.#cursor = run.end;
    return 'settled';
  }

  /** The next run of committed zeroed blocks from `from` on, inside one page of the map. */
  async #nextRun(from: number): Promise<{start: number; end: number} | undefined> {
    const {geometry, map} = this.#core;
    for (let page = geometry.pageOf(from); page < geometry.pageCount; page++) {
      if (map.countIn(page, ZEROED) === 0) continue;
      const first = Math.max(from, page * PAGE_BLOCKS);
      const end = page * PAGE_BLOCKS + geometry.blocksIn(page);
      await this.#core.ensureLoaded(first, end);
      for (let block = first; block < end; block = map.runEnd(block, end)) {
        if (map.get(block) !== ZEROED) continue;
        const run = this.#committedRun(block, map.runEnd(block, end));
        if (run !== undefined) return run;
      }
    }
    return undefined;
  }

  #committedRun(start: number, end: number): {start: number; end: number} | undefined {
    const limit = Math.max(1, Math.floor(SETTLE_BYTES_MAX / this.#core.geometry.blockSize));
    let first = start;
    while (first < end && !this.#core.isCommitted(first)) first++;
    let last = first;
    while (last < end && last - first < limit && this.#core.isCommitted(last)) last++;
    return first < last ? {start: first, end: last} : undefined;
  }

  async #settle(start: number, end: number): Promise<void> {
    const {environment, geometry, locks, map, store} = this.#core;
    const hold = await locks.acquire(geometry.offsetOf(start), geometry.offsetOf(end));
    try {
      for (let block = start; block < end;) {
        const runEnd = map.runEnd(block, end);
        if (map.get(block) === ZEROED && this.#isCommitted(block, runEnd)) {
          const offset = geometry.offsetOf(block);
          const zeroing = store.zero(offset, geometry.offsetOf(runEnd) - offset);
          if (environment.bugs.has('zero-settled-early')) map.set(block, runEnd, OVERWRITTEN);
          await zeroing;
          if (this.#core.isAbandoned) return;
          map.set(block, runEnd, OVERWRITTEN);
        }
        block = runEnd;
      }
    } finally {
      hold.release();
    }
  }

  /** Still so under the lock: a write and a new zeroing may have come between. */
  #isCommitted(start: number, end: number): boolean {
    for (let block = start; block < end; block++) if (!this.#core.isCommitted(block)) return false;
    return true;
  }
}
