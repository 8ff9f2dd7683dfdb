/**
 * The directory that holds a volume's small state: JSON files that are replaced as a whole or not
 * at all, and the lock that lets one daemon own them.
 *
 * A replacement is written beside the file, synced, renamed over it, and the directory is synced:
 * after a crash the file is the old or the new one, whole. Names that end in `.tmp` are left over
 * from a crash and removed at open.
 *
 * After open() nothing is looked up by the directory's path any more, only beneath its descriptor
 * (/proc/self/fd/N), so that it goes on working when a volume is mounted over it.
 */
import {closeSync, constants} from 'node:fs';
import {mkdir, open, readdir, readFile, rename, rm, type FileHandle} from 'node:fs/promises';
import {join} from 'node:path';
import {assert} from '../base/assert.js';
import {BlockError, UserError} from '../base/errors.js';
import {addon} from '../native/addon.js';
import {systemError} from '../native/native-error.js';

const native = addon as {tryLock(fd: number): boolean};

const LOCK_NAME = 'lock';
const TEMPORARY_SUFFIX = '.tmp';
const NAME_PATTERN = /^[a-z0-9][a-z0-9._-]{0,99}$/i;

export interface StateDirectoryOptions {
  /** Takes the lock; refuses if another process has it. @default true */
  isExclusive?: boolean;
  /** Makes the directory, mode 0700, and what leads to it. @default true */
  create?: boolean;
}

/** The directory, and the file whose lock says who owns it. */
export interface DirectoryDescriptors {
  readonly fd: number;
  readonly lockFd: number;
}

export class StateDirectory {
  /** As it was given: for messages, and for handing to other programs before ready. */
  readonly path: string;
  readonly #handle: FileHandle;
  readonly #lock: FileHandle | number | undefined;
  /** Replacements under way, by name: those of one file run one after the other. */
  readonly #writes = new Map<string, Promise<void>>();

  private constructor(path: string, handle: FileHandle, lock: FileHandle | number | undefined) {
    this.path = path;
    this.#handle = handle;
    this.#lock = lock;
  }

  /** Rejects with a UserError if another process owns the directory. */
  static async open(path: string, options: StateDirectoryOptions = {}): Promise<StateDirectory> {
    const {isExclusive = true, create = true} = options;
    const doing = `opening the state directory ${path}`;
    let handle: FileHandle | undefined;
    let lock: FileHandle | undefined;
    try {
      if (create) await mkdir(path, {recursive: true, mode: 0o700});
      handle = await open(path, constants.O_RDONLY | constants.O_DIRECTORY);
      if (isExclusive) {
        await handle.chmod(0o700);
        lock = await open(beneath(handle, LOCK_NAME), constants.O_RDWR | constants.O_CREAT, 0o600);
        if (!native.tryLock(lock.fd)) {
          throw new UserError(`${doing}: another regrow process owns it; stop that one first`);
        }
        await removeTemporaries(handle);
      }
      return new StateDirectory(path, handle, lock);
    } catch (error) {
      await lock?.close();
      await handle?.close();
      throw error instanceof UserError ? error : systemError(error, doing, 'open');
    }
  }

  /** Goes on with the descriptors of a directory whose owner died; owns both. */
  static async adopt(path: string, {fd, lockFd}: DirectoryDescriptors): Promise<StateDirectory> {
    // Opened anew by its descriptor: the same directory, whatever is mounted over it.
    const handle = await open(`/proc/self/fd/${fd}`, constants.O_RDONLY | constants.O_DIRECTORY);
    closeSync(fd);
    return new StateDirectory(path, handle, lockFd);
  }

  /** Of a directory that is owned: for the process that may have to go on with it. */
  get descriptors(): DirectoryDescriptors {
    const lock = this.#lock;
    assert(lock !== undefined, 'a directory that is handed over is owned');
    return {fd: this.#handle.fd, lockFd: typeof lock === 'number' ? lock : lock.fd};
  }

  /** Where a file of this directory lies, even if something is mounted over the directory. */
  pathOf(name: string): string {
    assertName(name);
    return beneath(this.#handle, name);
  }

  /** Names of all files, sorted; neither the lock nor unfinished replacements. */
  async list(): Promise<string[]> {
    try {
      const names = await readdir(beneath(this.#handle, '.'));
      return names.filter((name) => name !== LOCK_NAME && !name.endsWith(TEMPORARY_SUFFIX)).sort();
    } catch (error) {
      throw systemError(error, `listing ${this.path}`, 'list');
    }
  }

  /** The parsed file, undefined if there is none. A file that is not JSON is a BlockError (EIO). */
  async readJson(name: string): Promise<unknown> {
    const path = this.pathOf(name);
    let text: string;
    try {
      text = await readFile(path, 'utf8');
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw systemError(error, `reading ${join(this.path, name)}`, 'read');
    }
    try {
      return JSON.parse(text) as unknown;
    } catch (cause) {
      const message = `reading ${join(this.path, name)}: it is damaged, its content is not JSON`;
      throw new BlockError('EIO', message, {op: 'read', cause, isPermanent: true});
    }
  }

  /** Replaces a file; durable when the promise resolves. */
  async writeJson(name: string, value: unknown): Promise<void> {
    const text = `${JSON.stringify(value, undefined, 2)}\n`;
    await this.#inTurn(name, () => this.#replace(name, text));
  }

  /** Removes a file, durably; nothing happens if there is none. */
  async remove(name: string): Promise<void> {
    await this.#inTurn(name, async () => {
      try {
        await rm(this.pathOf(name), {force: true});
        await this.#handle.sync();
      } catch (error) {
        throw systemError(error, `removing ${join(this.path, name)}`, 'remove');
      }
    });
  }

  /** Waits for replacements under way and gives up the lock. */
  async close(): Promise<void> {
    await Promise.allSettled(this.#writes.values());
    if (typeof this.#lock === 'number') closeSync(this.#lock);
    else await this.#lock?.close();
    await this.#handle.close();
  }

  async #replace(name: string, text: string): Promise<void> {
    const path = this.pathOf(name);
    try {
      const file = await open(path + TEMPORARY_SUFFIX, 'w', 0o600);
      try {
        await file.writeFile(text);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(path + TEMPORARY_SUFFIX, path);
      await this.#handle.sync();
    } catch (error) {
      throw systemError(error, `writing ${join(this.path, name)}`, 'write');
    }
  }

  async #inTurn(name: string, task: () => Promise<void>): Promise<void> {
    const before = this.#writes.get(name) ?? Promise.resolve();
    const mine = before.catch(() => undefined).then(task);
    this.#writes.set(name, mine);
    try {
      await mine;
    } finally {
      if (this.#writes.get(name) === mine) this.#writes.delete(name);
    }
  }
}

function assertName(name: string): void {
  const isFree = name !== LOCK_NAME && !name.endsWith(TEMPORARY_SUFFIX);
  assert(NAME_PATTERN.test(name) && isFree, `a state file may be called ${name}`);
}

function beneath(handle: FileHandle, name: string): string {
  return `/proc/self/fd/${handle.fd}/${name}`;
}

async function removeTemporaries(handle: FileHandle): Promise<void> {
  for (const name of await readdir(beneath(handle, '.'))) {
    if (name.endsWith(TEMPORARY_SUFFIX)) await rm(beneath(handle, name), {force: true});
  }
}
