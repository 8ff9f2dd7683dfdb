/**
 * The overwrite map on disk: paged, checksummed, safe against a crash at any moment, and as cheap
 * to commit as what changed.
 *
 * Durable truth = the newest checkpoint (directory + page slots + side area) + the log records
 * after it.
 *
 *   append      one record behind the last, then sync. That is a commit, or an intent mark.
 *   checkpoint  changed pages into their unused slots, side area and directory (where a page
 *               changed) into their unused copies, sync; then the unused superblock with the next
 *               generation, sync. The log is empty from then on: its records belong to an older
 *               generation.
 *
 * Nothing a valid superblock points to is ever overwritten, so a crash leaves the checkpoint before
 * or the one after, whole. Both superblocks are always valid (a sector is written whole or not at
 * all), so an invalid one is damage: falling back silently would bring an old map to life.
 *
 * The file is never mapped shared; it is written by these two calls only. A failed write or sync is
 * final: the caller stops writing and drops to read-only mode. Calls are serialised here, and what
 * a record says is asked for when its turn comes (`build`), so records are in the order of
 * decisions.
 */
import {assert} from '../base/assert.js';
import {Mutex} from '../base/mutex.js';
import {alignUp} from '../base/units.js';
import {crc32c} from '../native/checksum.js';
import type {Storage} from '../storage/storage.js';
import {takeBehindMarks} from './behind-marks.js';
import type {BlockSet} from './block-set.js';
import {DamagedStateError} from './damaged-state.js';
import {Geometry, type GeometryInput, geometryProblem, PAGE_BYTES} from './geometry.js';
import {
  absentDirectory,
  type Copy,
  decodeDirectoryEntry,
  decodeSide,
  decodeSuperblock,
  defaultLimits,
  DIRECTORY_ENTRY_BYTES,
  directoryEntryOf,
  encodeDirectoryEntry,
  encodeSide,
  encodeSuperblock,
  KIND_SLOT_0,
  KIND_SLOT_1,
  MapLayout,
  type MapLimits,
  other,
  type SideTables,
  type Superblock,
  SUPERBLOCK_BYTES,
} from './map-layout.js';
import {encodeRecord, type LogRecord, recordBytes, scanLog} from './map-log.js';
import {MIXED, type OverwriteMap, type PageImage} from './overwrite-map.js';

export {DamagedStateError} from './damaged-state.js';
export {mapFileSize, mapReservedBytes} from './map-layout.js';

/** A directory is written in pieces of this many bytes, only those that changed. */
const DIRECTORY_PIECE_BYTES = 64 * 1024;

export interface CheckpointContent extends SideTables {
  pages: readonly PageImage[];
  /** No write can follow before the next open. */
  isClean: boolean;
}

/** What opening found beyond the directory. */
export interface MapRecovery extends SideTables {
  wasClean: boolean;
  records: LogRecord[];
}

export class MapFile {
  readonly geometry: Geometry;
  readonly limits: MapLimits;
  readonly #storage: Storage;
  readonly #layout: MapLayout;
  readonly #serial = new Mutex();
  readonly #directory: Uint8Array;
  /** For each copy of the directory, the pieces in which it lags behind #directory. */
  readonly #stalePieces: readonly [Set<number>, Set<number>] = [new Set(), new Set()];
  #superblock: Superblock;
  #superblockCopy: Copy;
  #sequence: number;
  #logEnd: number;
  /** Why nothing is written any more; never cleared. */
  #failure: unknown;
  /** Bytes of the log promised to commits that are under way. */
  #reservedBytes = 0;
  /** What was read may not be durable yet. */
  #isUnsynced: boolean;

  private constructor(storage: Storage, layout: MapLayout, found: Opened, isUnsynced: boolean) {
    this.geometry = layout.geometry;
    this.limits = layout.limits;
    this.#storage = storage;
    this.#isUnsynced = isUnsynced;
    this.#layout = layout;
    this.#directory = found.directory;
    this.#superblock = found.superblock;
    this.#superblockCopy = found.copy;
    this.#sequence = found.sequence;
    this.#logEnd = found.logEnd;
    for (let piece = 0; piece * DIRECTORY_PIECE_BYTES < layout.directoryBytes; piece++) {
      this.#stalePieces[other(found.superblock.directory)].add(piece);
    }
  }

