/**
 * Writes and zeroings (RD3): whole absent blocks are overwritten without a fetch, parts of absent
 * blocks go into the store at once with their sectors in a mask (BX8), so no write waits for the
 * source.
 *
 *   1. places for masks the write may need              before any lock: installs free them
 *   2. lock its bytes, or whole blocks at zeroed edges  overlapping writes have one order (I6)
 *   3. intent marks, where the map on disk may say copied    durable before the data (I11)
 *   4. the data to the backup, where it is written through (write-through.ts), and into the store
 *   5. states and masks                                      after the data (I2)
 *
 * A zeroed range takes no I/O at all: whole blocks change state and read zeroes from then on; the
 * store gets its zeroes later (settle.ts). Its edges are written as zeroes.
 */
import {BlockError} from '../base/errors.js';
import type {RangeHold} from '../base/range-lock.js';
import {alignDown, SECTOR} from '../base/units.js';
import {ABSENT, COPIED, OVERWRITTEN, PARTIAL, stateRow, ZEROED} from '../map/block-state.js';
import {REGION_BYTES} from '../map/geometry.js';
import type {VolumeCore} from './core.js';
import {isMediumError} from './mender.js';

/** Regions that one step of a zeroing marks at most: 256 MiB. */
const ZERO_REGIONS_MAX = 64;

/** Whole blocks of a byte range, and whether it begins or ends inside a block. */
interface Cut {
  /** Blocks the range touches: [first, last). */
  first: number;
  last: number;
  /** Blocks it covers wholly: [wholeFirst, wholeLast), empty where wholeFirst >= wholeLast. */
  wholeFirst: number;
  wholeLast: number;
  /** Blocks it covers in part: none, one or two. */
  edges: number[];
}

export interface WriterEvents {
  /** The map changed. */
  changed: () => void;
  /** A write waits for a place in the mask table. */
  masksFull: () => void;
  /** Sends a block that is behind to the backup, now. */
  bring: (block: number) => Promise<void>;
}

export class Writer {
  readonly #core: VolumeCore;
  readonly #events: WriterEvents;

  constructor(core: VolumeCore, events: WriterEvents) {
    this.#core = core;
    this.#events = events;
  }

