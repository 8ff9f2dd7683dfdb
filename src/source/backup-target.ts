/**
 * The port for where writes go through to. One object is one connection: once lost it is never
 * used again, and whatever was sent on it since its last answered flush may or may not have
 * arrived (volume/backup-link.ts opens the next one).
 *
 * Contract: calls may run concurrently and complete in any order, so a caller that cares about the
 * order of two overlapping writes waits for the first. A call rejects with a BlockError; one that
 * means the connection is gone satisfies {@link isLoss} (base/loss.ts).
 */
import type {BlockError} from '../base/errors.js';

export interface BackupTarget {
  /** For people; secrets removed. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  /** Resolves, never rejects, once the connection is lost; never after close. */
  readonly lost: Promise<BlockError>;
  read(offset: number, buffer: Uint8Array): Promise<void>;
  /** The bytes belong to the callee until the promise settles. */
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /**
   * The range reads zeroes afterwards, whatever the server does for it; never TRIM, which promises
   * nothing. Any length.
   */
  zero(offset: number, length: number): Promise<void>;
  /** Every write answered before this call is durable when the promise resolves. */
  flush(): Promise<void>;
  close(): Promise<void>;
}
