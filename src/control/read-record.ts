/** Reads volume.json; every way in which it is not what was written is one sentence. */
import {messageOf, UserError} from '../base/errors.js';
import {StateDirectory} from '../storage/state-directory.js';
import type {VolumePaths} from './paths.js';
import {recordProblem, RECORD_NAME, type VolumeRecord} from './volume-record.js';

/** The record in a state folder; undefined where a first attach was never finished. */
export async function readRecord(
  doing: string,
  paths: VolumePaths,
  directory: StateDirectory,
): Promise<VolumeRecord | undefined> {
  let problem: string | undefined;
  try {
    const value = await directory.readJson(RECORD_NAME);
    if (value === undefined) return undefined;
    problem = recordProblem(value);
    if (problem === undefined) return value as VolumeRecord;
  } catch (error) {
    problem = messageOf(error);
  }
  throw new UserError(
    `cannot ${doing}: its state is damaged, in ${paths.volumeFile} ${problem}; nothing was ` +
      'touched: put the file back from a copy, or give the state up with `regrow forget --force`',
  );
}

/** The same without owning the folder: for looking only. */
export async function peekRecord(
  doing: string,
  paths: VolumePaths,
): Promise<VolumeRecord | undefined> {
  const directory = await StateDirectory.open(paths.state, {isExclusive: false, create: false});
  try {
    return await readRecord(doing, paths, directory);
  } finally {
    await directory.close();
  }
}
