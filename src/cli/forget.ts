/** `regrow forget NAME`: removes the state of a detached volume. The store stays as it is. */
import {UserError} from '../base/errors.js';
import {ControlClient} from '../control/client.js';
import {checkVolumeName, volumePaths, type VolumePaths} from '../control/paths.js';
import {readRecord} from '../control/read-record.js';
import {openState, removeState} from '../control/state.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {say} from './terminal.js';
import {notAttached} from './with-daemon.js';

export async function forget({name, force}: {name: string; force: boolean}): Promise<number> {
  checkVolumeName('forget', name);
  const paths = volumePaths(name);
  const client = await ControlClient.connect(paths.socket);
  client?.close();
  if (client !== undefined) {
    throw new UserError(
      `cannot forget ${name}: it is attached; detach it first with \`regrow detach ${name}\``,
    );
  }
  const opened = await openState(`forget ${name}`, paths, false);
  if (opened === undefined) throw notAttached('forget', name);
  try {
    if (!force) await refuseIfNeeded(paths, opened.directory);
  } catch (error) {
    await opened.directory.close();
    throw error;
  }
  await removeState(paths, opened.directory);
  say(`${name} is forgotten; its store has not been touched`);
  return 0;
}

/** Throws unless the last detach left a store that is the volume by itself. */
async function refuseIfNeeded(paths: VolumePaths, directory: StateDirectory): Promise<void> {
  const {name} = paths;
  const record = await readRecord(`forget ${name}`, paths, directory);
  if (record === undefined || record.detached?.isComplete) return;
  const absent = record.detached?.absentBlocks;
  throw new UserError(
    `cannot forget ${name}: ${record.store.path} alone is not the volume yet ` +
      `(${absent === undefined ? 'it was not detached in order' : `${absent} blocks absent`}) ` +
      `and ` +
      'without its map nobody knows which blocks are good; add --force to lose that',
  );
}
