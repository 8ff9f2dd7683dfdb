/**
 * An open regular file or block device whose calls run on the addon's store threads. Offsets and
 * lengths are bytes. Calls may run concurrently and complete in any order; every failure is a
 * BlockError that names the path. A buffer is in use until its call settles.
 */
import {assert} from '../base/assert.js';
import {BlockError, ERRNO} from '../base/errors.js';
import {addon} from './addon.js';
import {CallTable} from './call-table.js';
import {codeOf, reasonOf, systemError} from './native-error.js';

/** Mirrored in native/file_io.cc. */
const OPERATION = {
  read: 0,
  write: 1,
  sync: 2,
  syncAll: 3,
  zero: 4,
  extents: 5,
  truncate: 6,
  allocate: 7,
  reload: 8,
} as const;
type Operation = keyof typeof OPERATION;
/** Operations without a range to name in a message. */
const WHOLE_FILE: ReadonlySet<Operation> = new Set(['sync', 'syncAll', 'reload']);

/** asm-generic/fcntl.h */
const FLAG = {readOnly: 0, readWrite: 2, create: 0o100, exclusive: 0o200} as const;

/** The file ended before the range (native/file_ops.h, kEndedEarly). */
const ENDED_EARLY = -1;

interface NativeFacts {
  fd: number;
  size: number;
  isRegular: boolean;
  isBlockDevice: boolean;
}

interface NativeFile {
  readonly fd: number;
  submit(operation: number, slot: number, offset: number, length: number, bytes?: Uint8Array): void;
  close(): void;
}

type Done = (slot: number, error: number, extents?: Float64Array) => void;

interface NativeFileApi {
  File: new (fd: number, isBlockDevice: boolean, done: Done) => NativeFile;
  openFile(path: string, flags: number, mode: number, size: number): Promise<NativeFacts>;
  describeFd(fd: number): Promise<NativeFacts>;
  tryLock(fd: number): boolean;
}

const native = addon as NativeFileApi;

export interface OpenOptions {
  /** @default 'read' */
  access?: 'read' | 'write';
  /**
   * Makes the file if it does not exist, mode 0600, of this many bytes, all hole. Regular files
   * only.
   */
  createSize?: number;
  /** With createSize: fails with EEXIST if the file exists. @default false */
  isNew?: boolean;
  /**
   * Fails with EBUSY if the kernel or someone else uses the block device (O_EXCL). @default false
   */
  isExclusive?: boolean;
}

/** What covers a range: data extents in order, and where the knowledge of this call ends. */
export interface DataExtents {
  /** Byte ranges [start, end) that hold data; between them are holes. */
  extents: {start: number; end: number}[];
  /** At most the end of the range asked for; ask again from here. */
  covered: number;
}

export class File {
  readonly path: string;
  readonly isRegular: boolean;
  readonly isBlockDevice: boolean;
  /** Bytes when it was opened or last truncated. */
  #size: number;
  readonly #native: NativeFile;
  readonly #calls = new CallTable<Float64Array | undefined>();
  #isClosed = false;

