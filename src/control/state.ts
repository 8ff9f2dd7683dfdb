/**
 * The state folder of a volume: who owns it, and how it comes and goes.
 *
 * One process owns it, by the lock inside. So that nobody ever locks a folder that is just being
 * removed, opening and removing happen under a second, short lock, that of the folder above all
 * volumes.
 */
import {setTimeout as sleep} from 'node:timers/promises';
import {messageOf, UserError} from '../base/errors.js';
import {lockFile, type FileLock} from '../native/host.js';
import {exists, makeFolder, remove} from '../storage/files.js';
import {StateDirectory} from '../storage/state-directory.js';
import type {VolumePaths} from './paths.js';

/** How long to wait for another start or removal, each of which takes milliseconds. */
const WAIT_MS_MAX = 5000;
const RETRY_MS = 5;

/** Runs `task` while no other process opens or removes a volume's folder. */
async function withParentLock<T>(parent: string, task: () => Promise<T>): Promise<T> {
  let lock: FileLock | undefined;
  for (let waited = 0; lock === undefined; waited += RETRY_MS) {
    try {
      lock = await lockFile(parent);
    } catch (error) {
      if ((error as {code?: unknown}).code !== 'EAGAIN' || waited > WAIT_MS_MAX) throw error;
      await sleep(RETRY_MS);
    }
  }
  try {
    return await task();
  } finally {
    lock.release();
  }
}

export interface OpenedState {
  directory: StateDirectory;
  /** True where this call made the folder. */
  isNew: boolean;
}

/**
 * Opens and locks a volume's folder. `create`: makes it where there is none; else the result is
 * undefined then. `doing` starts the sentence of a refusal: `attach vol0`.
 */
export async function openState(
  doing: string,
  paths: VolumePaths,
  create: boolean,
): Promise<OpenedState | undefined> {
  try {
    if (create) await makeFolder(paths.stateParent);
    else if (!exists(paths.state)) return undefined;
    return await withParentLock(paths.stateParent, async () => {
      const isNew = !exists(paths.state);
      if (isNew && !create) return undefined;
      return {directory: await StateDirectory.open(paths.state, {create}), isNew};
    });
  } catch (error) {
    if (error instanceof UserError) {
      throw new UserError(
        `cannot ${doing}: another regrow process has its state in use, so it is being attached ` +
          'or detached just now; try again when that is over',
        {cause: error},
      );
    }
    throw new UserError(
      `cannot ${doing}: its state in ${paths.state} cannot be opened (${messageOf(error)}); ` +
        'check the folder or choose another with REGROW_STATE_DIR',
      {cause: error},
    );
  }
}

/** Removes a volume's folder with all it holds and gives up its lock. */
export async function removeState(paths: VolumePaths, directory: StateDirectory): Promise<void> {
  await withParentLock(paths.stateParent, async () => {
    await remove(paths.state);
    await directory.close();
  });
}
