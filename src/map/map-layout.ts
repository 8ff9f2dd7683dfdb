/**
 * Where things lie in a map file, and how they are written as bytes (docs/FORMATS.md, "Map file").
 * All numbers are little-endian; numbers that may pass 2^32 are doubles holding exact integers.
 *
 *   0         superblock 0, one sector            (the valid one with the higher generation counts)
 *   4096      superblock 1, one sector
 *   8192      log, records one after the other from its start
 *   …         side area 0, side area 1            intent marks and sector masks
 *   …         directory 0, directory 1            16 bytes a page
 *   …         page slots, two for each page       4096 bytes each, only where a page is mixed
 *
 * Of each pair the superblock says which one counts; a checkpoint writes the other.
 */
import {alignUp, SECTOR} from '../base/units.js';
import {nextMarked} from '../base/nibbles.js';
import {repeatFirst} from '../base/repeat.js';
import {crc32c} from '../native/checksum.js';
import {ABSENT, STATE_COUNT} from './block-state.js';
import {Geometry, type GeometryInput, PAGE_BLOCKS, PAGE_BYTES} from './geometry.js';
import {maskBytes, maskCountMax, type MaskImage} from './mask-table.js';
import type {PageImage} from './overwrite-map.js';

const MAGIC = 0x314d_5247; // "GRM1"
export const FORMAT_VERSION = 2;
export const SUPERBLOCK_BYTES = SECTOR;
export const DIRECTORY_ENTRY_BYTES = 16;
const SUPERBLOCK_OFFSETS = [0, 4096] as const;
const LOG_OFFSET = 8192;

/** Which of two copies; a checkpoint writes the other. */
export type Copy = 0 | 1;

export function other(copy: Copy): Copy {
  return copy === 0 ? 1 : 0;
}

/** Page kinds in a directory: a state code where uniform, else which slot holds the entries. */
export const KIND_SLOT_0 = 14;
export const KIND_SLOT_1 = 15;

export const LOG_BYTES_DEFAULT = 4 * 1024 * 1024;
export const INTENT_COUNT_MAX = 4096;

/** Sizes chosen when a map file is formatted; kept in its superblock. */
export interface MapLimits {
  /** Bytes of the log; a multiple of 4096. @default 4 MiB */
  logBytes: number;
  /** Regions that may be marked at once. @default 4096 */
  intentCountMax: number;
  /** Masks there may be. @default as the geometry allows */
  maskCountMax: number;
}

export function defaultLimits(geometry: Geometry, wanted: Partial<MapLimits> = {}): MapLimits {
  const intentCountMax = wanted.intentCountMax ?? INTENT_COUNT_MAX;
  return {
    // All marks at once fit one record of an empty log.
    logBytes: alignUp(
      Math.max(wanted.logBytes ?? LOG_BYTES_DEFAULT, 1024 + 16 * intentCountMax),
      4096,
    ),
    intentCountMax,
    maskCountMax: maskCountMax(geometry, wanted.maskCountMax),
  };
}

export class MapLayout {
  readonly geometry: Geometry;
  readonly limits: MapLimits;
  readonly logOffset = LOG_OFFSET;
  readonly sideBytes: number;
  readonly directoryBytes: number;
  readonly totalBytes: number;
  readonly #sideOffset: number;
  readonly #directoryOffset: number;
  readonly #slotOffset: number;

  constructor(geometry: Geometry, limits: MapLimits) {
    this.geometry = geometry;
    this.limits = limits;
    const masks = limits.maskCountMax * (8 + maskBytes(geometry));
    this.sideBytes = alignUp(8 + limits.intentCountMax * 8 + masks, 4096);
    this.directoryBytes = alignUp(geometry.pageCount * DIRECTORY_ENTRY_BYTES, 4096);
    this.#sideOffset = LOG_OFFSET + limits.logBytes;
    this.#directoryOffset = this.#sideOffset + 2 * this.sideBytes;
    this.#slotOffset = this.#directoryOffset + 2 * this.directoryBytes;
    this.totalBytes = this.#slotOffset + geometry.pageCount * 2 * PAGE_BYTES;
  }

  superblockOffset(copy: Copy): number {
    return SUPERBLOCK_OFFSETS[copy];
  }

