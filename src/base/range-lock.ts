/**
 * Exclusive locks on byte ranges, first come first served among those that overlap.
 *
 *   held:     [=====)        [===)
 *   waiting:     [=====)              waits for the first
 *                   [==)              waits for the one before it: no overtaking, so no starvation
 *
 * Not reentrant: a holder that locks an overlapping range waits for itself. Every release wakes all
 * whose turn it is, synchronously and in order.
 */
import {assert} from './assert.js';

export interface RangeHold {
  readonly start: number;
  readonly end: number;
  release(): void;
}

interface Entry {
  start: number;
  end: number;
  isHeld: boolean;
  wake: (() => void) | undefined;
}

export class RangeLock {
  /** Held and waiting entries in order of arrival. */
  readonly #entries: Entry[] = [];

  /** The number of ranges held or waited for. */
  get count(): number {
    return this.#entries.length;
  }

  /** Resolves with the hold of [start, end) once no earlier entry overlaps it. */
  async acquire(start: number, end: number): Promise<RangeHold> {
    assert(start < end, 'a locked range is not empty');
    const entry: Entry = {start, end, isHeld: false, wake: undefined};
    this.#entries.push(entry);
    if (this.#isBlocked(entry)) await new Promise<void>((resolve) => (entry.wake = resolve));
    entry.isHeld = true;
    return {start, end, release: () => this.#release(entry)};
  }

  #isBlocked(entry: Entry): boolean {
    for (const other of this.#entries) {
      if (other === entry) return false;
      if (other.start < entry.end && entry.start < other.end) return true;
    }
    return false;
  }

  #release(entry: Entry): void {
    const index = this.#entries.indexOf(entry);
    assert(index >= 0 && entry.isHeld, 'a hold is released once');
    this.#entries.splice(index, 1);
    for (const other of this.#entries) {
      if (other.wake === undefined || this.#isBlocked(other)) continue;
      const wake = other.wake;
      other.wake = undefined;
      wake();
    }
  }
}
