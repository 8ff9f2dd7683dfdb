/** The store looked at from outside, byte by byte: copied blocks, and all of it at the end. */
import {assert} from '../../../src/base/assert.js';
import {SECTOR} from '../../../src/base/units.js';
import type {Volume} from '../../../src/volume/volume.js';
import type {World} from './world.js';

/**
 * I11: what the map calls copied is what the source holds, so that no change is ever left out of a
 * delta.
 */
export async function checkCopied(world: World, volume: Volume): Promise<void> {
  const {config, store} = world;
  const {size, blockSize} = config.geometry;
  const {blocks} = volume.report();
  if (blocks.copied === 0) return;
  const ours = new Uint8Array(blockSize);
  const theirs = new Uint8Array(blockSize);
  for (let offset = 0; offset < size; offset += blockSize) {
    if ((await volume.stateAt(offset)) !== 'copied' || !volume.isOnBackup(offset)) continue;
    const length = Math.min(blockSize, size - offset);
    store.peek(offset, ours.subarray(0, length));
    world.source.fill(offset, theirs.subarray(0, length));
    const isEqual = Buffer.compare(ours.subarray(0, length), theirs.subarray(0, length)) === 0;
    assert(
      isEqual,
      `I11: the block at ${offset} counts as copied and is not what the source holds`,
    );
  }
}

/** Hydrated means the store alone is the volume, durably. */
export function checkStoreAlone(world: World): void {
  const {store} = world.branch({kind: 'power cut', storeMode: 'none'}, world.prng);
  const {size} = world.config.geometry;
  const step = 64 * SECTOR;
  for (let offset = 0; offset < size; offset += step) {
    const bytes = new Uint8Array(Math.min(step, size - offset));
    store.peek(offset, bytes);
    world.oracle.check(offset, bytes);
  }
}
