/** Reaches the daemon of a volume, or says why there is none and what to do. */
import {UserError} from '../base/errors.js';
import {ControlClient} from '../control/client.js';
import {checkVolumeName, volumePaths} from '../control/paths.js';
import {exists} from '../storage/files.js';

/** Connects, runs `use`, disconnects. `task` starts the sentence of a failure: `verify`. */
export async function withDaemon<T>(
  task: string,
  name: string,
  use: (client: ControlClient) => Promise<T>,
): Promise<T> {
  checkVolumeName(task, name);
  const client = await ControlClient.connect(volumePaths(name).socket);
  if (client === undefined) throw notAttached(task, name);
  try {
    return await use(client);
  } finally {
    client.close();
  }
}

/** Why a volume cannot be reached: it is not attached, or there is none of that name. */
export function notAttached(task: string, name: string): UserError {
  const paths = volumePaths(name);
  if (exists(paths.state)) {
    return new UserError(
      `cannot ${task} ${name}: it is not attached; attach it first with \`regrow attach ${name}\``,
    );
  }
  return new UserError(
    `cannot ${task} ${name}: there is no volume of that name (${paths.state} does not exist); ` +
      '`regrow list` shows those there are',
  );
}