  /** In the kernel, and in the map in core, when it resolves; durable at the next commit. */
  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#core.assertMode('write');
    for (let done = 0; done < buffer.length;) {
      const at = offset + done;
      const length = Math.min(
        buffer.length - done,
        alignDown(at, REGION_BYTES) + REGION_BYTES - at,
      );
      await this.#writePiece(at, buffer.subarray(done, done + length));
      done += length;
    }
  }

  /** Makes [offset, offset+length) read zeroes. Costs no I/O but at its edges. */
  async zero(offset: number, length: number): Promise<void> {
    this.#core.assertMode('write');
    const {geometry} = this.#core;
    const end = offset + length;
    const {wholeFirst, wholeLast, edges} = this.#cut(offset, end);
    for (const edge of edges) {
      const start = Math.max(offset, geometry.offsetOf(edge));
      const stop = Math.min(end, geometry.offsetOf(edge + 1));
      await this.#zeroInBlock(edge, start, stop);
    }
    for (let first = wholeFirst; first < wholeLast;) {
      const last = this.#core.through.isOn ? this.#zeroStep(first, wholeLast) : wholeLast;
      await this.#zeroBlocks(first, last);
      first = last;
    }
  }

  /** As many blocks as may be marked at once. */
  #zeroStep(first: number, last: number): number {
    const {geometry, mapFile} = this.#core;
    const regions = Math.max(
      1,
      Math.min(ZERO_REGIONS_MAX, Math.floor(mapFile.limits.intentCountMax / 2)),
    );
    const start = geometry.regionOf(geometry.offsetOf(first));
    const end = Math.min((start + regions) * REGION_BYTES, geometry.offsetOf(last));
    return geometry.blockEndOf(end);
  }

  /** Whole blocks: the state changes; the backup gets zeroes. */
  async #zeroBlocks(first: number, last: number): Promise<void> {
    const core = this.#core;
    const {geometry, intents, map, masks, through} = core;
    const offset = geometry.offsetOf(first);
    const length = geometry.offsetOf(last) - offset;
    await core.ensureLoaded(first, last);
    const hold = await this.#lockReady(first, last);
    try {
      core.assertMode('write');
      const isMarked = through.isOn && !core.environment.bugs.has('backlog-after-data');
      const regions = [geometry.regionOf(offset), geometry.regionOf(offset + length - 1)] as const;
      if (isMarked) await intents.begin(...regions);
      try {
        await through.send(offset, length, undefined).catch((error: unknown) => {
          this.#distrust({first, last});
          throw error;
        });
        if (core.isAbandoned) return;
        map.set(first, last, ZEROED);
        masks.dropRange(first, last);
      } finally {
        if (isMarked) intents.end(...regions);
      }
    } finally {
      hold.release();
    }
    this.#events.changed();
  }

  /** Locks whole blocks; with strict write-through, once the backup has what came before. */
  async #lockReady(first: number, last: number): Promise<RangeHold> {
    const {geometry, locks, through} = this.#core;
    for (;;) {
      await through.prepare(first, last, this.#events.bring);
      const hold = await locks.acquire(geometry.offsetOf(first), geometry.offsetOf(last));
      if (through.isReady(first, last)) return hold;
      hold.release();
    }
  }

  async #zeroInBlock(block: number, start: number, end: number): Promise<void> {
    await this.#core.ensureLoaded(block, block + 1);
    if (this.#core.map.get(block) === ZEROED) return;
    await this.write(start, Buffer.alloc(end - start));
  }

  /** One region at most, so that two intent marks never wait for each other. */
  async #writePiece(offset: number, buffer: Buffer): Promise<void> {
    const core = this.#core;
    const end = offset + buffer.length;
    const cut = this.#cut(offset, end);
    const {hold, places} = await this.#enter(offset, end, cut);
    let unused = places;
    try {
      core.assertMode('write');
      const region = core.geometry.regionOf(offset);
      const needsIntent = core.through.isOn || core.needsIntent(cut.first, cut.last);
      const isLate = core.environment.bugs.has('backlog-after-data') && core.through.isOn;
      if (needsIntent && !isLate && !core.intents.tryBegin(region))
        await core.intents.begin(region, region);
      try {
        try {
          await core.through.send(offset, buffer.length, buffer);
          await this.#store(offset, buffer, cut);
        } catch (error) {
          this.#distrust(cut);
          throw error;
        }
        if (isLate) await core.intents.begin(region, region);
        if (!core.isAbandoned) unused -= this.#apply(offset, end, cut);
      } finally {
        if (needsIntent) core.intents.end(region, region);
      }
    } finally {
      if (unused > 0) core.masks.unreserve(unused);
      hold.release();
    }
    this.#events.changed();
  }

  /**
   * Steps 1 and 2. Places are taken while nothing is held; if the plan was overtaken, from the
   * start.
   */
  async #enter(offset: number, end: number, cut: Cut): Promise<{hold: RangeHold; places: number}> {
    const {geometry, locks, map, masks, through} = this.#core;
    const loading = this.#core.ensureLoaded(cut.first, cut.last);
    if (loading) await loading;
    const wantedPlaces = (): number =>
      cut.edges.filter((block) => map.get(block) === ABSENT).length;
    const isZeroedEdge = (block: number): boolean =>
      cut.edges.includes(block) && stateRow(map.get(block)).partWriteFillsZeroes;
    for (;;) {
      await through.prepare(cut.first, cut.last, this.#events.bring);
      const places = wantedPlaces();
      if (places > 0 && !masks.tryReserve(places)) {
        this.#events.masksFull();
        await masks.reserve(places);
      }
      const start = isZeroedEdge(cut.first) ? geometry.offsetOf(cut.first) : offset;
      const stop = isZeroedEdge(cut.last - 1) ? geometry.offsetOf(cut.last) : end;
      const hold = await locks.acquire(start, stop);
      const isWide =
        (!isZeroedEdge(cut.first) || start === geometry.offsetOf(cut.first)) &&
        (!isZeroedEdge(cut.last - 1) || stop === geometry.offsetOf(cut.last));
      const isReady = through.isReady(cut.first, cut.last);
      if (isWide && isReady && wantedPlaces() <= places) return {hold, places};
      hold.release();
      if (places > 0) masks.unreserve(places);
    }
  }

  /** Step 4: the data, and zeroes around it in zeroed blocks that it covers in part. */
  async #store(offset: number, buffer: Buffer, cut: Cut): Promise<void> {
    const {counters, geometry, map, store, through} = this.#core;
    const end = offset + buffer.length;
    const writes = [this.#writeTwice(offset, buffer)];
    for (const block of cut.edges) {
      if (!stateRow(map.get(block)).partWriteFillsZeroes) continue;
      const start = geometry.offsetOf(block);
      const stop = geometry.offsetOf(block + 1);
      if (start < offset) writes.push(store.zero(start, offset - start));
      if (end < stop) writes.push(store.zero(end, stop - end));
    }
    const results = await Promise.allSettled(writes);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed === undefined) return;
    counters.storeErrors++;
    through.doubt(offset, buffer.length);
    throw failed.reason instanceof BlockError
      ? failed.reason
      : new BlockError('EIO', `write to ${store.name} failed`, {
          op: 'write',
          offset,
          cause: failed.reason,
        });
  }

  /** A disk gives a sector that it cannot write another place, sometimes only the second time. */
  async #writeTwice(offset: number, buffer: Buffer): Promise<void> {
    const {isAbandoned, store, storeErrors} = this.#core;
    try {
      await store.write(offset, buffer);
    } catch (error) {
      if (isAbandoned || !isMediumError(error)) throw error;
      try {
        await store.write(offset, buffer);
      } catch (again) {
        storeErrors.note(offset, buffer.length, 'not written');
        throw again;
      }
    }
  }

  /**
   * After a failed write, which may be in the store or on a backup that is the source: what was
   * copied may no longer be what the source has (I11), nor the source what it was known to be.
   */
  #distrust({first, last}: Pick<Cut, 'first' | 'last'>): void {
    const {isAbandoned, map} = this.#core;
    this.#core.sourceAge++;
    for (let block = first; block < last && !isAbandoned; block++)
      if (map.get(block) === COPIED) map.set(block, block + 1, OVERWRITTEN);
  }

  /** Step 5. The number of reserved places that became masks. */
  #apply(offset: number, end: number, cut: Cut): number {
    const {geometry, map, masks} = this.#core;
    let used = 0;
    if (cut.wholeFirst < cut.wholeLast) {
      map.set(cut.wholeFirst, cut.wholeLast, OVERWRITTEN);
      masks.dropRange(cut.wholeFirst, cut.wholeLast);
    }
    // A mask is there before its block is partial and goes after, so that a daemon that takes over
    // never finds a partial block without one.
    for (const block of cut.edges) {
      const state = map.get(block);
      if (state === ABSENT) {
        masks.add(block);
        map.set(block, block + 1, PARTIAL);
        used++;
      }
      if (state === ABSENT || state === PARTIAL) {
        const base = geometry.offsetOf(block);
        const first = (Math.max(offset, base) - base) / SECTOR;
        const last = (Math.min(end, geometry.offsetOf(block + 1)) - base) / SECTOR;
        if (!masks.grow(block, first, last)) continue;
      }
      map.set(block, block + 1, OVERWRITTEN);
      masks.drop(block);
    }
    return used;
  }

  #cut(offset: number, end: number): Cut {
    const {geometry} = this.#core;
    const first = geometry.blockOf(offset);
    const last = geometry.blockEndOf(end);
    const startsInside = offset > geometry.offsetOf(first);
    const endsInside = end < geometry.offsetOf(last);
    const edges: number[] = [];
    if (startsInside) edges.push(first);
    if (endsInside && (!startsInside || last - 1 > first)) edges.push(last - 1);
    return {
      first,
      last,
      edges,
      wholeFirst: startsInside ? first + 1 : first,
      wholeLast: endsInside ? last - 1 : last,
    };
  }
}
