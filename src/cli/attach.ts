/**
 * `regrow attach`: starts a volume's daemon and prints the device once it is ready. If the volume
 * is attached already, the same call prints its device, and what the option table lets change is
 * changed.
 */
import {UserError} from '../base/errors.js';
import {ControlClient} from '../control/client.js';
import {checkSocketPath, checkVolumeName, volumePaths} from '../control/paths.js';
import {absolutePath, absoluteSource} from '../control/source-text.js';
import type {DaemonProcess} from '../control/start-daemon.js';
import type {ReadyReport, StartRequest} from '../control/start-protocol.js';
import {exists} from '../storage/files.js';
import type {AttachCall} from './call.js';
import {deadMountpoints} from './device-users.js';
import {checkMountFolder, mountDevice, tellOfDeadMounts} from './mount-device.js';
import {print, printJson, say} from './terminal.js';

/**
 * `spare`: a daemon that has been started in advance; undefined where this user may not have one.
 */
export async function attach(call: AttachCall, spare: DaemonProcess | undefined): Promise<number> {
  const {name} = call;
  checkVolumeName('attach', name);
  if (call.source !== undefined && call.store === undefined) {
    throw new UserError(
      `cannot attach ${name}: a source needs a store to grow in; name a file or disk with ` +
        `--store PATH`,
      {exitCode: 2},
    );
  }
  const paths = volumePaths(name);
  checkSocketPath(paths);
  const request = startRequest(call);
  const report = (await attachAgain(request, paths.socket)) ?? (await start(call, request, spare));
  if (call.json) printJson(report);
  else print(report.device);
  return 0;
}

function startRequest(call: AttachCall): StartRequest {
  const {name, given, overwriteStore} = call;
  const request: StartRequest = {type: 'start', name, given: {...given}, overwriteStore};
  if (call.source !== undefined) request.source = absoluteSource(call.source);
  if (call.store !== undefined) request.store = absolutePath(call.store);
  if (typeof given.backup === 'string') request.given.backup = absoluteSource(given.backup);
  if (typeof given.mount === 'string') request.given.mount = absolutePath(given.mount);
  return request;
}

async function start(
  call: AttachCall,
  request: StartRequest,
  spare: DaemonProcess | undefined,
): Promise<ReadyReport> {
  if (spare === undefined) {
    throw new UserError(`cannot attach ${call.name}: making a device needs root; run it with sudo`);
  }
  const dead = deadMountpoints(`${volumePaths(call.name).mountpoint}/disk`);
  const folder = request.given.mount;
  if (typeof folder === 'string' && !dead.includes(folder)) checkMountFolder(call.name, folder);
  let mounted: string | null = null;
  const report = await spare.start(request, {
    onNote: say,
    mount: async (device, directory, readOnly) => {
      await mountDevice({name: call.name, device, folder: directory, readOnly, dead});
      mounted = directory;
    },
  });
  tellOfDeadMounts(
    report.device,
    dead.filter((each) => each !== mounted),
  );
  return report;
}

/** Attaching what is attached already: undefined if it is not. */
async function attachAgain(
  request: StartRequest,
  socket: string,
): Promise<ReadyReport | undefined> {
  if (!exists(socket)) return undefined;
  const client = await ControlClient.connect(socket);
  if (client === undefined) return undefined;
  try {
    const {type: _, overwriteStore: __, ...params} = request;
    const report = await client.call('attach', params);
    say(`${request.name} is attached already`);
    return report;
  } finally {
    client.close();
  }
}