  sideOffset(copy: Copy): number {
    return this.#sideOffset + copy * this.sideBytes;
  }

  directoryOffset(copy: Copy): number {
    return this.#directoryOffset + copy * this.directoryBytes;
  }

  slotOffset(page: number, copy: Copy): number {
    return this.#slotOffset + (page * 2 + copy) * PAGE_BYTES;
  }
}

export interface Superblock {
  geometry: GeometryInput;
  limits: MapLimits;
  /** Rises by one with each checkpoint. */
  generation: number;
  /** The last log record that the checkpoint contains. */
  sequence: number;
  directory: Copy;
  side: Copy;
  /** True from an orderly close to the next open: no region can differ from what the map says. */
  isClean: boolean;
  directoryCrc: number;
  sideCrc: number;
  sideLength: number;
}

export function encodeSuperblock(superblock: Superblock): Uint8Array {
  const bytes = new Uint8Array(SUPERBLOCK_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint32(4, FORMAT_VERSION, true);
  view.setFloat64(8, superblock.geometry.size, true);
  view.setFloat64(16, superblock.generation, true);
  view.setFloat64(24, superblock.sequence, true);
  view.setUint32(32, superblock.geometry.blockSize, true);
  view.setUint32(36, superblock.limits.logBytes, true);
  view.setUint32(40, superblock.limits.intentCountMax, true);
  view.setUint32(44, superblock.limits.maskCountMax, true);
  view.setUint32(48, superblock.directoryCrc, true);
  view.setUint32(52, superblock.sideCrc, true);
  view.setUint32(56, superblock.sideLength, true);
  view.setUint8(60, superblock.directory);
  view.setUint8(61, superblock.side);
  view.setUint8(62, superblock.isClean ? 1 : 0);
  view.setUint32(SUPERBLOCK_BYTES - 4, crc32c(bytes.subarray(0, SUPERBLOCK_BYTES - 4)), true);
  return bytes;
}

/** The superblock in a sector, or why it is none, for a person. */
export function decodeSuperblock(bytes: Uint8Array): Superblock | string {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  if (view.getUint32(0, true) !== MAGIC) return 'it is not a superblock';
  const crc = crc32c(bytes.subarray(0, SUPERBLOCK_BYTES - 4));
  if (view.getUint32(SUPERBLOCK_BYTES - 4, true) !== crc) return 'its checksum is wrong';
  const version = view.getUint32(4, true);
  if (version !== FORMAT_VERSION) return `its format version is ${version}, not ${FORMAT_VERSION}`;
  return {
    geometry: {size: view.getFloat64(8, true), blockSize: view.getUint32(32, true)},
    generation: view.getFloat64(16, true),
    sequence: view.getFloat64(24, true),
    limits: {
      logBytes: view.getUint32(36, true),
      intentCountMax: view.getUint32(40, true),
      maskCountMax: view.getUint32(44, true),
    },
    directoryCrc: view.getUint32(48, true),
    sideCrc: view.getUint32(52, true),
    sideLength: view.getUint32(56, true),
    directory: view.getUint8(60) === 0 ? 0 : 1,
    side: view.getUint8(61) === 0 ? 0 : 1,
    isClean: view.getUint8(62) === 1,
  };
}

export interface DirectoryEntry {
  kind: number;
  /** The page's slot says of some block that the backup lacks it (behind-marks.ts). */
  hasBehind: boolean;
  counts: number[];
  /** Of the page's 4096 bytes; 0 for a uniform page. */
  crc: number;
}

export function encodeDirectoryEntry(
  directory: Uint8Array,
  page: number,
  entry: DirectoryEntry,
): void {
  const view = new DataView(directory.buffer, directory.byteOffset + page * DIRECTORY_ENTRY_BYTES);
  view.setUint8(0, entry.kind);
  view.setUint8(1, entry.hasBehind ? 1 : 0);
  entry.counts.forEach((count, code) => view.setUint16(2 + code * 2, count, true));
  view.setUint32(12, entry.crc, true);
}

export function decodeDirectoryEntry(directory: Uint8Array, page: number): DirectoryEntry {
  const view = new DataView(directory.buffer, directory.byteOffset + page * DIRECTORY_ENTRY_BYTES);
  const counts: number[] = [];
  for (let code = 0; code < STATE_COUNT; code++) counts.push(view.getUint16(2 + code * 2, true));
  return {
    kind: view.getUint8(0),
    hasBehind: view.getUint8(1) === 1,
    counts,
    crc: view.getUint32(12, true),
  };
}

/** The directory of a volume whose blocks are all absent, in `length` bytes. */
export function absentDirectory(geometry: Geometry, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const put = (page: number): void => {
    const counts = [geometry.blocksIn(page), 0, 0, 0, 0];
    encodeDirectoryEntry(bytes, page, {kind: ABSENT, hasBehind: false, counts, crc: 0});
  };
  put(0);
  repeatFirst(bytes.subarray(0, geometry.pageCount * DIRECTORY_ENTRY_BYTES), DIRECTORY_ENTRY_BYTES);
  put(geometry.pageCount - 1);
  return bytes;
}

/** What lies in a side area. */
export interface SideTables {
  /** Marked regions. */
  intents: number[];
  masks: MaskImage[];
}

export function encodeSide(geometry: Geometry, {intents, masks}: SideTables): Uint8Array {
  const bytesPerMask = maskBytes(geometry);
  const bytes = new Uint8Array(8 + intents.length * 8 + masks.length * (8 + bytesPerMask));
  const view = new DataView(bytes.buffer);
  view.setUint32(0, intents.length, true);
  view.setUint32(4, masks.length, true);
  let at = 8;
  for (const region of intents) {
    view.setFloat64(at, region, true);
    at += 8;
  }
  for (const {block, mask} of masks) {
    view.setFloat64(at, block, true);
    bytes.set(mask, at + 8);
    at += 8 + bytesPerMask;
  }
  return bytes;
}

/** The tables in a side area, or undefined where its lengths or numbers cannot be. */
export function decodeSide(geometry: Geometry, bytes: Uint8Array): SideTables | undefined {
  const bytesPerMask = maskBytes(geometry);
  if (bytes.length < 8) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const intentCount = view.getUint32(0, true);
  const maskCount = view.getUint32(4, true);
  if (bytes.length !== 8 + intentCount * 8 + maskCount * (8 + bytesPerMask)) return undefined;
  const intents: number[] = [];
  for (let index = 0; index < intentCount; index++)
    intents.push(view.getFloat64(8 + index * 8, true));
  const masks: MaskImage[] = [];
  for (
    let index = 0, at = 8 + intentCount * 8;
    index < maskCount;
    index++, at += 8 + bytesPerMask
  ) {
    masks.push({
      block: view.getFloat64(at, true),
      mask: bytes.slice(at + 8, at + 8 + bytesPerMask),
    });
  }
  const isSane =
    intents.every(
      (region) => Number.isInteger(region) && region >= 0 && region < geometry.regionCount,
    ) &&
    masks.every(({block}) => Number.isInteger(block) && block >= 0 && block < geometry.blockCount);
  return isSane ? {intents, masks} : undefined;
}

/**
 * The directory entry of a page that a checkpoint put into `slot` (unused where the page is
 * uniform).
 */
export function directoryEntryOf(image: PageImage, slot: Copy): DirectoryEntry {
  const {counts, entries, kind} = image;
  if (entries === undefined) return {kind, hasBehind: false, counts, crc: 0};
  const hasBehind = nextMarked(entries, 0, PAGE_BLOCKS) < PAGE_BLOCKS;
  return {kind: slot === 0 ? KIND_SLOT_0 : KIND_SLOT_1, hasBehind, counts, crc: crc32c(entries)};
}

/**
 * Bytes at the start of a map file that every commit may need: all but the page slots. Reserved on
 * disk, they let commits go on when the file system is full.
 */
export function mapReservedBytes(input: GeometryInput, wanted: Partial<MapLimits> = {}): number {
  const geometry = new Geometry(input);
  return new MapLayout(geometry, defaultLimits(geometry, wanted)).slotOffset(0, 0);
}

/** Bytes a map file of this geometry takes at most; it is sparse until pages become mixed. */
export function mapFileSize(input: GeometryInput, wanted: Partial<MapLimits> = {}): number {
  const geometry = new Geometry(input);
  return new MapLayout(geometry, defaultLimits(geometry, wanted)).totalBytes;
}
