/**
 * A store, map or other long-lived file on this computer, as {@link Storage}: a regular file or a
 * block device behind the addon's store threads.
 *
 * Zeroing and asking for extents are done in bounded pieces, so that a 64 TiB range never keeps a
 * store thread for long. A store on a block device is opened exclusively: the kernel then refuses
 * to mount it or to give it to another program of that kind.
 */
import {assertRange, GiB, MiB} from '../base/units.js';
import {File} from '../native/file.js';
import type {Storage, StorageExtent} from './storage.js';

/**
 * One piece of zeroing. A hole of a GiB costs milliseconds; a disk may have to write every byte.
 */
const ZERO_PIECE_FILE = GiB;
const ZERO_PIECE_DEVICE = 64 * MiB;

export interface FileStorageOptions {
  /** @default 'write' */
  access?: 'read' | 'write';
  /** Makes a regular file of that size if there is none; grows a shorter one, never shrinks. */
  createSize?: number;
  /** With createSize: fails with EEXIST if the file exists. @default false */
  isNew?: boolean;
  /** What messages call it. @default the path */
  name?: string;
}

export class FileStorage implements Storage {
  readonly name: string;
  readonly #file: File;

  private constructor(file: File, name = file.path) {
    this.name = name;
    this.#file = file;
  }

  static async open(path: string, options: FileStorageOptions = {}): Promise<FileStorage> {
    const {createSize} = options;
    const file = await openOrCreate(path, options);
    if (createSize !== undefined && file.isRegular && file.size < createSize) {
      try {
        await file.truncate(createSize);
      } catch (error) {
        await file.close();
        throw error;
      }
    }
    return new FileStorage(file, options.name);
  }

  /** Takes over a descriptor; `path` is for messages. */
  static async adopt(fd: number, path: string): Promise<FileStorage> {
    return new FileStorage(await File.adopt(fd, path));
  }

  get size(): number {
    return this.#file.size;
  }

  get isBlockDevice(): boolean {
    return this.#file.isBlockDevice;
  }

  /** For native code that serves from the same file; it stays this storage's. */
  get fd(): number {
    return this.#file.fd;
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    return this.#file.read(offset, buffer);
  }

  write(offset: number, buffer: Uint8Array): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    return this.#file.write(offset, buffer);
  }

  async zero(offset: number, length: number): Promise<void> {
    assertRange(offset, length, this.size);
    const piece = this.#file.isBlockDevice ? ZERO_PIECE_DEVICE : ZERO_PIECE_FILE;
    for (let at = offset; at < offset + length; at += piece) {
      await this.#file.zero(at, Math.min(piece, offset + length - at));
    }
  }

  async extents(offset: number, length: number): Promise<StorageExtent[]> {
    assertRange(offset, length, this.size);
    return await fileExtents(this.#file, offset, length);
  }

  sync(): Promise<void> {
    return this.#file.sync();
  }

  /**
   * Makes reads give what the medium holds, for a file that an earlier process may have failed to
   * sync: the kernel goes on showing what such a sync lost, until its pages are dropped or the
   * power is cut.
   */
  reload(): Promise<void> {
    return this.#file.reload();
  }

  /** Sets a regular file's size. No call may be in flight beyond a smaller one. */
  resize(size: number): Promise<void> {
    return this.#file.truncate(size);
  }

  /** Reserves space for the range, so that writing it cannot fail with ENOSPC. */
  allocate(offset: number, length: number): Promise<void> {
    return this.#file.allocate(offset, length);
  }

  /** Takes the file's exclusive lock, which ends with close; false if another process has it. */
  tryLock(): boolean {
    return this.#file.tryLock();
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** Alternating holes and data that cover the range exactly; also what a file source is made of. */
export async function fileExtents(
  file: File,
  offset: number,
  length: number,
): Promise<StorageExtent[]> {
  const result: StorageExtent[] = [];
  const add = (start: number, end: number, isHole: boolean): void => {
    const last = result.at(-1);
    if (end === start) return;
    if (last?.isHole === isHole) last.length += end - start;
    else result.push({offset: start, length: end - start, isHole});
  };
  const end = offset + length;
  let at = offset;
  while (at < end) {
    const {extents, covered} = await file.dataExtents(at, end - at);
    for (const extent of extents) {
      add(at, extent.start, true);
      add(extent.start, extent.end, false);
      at = extent.end;
    }
    add(at, covered, true);
    at = covered;
  }
  return result;
}

/** O_EXCL without O_CREAT means "exclusively" on a block device only, so the two never meet. */
async function openOrCreate(path: string, options: FileStorageOptions): Promise<File> {
  const {access = 'write', createSize, isNew} = options;
  if (createSize !== undefined && isNew === true) {
    return await File.open(path, {access, createSize, isNew});
  }
  try {
    return await File.open(path, {access, isExclusive: access === 'write'});
  } catch (error) {
    const isAbsent = (error as {code?: unknown}).code === 'ENOENT';
    if (!isAbsent || createSize === undefined) throw error;
  }
  return await File.open(path, {access, createSize, isNew: true});
}