  private constructor(path: string, facts: NativeFacts) {
    this.path = path;
    this.isRegular = facts.isRegular;
    this.isBlockDevice = facts.isBlockDevice;
    this.#size = facts.size;
    const calls = this.#calls;
    this.#native = new native.File(facts.fd, facts.isBlockDevice, (slot, error, extents) => {
      calls.settle(slot, error, extents);
    });
  }

  static async open(path: string, options: OpenOptions = {}): Promise<File> {
    let flags: number = options.access === 'write' ? FLAG.readWrite : FLAG.readOnly;
    if (options.createSize !== undefined) {
      flags |= FLAG.create | (options.isNew === true ? FLAG.exclusive : 0);
    }
    if (options.isExclusive === true) flags |= FLAG.exclusive;
    try {
      return new File(path, await native.openFile(path, flags, 0o600, options.createSize ?? -1));
    } catch (error) {
      throw systemError(error, `opening ${path}`, 'open');
    }
  }

  /** Takes over a descriptor, which it closes in the end; `path` is for messages. */
  static async adopt(fd: number, path: string): Promise<File> {
    try {
      return new File(path, await native.describeFd(fd));
    } catch (error) {
      throw systemError(error, `adopting the descriptor of ${path}`, 'open');
    }
  }

  get size(): number {
    return this.#size;
  }

  /** The descriptor; it stays this file's. */
  get fd(): number {
    return this.#native.fd;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    await this.#submit('read', offset, buffer.byteLength, buffer);
  }

  async write(offset: number, buffer: Uint8Array): Promise<void> {
    await this.#submit('write', offset, buffer.byteLength, buffer);
  }

  /** Makes data durable, and of the inode what is needed to read it (fdatasync). */
  async sync(): Promise<void> {
    await this.#submit('sync', 0, 0);
  }

  /** Makes data and the whole inode durable (fsync). */
  async syncAll(): Promise<void> {
    await this.#submit('syncAll', 0, 0);
  }

  /**
   * Syncs, then drops what the kernel caches of the file, so that reads give what the medium holds.
   */
  async reload(): Promise<void> {
    await this.#submit('reload', 0, 0);
  }

  /**
   * Makes the range read zeroes, as holes where possible. Keeps a thread for as long as it takes.
   */
  async zero(offset: number, length: number): Promise<void> {
    await this.#submit('zero', offset, length);
  }

  /** The data extents from the start of the range on; a fragmented range takes several calls. */
  async dataExtents(offset: number, length: number): Promise<DataExtents> {
    const end = offset + length;
    if (!this.isRegular) return {extents: [{start: offset, end}], covered: end};
    const numbers = await this.#submit('extents', offset, length);
    assert(
      numbers !== undefined && numbers.length % 2 === 1,
      'extents come as a position and pairs',
    );
    const extents: DataExtents['extents'] = [];
    for (let index = 1; index < numbers.length; index += 2) {
      extents.push({start: numbers[index] ?? 0, end: numbers[index + 1] ?? 0});
    }
    return {extents, covered: numbers[0] ?? end};
  }

  /** Sets the size of a regular file. */
  async truncate(size: number): Promise<void> {
    await this.#submit('truncate', 0, size);
    this.#size = size;
  }

  /** Reserves space for the range in a regular file, growing it if need be. */
  async allocate(offset: number, length: number): Promise<void> {
    await this.#submit('allocate', offset, length);
    this.#size = Math.max(this.#size, offset + length);
  }

  /**
   * Takes the file's exclusive lock (flock), which ends with this file; false if another has it.
   */
  tryLock(): boolean {
    try {
      return native.tryLock(this.fd);
    } catch (error) {
      throw systemError(error, `locking ${this.path}`, 'lock');
    }
  }

  /** Refuses new calls, waits for those in flight, closes. May be called again. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#calls.idle();
    this.#native.close();
  }

  #submit(
    operation: Operation,
    offset: number,
    length: number,
    buffer?: Uint8Array,
  ): Promise<Float64Array | undefined> {
    assert(Number.isSafeInteger(offset) && offset >= 0, 'an offset is a safe integer');
    assert(Number.isSafeInteger(length) && length >= 0, 'a length is a safe integer');
    if (this.#isClosed) return Promise.reject(this.#error(operation, offset, length, ERRNO.EBADF));
    const code = OPERATION[operation];
    return this.#calls.begin(
      (slot) => {
        if (buffer === undefined) this.#native.submit(code, slot, offset, length);
        else this.#native.submit(code, slot, offset, length, buffer);
      },
      (error) => this.#error(operation, offset, length, error),
      buffer,
    );
  }

  #error(op: Operation, offset: number, length: number, error: number): BlockError {
    const code = error === ENDED_EARLY ? 'EIO' : codeOf(error);
    const reason = error === ENDED_EARLY ? 'it ends before the range (EIO)' : reasonOf(code);
    const range = WHOLE_FILE.has(op) ? '' : ` at ${offset}+${length}`;
    return new BlockError(code, `${op} of ${this.path}${range}: ${reason}`, {op, offset, length});
  }
}
