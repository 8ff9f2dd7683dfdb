/**
 * How a volume is cut: bytes into blocks, blocks into map pages, bytes into regions.
 *
 *   volume   |block|block|block|…|last block, maybe short|
 *   map      |page of 8192 blocks = 4 KiB at 4 bits each |…
 *   regions  |4 MiB, unit of the intent log|…
 */
import {assert} from '../base/assert.js';
import {divideDown, divideUp, GiB, isPowerOfTwo, KiB, MiB, SECTOR} from '../base/units.js';

export const BLOCK_SIZE_MIN = 4 * KiB;
export const BLOCK_SIZE_MAX = 4 * MiB;
export const BLOCK_SIZE_DEFAULT = 64 * KiB;

/** Blocks a volume may have; more would take over 1 GiB of map memory once no page is uniform. */
export const BLOCK_COUNT_MAX = 2 ** 31;

/** Blocks up to which the default block size is kept; beyond, blocks grow. */
const BLOCK_COUNT_COMFORTABLE = 2 ** 30;

/** Blocks in a page of the map: 4 KiB in memory and on disk. */
export const PAGE_BLOCKS = 8192;
export const PAGE_BYTES = PAGE_BLOCKS / 2;

/** The unit of the intent log, bytes. A block may not be larger. */
export const REGION_BYTES = 4 * MiB;

export interface GeometryInput {
  /** Bytes; a positive multiple of 512, at most 2^53. */
  size: number;
  /** Bytes; a power of two from 4 KiB to 4 MiB. */
  blockSize: number;
}

/**
 * The block size for a volume of `size` bytes when none is asked for: 64 KiB, more above 64 TiB.
 */
export function defaultBlockSize(size: number): number {
  let blockSize = BLOCK_SIZE_DEFAULT;
  while (divideUp(size, blockSize) > BLOCK_COUNT_COMFORTABLE && blockSize < BLOCK_SIZE_MAX)
    blockSize *= 2;
  return blockSize;
}

/** Why a volume cannot be cut like this, for a person; undefined if it can. */
export function geometryProblem({size, blockSize}: GeometryInput): string | undefined {
  if (!Number.isSafeInteger(size) || size <= 0) return `a volume of ${size} bytes cannot be`;
  if (size % SECTOR !== 0) return `the volume's size ${size} is not a multiple of ${SECTOR}`;
  if (!isPowerOfTwo(blockSize) || blockSize < BLOCK_SIZE_MIN || blockSize > BLOCK_SIZE_MAX) {
    return `block size ${blockSize} is not a power of two from 4K to 4M`;
  }
  if (divideUp(size, blockSize) > BLOCK_COUNT_MAX) {
    return `block size ${blockSize} cuts ${divideUp(size, GiB)} GiB into more than 2^31 blocks`;
  }
  return undefined;
}

export class Geometry {
  readonly size: number;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly pageCount: number;
  readonly regionCount: number;
  readonly sectorsPerBlock: number;

  constructor(input: GeometryInput) {
    const problem = geometryProblem(input);
    assert(problem === undefined, problem ?? '');
    this.size = input.size;
    this.blockSize = input.blockSize;
    this.blockCount = divideUp(this.size, this.blockSize);
    this.pageCount = divideUp(this.blockCount, PAGE_BLOCKS);
    this.regionCount = divideUp(this.size, REGION_BYTES);
    this.sectorsPerBlock = this.blockSize / SECTOR;
  }

  /** The block that holds a byte. */
  blockOf(offset: number): number {
    return divideDown(offset, this.blockSize);
  }

  /** The block after the last one that [.., end) touches. */
  blockEndOf(end: number): number {
    return divideUp(end, this.blockSize);
  }

  /** The first byte of a block; of blockCount, the volume's size. */
  offsetOf(block: number): number {
    return Math.min(block * this.blockSize, this.size);
  }

  /** Sectors in a block: fewer in a short last one. */
  sectorsIn(block: number): number {
    return (this.offsetOf(block + 1) - this.offsetOf(block)) / SECTOR;
  }

  pageOf(block: number): number {
    return divideDown(block, PAGE_BLOCKS);
  }

  /** Blocks in a page: fewer in the last one. */
  blocksIn(page: number): number {
    return Math.min(PAGE_BLOCKS, this.blockCount - page * PAGE_BLOCKS);
  }

  /** The end of the map page that holds a block. */
  pageEnd(block: number): number {
    return Math.min((this.pageOf(block) + 1) * PAGE_BLOCKS, this.blockCount);
  }

  regionOf(offset: number): number {
    return divideDown(offset, REGION_BYTES);
  }
}
