/** A look into a map file that is not open otherwise; nothing is written to it. */
import type {Environment} from '../base/environment.js';
import {ABSENT, COPIED} from '../map/block-state.js';
import type {Storage} from '../storage/storage.js';
import {blocksOfRegion, recoverMap} from './recovery.js';

/**
 * Those of `offsets` whose block is as the source had it and was not being written when the volume
 * stopped. Throws {@link DamagedStateError} as opening the volume would.
 */
export async function peekUntouched(
  mapFile: Storage,
  environment: Environment,
  offsets: readonly number[],
): Promise<Set<number>> {
  const recovered = await recoverMap(mapFile, environment);
  const {map, behind, suspects, mapFile: file} = recovered;
  const {geometry} = file;
  const untouched = new Set<number>();
  for (const offset of offsets) {
    const block = geometry.blockOf(offset);
    if (map.firstUnloadedPage(block, block + 1) !== undefined)
      await file.loadPage(map, geometry.pageOf(block), behind);
    const state = map.get(block);
    const isSuspect = suspects.some((region) => {
      const [start, end] = blocksOfRegion(geometry, region);
      return block >= start && block < end;
    });
    const isSame = state === ABSENT || state === COPIED;
    if (isSame && !isSuspect && !behind.has(block)) untouched.add(offset);
  }
  return untouched;
}
