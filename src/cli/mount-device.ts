/**
 * Mounts a new device where `attach --mount` said, and clears away what a dead daemon left mounted
 * there. In this process, which lives where users look; the daemon must not wait for its own
 * device.
 */
import {UserError} from '../base/errors.js';
import {folderState} from '../storage/files.js';
import {runChild} from './run-child.js';
import {say} from './terminal.js';

const PROBLEMS = {
  empty: undefined,
  'not empty': 'is not empty; name an empty folder',
  absent: 'does not exist; make it first',
  'no folder': 'is no folder; name an empty one',
} as const satisfies Record<ReturnType<typeof folderState>, string | undefined>;

/** Throws unless the folder of --mount is there and empty. */
export function checkMountFolder(name: string, folder: string): void {
  const problem = PROBLEMS[folderState(folder)];
  if (problem === undefined) return;
  throw new UserError(`cannot attach ${name}: --mount ${folder} ${problem}`);
}

export interface MountRequest {
  name: string;
  device: string;
  folder: string;
  readOnly: boolean;
  /** Where the volume is still mounted from before its daemon died. */
  dead: readonly string[];
}

export async function mountDevice(request: MountRequest): Promise<void> {
  const {name, device, folder, readOnly, dead} = request;
  if (dead.includes(folder)) await runChild('umount', ['--', folder]);
  checkMountFolder(name, folder);
  const options = readOnly ? ['-o', 'ro'] : [];
  const {exitCode, output} = await runChild('mount', [...options, '--', device, folder]);
  if (exitCode === 0) return;
  throw new UserError(
    `cannot mount the volume at ${folder}: ${output || 'mount failed'}; attach it without ` +
      '--mount and look at the device yourself',
  );
}

/** Tells of mounts that only give errors any more, so that nobody wonders. */
export function tellOfDeadMounts(device: string, folders: readonly string[]): void {
  for (const folder of folders) {
    say(
      `${folder} still shows the volume from before its daemon died and gives errors; unmount it ` +
        `(umount ${folder}) and mount ${device} instead`,
    );
  }
}
