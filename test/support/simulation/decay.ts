/**
 * A store that decays: sectors that cannot be read until they are written anew. The volume must
 * give the right bytes all the same wherever the source or the backup has them; only where nobody
 * has them may a guest be told of an error, and then it is listed.
 */
import {assert} from '../../../src/base/assert.js';
import {BlockError, ERRNO, messageOf, toErrno} from '../../../src/base/errors.js';
import type {Prng} from '../../../src/base/prng.js';
import {alignDown, SECTOR} from '../../../src/base/units.js';
import {LostPlacesError} from '../../../src/volume/replacement.js';
import type {Guest, GuestRequest} from './guest.js';
import type {World} from './world.js';

/** Sectors that go bad at once, at most. */
const SPOT_MAX = 9;

/** The bad sectors of a disk; they outlive every crash. */
export class BadSectors {
  readonly #sectors = new Set<number>();

  get count(): number {
    return this.#sectors.size;
  }

  /** A spot of a disk of `size` bytes goes bad. */
  decay(prng: Prng, size: number): void {
    const first = prng.below(size / SECTOR);
    const count = prng.pick([1, 1, SPOT_MAX]);
    for (let at = first; at < first + count && at * SECTOR < size; at++) this.#sectors.add(at);
  }

  isHit(offset: number, length: number): boolean {
    if (this.#sectors.size === 0) return false;
    for (let at = offset; at < offset + length; at += SECTOR)
      if (this.#sectors.has(Math.floor(at / SECTOR))) return true;
    return false;
  }

  written(offset: number, length: number): void {
    if (this.#sectors.size === 0) return;
    for (let at = offset; at < offset + length; at += SECTOR)
      this.#sectors.delete(Math.floor(at / SECTOR));
  }

  /** Offsets of the blocks with a bad sector. */
  blocks(blockSize: number): number[] {
    return [...new Set([...this.#sectors].map((one) => alignDown(one * SECTOR, blockSize)))];
  }
}

/** A place the volume said was lost. */
interface Loss {
  offset: number;
  length: number;
}

export class DecayEvents {
  /** What the volume called lost though somebody has it. */
  failure: unknown;
  readonly #world: World;
  readonly #isSwitching: () => boolean;
  #losses: Loss[] = [];
  #isReplacing = false;

  constructor(world: World, isSwitching: () => boolean) {
    this.#world = world;
    this.#isSwitching = isSwitching;
    world.onStoreError = (offset, length, done) => {
      if (done === 'lost') this.#lost({offset, length});
    };
  }

  decay(): void {
    const {bad, prng, config, trace, scheduler} = this.#world;
    bad.decay(prng, config.geometry.size);
    trace.add(scheduler.now, 'store: a spot goes bad');
  }

  /** The store is replaced, now and then; old or new, what was written stays. */
  replace(): void {
    const world = this.#world;
    if (this.#isReplacing || !world.volume || !world.prng.chance(1, 3)) return;
    this.#isReplacing = true;
    const {life, trace, scheduler} = world;
    trace.add(scheduler.now, 'the store is to be replaced');
    void world
      .replaceStore()
      .then(
        () => trace.add(scheduler.now, 'the store was replaced'),
        (error: unknown) => {
          trace.add(scheduler.now, 'the store was not replaced', messageOf(error));
          if (life.isAlive && !this.#mayRefuse(error)) this.failure ??= error;
        },
      )
      .finally(() => {
        if (life.isAlive) this.#isReplacing = false;
      });
  }

  /** A new daemon. */
  reopened(): void {
    this.#isReplacing = false;
  }

  #mayRefuse(error: unknown): boolean {
    const {volume, bad, faults} = this.#world;
    if (faults > 0 || !volume) return true;
    if (error instanceof LostPlacesError) return bad.count > 0;
    const code = error instanceof BlockError ? error.code : undefined;
    return code === 'ETIMEDOUT' || code === 'ESHUTDOWN';
  }

  /** Whether an answer is the error of a place that was listed as lost. */
  explains(error: unknown, request: GuestRequest | undefined): boolean {
    if (toErrno(error) !== ERRNO.EIO || request?.op !== 'read') return false;
    const {offset, length} = request;
    return this.#losses.some(
      (one) => one.offset < offset + length && offset < one.offset + one.length,
    );
  }

  /** At the end: the guest writes what is bad anew, which mends it whatever was lost. */
  async rewrite(guest: Guest): Promise<void> {
    const {bad, volume, life, scheduler, config} = this.#world;
    if (!volume || bad.count === 0) return;
    await scheduler.run(volume.setWriteThrough('sync'), 200_000);
    const {size, blockSize} = config.geometry;
    for (const offset of bad.blocks(blockSize))
      guest.write(volume, life, offset, Math.min(blockSize, size - offset));
  }

  #lost(loss: Loss): void {
    this.#losses.push(loss);
    const {volume, config} = this.#world;
    if (!volume || this.failure !== undefined || this.#isSwitching()) return;
    const {mode, link} = volume.protection();
    const isReachable = mode !== 'off' && link.state === 'connected' && !config.backup.hasErrors;
    try {
      assert(
        !isReachable || !volume.isOnBackup(loss.offset),
        `DC12: ${loss.offset}+${loss.length} is called lost, and the backup has it`,
      );
    } catch (error) {
      this.failure = error;
    }
  }
}
