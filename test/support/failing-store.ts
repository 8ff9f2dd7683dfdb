/** A bench for volumes whose store fails or is replaced: all of it in memory. */
import type {ExecutionContext} from 'ava';

import {BlockError} from '../../src/base/errors.js';
import type {BackupTarget} from '../../src/source/backup-target.js';
import {mapFileSize, Volume, type VolumeTuning} from '../../src/volume/volume.js';
import {HeldSource, sourceByte} from './held-source.js';
import {MemoryStorage} from './memory-storage.js';
import {plainEnvironment} from './plain-environment.js';

const KiB = 1024;
export const BLOCK = 16 * KiB;
export const SIZE = 64 * BLOCK;

/** A store with sectors that cannot be read until they are written. */
export class BadStorage extends MemoryStorage {
  readonly bad = new Set<number>();
  failsWrites = 0;

  override async read(offset: number, buffer: Uint8Array): Promise<void> {
    for (let at = offset; at < offset + buffer.length; at += 512)
      if (this.bad.has(at)) throw new BlockError('EIO', 'medium error', {op: 'read'});
    await super.read(offset, buffer);
  }

  override async write(offset: number, buffer: Uint8Array): Promise<void> {
    if (this.failsWrites > 0) {
      this.failsWrites--;
      throw new BlockError('EIO', 'medium error', {op: 'write'});
    }
    for (let at = offset; at < offset + buffer.length; at += 512) this.bad.delete(at);
    await super.write(offset, buffer);
  }
}

/** A backup in memory that begins as the source is. */
export class MemoryTarget implements BackupTarget {
  readonly name = 'backup';
  readonly size = SIZE;
  readonly lost = new Promise<BlockError>(() => undefined);
  readonly bytes: Buffer;

  constructor() {
    this.bytes = expected(0, SIZE);
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
  async trim(): Promise<void> {}
  async flush(): Promise<void> {}
  async close(): Promise<void> {}
}

export function expected(offset: number, length: number): Buffer {
  const buffer = Buffer.alloc(length);
  for (let at = 0; at < length; at += 512) buffer.fill(sourceByte(offset + at), at, at + 512);
  return buffer;
}

export interface Bench {
  volume: Volume;
  store: BadStorage;
  mapFile: MemoryStorage;
  source: HeldSource;
  target: MemoryTarget;
  read: (offset: number, length: number) => Promise<Buffer>;
}

export async function makeBench(
  t: ExecutionContext,
  hasBackup: boolean,
  isSource = false,
  tuning: Partial<VolumeTuning> = {},
): Promise<Bench> {
  const geometry = {size: SIZE, blockSize: BLOCK};
  const store = new BadStorage(SIZE, 0xee, 'store');
  const mapFile = new MemoryStorage(mapFileSize(geometry), 0, 'map');
  const source = new HeldSource(SIZE);
  const target = new MemoryTarget();
  if (isSource) source.read = (offset, buffer) => target.read(offset, buffer);
  const backup = {
    open: () => Promise.resolve(target),
    verify: () => Promise.resolve(),
    isSource,
    known: {consistentAsOf: undefined, inconsistentSince: undefined},
    remember: () => Promise.resolve(),
  };
  const parts = {store, mapFile, source, environment: plainEnvironment()};
  const volume = await Volume.create(hasBackup ? {...parts, backup} : parts, geometry, {
    readAheadMax: 0,
    backupPatienceMs: 100,
    ...tuning,
  });
  t.teardown(() => volume.close().catch(() => undefined));
  if (hasBackup) await volume.setWriteThrough('sync');
  const read = async (offset: number, length: number): Promise<Buffer> => {
    const buffer = Buffer.alloc(length, 0x77);
    await volume.read(offset, buffer);
    return buffer;
  };
  return {volume, store, mapFile, source, target, read};
}

export async function settle(): Promise<void> {
  for (let round = 0; round < 30; round++)
    await new Promise<void>((resolve) => setImmediate(resolve));
}

export async function untilProtected(volume: Volume): Promise<void> {
  for (let wait = 0; wait < 500; wait++) {
    await volume.flush();
    if (volume.protection().state === 'protected') return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
