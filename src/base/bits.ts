/** Bit sets in bytes, lowest bit first: the sector masks of partial blocks. Indices below 2^31. */

export function isBitSet(bytes: Uint8Array, index: number): boolean {
  return ((bytes[index >>> 3] as number) & (1 << (index & 7))) !== 0;
}

/** Sets bits [start, end). */
export function setBits(bytes: Uint8Array, start: number, end: number): void {
  for (let index = start; index < end; index++) {
    const at = index >>> 3;
    bytes[at] = (bytes[at] as number) | (1 << (index & 7));
  }
}

/** The first index in [start, end) whose bit differs from that at `start`, or `end`. */
export function endOfBitRun(bytes: Uint8Array, start: number, end: number): number {
  const value = isBitSet(bytes, start);
  let index = start + 1;
  while (index < end && isBitSet(bytes, index) === value) index++;
  return index;
}

/** Whether bits [0, count) are all set. */
export function areAllSet(bytes: Uint8Array, count: number): boolean {
  return count === 0 || (isBitSet(bytes, 0) && endOfBitRun(bytes, 0, count) === count);
}

/** Whether a small number has all bits of `flag`. */
export function hasFlag(value: number, flag: number): boolean {
  return (value & flag) === flag;
}

export function withoutFlag(value: number, flag: number): number {
  return value & ~flag;
}

export function withFlag(value: number, flag: number): number {
  return value | flag;
}
