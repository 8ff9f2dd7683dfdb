/**
 * A regular file or block device on this computer as a source. It is opened read-only and offers no
 * way to write (I10). Holes of a regular file are known zeroes; of a block device nothing is known.
 */
import {BlockError, UserError} from '../base/errors.js';
import {assertRange} from '../base/units.js';
import {File} from '../native/file.js';
import {fileExtents} from '../storage/file-storage.js';
import type {Source, SourceExtent, SourceReadOptions} from './source.js';

/**
 * What a file begins with that is an image in a format of its own, or compressed: never a raw disk.
 */
const FORMATS: readonly {name: string; magic: readonly number[]}[] = [
  {name: 'a qcow2 image', magic: [0x51, 0x46, 0x49, 0xfb]},
  {name: 'a VMDK image', magic: [0x4b, 0x44, 0x4d, 0x56]},
  {name: 'a VHDX image', magic: [0x76, 0x68, 0x64, 0x78, 0x66, 0x69, 0x6c, 0x65]},
  {name: 'compressed by xz', magic: [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]},
  {name: 'compressed by zstd', magic: [0x28, 0xb5, 0x2f, 0xfd]},
  {name: 'compressed by gzip', magic: [0x1f, 0x8b, 0x08]},
];

export class FileSource implements Source {
  readonly name: string;
  readonly size: number;
  readonly #file: File;

  private constructor(file: File) {
    this.name = file.path;
    this.size = file.size;
    this.#file = file;
  }

  /** Rejects with a UserError that says why the path cannot be a source. */
  static async open(path: string): Promise<FileSource> {
    let file: File;
    try {
      file = await File.open(path, {access: 'read'});
    } catch (error) {
      throw refuse(path, hintOf(error), error);
    }
    try {
      await assertUsable(path, file);
      return new FileSource(file);
    } catch (error) {
      await file.close();
      throw error instanceof UserError ? error : refuse(path, hintOf(error), error);
    }
  }

  /** Goes on with a descriptor of a source that was opened before; owns it. */
  static async adopt(fd: number, path: string): Promise<FileSource> {
    return new FileSource(await File.adopt(fd, path));
  }

  /** Its descriptor, for a later adopt(); it stays this source's. */
  get fd(): number {
    return this.#file.fd;
  }

  async read(offset: number, buffer: Uint8Array, options: SourceReadOptions = {}): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    assertNotAborted(this.name, options.signal);
    await this.#file.read(offset, buffer);
    assertNotAborted(this.name, options.signal);
  }

  async extents(
    offset: number,
    length: number,
    options: SourceReadOptions = {},
  ): Promise<SourceExtent[]> {
    assertRange(offset, length, this.size);
    assertNotAborted(this.name, options.signal);
    const extents = await fileExtents(this.#file, offset, length);
    return extents.map(({isHole, ...range}) => ({...range, isZero: isHole}));
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** Throws ECANCELED if the signal is aborted. */
export function assertNotAborted(name: string, signal: AbortSignal | undefined): void {
  if (signal?.aborted !== true) return;
  throw new BlockError('ECANCELED', `reading ${name}: given up`, {
    op: 'read',
    cause: signal.reason,
  });
}

async function assertUsable(path: string, file: File): Promise<void> {
  if (!file.isRegular && !file.isBlockDevice) {
    throw refuse(path, 'it is neither a regular file nor a block device');
  }
  if (file.size === 0) throw refuse(path, 'it is empty');
  if (file.isBlockDevice) return;
  const head = new Uint8Array(Math.min(8, file.size));
  await file.read(0, head);
  const format = FORMATS.find(({magic}) => magic.every((byte, index) => head[index] === byte));
  if (format === undefined) return;
  throw refuse(
    path,
    `it is ${format.name}, not a raw one; serve it with qemu-nbd or nbdkit and give that ` +
      "server's NBD URI, or convert it to a raw image",
  );
}

function hintOf(error: unknown): string {
  const code = error instanceof BlockError ? error.code : 'EIO';
  if (code === 'ENOENT') return 'it does not exist; check the path';
  if (code === 'EACCES' || code === 'EPERM')
    return 'reading it is not permitted; run as a user who may';
  if (code === 'ENXIO' || code === 'ENODEV') return 'no device is behind it; is the disk attached?';
  return error instanceof Error ? error.message : String(error);
}

function refuse(path: string, reason: string, cause?: unknown): UserError {
  return new UserError(`opening the source ${path}: ${reason}`, {cause});
}
