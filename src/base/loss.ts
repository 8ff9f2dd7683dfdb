/** Errors that mean that a connection is gone; any other belongs to the one request. */
import {BlockError, type ErrnoCode} from './errors.js';

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

export function isLoss(error: unknown): boolean {
  return error instanceof BlockError && LOSS_CODES.has(error.code);
}
