/**
 * Records of the map's log: what a commit or an intent mark adds between two checkpoints, as bytes.
 *
 *   record   magic u32, crc u32 (of all after it), length u32, entry count u32, generation f64,
 *            sequence f64, then the entries; the next record begins at the next multiple of 512
 *   entry    kind u8, state u8, 2 bytes 0, count u32, start f64; a mask's bytes follow its entry
 *
 * A record belongs to the superblock of its generation and follows the record with the sequence
 * before it. Records are written one at a time, each synced before the next, so after a crash only
 * the last one can be torn: a valid record behind an invalid one means damage, not a crash, and is
 * refused.
 */
import {alignUp, SECTOR} from '../base/units.js';
import {crc32c} from '../native/checksum.js';
import type {BlockRun} from './block-set.js';
import {STATE_COUNT, type StateCode} from './block-state.js';
import type {Geometry} from './geometry.js';
import {maskBytes, type MaskImage} from './mask-table.js';
import type {StateRun} from './overwrite-map.js';

const MAGIC = 0x4c52_5247; // "GRRL"
const HEADER_BYTES = 32;
const ENTRY_BYTES = 16;

const ENTRY_RUN = 1;
const ENTRY_MASK = 2;
const ENTRY_INTENT_SET = 3;
const ENTRY_INTENT_CLEAR = 4;
const ENTRY_BEHIND_SET = 5;
const ENTRY_BEHIND_CLEAR = 6;

/**
 * What one record says. Runs come before masks: a mask belongs to a block that is partial by then.
 */
export interface LogRecord {
  runs: StateRun[];
  masks: MaskImage[];
  intentsSet: number[];
  intentsCleared: number[];
  /** Blocks that the backup lacks from now on, and those it no longer lacks. */
  behindSet: BlockRun[];
  behindCleared: BlockRun[];
}

export const EMPTY_RECORD: LogRecord = emptyRecord();

/** A record to be filled. */
export function emptyRecord(): LogRecord {
  return {
    runs: [],
    masks: [],
    intentsSet: [],
    intentsCleared: [],
    behindSet: [],
    behindCleared: [],
  };
}

/** Bytes of the log a record takes. */
export function recordBytes(geometry: Geometry, record: LogRecord): number {
  const {masks} = record;
  const entries = Object.values(record).reduce((sum, list: unknown[]) => sum + list.length, 0);
  return alignUp(HEADER_BYTES + entries * ENTRY_BYTES + masks.length * maskBytes(geometry), SECTOR);
}

export function encodeRecord(
  geometry: Geometry,
  record: LogRecord,
  generation: number,
  sequence: number,
): Uint8Array {
  const bytes = new Uint8Array(recordBytes(geometry, record));
  const view = new DataView(bytes.buffer);
  let at = HEADER_BYTES;
  let entryCount = 0;
  const put = (kind: number, start: number, count: number, state = 0): void => {
    view.setUint8(at, kind);
    view.setUint8(at + 1, state);
    view.setUint32(at + 4, count, true);
    view.setFloat64(at + 8, start, true);
    at += ENTRY_BYTES;
    entryCount++;
  };
  for (const run of record.runs) put(ENTRY_RUN, run.start, run.count, run.state);
  for (const {block, mask} of record.masks) {
    put(ENTRY_MASK, block, mask.length);
    bytes.set(mask, at);
    at += mask.length;
  }
  for (const region of record.intentsSet) put(ENTRY_INTENT_SET, region, 1);
  for (const region of record.intentsCleared) put(ENTRY_INTENT_CLEAR, region, 1);
  for (const run of record.behindSet) put(ENTRY_BEHIND_SET, run.start, run.count);
  for (const run of record.behindCleared) put(ENTRY_BEHIND_CLEAR, run.start, run.count);
  view.setUint32(0, MAGIC, true);
  view.setUint32(8, at, true);
  view.setUint32(12, entryCount, true);
  view.setFloat64(16, generation, true);
  view.setFloat64(24, sequence, true);
  view.setUint32(4, crc32c(bytes.subarray(8, at)), true);
  return bytes;
}

