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
  /** Where they are, in bytes; the first 64. */
  differingOffsets: number[];
}

export async function verifyCopied(
  core: VolumeCore,
  options: VerifyOptions,
): Promise<VerifyReport> {
  const {geometry, map} = core;
  const report: VerifyReport = {checkedBytes: 0, differingBlocks: 0, differingOffsets: []};
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
  const {geometry, source, store} = core;
  const offset = geometry.offsetOf(start);
  const ours = Buffer.allocUnsafeSlow(geometry.offsetOf(end) - offset);
  const theirs = Buffer.allocUnsafeSlow(ours.length);
  await Promise.all([
    store.read(offset, ours),
    source.read(offset, theirs, {priority: 'background'}),
  ]);
  for (let block = start; block < end; block++) {
    const from = geometry.offsetOf(block) - offset;
    const to = geometry.offsetOf(block + 1) - offset;
    report.checkedBytes += to - from;
    if (ours.subarray(from, to).equals(theirs.subarray(from, to))) continue;
    if (!(await differsUnderLock(core, block, theirs.subarray(from, to)))) continue;
    report.differingBlocks++;
    if (report.differingOffsets.length < LISTED_MAX) report.differingOffsets.push(offset + from);
  }
}

/** Looks again with writers kept out: what differed may have been overwritten meanwhile. */
async function differsUnderLock(core: VolumeCore, block: number, theirs: Buffer): Promise<boolean> {
  const {geometry, locks, map, store} = core;
  const offset = geometry.offsetOf(block);
  const hold = await locks.acquire(offset, offset + theirs.length);
  try {
    if (map.get(block) !== COPIED) return false;
    const ours = Buffer.allocUnsafeSlow(theirs.length);
    await store.read(offset, ours);
    return !ours.equals(theirs);
  } finally {
    hold.release();
  }
}

function throwIfAborted(signal: AbortSignal | undefined): void {
  if (signal?.aborted) throw new BlockError('ECANCELED', 'verify was cancelled', {op: 'verify'});
}
