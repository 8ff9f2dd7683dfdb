/**
 * Errors of three kinds, never mixed: a programming error is an AssertionError (assert.ts), misuse
 * of the API a TypeError or RangeError at the edge, and everything that can go wrong in operation a
 * BlockError, which carries the errno a guest sees.
 */
import {AssertionError} from './assert.js';

/** The errno values this program raises or passes on (Linux, asm-generic/errno.h). */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  EMFILE: 24,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  EPIPE: 32,
  ERANGE: 34,
  ENOSYS: 38,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ENETUNREACH: 101,
  ECONNABORTED: 103,
  ECONNRESET: 104,
  ENOTCONN: 107,
  ESHUTDOWN: 108,
  ETIMEDOUT: 110,
  ECONNREFUSED: 111,
  EHOSTUNREACH: 113,
  ESTALE: 116,
  ECANCELED: 125,
} as const;
export type ErrnoCode = keyof typeof ERRNO;

const CODE_BY_NUMBER = new Map<number, ErrnoCode>(
  (Object.entries(ERRNO) as [ErrnoCode, number][]).map(([code, number]) => [number, code]),
);

/** The symbolic name of a positive errno, `EIO` for one not listed. */
export function errnoCode(errno: number): ErrnoCode {
  return CODE_BY_NUMBER.get(errno) ?? 'EIO';
}

export interface BlockErrorDetails {
  /** What was being done, in a word or two: `read`, `sync`, `connect`. */
  op: string;
  /** Bytes; left out where the operation has no range. */
  offset?: number;
  length?: number;
  cause?: unknown;
  /** True where trying again cannot help (the content is wrong, access is refused). */
  isPermanent?: boolean;
}

/** An operating error: message for a person, errno for the guest. */
export class BlockError extends Error {
  override readonly name = 'BlockError';
  readonly code: ErrnoCode;
  /** Positive. */
  readonly errno: number;
  readonly op: string;
  readonly offset: number | undefined;
  readonly length: number | undefined;
  readonly isPermanent: boolean;

  /** `message`: what was being done to what, and why it failed. */
  constructor(code: ErrnoCode, message: string, details: BlockErrorDetails) {
    super(message, details.cause === undefined ? undefined : {cause: details.cause});
    this.code = code;
    this.errno = ERRNO[code];
    this.op = details.op;
    this.offset = details.offset;
    this.length = details.length;
    this.isPermanent = details.isPermanent ?? false;
  }
}

/**
 * What a person must be told: one sentence that says what was being done, to what, why it failed
 * and what to do. The command line prints it as it is.
 */
export class UserError extends Error {
  override readonly name = 'UserError';
  /** Exit code: 1 failed, 2 the call was wrong. */
  readonly exitCode: 1 | 2;

  constructor(message: string, options: {exitCode?: 1 | 2; cause?: unknown} = {}) {
    super(message, options.cause === undefined ? undefined : {cause: options.cause});
    this.exitCode = options.exitCode ?? 1;
  }
}

/** The one mapping of an error to the positive errno a guest sees; what it does not know is EIO. */
export function toErrno(error: unknown): number {
  if (error instanceof BlockError) return error.errno;
  const errno = (error as {errno?: unknown} | null)?.errno;
  if (!(error instanceof AssertionError) && typeof errno === 'number' && Number.isInteger(errno)) {
    if (errno !== 0) return Math.abs(errno);
  }
  return ERRNO.EIO;
}

/** True for an error that is neither operation nor misuse: it must be logged with its stack. */
export function isBug(error: unknown): boolean {
  if (error instanceof BlockError || error instanceof UserError) return false;
  return typeof (error as {errno?: unknown} | null)?.errno !== 'number';
}

/** An error's message, or the thing itself as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
