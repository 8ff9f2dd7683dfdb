/**
 * Compares what was copied with where it came from: every *copied* block's bytes in the store
 * against the source's. Overwritten and zeroed blocks have nothing to compare with; absent ones
 * nothing to compare.
 */
import {BlockError} from '../base/errors.js';
import {MiB} from '../base/units.js';
import {COPIED} from '../map/block-state.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import type {VolumeCore} from './core.js';
import {isMediumError} from './mender.js';

/** Bytes compared at a time. */
const PIECE_BYTES = MiB;
/** Differing blocks that a report lists. */
const LISTED_MAX = 64;

export interface VerifyOptions {
  /** Called after each piece with the bytes done and to do. */
  onProgress?: (doneBytes: number, totalBytes: number) => void;
  signal?: AbortSignal;
}

export interface VerifyReport {
  /** Bytes of copied blocks that were compared. */
  checkedBytes: number;
  /** Blocks whose bytes differ from the source's. */
  differingBlocks: number;
  /** Blocks the store could not read: they are absent again, and the source has them. */
  unreadableBlocks: number;
  /** Where the differing ones are, in bytes; the first 64. */
  differingOffsets: number[];
}

export async function verifyCopied(
  core: VolumeCore,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const {geometry, map} = core;
  const report: VerifyReport = {
    checkedBytes: 0,
    differingBlocks: 0,
    unreadableBlocks: 0,
    differingOffsets: [],
  };
  const total = map.count(COPIED) * geometry.blockSize;
  const blocksMax = Math.max(1, Math.floor(PIECE_BYTES / geometry.blockSize));
  for (let page = 0; page < geometry.pageCount; page++) {
    if (map.countIn(page, COPIED) === 0) continue;
    const end = page * PAGE_BLOCKS + geometry.blocksIn(page);
    await core.ensureLoaded(page * PAGE_BLOCKS, end);
    for (let block = page * PAGE_BLOCKS; block < end;) {
      const runEnd = Math.min(map.runEnd(block, end), block + blocksMax);
      if (map.get(block) === COPIED) {
        throwIfAborted(options.signal);
        await comparePiece(core, block, runEnd, report);
        options.onProgress?.(report.checkedBytes, total);
      }
      block = runEnd;
    }
  }
  return report;
}

async function comparePiece(
  core: VolumeCore,
  start: number,
  end: number,
  report: VerifyReport,
): Promise<void> {
  const {geometry, source} = core;
  const offset = geometry.offsetOf(start);
  const ours = Buffer.allocUnsafeSlow(geometry.offsetOf(end) - offset);
  const theirs = Buffer.allocUnsafeSlow(ours.length);
  const [isReadable] = await Promise.all([
    canRead(core, offset, ours),
    source.read(offset, theirs, {priority: 'background'}),
  ]);
  for (let block = start; block < end; block++) {
    const from = geometry.offsetOf(block) - offset;
    const to = geometry.offsetOf(block + 1) - offset;
    report.checkedBytes += to - from;
    if (isReadable && ours.subarray(from, to).equals(theirs.subarray(from, to))) continue;
    const verdict = await compareUnderLock(core, block, theirs.subarray(from, to));
    if (verdict === 'equal') continue;
    if (verdict === 'unreadable') report.unreadableBlocks++;
    else {
      report.differingBlocks++;
      if (report.differingOffsets.length < LISTED_MAX) report.differingOffsets.push(offset + from);
    }
  }
}

async function canRead({counters, store}: VolumeCore, at: number, part: Buffer): Promise<boolean> {
  try {
    await store.read(at, part);
    return true;
  } catch (error) {
    if (!isMediumError(error)) throw error;
    counters.storeErrors++;
    return false;
  }
}

/** Looks again with writers kept out: what differed may have been overwritten meanwhile. */
async function compareUnderLock(
  core: VolumeCore,
  block: number,
  theirs: Buffer,
): Promise<'equal' | 'different' | 'unreadable'> {
  const {geometry, locks, map, storeErrors} = core;
  const offset = geometry.offsetOf(block);
  const hold = await locks.acquire(offset, offset + theirs.length);
  try {
    if (map.get(block) !== COPIED) return 'equal';
    const ours = Buffer.allocUnsafeSlow(theirs.length);
    if (await canRead(core, offset, ours)) return ours.equals(theirs) ? 'equal' : 'different';
    if (core.isAbandoned || map.get(block) !== COPIED) return 'equal';
    core.lose(block);
    storeErrors.note(offset, theirs.length, 'fetched anew');
    return 'unreadable';
  } finally {
    hold.release();
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new BlockError('ECANCELED', 'verify was cancelled', {op: 'verify'});
}
