/**
 * The port for where absent blocks come from: read-only, immutable as long as its identity holds.
 *
 * Contract: calls may run concurrently and complete in any order. A read either fills the whole
 * buffer with the source's bytes or rejects with a BlockError; it never gives zeroes for want of an
 * answer. Retrying is not a source's business: one wrapper does it (resilient-source.ts).
 */
export interface Source {
  /** For people; secrets removed. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Fills the whole buffer, which the caller leaves alone until the promise settles. */
  read(offset: number, buffer: Uint8Array, options?: SourceReadOptions): Promise<void>;
  /**
   * The extents of a range in order, covering it exactly. `isZero` is true only where the source is
   * known to read zeroes. A source that cannot tell gives one extent that is not zero.
   */
  extents(offset: number, length: number, options?: SourceReadOptions): Promise<SourceExtent[]>;
  /** Rejects what still waits for the source with ESHUTDOWN, then lets go. No call may follow. */
  close(): Promise<void>;
}

export interface SourceReadOptions {
  /**
   * A guest waits for `foreground`; `background` never takes a slot or connection from it. @default
   * 'foreground'
   */
  priority?: 'foreground' | 'background';
  /**
   * Rejects with ECANCELED when aborted; the buffer is then still in use until the promise settles.
   */
  signal?: AbortSignal;
}

export interface SourceExtent {
  offset: number;
  length: number;
  isZero: boolean;
}

/** How a source is doing, as `status` shows it. */
export interface SourceHealth {
  state: 'connected' | 'connecting' | 'waiting' | 'mismatch' | 'closed';
  /** Wall time in ms since when it is in this state. */
  since: number;
  /** Requests that wait for the source to come back. */
  waiters: number;
  /** Attempts made since the connection was lost. */
  attempts: number;
  lastError?: string;
}