  /**
   * Writes the map of a volume whose blocks are all absent, durably. The storage may hold anything
   * before.
   */
  static async format(
    storage: Storage,
    input: GeometryInput,
    wanted: Partial<MapLimits> = {},
  ): Promise<void> {
    const problem = geometryProblem(input);
    if (problem !== undefined) throw new RangeError(problem);
    const geometry = new Geometry(input);
    const limits = defaultLimits(geometry, wanted);
    const layout = new MapLayout(geometry, limits);
    assert(storage.size >= layout.totalBytes, 'the map file has room for the map');
    const directory = absentDirectory(geometry, layout.directoryBytes);
    const side = encodeSide(geometry, {intents: [], masks: []});
    await storage.zero(layout.logOffset, limits.logBytes);
    await storage.write(layout.directoryOffset(0), directory);
    await storage.write(layout.sideOffset(0), side);
    await storage.sync();
    const superblock: Superblock = {
      geometry: input,
      limits,
      generation: 1,
      sequence: 0,
      directory: 0,
      side: 0,
      isClean: true,
      directoryCrc: crc32c(directory),
      sideCrc: crc32c(side),
      sideLength: side.length,
    };
    await storage.write(layout.superblockOffset(0), encodeSuperblock(superblock));
    await storage.write(
      layout.superblockOffset(1),
      encodeSuperblock({...superblock, generation: 0}),
    );
    await storage.sync();
  }

  /**
   * Reads and checks everything but the page slots; writes nothing. Throws {@link
   * DamagedStateError}.
   *
   * It syncs first: a process that died may have left a superblock or record in the page cache
   * alone. What is built on it here overwrites the copies before it, so it must not vanish with the
   * power any more. `syncsLater`: before the first write instead, for a take-over, which must not
   * wait for a disk.
   */
  static async open(
    storage: Storage,
    syncsLater = false,
  ): Promise<{file: MapFile; recovery: MapRecovery}> {
    const damaged = (what: string): never => {
      throw new DamagedStateError(storage.name, what);
    };
    if (!syncsLater) await storage.sync();
    const {superblock, copy} = await readSuperblocks(storage, damaged);
    const problem = geometryProblem(superblock.geometry);
    if (problem !== undefined) damaged(problem);
    const geometry = new Geometry(superblock.geometry);
    const layout = new MapLayout(geometry, superblock.limits);
    if (storage.size < layout.totalBytes)
      damaged(`it ends at ${storage.size} of ${layout.totalBytes} bytes`);
    const directory = new Uint8Array(layout.directoryBytes);
    const log = new Uint8Array(superblock.limits.logBytes);
    if (superblock.sideLength > layout.sideBytes) damaged('its side area is longer than its place');
    const side = new Uint8Array(superblock.sideLength);
    await Promise.all([
      storage.read(layout.directoryOffset(superblock.directory), directory),
      storage.read(layout.logOffset, log),
      storage.read(layout.sideOffset(superblock.side), side),
    ]);
    if (crc32c(directory) !== superblock.directoryCrc) damaged("its directory's checksum is wrong");
    if (crc32c(side) !== superblock.sideCrc) damaged("its side area's checksum is wrong");
    const tables = decodeSide(geometry, side) ?? damaged('its side area says what cannot be');
    const scan = scanLog(geometry, log, superblock.generation, superblock.sequence);
    if (typeof scan === 'string') return damaged(scan);
    const found = {superblock, copy, directory, sequence: scan.sequence, logEnd: scan.end};
    const file = new MapFile(storage, layout, found, syncsLater);
    return {file, recovery: {...tables, wasClean: superblock.isClean, records: scan.records}};
  }

  /** Counts up with every checkpoint. */
  get generation(): number {
    return this.#superblock.generation;
  }

