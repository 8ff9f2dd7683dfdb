/**
 * A storage in plain memory that counts what is asked of it. Nothing is ever lost: see
 * VolatileStorage.
 */
import type {Storage, StorageExtent} from '../../src/storage/storage.js';

export class MemoryStorage implements Storage {
  readonly name: string;
  readonly size: number;
  readonly bytes: Buffer;
  reads = 0;
  readBytes = 0;
  writes = 0;
  writtenBytes = 0;
  syncs = 0;

  constructor(size: number, fill = 0, name = 'memory') {
    this.name = name;
    this.size = size;
    this.bytes = Buffer.alloc(size, fill);
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    this.reads++;
    this.readBytes += buffer.length;
    buffer.set(this.bytes.subarray(offset, offset + buffer.length));
  }

  async write(offset: number, buffer: Uint8Array): Promise<void> {
    this.writes++;
    this.writtenBytes += buffer.length;
    this.bytes.set(buffer, offset);
  }

  async zero(offset: number, length: number): Promise<void> {
    this.bytes.fill(0, offset, offset + length);
  }

  async extents(offset: number, length: number): Promise<StorageExtent[]> {
    return [{offset, length, isHole: false}];
  }

  async sync(): Promise<void> {
    this.syncs++;
  }

  async close(): Promise<void> {}
}
