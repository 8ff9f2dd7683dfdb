/**
 * A write on its way to a simulated disk: it lands in pieces, cut between sectors, in any order.
 */
import type {Prng} from '../../../src/base/prng.js';
import {SECTOR} from '../../../src/base/units.js';

/** A write or zeroing on its way. */
export interface Landing {
  readonly offset: number;
  /** Undefined for zeroes. */
  readonly bytes: Uint8Array | undefined;
  readonly length: number;
  readonly request: number;
  /** Sectors of the operation that have not landed yet, as ranges of bytes inside it. */
  pieces: Piece[];
  /** The moment it resolved, on the disk's own count; 0 while it has not. */
  resolvedAt: number;
}

export interface Piece {
  readonly from: number;
  readonly to: number;
}

/**
 * One to three pieces, cut between sectors, in the order they will *not* land in (they are popped).
 */
export function cutInPieces(offset: number, length: number, prng: Prng): Piece[] {
  const first = Math.floor(offset / SECTOR);
  const last = Math.ceil((offset + length) / SECTOR);
  if (last - first < 2 || !prng.chance(2, 5)) return [{from: 0, to: length}];
  const one = prng.between(first + 1, last - 1);
  const ends = [first, one, prng.between(one, last), last].map(
    (sector) => sector * SECTOR - offset,
  );
  const pieces: Piece[] = [];
  for (let index = 0; index < 3; index++) {
    const from = Math.max(0, ends[index] as number);
    const to = Math.min(length, ends[index + 1] as number);
    if (from < to) pieces.push({from, to});
  }
  return prng.shuffle(pieces);
}

/** The sectors that have not landed yet. */
export function sectorsOf({offset, pieces}: Landing): number[] {
  const sectors: number[] = [];
  for (const {from, to} of pieces) {
    for (let at = Math.floor((offset + from) / SECTOR); at * SECTOR < offset + to; at++)
      sectors.push(at);
  }
  return sectors;
}
