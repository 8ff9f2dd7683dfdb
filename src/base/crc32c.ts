/**
 * CRC-32C (Castagnoli: reflected, polynomial 0x1EDC6F41, as in iSCSI and ext4), by a table. The
 * addon computes the same faster (native/checksum.ts); this one needs nothing and so serves the
 * pure folders and the laboratory.
 */

/** 0x1EDC6F41 with its bits reversed. */
const POLYNOMIAL = 0x82f6_3b78;

const TABLE = buildTable();

function buildTable(): Uint32Array {
  const table = new Uint32Array(256);
  for (let byte = 0; byte < 256; byte++) {
    let value = byte;
    for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ POLYNOMIAL : value >>> 1;
    table[byte] = value;
  }
  return table;
}

/**
 * The checksum of bytes[start, end) as an unsigned 32-bit number. `seed`: the checksum of the bytes
 * before these, so that a range may be summed in parts.
 */
export function crc32c(bytes: Uint8Array, seed = 0, start = 0, end = bytes.length): number {
  let crc = ~seed;
  for (let index = start; index < end; index++) {
    crc = (crc >>> 8) ^ (TABLE[(crc ^ (bytes[index] ?? 0)) & 0xff] ?? 0);
  }
  return ~crc >>> 0;
}
