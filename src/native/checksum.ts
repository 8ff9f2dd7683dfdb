/** Checksums by the addon, on the JavaScript thread: 64 KiB take some ten microseconds. */
import {addon} from './addon.js';

type Crc32c = (bytes: Uint8Array, seed: number, start: number, end: number) => number;

const native = addon as {crc32c: Crc32c; crc32cTable: Crc32c};

/**
 * CRC-32C of bytes[start, end), by the processor's instruction where it has one. `seed`: the
 * checksum of the bytes before these. Equal to base/crc32c.ts for every input.
 */
export function crc32c(bytes: Uint8Array, seed = 0, start = 0, end = bytes.length): number {
  return native.crc32c(bytes, seed, start, end);
}

/** The same, always by the addon's table; for tests. */
export function crc32cByTable(bytes: Uint8Array, seed = 0, start = 0, end = bytes.length): number {
  return native.crc32cTable(bytes, seed, start, end);
}
