/**
 * The port for where writes go through to. One object is one connection: once lost it is never
 * used again, and whatever was sent on it since its last answered flush may or may not have
 * arrived (volume/backup-link.ts opens the next one).
 *
 * Contract: calls may run concurrently and complete in any order, so a caller that cares about the
 * order of two overlapping writes waits for the first. A call rejects with a BlockError; one that
 * means the connection is gone satisfies {@link isTargetLoss}.
 */
import {BlockError, type ErrnoCode} from '../base/errors.js';

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
  /** The range reads zeroes afterwards, whatever the server does for it. Any length. */
  zero(offset: number, length: number): Promise<void>;
  /** Lets the server forget the range: it may read anything afterwards. Never used for zeroes. */
  trim(offset: number, length: number): Promise<void>;
  /** Every write answered before this call is durable when the promise resolves. */
  flush(): Promise<void>;
  close(): Promise<void>;
}

const LOSS_CODES: ReadonlySet<ErrnoCode> = new Set<ErrnoCode>([
  'ENOTCONN',
  'ETIMEDOUT',
  'ESHUTDOWN',
  'ECONNRESET',
  'ECONNABORTED',
  'EPIPE',
  'ECONNREFUSED',
  'EHOSTUNREACH',
  'ENETUNREACH',
]);

/** True if an error means that the connection is gone, not that one request was refused. */
export function isTargetLoss(error: unknown): boolean {
  return error instanceof BlockError && LOSS_CODES.has(error.code);
}
