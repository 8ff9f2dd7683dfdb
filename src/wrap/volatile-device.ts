/**
 * The power-cut laboratory (BX12): a block device with a volatile write cache and a switch that
 * cuts the power. Any file system or block driver can run over it, through any transport.
 *
 *   write ──► cache (every version of a sector since the last flush) ──flush──► wrapped device
 *                                   │
 *                                 cut(seed): of each sector the wrapped device gets the
 *                                   durable bytes or any later version; then power is off
 *
 * What a disk may do, and this one does: keep, drop and reorder whatever no flush covers, and tear
 * a request between any two 512-byte sectors. What it never does: lose what a flush or FUA
 * answered. Power stays off until `powerOn`: requests, also those in flight at the cut, fail with
 * ENODEV.
 *
 * Replay: a cut is a function of its seed and of the requests since the last flush in their order
 * of arrival. `cuts` tells seed, mode and what became of each sector.
 *
 * Concurrency: flush and FUA take turns and write to the wrapped device; a cut during one waits for
 * the write in progress, no further. The cache is bounded: above `cacheMax` the sector first
 * written goes to the wrapped device early, as a real cache's does.
 */
import {BlockError} from '../base/errors.js';
import {Prng} from '../base/prng.js';
import {KiB, MiB, SECTOR} from '../base/units.js';
import type {BlockDevice} from '../device/block-device.js';
import {chooseSurvivors, type CutMode, type SectorVersion} from './cut.js';

export interface VolatileDeviceOptions {
  /** Of cuts that are given none. @default 0 */
  seed?: number;
  /** Bytes of unflushed versions kept, at least 1 MiB. @default 64 MiB */
  cacheMax?: number;
}

/** What one cut did. */
export interface CutRecord {
  readonly seed: number;
  readonly mode: CutMode;
  /**
   * Sectors of the cache, and how many of them kept their newest, an older, and no cached version.
   */
  readonly sectors: number;
  readonly newest: number;
  readonly older: number;
  readonly dropped: number;
  /** Offsets in bytes of sectors that do not have their newest version, at most 1024. */
  readonly lost: readonly number[];
}

const LOST_LISTED_MAX = 1024;
/**
 * Sectors written to the wrapped device at once; a cut during a flush falls between such writes.
 */
const RUN_SECTORS_MAX = 64;
/** A zeroing of up to 4 GiB passes the cache in steps of this many bytes of shared zeroes. */
const ZERO_SECTOR = new Uint8Array(SECTOR);

export class VolatileDevice implements BlockDevice {
  readonly size: number;
  readonly cuts: CutRecord[] = [];
  readonly #next: BlockDevice;
  readonly #cacheMax: number;
  readonly #seeds: Prng;
  /**
   * By sector, oldest version first; a sector leaves with the flush that covers all its versions.
   */
  readonly #cache = new Map<number, SectorVersion[]>();
  #versions = 0;
  #order = 0;
  #request = 0;
  #isOff = false;
  /** The end of the last flush, FUA write or eviction; they take turns. */
  #turn: Promise<void> = Promise.resolve();

  constructor(next: BlockDevice, options: VolatileDeviceOptions = {}) {
    const cacheMax = options.cacheMax ?? 64 * MiB;
    if (cacheMax < MiB) throw new RangeError(`cacheMax is at least 1 MiB, not ${cacheMax}`);
    this.#next = next;
    this.size = next.size;
    this.#cacheMax = cacheMax;
    this.#seeds = new Prng(options.seed ?? 0);
  }

  /** Whether the power is off. */
  get isOff(): boolean {
    return this.#isOff;
  }

  /** Bytes of versions that a cut could lose. */
  get unflushed(): number {
    return this.#versions * SECTOR;
  }

