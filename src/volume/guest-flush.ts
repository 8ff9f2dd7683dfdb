/**
 * A flush as the guest asks for it: a commit, and with strict write-through one that the backup has
 * confirmed. While a resync is at work it waits for that, a while; a file system that got an error
 * instead would give up.
 */
import {BlockError} from '../base/errors.js';
import type {Committer} from './committer.js';
import type {VolumeCore} from './core.js';

/** Times of grace (tuning.zombieGraceMs) that a strict flush waits for a resync at most. */
const GRACES_MAX = 3;
/** Milliseconds between two looks. */
const LOOK_MS = 25;

export async function guestFlush(core: VolumeCore, committer: Committer): Promise<void> {
  const {environment, through, tuning} = core;
  const {clock} = environment;
  const deadline = clock.now() + GRACES_MAX * tuning.zombieGraceMs;
  for (;;) {
    const isOnBackup = await committer.commit();
    if (isOnBackup || through.mode !== 'strict') return;
    if (!through.target || core.isStopping || clock.now() >= deadline) break;
    await clock.sleep(LOOK_MS);
  }
  const what = 'flush: the backup has not confirmed it and write-through is strict';
  throw new BlockError('EIO', what, {op: 'flush'});
}
