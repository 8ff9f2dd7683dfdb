/**
 * What a user names as a backup, opened for writing: an NBD URI, or the path of a raw image or
 * block device. Each open is one connection; retrying is volume/backup-link.ts's business.
 */
import {resolve} from 'node:path';
import {BlockError, messageOf} from '../base/errors.js';
import type {NbdTimeouts} from '../native/nbd.js';
import {FileStorage} from '../storage/file-storage.js';
import type {BackupTarget} from './backup-target.js';
import {NbdBackupTarget} from './nbd-target.js';
import {isNbdUri, parseNbdUri} from './nbd-uri.js';

export interface OpenTargetOptions {
  timeouts?: NbdTimeouts;
  signal?: AbortSignal;
}

/** For people: without secrets. Throws a UserError for a text that is no place. */
export function targetName(text: string): string {
  return isNbdUri(text) ? parseNbdUri(text).name : resolve(text);
}

export async function openTarget(text: string, options: OpenTargetOptions): Promise<BackupTarget> {
  if (isNbdUri(text)) return NbdBackupTarget.open(parseNbdUri(text), options);
  return FileTarget.open(resolve(text));
}

/** A file or disk of this computer. It is never lost; an error belongs to the one request. */
class FileTarget implements BackupTarget {
  readonly name: string;
  readonly size: number;
  readonly lost = new Promise<BlockError>(() => undefined);
  readonly #storage: FileStorage;

  private constructor(storage: FileStorage) {
    this.name = storage.name;
    this.size = storage.size;
    this.#storage = storage;
  }

  static async open(path: string): Promise<FileTarget> {
    try {
      return new FileTarget(await FileStorage.open(path));
    } catch (error) {
      const what = `the backup ${path} cannot be written through to: ${messageOf(error)}`;
      throw new BlockError('EROFS', what, {op: 'open', isPermanent: true, cause: error});
    }
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#storage.read(offset, buffer);
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    return this.#storage.write(offset, bytes);
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#storage.zero(offset, length);
  }

  flush(): Promise<void> {
    return this.#storage.sync();
  }

  close(): Promise<void> {
    return this.#storage.close();
  }
}
