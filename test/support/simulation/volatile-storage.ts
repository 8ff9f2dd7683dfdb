/**
 * A disk of the simulation: storage in memory that behaves like a kernel's page cache over a drive
 * with a volatile cache, and worse.
 *
 *   submit ──(seeded delay)── sectors land, in pieces, in any order ──(seeded delay)── promise
 *   settles
 *
 *   visible   what reads see: every landed write
 *   durable   what no power cut can take away
 *   pending   by sector, the versions that landed since its durable one, oldest first
 *
 * Fault model:
 * - a write in flight has landed wholly, partly (torn at 512 bytes) or not at all;
 * - a read sees each of its two parts at some moment between call and answer, and its buffer holds
 *   rubbish until then;
 * - `sync` makes durable what had *resolved* before the call, nothing else; a failed one makes
 *   nothing durable, and never will (the kernel forgets that those pages were dirty);
 * - a failed write has landed wholly, partly or not at all;
 * - a write that begins or ends inside a sector writes that whole sector, the rest as it was;
 * - a power cut leaves of each sector the durable bytes or any later version (src/wrap/cut.ts);
 * - the death of the process leaves everything that landed, and of what was in flight any part;
 *   what was not durable still is not;
 * - `background` is what stood there before: the stale bytes of a reused disk (DC9).
 */
import {assert} from '../../../src/base/assert.js';
import {BlockError, type ErrnoCode} from '../../../src/base/errors.js';
import type {Prng} from '../../../src/base/prng.js';
import {SparseBytes, type Background} from '../../../src/base/sparse-bytes.js';
import {assertRange, SECTOR} from '../../../src/base/units.js';
import type {Storage, StorageExtent} from '../../../src/storage/storage.js';
import {chooseSurvivors, type CutMode, type SectorVersion} from '../../../src/wrap/cut.js';
import {cutInPieces, sectorsOf, type Landing, type Piece} from './landing.js';
import type {Life, Scheduler} from './scheduler.js';

export type StorageOp = 'read' | 'write' | 'zero' | 'extents' | 'sync';

/** One thing that happened to the disk, in order, as dm-log-writes records it. */
export interface StorageEvent {
  readonly storage: string;
  readonly kind: StorageOp | 'resolved' | 'synced';
  readonly offset: number;
  readonly length: number;
}

export interface StorageTools {
  readonly scheduler: Scheduler;
  readonly prng: Prng;
  readonly life: Life;
  /** Milliseconds the next operation takes. */
  readonly latency: (op: StorageOp) => number;
  /** Asked once for each call; an errno makes it fail. */
  readonly fault?:
    ((op: StorageOp, offset: number, length: number) => ErrnoCode | undefined) | undefined;
  readonly record?: ((event: StorageEvent) => void) | undefined;
}

export interface StorageShape {
  readonly name: string;
  readonly size: number;
  readonly background?: Background;
}

interface Version extends SectorVersion {
  readonly landing: Landing;
  /** A sync that should have covered it failed: no later one will. */
  isForgotten: boolean;
}

const ZEROES = new Uint8Array(SECTOR);
/** What stands in a read's buffer until the answer: nobody may look. */
const RUBBISH = 0xee;
const CHUNK_SIZE = 4096;

interface Contents {
  visible: SparseBytes;
  durable: SparseBytes;
  pending: Map<number, Version[]>;
}

export class VolatileStorage implements Storage {
  readonly name: string;
  readonly size: number;
  readonly #shape: StorageShape;
  readonly #tools: StorageTools;
  readonly #visible: SparseBytes;
  readonly #durable: SparseBytes;
  readonly #pending: Map<number, Version[]>;
  readonly #inFlight = new Set<Landing>();
  #moment = 1;
  #request = 0;
  #calls = 0;
  #busy = 0;
  #isClosed = false;
  #hasLostSync = false;
  #whenIdle: (() => void) | undefined;

  constructor(shape: StorageShape, tools: StorageTools, contents?: Contents) {
    this.name = shape.name;
    this.size = shape.size;
    this.#shape = shape;
    this.#tools = tools;
    const options = shape.background ? {background: shape.background} : {};
    this.#visible =
      contents?.visible ?? new SparseBytes(shape.size, {chunkSize: CHUNK_SIZE, ...options});
    this.#durable = contents?.durable ?? this.#visible.fork();
    this.#pending = contents?.pending ?? new Map<number, Version[]>();
  }

  /** Calls made so far, for n-th failure loops. */
  get calls(): number {
    return this.#calls;
  }

  /** Whether a sync failed: what it should have covered is readable, and never becomes durable. */
  get hasLostSync(): boolean {
    return this.#hasLostSync;
  }

