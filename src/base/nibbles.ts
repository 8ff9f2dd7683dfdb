/**
 * Four bits an entry, two entries a byte (the even one in the low half): the overwrite map's
 * memory. The low three bits are a value 0-7, the highest is a mark that can be set, found and
 * cleared quickly. Bit operators live here, on indices below 2^31 only; offsets in bytes never come
 * near them.
 */

const VALUE = 0x7;
const MARK = 0x8;
const MARKS_IN_WORD = 0x88888888;

export function valueAt(bytes: Uint8Array, index: number): number {
  const pair = bytes[index >>> 1] as number;
  return (index & 1 ? pair >>> 4 : pair) & VALUE;
}

export function isMarkedAt(bytes: Uint8Array, index: number): boolean {
  const pair = bytes[index >>> 1] as number;
  return ((index & 1 ? pair >>> 4 : pair) & MARK) !== 0;
}

/** Sets one entry's value and mark. */
export function setAt(bytes: Uint8Array, index: number, value: number, marked: boolean): void {
  const entry = marked ? value | MARK : value;
  const at = index >>> 1;
  const pair = bytes[at] as number;
  bytes[at] = index & 1 ? (pair & 0x0f) | (entry << 4) : (pair & 0xf0) | entry;
}

/** Sets entries [start, end). */
export function fillEntries(
  bytes: Uint8Array,
  start: number,
  end: number,
  value: number,
  marked: boolean,
): void {
  const entry = marked ? value | MARK : value;
  let index = start;
  if (index < end && index & 1) setAt(bytes, index++, value, marked);
  const evenEnd = end - (end & 1);
  if (index < evenEnd) bytes.fill(entry | (entry << 4), index >>> 1, evenEnd >>> 1);
  if (evenEnd >= index && end & 1) setAt(bytes, end - 1, value, marked);
}

/** The first index in [start, end) whose value differs from `value`, or `end`. */
export function endOfRun(bytes: Uint8Array, start: number, end: number, value: number): number {
  let index = start;
  if (index < end && index & 1) {
    if (valueAt(bytes, index) !== value) return index;
    index++;
  }
  const pair = value | (value << 4);
  while (index + 1 < end && ((bytes[index >>> 1] as number) & 0x77) === pair) index += 2;
  while (index < end && valueAt(bytes, index) === value) index++;
  return index;
}

/** The first marked index in [start, end), or `end`; `bytes` begins at a multiple of four. */
export function nextMarked(bytes: Uint8Array, start: number, end: number): number {
  let index = start;
  while (index < end && index & 7) {
    if (isMarkedAt(bytes, index)) return index;
    index++;
  }
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  while (index + 7 < end && ((words[index >>> 3] as number) & MARKS_IN_WORD) === 0) index += 8;
  while (index < end && !isMarkedAt(bytes, index)) index++;
  return index;
}

/** Puts a mark on entry `index`. */
export function markAt(bytes: Uint8Array, index: number): void {
  setAt(bytes, index, valueAt(bytes, index), true);
}

/** Takes the marks off entries [0, 2 × length) of `bytes`, whose length is a multiple of four. */
export function clearMarks(bytes: Uint8Array): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  for (let index = 0; index < words.length; index++) {
    words[index] = (words[index] as number) & ~MARKS_IN_WORD;
  }
}

/** Puts the mark on all entries of `bytes`, whose length is a multiple of four. */
export function markAll(bytes: Uint8Array): void {
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.length >>> 2);
  for (let index = 0; index < words.length; index++) {
    words[index] = (words[index] as number) | MARKS_IN_WORD;
  }
}

/** How often each byte was seen by the count under way; all zero between two. */
const seen = new Uint32Array(256);

/** Adds to counts[value] the number of entries [0, end) with that value. */
export function countValues(bytes: Uint8Array, end: number, counts: number[]): void {
  const add = (value: number, count: number): void => {
    counts[value] = (counts[value] ?? 0) + count;
  };
  const whole = end >>> 1;
  for (let index = 0; index < whole; index++) {
    const pair = bytes[index] as number;
    seen[pair] = (seen[pair] as number) + 1;
  }
  for (let pair = 0; pair < 256; pair++) {
    const count = seen[pair] as number;
    if (count === 0) continue;
    add(pair & VALUE, count);
    add((pair >>> 4) & VALUE, count);
    seen[pair] = 0;
  }
  if (end & 1) add(valueAt(bytes, end - 1), 1);
}
