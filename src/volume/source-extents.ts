/**
 * What the source says of its own holes: asked a window ahead for hydration, and once over the
 * whole volume to know how much data there is (so that the time left is that of data, not of size).
 */
import {messageOf} from '../base/errors.js';
import {ABSENT} from '../map/block-state.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import type {SourceExtent} from '../source/source.js';
import type {VolumeCore} from './core.js';

/** Milliseconds until a survey that the source interrupted goes on. */
const SURVEY_RETRY_MS = 1000;

export class SourceExtents {
  readonly #core: VolumeCore;
  /** The extents asked for last, in order. */
  #window: SourceExtent[] = [];
  /** Of the core, when they were asked for. */
  #age = 0;
  #surveyed = 0;
  #totalBytes = 0;
  #remainingBytes = 0;

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  /**
   * Whether blocks from `block` on are known zero at the source, and up to where (at most `limit`)
   * the answer holds.
   */
  async at(block: number, limit: number): Promise<{isZero: boolean; end: number}> {
    const {geometry} = this.#core;
    const offset = geometry.offsetOf(block);
    let index = this.#age === this.#core.sourceAge ? this.#indexOf(offset) : -1;
    if (index < 0) {
      await this.#ask(offset);
      index = this.#indexOf(offset);
    }
    const extent = this.#window[index];
    if (extent === undefined) return {isZero: false, end: Math.min(limit, block + 1)};
    const zeroEnd = this.#blocksWithin(extent);
    if (extent.isZero && zeroEnd > block) return {isZero: true, end: Math.min(limit, zeroEnd)};
    let end = geometry.blockEndOf(extent.offset + extent.length);
    for (const next of this.#window.slice(index + 1)) {
      if (end >= limit || (next.isZero && this.#blocksWithin(next) > end)) break;
      end = Math.max(end, geometry.blockEndOf(next.offset + next.length));
    }
    return {isZero: false, end: Math.min(limit, end)};
  }

  /** Data in the source, and how much of it was absent; undefined until the survey is through. */
  survey(): {totalDataBytes: number | undefined; remainingDataBytes: number | undefined} {
    if (this.#surveyed < this.#core.geometry.size) {
      return {totalDataBytes: undefined, remainingDataBytes: undefined};
    }
    const {geometry, map} = this.#core;
    const missing = map.count(ABSENT) * geometry.blockSize;
    const remainingDataBytes = Math.max(0, Math.min(this.#remainingBytes, missing));
    return {totalDataBytes: this.#totalBytes, remainingDataBytes};
  }

  /** Hydration fetched this much of what the survey found missing. */
  fetched(bytes: number): void {
    this.#remainingBytes -= bytes;
  }

  /** Walks the whole source once; ends early when the volume stops. */
  async runSurvey(): Promise<void> {
    const {environment, geometry, source, stopping, tuning} = this.#core;
    while (this.#surveyed < geometry.size && !this.#core.isStopping) {
      const length = Math.min(tuning.extentWindow, geometry.size - this.#surveyed);
      try {
        const extents = await source.extents(this.#surveyed, length, {priority: 'background'});
        for (const extent of extents) if (!extent.isZero) this.#countData(extent);
        this.#surveyed += length;
      } catch (error) {
        environment.log('debug', `survey of the source: ${messageOf(error)}`);
        await environment.clock.sleep(SURVEY_RETRY_MS, stopping.signal);
      }
    }
  }

  /**
   * Counts a data extent, and by the share of absent blocks in its map pages what of it is missing.
   */
  #countData({offset, length}: SourceExtent): void {
    const {geometry, map} = this.#core;
    const pageBytes = PAGE_BLOCKS * geometry.blockSize;
    this.#totalBytes += length;
    for (let at = offset; at < offset + length;) {
      const page = Math.floor(at / pageBytes);
      const end = Math.min(offset + length, (page + 1) * pageBytes);
      this.#remainingBytes += ((end - at) * map.countIn(page, ABSENT)) / geometry.blocksIn(page);
      at = end;
    }
  }

  /** The end of the whole blocks that lie within an extent. */
  #blocksWithin({offset, length}: SourceExtent): number {
    const {geometry} = this.#core;
    const end = offset + length;
    return end >= geometry.size ? geometry.blockCount : geometry.blockOf(end);
  }

  #indexOf(offset: number): number {
    return this.#window.findIndex(
      (extent) => extent.offset <= offset && offset < extent.offset + extent.length,
    );
  }

  async #ask(offset: number): Promise<void> {
    const {geometry, source, tuning} = this.#core;
    const length = Math.min(tuning.extentWindow, geometry.size - offset);
    this.#age = this.#core.sourceAge;
    this.#window = await source.extents(offset, length, {priority: 'background'});
  }
}
