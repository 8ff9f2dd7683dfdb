/**
 * A block device in memory, up to 64 TiB: only chunks that were written cost anything. It forgets
 * everything on close.
 *
 * What it checks: a request outside the device or not made of whole sectors gets EINVAL. Nothing is
 * volatile here; `flush` has nothing to do (volatile-device.ts puts a cache in front).
 */
import {assert} from '../base/assert.js';
import {BlockError} from '../base/errors.js';
import {SparseBytes} from '../base/sparse-bytes.js';
import {KiB, SECTOR, TiB} from '../base/units.js';
import type {BlockDevice} from '../device/block-device.js';

/** Offsets stay exact far above this; it bounds what one `writeZeroes` may have to walk. */
export const MEMORY_DEVICE_SIZE_MAX = 64 * TiB;

export interface MemoryDeviceOptions {
  /** Bytes kept together, a multiple of 512. @default 64 KiB */
  chunkSize?: number;
}

export class MemoryDevice implements BlockDevice {
  readonly size: number;
  readonly #bytes: SparseBytes;
  #isClosed = false;

  /** `size`: bytes, a multiple of 512, at most 64 TiB; RangeError otherwise. */
  constructor(size: number, options: MemoryDeviceOptions = {}) {
    const chunkSize = options.chunkSize ?? 64 * KiB;
    if (!Number.isSafeInteger(size) || size % SECTOR !== 0 || size < 0) {
      throw new RangeError(`a memory device's size is a multiple of ${SECTOR}, not ${size}`);
    }
    if (size > MEMORY_DEVICE_SIZE_MAX) throw new RangeError(`${size} bytes is more than 64 TiB`);
    if (chunkSize < SECTOR || chunkSize % SECTOR !== 0) {
      throw new RangeError(`chunkSize is a multiple of ${SECTOR}, not ${chunkSize}`);
    }
    this.size = size;
    this.#bytes = new SparseBytes(size, {chunkSize});
  }

  /** Bytes of memory its content takes. */
  get allocated(): number {
    return this.#bytes.allocated;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    this.#check('read', offset, buffer.length);
    this.#bytes.read(offset, buffer);
  }

  async write(offset: number, buffer: Buffer): Promise<void> {
    this.#check('write', offset, buffer.length);
    this.#bytes.write(offset, buffer);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    this.#check('zeroes', offset, length);
    this.#bytes.zero(offset, length);
  }

  async discard(offset: number, length: number): Promise<void> {
    this.#check('discard', offset, length);
    this.#bytes.zero(offset, length);
  }

  async flush(): Promise<void> {
    assert(!this.#isClosed, 'no call follows close');
  }

  async close(): Promise<void> {
    assert(!this.#isClosed, 'close is called once');
    this.#isClosed = true;
    this.#bytes.zero(0, this.size);
  }

  #check(op: string, offset: number, length: number): void {
    assert(!this.#isClosed, 'no call follows close');
    const isWhole = offset % SECTOR === 0 && length % SECTOR === 0;
    if (isWhole && offset >= 0 && length >= 0 && offset + length <= this.size) return;
    const message = `${op} at ${offset}+${length} is not whole sectors inside ${this.size} bytes`;
    throw new BlockError('EINVAL', message, {op, offset, length, isPermanent: true});
  }
}
