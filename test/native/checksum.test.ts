import {Buffer} from 'node:buffer';
import {randomBytes} from 'node:crypto';
import test from 'ava';
import fc from 'fast-check';
import {crc32c as pure} from '../../src/base/crc32c.js';
import {crc32c, crc32cByTable} from '../../src/native/checksum.js';

/** RFC 3720, appendix B.4, and the check value of the CRC catalogues. */
const VECTORS: readonly (readonly [Uint8Array, number])[] = [
  [Buffer.from('123456789'), 0xe306_9283],
  [new Uint8Array(32), 0x8a91_36aa],
  [new Uint8Array(32).fill(0xff), 0x62a8_ab43],
  [Uint8Array.from({length: 32}, (_, index) => index), 0x46dd_794e],
  [Uint8Array.from({length: 32}, (_, index) => 31 - index), 0x113f_db5c],
  [new Uint8Array(0), 0],
];

for (const [name, sum] of Object.entries({crc32c, crc32cByTable, pure})) {
  test(`${name} gives the published values`, (t) => {
    for (const [bytes, expected] of VECTORS) t.is(sum(bytes), expected);
  });
}

test('instruction, native table and TypeScript agree on any bytes, range and seed', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({maxLength: 300}),
      fc.nat(0xffff_ffff),
      fc.nat(300),
      fc.nat(300),
      (bytes, seed, one, other) => {
        const start = Math.min(one, other, bytes.length);
        const end = Math.min(Math.max(one, other), bytes.length);
        const expected = pure(bytes, seed, start, end);
        return (
          crc32c(bytes, seed, start, end) === expected &&
          crc32cByTable(bytes, seed, start, end) === expected
        );
      },
    ),
  );
  t.pass();
});

test('a range may be summed in parts', (t) => {
  const bytes = randomBytes(100_000);
  for (const cut of [0, 1, 4095, 65_536, 100_000]) {
    t.is(crc32c(bytes, crc32c(bytes, 0, 0, cut), cut), crc32c(bytes));
  }
});

test('a range outside the bytes is a RangeError', (t) => {
  const bytes = new Uint8Array(10);
  t.throws(() => crc32c(bytes, 0, 0, 11), {instanceOf: RangeError});
  t.throws(() => crc32c(bytes, 0, 5, 4), {instanceOf: RangeError});
  t.throws(() => crc32c(bytes, 0, -1, 4), {instanceOf: RangeError});
  t.throws(() => crc32c(bytes, 0, Number.NaN, 4), {instanceOf: RangeError});
});
