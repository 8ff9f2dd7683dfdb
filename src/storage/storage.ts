/**
 * The port for durable bytes: a store, a map file. Production implements it over the addon's pread
 * and pwrite threads, the laboratory over memory that loses, reorders and tears what was not
 * synced.
 *
 * Contract: calls may run concurrently and complete in any order; two overlapping writes in flight
 * leave either's bytes, mixed at will. A write is in the kernel (visible to every later read, not
 * yet durable) when its promise resolves. Nothing is durable before a `sync` that began after the
 * write resolved has itself resolved. Each failure is a BlockError and leaves the written range
 * undefined.
 */
export interface Storage {
  /** What it is, for messages: a path. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /**
   * Fills the whole buffer. Beyond what was ever written it reads zeroes (or, on a disk, stale
   * bytes).
   */
  read(offset: number, buffer: Uint8Array): Promise<void>;
  /** Writes the whole buffer; the caller leaves it alone until the promise settles. */
  write(offset: number, buffer: Uint8Array): Promise<void>;
  /**
   * Makes the range read zeroes, by deallocating where that is known to read zeroes, else by
   * writing. Costs O(extents) on file systems with holes; any length.
   */
  zero(offset: number, length: number): Promise<void>;
  /**
   * The extents of a range in order, covering it exactly; `isHole` is true where the range is known
   * to read zeroes without being allocated. What cannot be known is not a hole.
   */
  extents(offset: number, length: number): Promise<StorageExtent[]>;
  /**
   * Makes every write that resolved before this call durable. A failure is final: never retried.
   */
  sync(): Promise<void>;
  /** Waits for calls in flight, then lets go. No call may follow. */
  close(): Promise<void>;
}

export interface StorageExtent {
  offset: number;
  length: number;
  isHole: boolean;
}
