/**
 * The few things that daemon and command line do with files by path: look, list, read a line of the
 * kernel's, make and remove what is theirs. All of it before a volume is ready or in the command
 * line's own process, where waiting for a disk holds nobody up; hence the blocking calls.
 */
import {
  accessSync,
  closeSync,
  constants,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import {mkdir, rm, truncate} from 'node:fs/promises';
import {messageOf} from '../base/errors.js';

export function exists(path: string): boolean {
  return existsSync(path);
}

/** A small text, such as those in /proc and /sys; undefined where it cannot be read. */
export function textAt(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return undefined;
  }
}

/**
 * Names in a folder, sorted; none where there is no such folder. Throws where it may not be read.
 */
export function namesAt(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch (error) {
    const {code} = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return [];
    throw error;
  }
}

/** Why a path may not be used, for a person; undefined where it may. */
export function accessProblem(path: string, use: 'read and write' | 'execute'): string | undefined {
  try {
    accessSync(path, use === 'execute' ? constants.X_OK : constants.W_OK);
    return undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** What a path is to somebody who wants to mount something there. */
export function folderState(path: string): 'empty' | 'not empty' | 'absent' | 'no folder' {
  if (!existsSync(path)) return 'absent';
  if (!statSync(path).isDirectory()) return 'no folder';
  return readdirSync(path).length === 0 ? 'empty' : 'not empty';
}

/** Whether two paths lead to the same file or the same device; false where either is not there. */
export function isSameFile(one: string, other: string): boolean {
  const [a, b] = [one, other].map((path) => statSync(path, {throwIfNoEntry: false}));
  if (a === undefined || b === undefined) return false;
  if (a.isBlockDevice() || b.isBlockDevice()) {
    return a.isBlockDevice() && b.isBlockDevice() && a.rdev === b.rdev;
  }
  return a.dev === b.dev && a.ino === b.ino;
}

/** Makes a folder and what leads to it, mode 0700. */
export async function makeFolder(path: string): Promise<void> {
  await mkdir(path, {recursive: true, mode: 0o700});
}

/** Removes a file, or a folder with all it holds; fine where there is none. */
export async function remove(path: string): Promise<void> {
  await rm(path, {recursive: true, force: true});
}

/** Keeps a file or device open for reading, so that others can open it by this descriptor. */
export function holdOpen(path: string): {fd: number; close: () => void} {
  const fd = openSync(path, 'r');
  return {fd, close: () => closeSync(fd)};
}

/** Removes a file; fine where there is none. */
export function removeNow(path: string): void {
  rmSync(path, {force: true});
}

/** Gives a file back the size it had. */
export async function restoreSize(path: string, size: number): Promise<void> {
  await truncate(path, size);
}

/** From now on what is written to descriptor 2, by whomever, goes to the end of a file. */
export function redirectStandardError(path: string): void {
  closeSync(2);
  // The lowest free number is taken: this is descriptor 2 again.
  openSync(path, 'a', 0o600);
}
