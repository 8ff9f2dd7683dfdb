/** Errors of the addon and of Node's own file functions (`errno`, `syscall`), as BlockErrors. */
import {BlockError, errnoCode, ERRNO, messageOf, type ErrnoCode} from '../base/errors.js';

/** Errors a guest must see as another one: a full quota is a full disk. */
const ALIASES: Readonly<Record<number, ErrnoCode>> = {122: 'ENOSPC', 123: 'ENXIO', 124: 'EIO'};

const REASONS: Partial<Record<ErrnoCode, string>> = {
  EIO: 'the device reports an input/output error',
  ENOSPC: 'no space is left',
  EACCES: 'permission is denied',
  EPERM: 'it is not permitted',
  ENOENT: 'it does not exist',
  EROFS: 'it is read-only',
  EBUSY: 'it is in use',
  EEXIST: 'it exists already',
  ENXIO: 'the device is gone',
  ENODEV: 'the device is gone',
  EFBIG: 'it may not grow so large',
  EISDIR: 'it is a directory',
  ENOTDIR: 'a part of its path is not a directory',
  EMFILE: 'too many files are open',
  ENOMEM: 'memory is short',
  EBADF: 'it is closed',
  EINVAL: 'the system finds the request invalid',
  ESTALE: 'its file system lost it',
};

/** The code of a positive errno as this program knows it. */
export function codeOf(errno: number): ErrnoCode {
  return ALIASES[errno] ?? errnoCode(errno);
}

/** Why a call failed, as the end of a sentence: `no space is left (ENOSPC)`. */
export function reasonOf(code: ErrnoCode): string {
  return `${REASONS[code] ?? 'the system refused'} (${code})`;
}

/** The positive errno an error carries, EIO if none. */
export function errnoOf(error: unknown): number {
  const errno = (error as {errno?: unknown} | null)?.errno;
  return typeof errno === 'number' && errno !== 0 ? Math.abs(errno) : ERRNO.EIO;
}

/** What a rejected native call means: `doing` says what was being done to what. */
export function systemError(error: unknown, doing: string, op: string): BlockError {
  const code = codeOf(errnoOf(error));
  const reason =
    typeof (error as {errno?: unknown} | null)?.errno === 'number'
      ? reasonOf(code)
      : messageOf(error);
  return new BlockError(code, `${doing}: ${reason}`, {op, cause: error});
}
