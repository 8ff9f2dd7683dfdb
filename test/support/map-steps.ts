/**
 * A seeded sequence of changes to an overwrite map and its masks, in the order of stores that the
 * volume uses: for a process that is killed in the middle of one, and for the twin that knows what
 * must be there then.
 */
import {Prng} from '../../src/base/prng.js';
import {
  ABSENT,
  COPIED,
  isTransition,
  OVERWRITTEN,
  PARTIAL,
  ZEROED,
} from '../../src/map/block-state.js';
import {Geometry, PAGE_BLOCKS} from '../../src/map/geometry.js';
import type {MaskTable} from '../../src/map/mask-table.js';
import type {OverwriteMap} from '../../src/map/overwrite-map.js';

/** Two whole pages and a short one, of blocks of 8 sectors. */
export const STEP_GEOMETRY = new Geometry({
  size: (2 * PAGE_BLOCKS + 1001) * 4096,
  blockSize: 4096,
});
const SECTORS = 8;

export interface StepTarget {
  map: OverwriteMap;
  masks: MaskTable;
  /** What a commit has made durable: a state a block. */
  durable: Uint8Array;
}

/** Does the `index`th change. */
export function step({map, masks, durable}: StepTarget, seed: number, index: number): void {
  const prng = new Prng(seed * 1_000_003 + index);
  const [start, end] = range(prng);
  switch (prng.weighted({part: 6, write: 4, zero: 2, install: 3, forget: 2, commit: 2, image: 1})) {
    case 'part':
      // Some blocks again and again, so that masks become full.
      return writePart(map, masks, prng.chance(1, 3) ? start : prng.below(6) * 1700, prng);
    case 'write':
      map.set(start, end, OVERWRITTEN);
      return masks.dropRange(start, end);
    case 'zero':
      map.set(start, end, ZEROED);
      return masks.dropRange(start, end);
    case 'install':
      return install(map, masks, start, end);
    case 'forget':
      map.restore({start, count: end - start, state: ABSENT});
      return masks.dropRange(start, end);
    case 'commit':
      for (const run of map.takeChanges()) {
        durable.fill(run.state, run.start, run.start + run.count);
      }
      masks.takeChanges();
      return map.finishTaken();
    case 'image':
      map.takePageImages();
      return map.finishTaken();
  }
}

/** A block, a few, or whole pages. */
function range(prng: Prng): [start: number, end: number] {
  const {blockCount, pageCount} = STEP_GEOMETRY;
  if (prng.chance(1, 4)) {
    const page = prng.below(pageCount);
    return [page * PAGE_BLOCKS, Math.min(blockCount, (page + 1) * PAGE_BLOCKS)];
  }
  const start = prng.below(blockCount);
  return [start, Math.min(blockCount, start + prng.pick([1, 2, 3, 40, 9000]))];
}

function writePart(map: OverwriteMap, masks: MaskTable, block: number, prng: Prng): void {
  const state = map.get(block);
  if (state === ABSENT) {
    if (!masks.tryReserve(1)) return;
    masks.add(block);
    map.set(block, block + 1, PARTIAL);
  }
  if (state === ABSENT || state === PARTIAL) {
    const [first, last] = prng.pick([[0, 5] as const, [3, SECTORS] as const, [2, 3] as const]);
    if (!masks.grow(block, first, last)) return;
  }
  map.set(block, block + 1, OVERWRITTEN);
  masks.drop(block);
}

function install(map: OverwriteMap, masks: MaskTable, start: number, end: number): void {
  for (let block = start; block < end;) {
    const runEnd = map.runEnd(block, end);
    const state = map.get(block);
    if (state === PARTIAL) {
      map.set(block, runEnd, OVERWRITTEN);
      masks.dropRange(block, runEnd);
    } else if (state === ABSENT && isTransition(state, COPIED)) map.set(block, runEnd, COPIED);
    block = runEnd;
  }
}

/** Every block's state, and the masks of those that are partial, a bit a sector. */
export interface StepImage {
  states: Uint8Array;
  masks: Map<number, number>;
}

export function imageOf({map, masks}: StepTarget): StepImage {
  const {blockCount} = STEP_GEOMETRY;
  const states = new Uint8Array(blockCount);
  for (let block = 0; block < blockCount;) {
    const end = map.runEnd(block, blockCount);
    states.fill(map.get(block), block, end);
    block = end;
  }
  const bits = (block: number): number =>
    masks
      .runs(block, 0, SECTORS)
      .filter((run) => run.isMasked)
      .reduce((sum, {start, end}) => sum + 2 ** end - 2 ** start, 0);
  return {states, masks: new Map(masks.blocks().map((block) => [block, bits(block)]))};
}

/** Where a map whose change was cut short is neither what it was nor what it would have been. */
export function differences(found: StepTarget, before: StepImage, after: StepImage): string[] {
  const wrong: string[] = [];
  const {states, masks} = imageOf(found);
  for (const [block, state] of states.entries()) {
    if (state === before.states[block] || state === after.states[block]) continue;
    wrong.push(`block ${block} is ${state}, not ${before.states[block]} or ${after.states[block]}`);
  }
  for (const [block, mask] of masks) {
    const least = before.masks.get(block) ?? 0;
    // Where the step makes the block something else, only what was there is known.
    const most = after.masks.get(block) ?? 2 ** SECTORS - 1;
    if ((mask & least) === least && (mask | most) === most) continue;
    wrong.push(`block ${block} has the mask ${mask}, not ${least} to ${most}`);
  }
  return wrong.slice(0, 5);
}
