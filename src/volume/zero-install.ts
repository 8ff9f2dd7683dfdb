/**
 * Takes blocks that the source knows to be zero without transferring them: once the store
 * physically reads zeroes there, an absent block is *copied* like any other.
 */
import {MiB} from '../base/units.js';
import {ABSENT, COPIED} from '../map/block-state.js';
import type {VolumeCore} from './core.js';

/** Bytes zeroed under one lock where the store has to write them. */
const ZERO_BYTES_MAX = 16 * MiB;

/**
 * Installs zeroes in the absent ones of blocks [start, end), or of the first of them; returns the
 * block to go on with. A range that is a hole of the store already costs no I/O, whatever its
 * length. Whether it is one cannot change before the lock is held: only installs write to absent
 * blocks, and a replaced store, which `sourceAge` tells: what the source was known to hold then
 * is no longer known.
 */
export async function installZeroes(
  core: VolumeCore,
  {start, end, sourceAge}: {start: number; end: number; sourceAge: number},
): Promise<number> {
  const {counters, geometry, locks, map, store} = core;
  const offset = geometry.offsetOf(start);
  const [first] = await store.extents(offset, geometry.offsetOf(end) - offset);
  const holeBlocks = first?.isHole ? wholeBlocks(core, start, first.length) : 0;
  const zeroBlocks = Math.max(1, Math.floor(ZERO_BYTES_MAX / geometry.blockSize));
  const stop = holeBlocks > 0 ? start + holeBlocks : Math.min(end, start + zeroBlocks);
  const hold = await locks.acquire(offset, geometry.offsetOf(stop));
  try {
    if (core.sourceAge !== sourceAge) return start;
    for (let block = start; block < stop;) {
      const runEnd = map.runEnd(block, stop);
      if (map.get(block) === ABSENT) {
        const from = geometry.offsetOf(block);
        if (holeBlocks === 0) await store.zero(from, geometry.offsetOf(runEnd) - from);
        if (core.isAbandoned) return stop;
        map.set(block, runEnd, COPIED);
        counters.zeroBlocks += runEnd - block;
      }
      block = runEnd;
    }
  } finally {
    hold.release();
  }
  return stop;
}

/** Whole blocks from `start` on in `length` bytes; a short last block counts. */
function wholeBlocks(core: VolumeCore, start: number, length: number): number {
  const {geometry} = core;
  const end = geometry.offsetOf(start) + length;
  return (end >= geometry.size ? geometry.blockCount : geometry.blockOf(end)) - start;
}
