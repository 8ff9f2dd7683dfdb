/**
 * Sector contents that say what they are: which write of the guest made them, that they are the
 * source's, that they are stale bytes of a reused disk. Every one of the 512 bytes depends on value
 * and place, so a torn, misplaced or mixed sector is recognised.
 *
 * A value is a number: 0 zeroes, SOURCE, GARBAGE, and 1, 2, 3 … the guest's writes.
 *
 *   word 0 tag   word 1 value   word 2, 3 sector number   words 4..127 pattern of all of them
 */
import {SECTOR} from '../../src/base/units.js';

export const ZERO = 0;
/** What the source holds in this sector. */
export const SOURCE = -1;
/** Stale bytes of a reused disk (DC9): no guest may ever see them. */
export const GARBAGE = -2;
/** Not a whole sector of any kind: torn inside, from elsewhere, or scribbled over. */
export const DAMAGED = -3;

const TAG_SOURCE = 0x5ce50000;
const TAG_GARBAGE = 0x6a4ba6e0;
const TAG_WRITE = 0x3c3c0001;
const WORDS = SECTOR / 4;
const TWO_32 = 2 ** 32;

const words = new Uint32Array(WORDS);
const bytes = new Uint8Array(words.buffer);

function fillWords(tag: number, value: number, sector: number): void {
  const low = sector % TWO_32;
  const high = Math.floor(sector / TWO_32);
  words[0] = tag;
  words[1] = value;
  words[2] = low;
  words[3] = high;
  let mixed = (Math.imul(value ^ tag, 0x9e3779b1) ^ Math.imul(low + high, 0x85ebca6b)) | 1;
  for (let index = 4; index < WORDS; index++) {
    mixed = Math.imul(mixed, 0x2c9277b5) + 0x3c6ef35f;
    words[index] = mixed;
  }
}

/** Fills `target`, which begins at byte `offset` of the disk, with `value` in each sector. */
export function stamp(target: Uint8Array, offset: number, value: number): void {
  if (value === ZERO) {
    target.fill(0);
    return;
  }
  const tag = value === SOURCE ? TAG_SOURCE : value === GARBAGE ? TAG_GARBAGE : TAG_WRITE;
  for (let at = 0; at < target.length; at += SECTOR) {
    fillWords(tag, value < 0 ? 0 : value, (offset + at) / SECTOR);
    target.set(bytes, at);
  }
}

/**
 * The value of the sector that stands in `content` at `at` and comes from byte `offset` of the
 * disk.
 */
export function readStamp(content: Uint8Array, at: number, offset: number): number {
  bytes.set(content.subarray(at, at + SECTOR));
  const tag = words[0] as number;
  if (tag === 0) return words.every((word) => word === 0) ? ZERO : DAMAGED;
  const value = words[1] as number;
  const found = words.slice();
  const isKnown = tag === TAG_SOURCE || tag === TAG_GARBAGE || tag === TAG_WRITE;
  if (!isKnown) return DAMAGED;
  fillWords(tag, value, offset / SECTOR);
  for (let index = 0; index < WORDS; index++) if (words[index] !== found[index]) return DAMAGED;
  return tag === TAG_SOURCE ? SOURCE : tag === TAG_GARBAGE ? GARBAGE : value;
}

/** For messages: what a sector seems to be, also a damaged or misplaced one. */
export function describeSector(content: Uint8Array, at: number, offset: number): string {
  const value = readStamp(content, at, offset);
  if (value !== DAMAGED) return describeValue(value);
  const head = new Uint32Array(new Uint8Array(content.subarray(at, at + 16)).buffer);
  const sector = (head[3] as number) * TWO_32 + (head[2] as number);
  if (head[0] === TAG_SOURCE) return `source sector ${sector} in the wrong place or torn`;
  if (head[0] === TAG_GARBAGE) return `stale sector ${sector} in the wrong place or torn`;
  if (head[0] === TAG_WRITE)
    return `write ${head[1] as number} of sector ${sector} misplaced or torn`;
  return `unknown bytes ${Buffer.from(content.subarray(at, at + 16)).toString('hex')}`;
}

export function describeValue(value: number): string {
  if (value === ZERO) return 'zeroes';
  if (value === SOURCE) return 'source';
  if (value === GARBAGE) return 'stale bytes of the disk';
  return value === DAMAGED ? 'damaged bytes' : `write ${value}`;
}
