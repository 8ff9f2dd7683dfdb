/**
 * The one shape of everything that can be a kernel block device: the restoring volume, memory,
 * wrappers, and whatever a test writes in ten lines.
 *
 * Contract: offsets and lengths are bytes, multiples of 512 and inside `size`. Calls may run
 * concurrently and complete in any order; a read that overlaps a write in flight may give old or
 * new bytes. A failure is an error whose errno the guest sees (base/errors.ts). Buffers belong to
 * the callee until the promise settles, not longer.
 */
export interface BlockDevice {
  /** Bytes. */
  readonly size: number;
  /** Fills the whole buffer. */
  read(offset: number, buffer: Buffer): Promise<void>;
  /** `fua`: the bytes are durable when the promise resolves. */
  write(offset: number, buffer: Buffer, options?: {fua?: boolean}): Promise<void>;
  /** The range reads zeroes afterwards; `mayTrim` allows deallocation. Up to 4 GiB in one call. */
  writeZeroes(
    offset: number,
    length: number,
    options?: {fua?: boolean; mayTrim?: boolean},
  ): Promise<void>;
  /** The guest no longer wants the range; regrow's own devices make it read zeroes. */
  discard(offset: number, length: number): Promise<void>;
  /** Everything that was answered before this call is durable when the promise resolves. */
  flush(): Promise<void>;
  /** Waits for calls in flight, then lets go. No call may follow. */
  close(): Promise<void>;
}