  /** Bytes that a power cut could take. */
  get unsynced(): number {
    return this.#pending.size * SECTOR;
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    const fault = this.#begin('read', offset, buffer.length);
    buffer.fill(RUBBISH);
    const {prng} = this.#tools;
    const delay = this.#tools.latency('read');
    if (buffer.length > SECTOR && prng.chance(1, 4)) {
      const half = prng.between(1, Math.floor(buffer.length / SECTOR)) * SECTOR;
      const first = buffer.subarray(0, half);
      await this.#wait(delay * prng.fraction());
      if (!fault) this.#visible.read(offset, first);
      await this.#wait(delay);
      if (!fault) this.#visible.read(offset + half, buffer.subarray(half));
    } else {
      await this.#wait(delay);
      if (!fault) this.#visible.read(offset, buffer);
    }
    this.#end('read', offset, buffer.length, fault);
  }

  async write(offset: number, buffer: Uint8Array): Promise<void> {
    const fault = this.#begin('write', offset, buffer.length);
    await this.#land({offset, bytes: buffer, length: buffer.length, fault}, 'write');
    this.#end('write', offset, buffer.length, fault);
  }

  async zero(offset: number, length: number): Promise<void> {
    const fault = this.#begin('zero', offset, length);
    await this.#land({offset, bytes: undefined, length, fault}, 'zero');
    this.#end('zero', offset, length, fault);
  }

