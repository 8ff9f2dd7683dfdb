/**
 * A source whose size is rounded up to whole sectors: what lies behind its end reads zeroes. Disks
 * have whole sectors; images need not.
 */
import {alignUp, assertRange, SECTOR} from '../base/units.js';
import type {Source, SourceExtent, SourceReadOptions} from './source.js';

export class PaddedSource implements Source {
  readonly size: number;
  readonly #inner: Source;

  /** `unit`: bytes, a power of two. */
  constructor(inner: Source, unit = SECTOR) {
    this.#inner = inner;
    this.size = alignUp(inner.size, unit);
  }

  get name(): string {
    return this.#inner.name;
  }

  async read(offset: number, buffer: Uint8Array, options?: SourceReadOptions): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    const inside = this.#inside(offset, buffer.byteLength);
    if (inside > 0) await this.#inner.read(offset, buffer.subarray(0, inside), options);
    buffer.fill(0, inside);
  }

  async extents(
    offset: number,
    length: number,
    options?: SourceReadOptions,
  ): Promise<SourceExtent[]> {
    assertRange(offset, length, this.size);
    const inside = this.#inside(offset, length);
    const extents = inside > 0 ? await this.#inner.extents(offset, inside, options) : [];
    const padding = length - inside;
    if (padding === 0) return extents;
    const last = extents.at(-1);
    if (last?.isZero === true) {
      return [...extents.slice(0, -1), {...last, length: last.length + padding}];
    }
    return [...extents, {offset: offset + inside, length: padding, isZero: true}];
  }

  close(): Promise<void> {
    return this.#inner.close();
  }

  /** How much of a range the inner source has. */
  #inside(offset: number, length: number): number {
    return Math.max(0, Math.min(length, this.#inner.size - offset));
  }
}
