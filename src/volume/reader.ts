/**
 * Reads: each request is cut into what the store holds, what is zero and what only the source has,
 * and only the last part is fetched (IR4). Neither locks nor waits for writers: a read that
 * overlaps a write in flight gives old or new bytes, as any disk does.
 */
import {BlockError} from '../base/errors.js';
import {settleAll} from '../base/settle-all.js';
import {SECTOR} from '../base/units.js';
import {stateRow} from '../map/block-state.js';
import type {VolumeCore} from './core.js';
import type {Fetch, Fetcher, Room} from './fetcher.js';
import {isMediumError, type Mender} from './mender.js';
import {ReadAhead} from './read-ahead.js';

type Origin = 'source' | 'store' | 'zeroes';

/** Bytes [start, end) of the volume come from one origin. */
interface Segment {
  origin: Origin;
  start: number;
  end: number;
}

export class Reader {
  readonly #core: VolumeCore;
  readonly #fetcher: Fetcher;
  readonly #mender: Mender;
  readonly #readAhead: ReadAhead;

  constructor(core: VolumeCore, fetcher: Fetcher, mender: Mender) {
    this.#core = core;
    this.#fetcher = fetcher;
    this.#mender = mender;
    this.#readAhead = new ReadAhead(core.tuning.readAheadMax);
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    const {geometry} = this.#core;
    const end = offset + buffer.length;
    if (buffer.length === 0) return;
    const loading = this.#core.ensureLoaded(geometry.blockOf(offset), geometry.blockEndOf(end));
    if (loading) await loading;
    const room: Room = {bytes: 0};
    for (let at = offset; at < end;) {
      const segments = this.#plan(at, end);
      const {held, until} = this.#hold(segments, at, room);
      this.#fetcher.giveBack(room);
      if (at === offset) this.#fetchAhead(offset, end, held.length > 0);
      if (until === at) {
        await this.#fetcher.waitForRoom(geometry.blockOf(at), geometry.blockEndOf(end), room);
        continue;
      }
      await this.#perform(segments, held, {offset, until, buffer});
      at = until;
    }
  }

  /** Reads the segments up to `until` and lets go of the fetches. */
  async #perform(
    segments: readonly Segment[],
    held: readonly Fetch[],
    {offset, until, buffer}: {offset: number; until: number; buffer: Buffer},
  ): Promise<void> {
    const parts = segments
      .filter((segment) => segment.start < until)
      .map((segment) => ({...segment, end: Math.min(segment.end, until)}))
      .map((segment) => {
        const part = buffer.subarray(segment.start - offset, segment.end - offset);
        return this.#readSegment(segment, part, held);
      });
    try {
      await settleAll(parts);
    } finally {
      for (const fetch of held) this.#fetcher.release(fetch);
    }
  }

  /** Where each byte of [offset, end) comes from, as the map is now. */
  #plan(offset: number, end: number): Segment[] {
    const {geometry, map, masks} = this.#core;
    const segments: Segment[] = [];
    const blockEnd = geometry.blockEndOf(end);
    for (let block = geometry.blockOf(offset); block < blockEnd;) {
      const {read} = stateRow(map.get(block));
      const runEnd = read === 'mask decides' ? block + 1 : map.runEnd(block, blockEnd);
      const base = geometry.offsetOf(block);
      const start = Math.max(base, offset);
      const stop = Math.min(geometry.offsetOf(runEnd), end);
      if (read === 'mask decides') {
        for (const run of masks.runs(block, (start - base) / SECTOR, (stop - base) / SECTOR)) {
          const origin = run.isMasked ? 'store' : 'source';
          addSegment(segments, origin, base + run.start * SECTOR, base + run.end * SECTOR);
        }
      } else addSegment(segments, read, start, stop);
      block = runEnd;
    }
    return segments;
  }

  /** Holds fetches for the blocks that need one, up to byte `until`: as far as there is room. */
  #hold(segments: readonly Segment[], offset: number, room: Room): {held: Fetch[]; until: number} {
    const {geometry} = this.#core;
    const held: Fetch[] = [];
    let until = offset;
    for (const segment of segments) {
      if (segment.origin === 'source') {
        const from = Math.max(geometry.blockOf(segment.start), held.at(-1)?.end ?? 0);
        const more = this.#fetcher.hold(from, geometry.blockEndOf(segment.end), room);
        held.push(...more.fetches);
        const covered = geometry.offsetOf(Math.max(from, more.end));
        if (covered < segment.end) return {held, until: Math.max(until, covered)};
      }
      until = segment.end;
    }
    return {held, until};
  }

  async #readSegment(segment: Segment, part: Buffer, held: readonly Fetch[]): Promise<void> {
    if (segment.origin === 'zeroes') {
      part.fill(0);
      return;
    }
    if (segment.origin === 'store') {
      try {
        await this.#core.store.read(segment.start, part);
      } catch (error) {
        this.#core.counters.storeErrors++;
        if (!isMediumError(error)) throw error;
        await this.#mender.read(segment.start, part);
      }
      return;
    }
    await settleAll(held.map((fetch) => this.#copyFetched(segment, part, fetch)));
  }

  /** Copies the bytes that a fetch and a segment have in common, once they are there. */
  async #copyFetched(segment: Segment, part: Buffer, fetch: Fetch): Promise<void> {
    const {geometry, source} = this.#core;
    const base = geometry.offsetOf(fetch.start);
    const start = Math.max(segment.start, base);
    const end = Math.min(segment.end, geometry.offsetOf(fetch.end));
    if (start >= end) return;
    const target = part.subarray(start - segment.start, end - segment.start);
    try {
      await fetch.data;
    } catch (error) {
      // The fetch took whole blocks; one bad sector of them must not cost the guest the others.
      const isWhole = end - start === fetch.buffer.length;
      if (isWhole || !(error instanceof BlockError && error.isPermanent)) throw error;
      await source.read(start, target, {priority: 'foreground'});
      return;
    }
    fetch.buffer.copy(target, 0, start - base, end - base);
  }

  #fetchAhead(offset: number, end: number, missed: boolean): void {
    const {geometry, map} = this.#core;
    const ahead = this.#readAhead.note(offset, end, missed);
    if (ahead === undefined) return;
    const from = geometry.blockEndOf(Math.min(ahead.from, geometry.size));
    const to = geometry.blockEndOf(Math.min(ahead.to, geometry.size));
    if (from < to && map.firstUnloadedPage(from, to) === undefined) this.#fetcher.ahead(from, to);
  }
}

function addSegment(segments: Segment[], origin: Origin, start: number, end: number): void {
  const last = segments.at(-1);
  if (last && last.origin === origin && last.end === start) last.end = end;
  else segments.push({origin, start, end});
}
