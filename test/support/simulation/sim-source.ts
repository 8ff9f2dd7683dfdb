/**
 * A source of the simulation: immutable stamped content with zero extents, slow, failing or away as
 * the world says.
 *
 * Content is decided by cells of `cellSize` bytes: each is data, zeroes known to be zeroes, or
 * zeroes the source does not know of. While `isAway`, requests wait, as they do behind the retrying
 * wrapper; `fault` makes single requests fail, as with `--on-source-loss=error`.
 */
import {BlockError, type ErrnoCode} from '../../../src/base/errors.js';
import {Prng} from '../../../src/base/prng.js';
import {alignDown, assertRange, divideDown} from '../../../src/base/units.js';
import type {Source, SourceExtent, SourceReadOptions} from '../../../src/source/source.js';
import {SOURCE, stamp, ZERO} from '../stamps.js';
import type {Life, Scheduler} from './scheduler.js';

export interface SourceContent {
  readonly seed: number;
  readonly size: number;
  /** Bytes of one cell; a multiple of 512. */
  readonly cellSize: number;
  /** Cells of each kind out of 8: known zeroes, unknown zeroes; the rest is data. */
  readonly holes: number;
  readonly secretZeroes: number;
}

export interface SimSourceTools {
  readonly scheduler: Scheduler;
  readonly prng: Prng;
  readonly life: Life;
  readonly latency: () => number;
  readonly fault?: ((op: 'read' | 'extents') => ErrnoCode | undefined) | undefined;
  /** What the server holds now; left out: the content it began with. */
  readonly peek?: ((offset: number, buffer: Uint8Array) => void) | undefined;
}

type CellKind = 'data' | 'hole' | 'secret zeroes';

/** What the source holds in the cell at byte `offset`. */
function cellKind(content: SourceContent, offset: number): CellKind {
  const cell = divideDown(offset, content.cellSize);
  const dice = new Prng(content.seed + cell * 8191).below(8);
  if (dice < content.holes) return 'hole';
  return dice < content.holes + content.secretZeroes ? 'secret zeroes' : 'data';
}

/** The value (test/support/stamps.ts) of the source's sector at byte `offset`. */
export function sourceValue(content: SourceContent, offset: number): number {
  return cellKind(content, offset) === 'data' ? SOURCE : ZERO;
}

/** Fills `buffer` with the source's bytes. */
export function fillFromSource(content: SourceContent, offset: number, buffer: Uint8Array): void {
  for (let at = offset; at < offset + buffer.length;) {
    const end = Math.min(
      alignDown(at, content.cellSize) + content.cellSize,
      offset + buffer.length,
    );
    stamp(buffer.subarray(at - offset, end - offset), at, sourceValue(content, at));
    at = end;
  }
}

export class SimSource implements Source {
  readonly name = 'simulated source';
  readonly size: number;
  readonly #content: SourceContent;
  readonly #tools: SimSourceTools;
  #isAway = false;
  #outages = 0;
  #isClosed = false;
  #waiters: (() => void)[] = [];

  constructor(content: SourceContent, tools: SimSourceTools) {
    this.size = content.size;
    this.#content = content;
    this.#tools = tools;
  }

  get isAway(): boolean {
    return this.#isAway;
  }

  /** Takes the source away, or brings it back and releases everyone who waits. */
  setAway(isAway: boolean): void {
    this.#isAway = isAway;
    if (isAway) this.#outages++;
    if (isAway) return;
    for (const release of this.#waiters.splice(0)) release();
  }

  async read(offset: number, buffer: Uint8Array, options?: SourceReadOptions): Promise<void> {
    assertRange(offset, buffer.length, this.size);
    const {prng} = this.#tools;
    buffer.fill(0xdd);
    // The server may have read long before its answer comes; after an outage it is asked again.
    const early = prng.chance(1, 2) ? new Uint8Array(buffer.length) : undefined;
    if (early) this.fill(offset, early);
    const outages = this.#outages;
    await this.#answer('read', offset, buffer.length, options?.signal);
    if (early && outages === this.#outages && !this.#isAway) buffer.set(early);
    else this.fill(offset, buffer);
    if (prng.chance(1, 8)) await this.#wait(this.#tools.latency());
  }

  async extents(
    offset: number,
    length: number,
    options?: SourceReadOptions,
  ): Promise<SourceExtent[]> {
    assertRange(offset, length, this.size);
    await this.#answer('extents', offset, length, options?.signal);
    const {cellSize} = this.#content;
    const found: SourceExtent[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min(alignDown(at, cellSize) + cellSize, offset + length);
      const isZero = cellKind(this.#content, at) === 'hole' && this.#isZero(at, end - at);
      const last = found.at(-1);
      if (last && last.isZero === isZero) last.length += end - at;
      else found.push({offset: at, length: end - at, isZero});
      at = end;
    }
    return found;
  }

  /** The bytes it would give now. */
  fill(offset: number, buffer: Uint8Array): void {
    if (this.#tools.peek) this.#tools.peek(offset, buffer);
    else fillFromSource(this.#content, offset, buffer);
  }

  /** A hole that was written to is one no more. */
  #isZero(offset: number, length: number): boolean {
    if (!this.#tools.peek) return true;
    const bytes = new Uint8Array(length);
    this.#tools.peek(offset, bytes);
    return bytes.every((byte) => byte === 0);
  }

  /** Rejects who waits for it to come back, as the contract says. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const release of this.#waiters.splice(0)) release();
    await this.#wait(0);
  }

  /** Waits as long as the request takes; rejects if it is to fail or was aborted meanwhile. */
  async #answer(
    op: 'read' | 'extents',
    offset: number,
    length: number,
    signal: AbortSignal | undefined,
  ): Promise<void> {
    const fault = this.#tools.fault?.(op);
    await this.#wait(this.#tools.latency());
    while (this.#isAway && !this.#isClosed && signal?.aborted !== true) {
      await this.#untilBack(signal);
    }
    if (this.#isClosed) {
      throw new BlockError('ESHUTDOWN', `${op}: the source is closed`, {op, offset, length});
    }
    if (signal?.aborted) {
      throw new BlockError('ECANCELED', `${op} of the source was aborted`, {op, offset, length});
    }
    if (fault) {
      throw new BlockError(fault, `${op} of the source failed on purpose`, {op, offset, length});
    }
  }

  #untilBack(signal: AbortSignal | undefined): Promise<void> {
    return new Promise((resolve) => {
      const release = (): void => {
        signal?.removeEventListener('abort', release);
        resolve();
      };
      this.#waiters.push(release);
      signal?.addEventListener('abort', release);
    });
  }

  #wait(delay: number): Promise<void> {
    return new Promise((resolve) => {
      this.#tools.scheduler.after(delay, this.#tools.life, resolve);
    });
  }
}
