/**
 * Where a volume's things are. State survives a reboot (`/var/lib/regrow/NAME/`), run-time things
 * do not (`/run/regrow/`); `REGROW_STATE_DIR` and `REGROW_RUN_DIR` name other parents.
 *
 *   STATE/NAME/volume.json   what was asked for, the store's identity, the witnesses
 *   STATE/NAME/map           the overwrite map
 *   STATE/NAME/daemon.log    what the daemon has to say, bounded
 *   RUN/NAME/                the small FUSE file system: `disk`, `status`
 *   RUN/NAME.sock            the control socket
 *
 * All folders are 0700, the socket is 0600.
 */
import {join, resolve} from 'node:path';
import {UserError} from '../base/errors.js';

const NAME_PATTERN = /^[a-z0-9][a-z0-9._-]{0,62}$/;

/** The longest path of a socket that Linux takes, in bytes, without its closing zero. */
const SOCKET_PATH_BYTES_MAX = 107;

export interface VolumePaths {
  readonly name: string;
  readonly stateParent: string;
  readonly runParent: string;
  readonly state: string;
  readonly volumeFile: string;
  readonly mapFile: string;
  readonly logFile: string;
  readonly mountpoint: string;
  readonly socket: string;
}

export function stateParent(): string {
  return resolve(process.env['REGROW_STATE_DIR'] ?? '/var/lib/regrow');
}

export function runParent(): string {
  return resolve(process.env['REGROW_RUN_DIR'] ?? '/run/regrow');
}

export function isVolumeName(name: string): boolean {
  return NAME_PATTERN.test(name);
}

/** Throws a usage error unless `name` can be a volume's; `task` starts its sentence: `attach`. */
export function checkVolumeName(task: string, name: string): void {
  if (isVolumeName(name)) return;
  throw new UserError(
    `cannot ${task} ${JSON.stringify(name)}: a volume's name has 1 to 63 characters, small ` +
      'letters, digits, ".", "_" and "-", and starts with a letter or digit; choose such a name',
    {exitCode: 2},
  );
}

/** The paths of a volume whose name has been checked. */
export function volumePaths(name: string): VolumePaths {
  const state = join(stateParent(), name);
  const run = runParent();
  return {
    name,
    stateParent: stateParent(),
    runParent: run,
    state,
    volumeFile: join(state, 'volume.json'),
    mapFile: join(state, 'map'),
    logFile: join(state, 'daemon.log'),
    mountpoint: join(run, name),
    socket: join(run, `${name}.sock`),
  };
}

/** Throws where the control socket's path would be cut off by the kernel. */
export function checkSocketPath(paths: VolumePaths): void {
  if (Buffer.byteLength(paths.socket) <= SOCKET_PATH_BYTES_MAX) return;
  throw new UserError(
    `cannot attach ${paths.name}: the path of its control socket, ${paths.socket}, is longer ` +
      `than ${SOCKET_PATH_BYTES_MAX} bytes; choose a shorter REGROW_RUN_DIR or name`,
  );
}
