/**
 * Notices sequential readers and says what to fetch before they ask for it.
 *
 * A stream is a position where some reader stopped. A read that goes on there is sequential: after
 * the second in a row that touched absent blocks its window opens, and doubles each time the reader
 * comes within half of what was asked for. A read elsewhere begins a stream and forgets the oldest.
 */
import {KiB} from '../base/units.js';

/** Readers followed at once. */
const STREAM_COUNT = 16;
const FIRST_WINDOW = 256 * KiB;

interface Stream {
  /** Where its reader stopped, in bytes. */
  position: number;
  /** Reads in a row. */
  length: number;
  window: number;
  /** Up to where it has been fetched ahead. */
  aheadEnd: number;
}

export class ReadAhead {
  readonly #windowMax: number;
  /** Most recently used last. */
  readonly #streams: Stream[] = [];

  /** `windowMax` in bytes; 0: never. */
  constructor(windowMax: number) {
    this.#windowMax = windowMax;
  }

  /**
   * Notes a read of [start, end); `missed` says whether it touched absent blocks. The range [from,
   * to) to fetch ahead now, in bytes, not bounded by the volume's end; undefined: none.
   */
  note(start: number, end: number, missed: boolean): {from: number; to: number} | undefined {
    if (this.#windowMax === 0) return undefined;
    const index = this.#streams.findIndex((stream) => stream.position === start);
    const stream = index < 0 ? undefined : this.#streams.splice(index, 1)[0];
    if (stream === undefined) {
      if (this.#streams.length === STREAM_COUNT) this.#streams.shift();
      this.#streams.push({position: end, length: 1, window: 0, aheadEnd: end});
      return undefined;
    }
    this.#streams.push(stream);
    stream.position = end;
    stream.length++;
    if (stream.window === 0 && !missed) return undefined;
    const remaining = stream.aheadEnd - end;
    if (stream.window > 0 && remaining > stream.window / 2) return undefined;
    stream.window = Math.min(
      this.#windowMax,
      stream.window === 0 ? FIRST_WINDOW : stream.window * 2,
    );
    const from = Math.max(end, stream.aheadEnd);
    const to = end + stream.window;
    if (to <= from) return undefined;
    stream.aheadEnd = to;
    return {from, to};
  }
}
