import test from 'ava';
import fc from 'fast-check';

import type {StateCode} from '../../../src/map/block-state.js';
import {Geometry} from '../../../src/map/geometry.js';
import {
  EMPTY_RECORD,
  encodeRecord,
  type LogRecord,
  recordBytes,
  scanLog,
} from '../../../src/map/map-log.js';

const GEOMETRY = new Geometry({size: 2 ** 45, blockSize: 65_536});
const LOG_BYTES = 65_536;

const block = fc.oneof(fc.nat(100), fc.integer({min: 2 ** 29 - 100, max: 2 ** 29 - 1}));
const record: fc.Arbitrary<LogRecord> = fc.record({
  runs: fc.array(
    fc.record({
      start: block,
      count: fc.constant(1),
      state: fc.integer({min: 0, max: 4}) as fc.Arbitrary<StateCode>,
    }),
    {maxLength: 40},
  ),
  masks: fc.array(fc.record({block, mask: fc.uint8Array({minLength: 16, maxLength: 16})}), {
    maxLength: 5,
  }),
  intentsSet: fc.array(fc.nat(GEOMETRY.regionCount - 1), {maxLength: 5}),
  intentsCleared: fc.array(fc.nat(GEOMETRY.regionCount - 1), {maxLength: 5}),
  behindSet: fc.array(fc.record({start: block, count: fc.constant(1)}), {maxLength: 5}),
  behindCleared: fc.array(fc.record({start: block, count: fc.constant(1)}), {maxLength: 5}),
});

/** A log with the records of one generation behind a checkpoint that contains `sequence`. */
function writeLog(
  records: readonly LogRecord[],
  generation: number,
  sequence: number,
): {log: Uint8Array; ends: number[]} {
  const log = new Uint8Array(LOG_BYTES);
  const ends: number[] = [];
  let at = 0;
  for (const [index, one] of records.entries()) {
    log.set(encodeRecord(GEOMETRY, one, generation, sequence + 1 + index), at);
    at += recordBytes(GEOMETRY, one);
    ends.push(at);
  }
  return {log, ends};
}

test('what was written is read back, whatever lay in the log before', (t) => {
  fc.assert(
    fc.property(
      fc.array(record, {maxLength: 8}),
      fc.array(record, {maxLength: 8}),
      (old, fresh) => {
        const {log} = writeLog(old, 6, 100);
        const {log: newer, ends} = writeLog(fresh, 7, 200);
        log.set(newer.subarray(0, ends.at(-1) ?? 0));
        const scan = scanLog(GEOMETRY, log, 7, 200);
        if (typeof scan === 'string') return void t.fail(scan);
        t.deepEqual(scan.records, fresh);
        t.is(scan.sequence, 200 + fresh.length);
        t.is(scan.end, ends.at(-1) ?? 0);
      },
    ),
  );
});

test('a torn last record is a crash and is left out; a bad one before a good one is damage', (t) => {
  const records = [1, 2, 3].map((start) => ({
    ...EMPTY_RECORD,
    runs: [{start, count: 1, state: 3 as const}],
  }));
  const {log} = writeLog(records, 1, 0);
  const torn = log.slice();
  torn[2 * 512 + 40] = 0xff;
  const scan = scanLog(GEOMETRY, torn, 1, 0);
  t.is(typeof scan === 'string' ? scan : scan.records.length, 2);
  const damaged = log.slice();
  damaged[512 + 40] = 0xff;
  t.is(scanLog(GEOMETRY, damaged, 1, 0), 'log record 2 is damaged, and record 3 after it is not');
});

test('no bytes at all make the scan throw or invent records', (t) => {
  fc.assert(
    fc.property(
      fc.array(record, {minLength: 1, maxLength: 4}),
      fc.nat(),
      fc.nat(255),
      (records, place, value) => {
        const {log, ends} = writeLog(records, 1, 0);
        const at = place % (ends.at(-1) ?? 1);
        const before = log[at];
        log[at] = value;
        const scan = scanLog(GEOMETRY, log, 1, 0);
        if (typeof scan === 'string' || before === value) return void t.pass();
        // Padding behind a record is not covered by its checksum and means nothing.
        t.deepEqual(scan.records, records.slice(0, scan.records.length));
      },
    ),
  );
  fc.assert(
    fc.property(fc.uint8Array({minLength: 512, maxLength: 4096}), (bytes) => {
      const scan = scanLog(GEOMETRY, bytes, 1, 0);
      t.deepEqual(typeof scan === 'string' ? [] : scan.records, []);
    }),
  );
});