  async extents(offset: number, length: number): Promise<StorageExtent[]> {
    const fault = this.#begin('extents', offset, length);
    await this.#wait(this.#tools.latency('extents'));
    this.#end('extents', offset, length, fault);
    const found: StorageExtent[] = [];
    for (let at = offset; at < offset + length;) {
      const end = Math.min(this.#visible.chunkEnd(at), offset + length);
      const isHole = !this.#shape.background && this.#visible.isUnallocated(at);
      const last = found.at(-1);
      if (last && last.isHole === isHole) last.length += end - at;
      else found.push({offset: at, length: end - at, isHole});
      at = end;
    }
    return found;
  }

  async sync(): Promise<void> {
    const fault = this.#begin('sync', 0, 0);
    const called = this.#moment++;
    await this.#wait(this.#tools.latency('sync'));
    if (fault) this.#hasLostSync = true;
    for (const [sector, versions] of this.#pending) {
      this.#settle(sector, versions, called, fault !== undefined);
    }
    if (!fault) this.#tools.record?.({storage: this.name, kind: 'synced', offset: 0, length: 0});
    this.#end('sync', 0, 0, fault);
  }

  async close(): Promise<void> {
    assert(!this.#isClosed, `${this.name} is closed once`);
    this.#isClosed = true;
    if (this.#busy === 0) return;
    await new Promise<void>((resolve) => {
      this.#whenIdle = resolve;
    });
  }

  /** The bytes every read would see now, without waiting. */
  peek(offset: number, buffer: Uint8Array): void {
    this.#visible.read(offset, buffer);
  }

  /**
   * The disk after a power cut: what was unsynced survives as `mode` says, all of it is durable.
   */
  afterPowerCut(tools: StorageTools, prng: Prng, mode?: CutMode): VolatileStorage {
    const cache = new Map<number, SectorVersion[]>();
    for (const [sector, versions] of this.#pending) cache.set(sector, [...versions]);
    let order = this.#moment;
    for (const landing of this.#inFlight) {
      order++;
      for (const sector of sectorsOf(landing)) {
        const version = {bytes: this.#sectorOf(landing, sector), order, request: landing.request};
        cache.set(sector, [...(cache.get(sector) ?? []), version]);
      }
    }
    const durable = this.#durable.fork();
    for (const [sector, version] of chooseSurvivors(cache, prng, mode).kept) {
      writeSector(durable, sector, version.bytes);
    }
    const contents = {durable, visible: durable.fork(), pending: new Map<number, Version[]>()};
    return new VolatileStorage(this.#shape, tools, contents);
  }

  /** The disk after the death of the process: what landed is there, what was in flight perhaps. */
  afterProcessDeath(tools: StorageTools, prng: Prng): VolatileStorage {
    const pending = new Map<number, Version[]>();
    const resolve = (landing: Landing): Landing =>
      landing.resolvedAt === 0 ? {...landing, resolvedAt: this.#moment} : landing;
    for (const [sector, versions] of this.#pending) {
      pending.set(
        sector,
        versions.map((one) => ({...one, landing: resolve(one.landing)})),
      );
    }
    const contents = {durable: this.#durable.fork(), visible: this.#visible.fork(), pending};
    const survivor = new VolatileStorage(this.#shape, tools, contents);
    survivor.#moment = this.#moment + 1;
    survivor.#hasLostSync = this.#hasLostSync;
    survivor.#request = this.#request;
    for (const landing of this.#inFlight) {
      const copy = resolve(landing);
      const landed = landing.pieces.filter(() => prng.chance(1, 2));
      for (const piece of landed) survivor.#landPiece(copy, piece);
    }
    return survivor;
  }

  /** Counts the call, checks it, and asks whether it is to fail. */
  #begin(op: StorageOp, offset: number, length: number): ErrnoCode | undefined {
    assert(!this.#isClosed, `${op} of ${this.name} does not follow close`);
    assertRange(offset, length, this.size);
    this.#busy++;
    this.#calls++;
    this.#tools.record?.({storage: this.name, kind: op, offset, length});
    return this.#tools.fault?.(op, offset, length);
  }

  #end(op: StorageOp, offset: number, length: number, fault: ErrnoCode | undefined): void {
    this.#busy--;
    if (this.#busy === 0) this.#whenIdle?.();
    if (!fault) return;
    const message = `${op} of ${this.name} at ${offset}+${length} failed on purpose`;
    throw new BlockError(fault, message, {op, offset, length});
  }

  async #land(
    change: {
      offset: number;
      bytes: Uint8Array | undefined;
      length: number;
      fault: ErrnoCode | undefined;
    },
    op: 'write' | 'zero',
  ): Promise<void> {
    const {offset, bytes, length, fault} = change;
    const {prng, latency, record} = this.#tools;
    const pieces = cutInPieces(offset, length, prng);
    const landing: Landing = {
      offset,
      bytes,
      length,
      request: ++this.#request,
      pieces,
      resolvedAt: 0,
    };
    this.#inFlight.add(landing);
    if (fault) landing.pieces = pieces.filter(() => prng.chance(1, 2));
    const delay = latency(op);
    if (prng.chance(1, 4)) this.#landNext(landing);
    if (landing.pieces.length > 1 || prng.chance(1, 4)) {
      await this.#wait(delay * prng.fraction());
      this.#landNext(landing);
    }
    await this.#wait(delay);
    while (landing.pieces.length > 0) this.#landNext(landing);
    this.#inFlight.delete(landing);
    landing.resolvedAt = this.#moment++;
    record?.({storage: this.name, kind: 'resolved', offset, length});
  }

  #landNext(landing: Landing): void {
    const piece = landing.pieces.pop();
    if (piece) this.#landPiece(landing, piece);
  }

  #landPiece(landing: Landing, {from, to}: Piece): void {
    const order = this.#moment++;
    const {offset} = landing;
    for (
      let sector = Math.floor((offset + from) / SECTOR);
      sector * SECTOR < offset + to;
      sector++
    ) {
      const bytes = this.#sectorOf(landing, sector);
      const version = {bytes, order, request: landing.request, landing, isForgotten: false};
      const versions = this.#pending.get(sector);
      if (versions) versions.push(version);
      else this.#pending.set(sector, [version]);
      writeSector(this.#visible, sector, bytes);
    }
  }

  /**
   * A copy of what `landing` makes of a sector; the rest of one it covers in part stays as it is.
   */
  #sectorOf({offset, bytes, length}: Landing, sector: number): Uint8Array {
    const start = sector * SECTOR;
    const from = Math.max(start, offset);
    const to = Math.min(start + SECTOR, offset + length);
    if (!bytes && to - from === SECTOR) return ZEROES;
    const made = new Uint8Array(SECTOR);
    if (to - from < SECTOR) {
      this.#visible.read(start, made.subarray(0, Math.min(SECTOR, this.size - start)));
    }
    if (bytes) made.set(bytes.subarray(from - offset, to - offset), from - start);
    else made.fill(0, from - start, to - start);
    return made;
  }

  /** What a sync called at `called` does to one sector's versions. */
  #settle(sector: number, versions: Version[], called: number, isFailed: boolean): void {
    const isCovered = ({landing, isForgotten}: Version): boolean =>
      !isForgotten && landing.resolvedAt !== 0 && landing.resolvedAt < called;
    if (isFailed) {
      for (const version of versions) version.isForgotten ||= isCovered(version);
      return;
    }
    const last = versions.findLastIndex(isCovered);
    if (last < 0) return;
    writeSector(this.#durable, sector, (versions[last] as Version).bytes);
    if (last + 1 === versions.length) this.#pending.delete(sector);
    else versions.splice(0, last + 1);
  }

  #wait(delay: number): Promise<void> {
    return new Promise((resolve) => {
      this.#tools.scheduler.after(delay, this.#tools.life, resolve);
    });
  }
}

/** The last sector of a file may be short. */
function writeSector(target: SparseBytes, sector: number, bytes: Uint8Array): void {
  const present = Math.min(SECTOR, target.size - sector * SECTOR);
  target.write(sector * SECTOR, bytes.subarray(0, present));
}