interface Framed {
  generation: number;
  sequence: number;
  entryCount: number;
  /** Header and entries. */
  bytes: Uint8Array;
}

/** The record that begins at `at`, if the bytes there are one and are whole. */
function frameAt(log: Uint8Array, at: number): Framed | undefined {
  // Most of a log is empty; a view of each sector of it would cost more than all else.
  if (at + HEADER_BYTES > log.length || log[at] !== MAGIC % 256) return undefined;
  const view = new DataView(log.buffer, log.byteOffset + at);
  if (view.getUint32(0, true) !== MAGIC) return undefined;
  const length = view.getUint32(8, true);
  if (length < HEADER_BYTES || at + length > log.length) return undefined;
  const bytes = log.subarray(at, at + length);
  if (crc32c(bytes.subarray(8)) !== view.getUint32(4, true)) return undefined;
  return {
    generation: view.getFloat64(16, true),
    sequence: view.getFloat64(24, true),
    entryCount: view.getUint32(12, true),
    bytes,
  };
}

function decodeEntries(geometry: Geometry, frame: Framed): LogRecord | undefined {
  const record = emptyRecord();
  const view = new DataView(frame.bytes.buffer, frame.bytes.byteOffset, frame.bytes.length);
  let at = HEADER_BYTES;
  for (let index = 0; index < frame.entryCount; index++) {
    if (at + ENTRY_BYTES > frame.bytes.length) return undefined;
    const kind = view.getUint8(at);
    const state = view.getUint8(at + 1);
    const count = view.getUint32(at + 4, true);
    const start = view.getFloat64(at + 8, true);
    const limit =
      kind === ENTRY_INTENT_SET || kind === ENTRY_INTENT_CLEAR
        ? geometry.regionCount
        : geometry.blockCount;
    const span = kind === ENTRY_MASK ? 1 : count;
    if (!Number.isInteger(start) || start < 0 || span < 1 || start + span > limit) return undefined;
    at += ENTRY_BYTES;
    if (kind === ENTRY_RUN && state < STATE_COUNT)
      record.runs.push({start, count, state: state as StateCode});
    else if (kind === ENTRY_INTENT_SET) record.intentsSet.push(start);
    else if (kind === ENTRY_INTENT_CLEAR) record.intentsCleared.push(start);
    else if (kind === ENTRY_BEHIND_SET) record.behindSet.push({start, count});
    else if (kind === ENTRY_BEHIND_CLEAR) record.behindCleared.push({start, count});
    else if (
      kind === ENTRY_MASK &&
      count === maskBytes(geometry) &&
      at + count <= frame.bytes.length
    ) {
      record.masks.push({block: start, mask: frame.bytes.slice(at, at + count)});
      at += count;
    } else return undefined;
  }
  return at === frame.bytes.length ? record : undefined;
}

export interface LogScan {
  records: LogRecord[];
  /** The sequence of the last record, and where the next one goes. */
  sequence: number;
  end: number;
}

/** Reads the records that follow a checkpoint, or says why the log is damaged. */
export function scanLog(
  geometry: Geometry,
  log: Uint8Array,
  generation: number,
  sequence: number,
): LogScan | string {
  const scan: LogScan = {records: [], sequence, end: 0};
  for (;;) {
    const frame = frameAt(log, scan.end);
    if (!frame || frame.generation !== generation || frame.sequence !== scan.sequence + 1) break;
    const record = decodeEntries(geometry, frame);
    if (!record) return `log record ${frame.sequence} says what cannot be`;
    scan.records.push(record);
    scan.sequence = frame.sequence;
    scan.end = Math.min(alignUp(scan.end + frame.bytes.length, SECTOR), log.length);
  }
  for (let at = scan.end; at < log.length; at += SECTOR) {
    const frame = frameAt(log, at);
    if (frame && frame.generation === generation && frame.sequence > scan.sequence) {
      return `log record ${scan.sequence + 1} is damaged, and record ${frame.sequence} after it is not`;
    }
  }
  return scan;
}