  async read(offset: number, buffer: Buffer): Promise<void> {
    this.#checkPower('read');
    // The cache may drain to the wrapped device while that is being read: what the cache held
    // before the read wins over what came from below.
    const held = this.#newest(offset, buffer.length);
    await this.#next.read(offset, buffer);
    this.#checkPower('read');
    for (const [at, bytes] of held) buffer.set(bytes, at);
    for (const [at, bytes] of this.#newest(offset, buffer.length)) buffer.set(bytes, at);
  }

  async write(offset: number, buffer: Buffer, options?: {fua?: boolean}): Promise<void> {
    this.#checkPower('write');
    this.#check('write', offset, buffer.length);
    const bytes = Uint8Array.prototype.slice.call(buffer);
    const order = this.#remember(offset, bytes.length, (at) => bytes.subarray(at, at + SECTOR));
    await this.#afterWrite(offset, bytes.length, order, options?.fua ?? false);
  }

  async writeZeroes(offset: number, length: number, options?: {fua?: boolean}): Promise<void> {
    this.#checkPower('zeroes');
    this.#check('zeroes', offset, length);
    let order = this.#order;
    for (let at = 0; at < length; at += this.#zeroStep) {
      const step = Math.min(this.#zeroStep, length - at);
      order = this.#remember(offset + at, step, () => ZERO_SECTOR);
      await this.#evict();
    }
    await this.#afterWrite(offset, length, order, options?.fua ?? false);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length);
  }

  async flush(): Promise<void> {
    this.#checkPower('flush');
    const covered = this.#order;
    await this.#inTurn(() => this.#drain([...this.#cache.keys()], covered));
    this.#checkPower('flush');
  }

  /** Flushes unless the power is off, then closes the wrapped device. */
  async close(): Promise<void> {
    if (!this.#isOff) await this.flush();
    await this.#next.close();
  }

  /**
   * Cuts the power and settles what each unflushed sector holds. `seed`: a whole number below 2^53,
   * drawn from the device's own where it is left out. Requests fail with ENODEV until `powerOn`.
   */
  async cut(seed = this.#seeds.below(2 ** 53)): Promise<CutRecord> {
    this.#isOff = true;
    await this.#turn;
    const {mode, kept, newest, older, lost} = chooseSurvivors(this.#cache, new Prng(seed));
    for (const [sector, version] of kept) {
      await this.#next.write(sector * SECTOR, Buffer.from(version.bytes));
    }
    await this.#next.flush();
    const sectors = this.#cache.size;
    const listed = lost.slice(0, LOST_LISTED_MAX).map((sector) => sector * SECTOR);
    const record = {
      seed,
      mode,
      sectors,
      newest,
      older,
      dropped: sectors - newest - older,
      lost: listed,
    };
    this.cuts.push(record);
    this.#cache.clear();
    this.#versions = 0;
    return record;
  }

  /** Ends a cut; from here the device answers again, with what survived. */
  powerOn(): void {
    this.#isOff = false;
  }

  get #zeroStep(): number {
    return Math.min(256 * KiB, this.#cacheMax);
  }

  #newest(offset: number, length: number): [at: number, bytes: Uint8Array][] {
    const found: [number, Uint8Array][] = [];
    for (let at = 0; at < length && this.#cache.size > 0; at += SECTOR) {
      const version = this.#cache.get((offset + at) / SECTOR)?.at(-1);
      if (version) found.push([at, version.bytes]);
    }
    return found;
  }

  /** Adds a version of each sector; gives the order number the request was given. */
  #remember(offset: number, length: number, bytesAt: (at: number) => Uint8Array): number {
    const order = ++this.#order;
    const request = ++this.#request;
    for (let at = 0; at < length; at += SECTOR) {
      const sector = (offset + at) / SECTOR;
      const versions = this.#cache.get(sector) ?? [];
      versions.push({bytes: bytesAt(at), order, request});
      this.#cache.set(sector, versions);
      this.#versions++;
    }
    return order;
  }

  async #afterWrite(offset: number, length: number, order: number, fua: boolean): Promise<void> {
    if (fua) {
      const sectors = Array.from({length: length / SECTOR}, (_, index) => offset / SECTOR + index);
      await this.#inTurn(() => this.#drain(sectors, order));
    } else {
      await this.#evict();
    }
    this.#checkPower('write');
  }

  /** Keeps the cache within its bound by writing back the sectors that were written first. */
  async #evict(): Promise<void> {
    if (this.unflushed <= this.#cacheMax) return;
    await this.#inTurn(async () => {
      const oldest: number[] = [];
      for (const sector of this.#cache.keys()) {
        if (oldest.length * SECTOR * 4 > this.#cacheMax) break;
        oldest.push(sector);
      }
      await this.#drain(oldest, this.#order);
    });
  }

  /**
   * Makes the newest version not above `covered` of each sector durable:
   * 1. written to the wrapped device, 2. flushed there, 3. only then forgotten here, with all
   * older.
   */
  async #drain(sectors: readonly number[], covered: number): Promise<void> {
    for (const [sector, bytes] of this.#runs(sectors, covered)) {
      await this.#next.write(sector * SECTOR, bytes);
      if (this.#isOff) return;
    }
    await this.#next.flush();
    if (this.#isOff) return;
    for (const sector of sectors) {
      const versions = this.#cache.get(sector) ?? [];
      const later = versions.filter(({order}) => order > covered);
      this.#versions -= versions.length - later.length;
      if (later.length > 0) this.#cache.set(sector, later);
      else this.#cache.delete(sector);
    }
  }

  /** The newest versions not above `covered`, neighbours joined: one write each below. */
  #runs(sectors: readonly number[], covered: number): [sector: number, bytes: Buffer][] {
    const runs: {first: number; parts: Uint8Array[]}[] = [];
    for (const sector of [...sectors].sort((a, b) => a - b)) {
      const version = this.#cache.get(sector)?.findLast(({order}) => order <= covered);
      if (!version) continue;
      const last = runs.at(-1);
      const isNext = last && last.first + last.parts.length === sector;
      if (isNext && last.parts.length < RUN_SECTORS_MAX) last.parts.push(version.bytes);
      else runs.push({first: sector, parts: [version.bytes]});
    }
    return runs.map(({first, parts}) => [first, Buffer.concat(parts)]);
  }

  async #inTurn(work: () => Promise<void>): Promise<void> {
    const mine = this.#turn.then(() => (this.#isOff ? undefined : work()));
    this.#turn = mine.catch(() => undefined);
    await mine;
  }

  #checkPower(op: string): void {
    if (!this.#isOff) return;
    throw new BlockError('ENODEV', `${op} failed: the power of the volatile device is off`, {op});
  }

  #check(op: string, offset: number, length: number): void {
    const isWhole = offset % SECTOR === 0 && length % SECTOR === 0;
    if (isWhole && offset >= 0 && length >= 0 && offset + length <= this.size) return;
    const message = `${op} at ${offset}+${length} is not whole sectors inside ${this.size} bytes`;
    throw new BlockError('EINVAL', message, {op, offset, length, isPermanent: true});
  }
}