  /** Blocks in each state of a page whose entries are on disk; undefined for any other page. */
  countsOnDisk(page: number): readonly number[] | undefined {
    const {kind, counts} = decodeDirectoryEntry(this.#directory, page);
    return kind === KIND_SLOT_0 || kind === KIND_SLOT_1 ? counts : undefined;
  }

  /**
   * Tells the map in core what each page is; mixed pages are loaded later, as needed. Returns those
   * of which the backup lacks something: they must be loaded before anything else happens.
   */
  fillDirectory(map: OverwriteMap): number[] {
    const behind: number[] = [];
    // Most pages of a large volume are all absent, which is what the map in core begins with:
    // whole pieces of them are passed over by one comparison.
    const absent = absentDirectory(this.geometry, this.#layout.directoryBytes);
    const {pageCount} = this.geometry;
    for (let start = 0; start < absent.length; start += DIRECTORY_PIECE_BYTES) {
      const end = Math.min(start + DIRECTORY_PIECE_BYTES, absent.length);
      const bytes = this.#directory.subarray(start, end);
      if (Buffer.compare(bytes, absent.subarray(start, end)) === 0) continue;
      const endPage = Math.min(end / DIRECTORY_ENTRY_BYTES, pageCount);
      this.#fillPages(map, start / DIRECTORY_ENTRY_BYTES, endPage, behind);
    }
    return behind;
  }

  #fillPages(map: OverwriteMap, first: number, end: number, behind: number[]): void {
    for (let page = first; page < end; page++) {
      const {kind, hasBehind, counts} = decodeDirectoryEntry(this.#directory, page);
      if (hasBehind) behind.push(page);
      const sum = counts.reduce((total, count) => total + count, 0);
      const isKnown = kind < counts.length || kind === KIND_SLOT_0 || kind === KIND_SLOT_1;
      if (!isKnown || sum !== this.geometry.blocksIn(page)) {
        const what = `its directory entry ${page} says what cannot be`;
        throw new DamagedStateError(this.#storage.name, what);
      }
      map.setPageFromDisk(page, kind < counts.length ? kind : MIXED, counts);
    }
  }

  /** Reads a mixed page from its slot into the map, and what the backup lacks into `behind`. */
  async loadPage(map: OverwriteMap, page: number, behind: BlockSet): Promise<void> {
    const {kind, crc} = decodeDirectoryEntry(this.#directory, page);
    const entries = new Uint8Array(PAGE_BYTES);
    await this.#storage.read(this.#layout.slotOffset(page, kind === KIND_SLOT_0 ? 0 : 1), entries);
    if (map.isPageLoaded(page)) return;
    const isSound = crc32c(entries) === crc;
    if (isSound) takeBehindMarks(entries, page, behind, this.geometry);
    if (!isSound || !map.loadPage(page, entries)) {
      throw new DamagedStateError(this.#storage.name, `page ${page} of it has a wrong checksum`);
    }
  }

  /** Takes room in the log for a record; false where a checkpoint must come first. */
  tryReserve(record: LogRecord): boolean {
    const bytes = recordBytes(this.geometry, record);
    if (this.#logEnd + this.#reservedBytes + bytes > this.limits.logBytes) return false;
    this.#reservedBytes += bytes;
    return true;
  }

  /**
   * Appends a record in room reserved for `reservedFor` and makes it durable. `build` gives the
   * record when its turn comes; it may have shrunk by then, not grown.
   */
  append(reservedFor: LogRecord, build: () => LogRecord, isSynced = true): Promise<void> {
    const reserved = recordBytes(this.geometry, reservedFor);
    return this.#write(async () => {
      const sequence = this.#sequence + 1;
      const bytes = encodeRecord(this.geometry, build(), this.#superblock.generation, sequence);
      assert(bytes.length <= reserved, 'a record fits the room reserved for it');
      const at = this.#logEnd;
      this.#reservedBytes -= reserved;
      this.#logEnd += bytes.length;
      this.#sequence = sequence;
      await this.#storage.write(this.#layout.logOffset + at, bytes);
      const synced = this.#storage.sync();
      if (isSynced) await synced;
      else void synced.catch(() => undefined);
    });
  }

  /**
   * Writes a checkpoint that contains every record so far. `build` gives its content when its turn
   * comes; the pages must be what they were when the store was last synced.
   */
  checkpoint(build: () => CheckpointContent): Promise<void> {
    return this.#write(async () => {
      const {pages, isClean, intents, masks} = build();
      const side = encodeSide(this.geometry, {intents, masks});
      const next: Superblock = {
        ...this.#superblock,
        generation: this.#superblock.generation + 1,
        sequence: this.#sequence,
        side: other(this.#superblock.side),
        isClean,
        sideCrc: crc32c(side),
        sideLength: side.length,
      };
      await Promise.all([
        ...this.#writePages(pages),
        this.#storage.write(this.#layout.sideOffset(next.side), side),
      ]);
      if (pages.length > 0) {
        next.directory = other(this.#superblock.directory);
        await this.#writeDirectory(next.directory);
        next.directoryCrc = crc32c(this.#directory);
      }
      await this.#storage.sync();
      const copy = other(this.#superblockCopy);
      await this.#storage.write(this.#layout.superblockOffset(copy), encodeSuperblock(next));
      await this.#storage.sync();
      this.#superblock = next;
      this.#superblockCopy = copy;
      this.#logEnd = 0;
    });
  }

  /**
   * Runs what writes, in order of arrival. A failed write or sync is final: whether its bytes
   * landed nobody knows, so a record or checkpoint after it could make the file contradict itself.
   */
  #write(section: () => Promise<void>): Promise<void> {
    return this.#serial.run(async () => {
      if (this.#failure !== undefined) throw this.#failure;
      try {
        if (this.#isUnsynced) await this.#storage.sync();
        this.#isUnsynced = false;
        await section();
      } catch (error) {
        this.#failure = error;
        throw error;
      }
    });
  }

  /** Puts mixed pages into their unused slots and all of them into the directory in core. */
  #writePages(pages: readonly PageImage[]): Promise<void>[] {
    const writes: Promise<void>[] = [];
    for (const image of pages) {
      const before = decodeDirectoryEntry(this.#directory, image.page);
      const slot = before.kind === KIND_SLOT_0 ? 1 : 0;
      encodeDirectoryEntry(this.#directory, image.page, directoryEntryOf(image, slot));
      const piece = Math.floor((image.page * DIRECTORY_ENTRY_BYTES) / DIRECTORY_PIECE_BYTES);
      this.#stalePieces.forEach((pieces) => pieces.add(piece));
      if (image.entries === undefined) continue;
      writes.push(this.#storage.write(this.#layout.slotOffset(image.page, slot), image.entries));
    }
    return writes;
  }

  async #writeDirectory(copy: Copy): Promise<void> {
    const writes: Promise<void>[] = [];
    for (const piece of this.#stalePieces[copy]) {
      const start = piece * DIRECTORY_PIECE_BYTES;
      const end = Math.min(start + DIRECTORY_PIECE_BYTES, this.#layout.directoryBytes);
      const bytes = this.#directory.slice(start, end);
      writes.push(this.#storage.write(this.#layout.directoryOffset(copy) + start, bytes));
    }
    this.#stalePieces[copy].clear();
    await Promise.all(writes);
  }
}

interface Opened {
  superblock: Superblock;
  copy: Copy;
  directory: Uint8Array;
  sequence: number;
  logEnd: number;
}

async function readSuperblocks(
  storage: Storage,
  damaged: (what: string) => never,
): Promise<{superblock: Superblock; copy: Copy}> {
  const sector = alignUp(SUPERBLOCK_BYTES, 512);
  if (storage.size < 4096 + sector) damaged(`it has only ${storage.size} bytes`);
  const found: Superblock[] = [];
  for (const [copy, offset] of [0, 4096].entries()) {
    const bytes = new Uint8Array(sector);
    await storage.read(offset, bytes);
    const superblock = decodeSuperblock(bytes);
    if (typeof superblock === 'string') return damaged(`superblock ${copy}: ${superblock}`);
    found.push(superblock);
  }
  const [first, second] = found as [Superblock, Superblock];
  if (Math.abs(first.generation - second.generation) !== 1)
    damaged('its superblocks are not neighbours');
  return first.generation > second.generation
    ? {superblock: first, copy: 0}
    : {superblock: second, copy: 1};
}
