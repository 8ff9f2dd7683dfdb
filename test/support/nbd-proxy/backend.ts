/**
 * What stands behind the proxy and really keeps the bytes: memory, a file, or a real server
 * (server-backend.ts). All of it is durable: what a power loss takes is decided above, in the write
 * cache.
 */
import {open, type FileHandle} from 'node:fs/promises';
import {alignUp, MiB} from '../../../src/base/units.js';

/**
 * Offsets and lengths are bytes and lie inside `size`. Calls may overlap in time; those that change
 * the same bytes never do. A failure rejects with an error that carries an errno.
 */
export interface Backend {
  readonly size: number;
  read(offset: number, buffer: Uint8Array): Promise<void>;
  write(offset: number, bytes: Uint8Array): Promise<void>;
  zero(offset: number, length: number, options: {mayTrim: boolean}): Promise<void>;
  /** The range may hold anything afterwards; both backends here make it zeroes. */
  trim(offset: number, length: number): Promise<void>;
  flush(): Promise<void>;
  close(): Promise<void>;
}

export class MemoryBackend implements Backend {
  /** To look at, or to fill, while nobody is connected. */
  readonly bytes: Buffer;

  constructor(size: number) {
    this.bytes = Buffer.alloc(size);
  }

  get size(): number {
    return this.bytes.length;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    buffer.set(this.bytes.subarray(offset, offset + buffer.length));
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    this.bytes.set(bytes, offset);
  }

  async zero(offset: number, length: number): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
  }

  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length);
  }

  async flush(): Promise<void> {}

  async close(): Promise<void> {}
}

const ZEROES = Buffer.alloc(MiB);

/** A plain file that exists and has its size; `cmp` may look at it once the proxy has settled. */
export class FileBackend implements Backend {
  readonly size: number;
  readonly #file: FileHandle;

  private constructor(file: FileHandle, size: number) {
    this.#file = file;
    this.size = size;
  }

  static async open(path: string): Promise<FileBackend> {
    const file = await open(path, 'r+');
    return new FileBackend(file, (await file.stat()).size);
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    for (let at = 0; at < buffer.length;) {
      const {bytesRead} = await this.#file.read(buffer, at, buffer.length - at, offset + at);
      if (bytesRead === 0) throw new Error(`the file ends before ${offset + buffer.length}`);
      at += bytesRead;
    }
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.length;) {
      at += (await this.#file.write(bytes, at, bytes.length - at, offset + at)).bytesWritten;
    }
  }

  /** Holes stay holes: only what is not zero yet is written. */
  async zero(offset: number, length: number): Promise<void> {
    const buffer = Buffer.alloc(Math.min(length, MiB));
    for (let at = offset; at < offset + length;) {
      const end = Math.min(alignUp(at + 1, MiB), offset + length);
      const piece = buffer.subarray(0, end - at);
      await this.read(at, piece);
      const zeroes = ZEROES.subarray(0, end - at);
      if (!piece.equals(zeroes)) await this.write(at, zeroes);
      at = end;
    }
  }

  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length);
  }

  /** The machine's own power stays on, so there is nothing to do. */
  async flush(): Promise<void> {}

  async close(): Promise<void> {
    await this.#file.close();
  }
}
