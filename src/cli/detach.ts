/**
 * `regrow detach NAME [--force]`: takes the device away; the state stays. What regrow mounted
 * itself (`attach --mount`) is unmounted first, by this process: the daemon must not wait for its
 * own device.
 */
import {UserError} from '../base/errors.js';
import type {VolumeStatus} from '../control/status.js';
import {deviceUsers, type DeviceUsers} from './device-users.js';
import {runChild} from './run-child.js';
import {print, printJson, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

interface DetachCall {
  name: string;
  force: boolean;
  json: boolean;
}

export async function detach({name, force, json}: DetachCall): Promise<number> {
  const result = await withDaemon('detach', name, async (client) => {
    const status = await client.call('status');
    if (status.device !== undefined && status.device !== null) {
      await leaveMounts(status, status.device, force);
    }
    return client.call('detach', {force});
  });
  if (json) {
    printJson({name, ...result});
  } else {
    print(
      result.isComplete
        ? `${name}: complete, the store alone is the volume`
        : `${name}: needs its map, ${result.absentBlocks} blocks absent; ` +
            `\`regrow attach ${name}\` resumes`,
    );
  }
  if (result.writeThrough !== 'off' && result.behindBlocks > 0) {
    say(
      `${result.behindBlocks} blocks are not on the backup yet; they are sent once ${name} is ` +
        'attached again',
    );
  }
  return 0;
}

/**
 * Unmounts what attach mounted; throws if the device is in use beyond that and is not to be forced.
 */
async function leaveMounts(status: VolumeStatus, device: string, force: boolean): Promise<void> {
  const {name, options} = status;
  const own = options.mount;
  const users = deviceUsers(device);
  const foreign = {...users, mountpoints: users.mountpoints.filter((path) => path !== own)};
  if (!force) refuseIfUsed(name, device, foreign);
  if (own === null || !users.mountpoints.includes(own)) return;
  const {exitCode, output} = await runChild('umount', ['--', own]);
  if (exitCode === 0) return;
  if (force) {
    say(`${own} could not be unmounted (${output}); its users will get I/O errors`);
    return;
  }
  throw new UserError(
    `cannot detach ${name}: ${own} could not be unmounted (${output}); end the programs that use ` +
      'it (`fuser -vm` lists them) and try again',
  );
}

function refuseIfUsed(name: string, device: string, {mountpoints, others}: DeviceUsers): void {
  if (mountpoints.length > 0) {
    throw new UserError(
      `cannot detach ${name}: ${device} is mounted at ${mountpoints.join(' and ')}; unmount it ` +
        `first`,
    );
  }
  if (others.length > 0) {
    throw new UserError(
      `cannot detach ${name}: ${device} is used by ${others.join(' and ')}; take that down first`,
    );
  }
}
