/**
 * The place of the store in a volume: what holds it may be replaced while everybody else goes on
 * calling. The replacement is made under locks that keep out whoever writes (replacement.ts).
 */
import type {Storage, StorageExtent} from '../storage/storage.js';

export class StoreSlot implements Storage {
  #current: Storage;
  /** Told of each range that is about to change or has just changed. */
  onChange: ((offset: number, length: number) => void) | undefined;

  constructor(first: Storage) {
    this.#current = first;
  }

  get name(): string {
    return this.#current.name;
  }

  get size(): number {
    return this.#current.size;
  }

  /** From now on the store is another one; the one before. */
  replace(next: Storage): Storage {
    const before = this.#current;
    this.#current = next;
    return before;
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#current.read(offset, buffer);
  }

  write(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#changing(offset, buffer.length, this.#current.write(offset, buffer));
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#changing(offset, length, this.#current.zero(offset, length));
  }

  extents(offset: number, length: number): Promise<StorageExtent[]> {
    return this.#current.extents(offset, length);
  }

  sync(): Promise<void> {
    return this.#current.sync();
  }

  close(): Promise<void> {
    return this.#current.close();
  }

  /** A copy made between the two calls may have old bytes, new ones, or some of both. */
  async #changing(offset: number, length: number, change: Promise<void>): Promise<void> {
    this.onChange?.(offset, length);
    try {
      await change;
    } finally {
      this.onChange?.(offset, length);
    }
  }
}
