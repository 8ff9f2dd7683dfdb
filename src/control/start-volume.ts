/**
 * Attaching a volume, step by step. Each step registers how it is undone, so that a start that
 * fails half-way leaves nothing: of a first attach no state and no file it made, of a resume the
 * state as it was.
 *
 *   1 the host has what is needed          5 map file, volume (created or recovered)
 *   2 the state folder is ours             6 witnesses agree with the store     (resume)
 *   3 the source answers, witnesses agree  7 the record is durable
 *   4 the store is fit, or the same        8 the device, and where asked for its mount
 *
 * Nothing is written to a store before everything that could speak against it has been heard.
 * Steps 3 to 7 are first-attach.ts and resume-volume.ts.
 */
import {messageOf, UserError} from '../base/errors.js';
import {
  attachDevice,
  type AttachedDevice,
  type AttachOptions as DeviceOptions,
} from '../device/attach-device.js';
import type {OpenedSource} from '../source/open-source.js';
import type {Source} from '../source/source.js';
import {remove} from '../storage/files.js';
import type {FileStorage} from '../storage/file-storage.js';
import {LogFile} from '../storage/log-file.js';
import type {StateDirectory} from '../storage/state-directory.js';
import type {Volume} from '../volume/volume.js';
import {attachFirst} from './first-attach.js';
import {NO_TAKE_OVERS, type TakeOvers} from './handover.js';
import {volumePaths, type VolumePaths} from './paths.js';
import {encodeLine} from './protocol.js';
import {readRecord} from './read-record.js';
import {resumeVolume} from './resume-volume.js';
import {RunningVolume} from './running-volume.js';
import {checkHost} from './start-checks.js';
import type {DaemonContext, StartContext} from './start-context.js';
import type {StartRequest} from './start-protocol.js';
import {openState, removeState} from './state.js';
import type {VolumeRecord} from './volume-record.js';
import {pickWitnesses} from './witnesses.js';

export interface StartedVolume {
  running: RunningVolume;
  volume: Volume;
  device: AttachedDevice;
  directory: StateDirectory;
  store: FileStorage;
  mapFile: FileStorage;
  source: OpenedSource;
  takeOvers: TakeOvers;
  /** Begins what may wait until the device is in use: hydration, witnesses. */
  afterReady(): void;
}

export async function startVolume(
  request: StartRequest,
  context: StartContext,
): Promise<StartedVolume> {
  const {environment, errors, link} = context;
  const startedAt = environment.clock.wallTime();
  const paths = volumePaths(request.name);
  checkHost(`attach ${request.name}`);
  const {directory, record: known} = await claimState(request, paths, context);
  context.onLogFile(new LogFile(paths.logFile));
  // A daemon that was killed left its socket; nobody listens there, since the state is ours.
  await remove(paths.socket);
  const {record, source, volume, store, mapFile, save} = known
    ? await resumeVolume(request, known, paths, directory, context)
    : await attachFirst(request, paths, directory, context);
  throwIfGivenUp(context);
  let attached: RunningVolume | undefined;
  const status = (): object => attached?.status() ?? {name: paths.name, state: 'starting'};
  const device = await makeDevice({paths, record, volume, status}, context);
  const running = new RunningVolume({
    paths,
    record,
    save,
    volume,
    source,
    device,
    environment,
    errors,
    startedAt,
    isResumed: known !== undefined,
    succession: context.succession,
  });
  attached = running;
  const {mount, readOnly} = record.options;
  if (mount !== null) await link.mount(device.path, mount, readOnly);
  throwIfGivenUp(context);
  return {
    ...{running, volume, device, directory, store, mapFile, source, takeOvers: NO_TAKE_OVERS},
    afterReady: () => afterReady(running, volume, source.source, context),
  };
}

function throwIfGivenUp({signal}: StartContext): void {
  if (signal.aborted) throw new UserError('the attach was given up');
}

interface ClaimedState {
  directory: StateDirectory;
  /** Undefined: a first attach. */
  record: VolumeRecord | undefined;
}

/**
 * Step 2. A folder without a record is what a first attach left that was killed: it starts anew.
 */
async function claimState(
  {name, source}: StartRequest,
  paths: VolumePaths,
  {undo}: StartContext,
): Promise<ClaimedState> {
  const doing = `attach ${name}`;
  const again = `name its source and store: regrow attach SOURCE ${name} --store PATH`;
  const opened = await openState(doing, paths, source !== undefined);
  if (opened === undefined) {
    throw new UserError(
      `cannot ${doing}: there is no volume of that name (${paths.state} does not exist); ${again}`,
    );
  }
  const {directory} = opened;
  undo.add(`unlock ${paths.state}`, () => directory.close());
  const record = await readRecord(doing, paths, directory);
  if (record !== undefined) return {directory, record};
  if (source === undefined) {
    throw new UserError(`cannot ${doing}: its first attach was never finished; ${again}`);
  }
  undo.add(`remove ${paths.state}`, () => removeState(paths, directory));
  await remove(paths.mapFile);
  return {directory, record: undefined};
}

interface DeviceParts {
  paths: VolumePaths;
  record: VolumeRecord;
  volume: Volume;
  /** What the file `status` says. */
  status: () => object;
}

/** Step 8. */
async function makeDevice(parts: DeviceParts, context: StartContext): Promise<AttachedDevice> {
  const {paths, volume} = parts;
  const options = deviceOptions(parts, context);
  const device = await attachDevice(volume, options).catch((error: unknown) => {
    throw new UserError(
      `cannot attach ${paths.name}: the device cannot be made (${messageOf(error)}); ` +
        '`regrow doctor` tells what is missing',
      {cause: error},
    );
  });
  context.undo.add(`remove ${device.path}`, () => device.detach({force: true}));
  return device;
}

/** The same for whoever makes the device and whoever takes it over. */
export function deviceOptions(
  {paths, record, volume, status}: DeviceParts,
  {environment, errors, succession}: DaemonContext,
): DeviceOptions {
  const {sectorSize, readOnly} = record.options;
  return {
    name: paths.name,
    mountDirectory: paths.mountpoint,
    sectorSize,
    readOnly,
    partitionScan: true,
    hostNamespace: Number(process.env['REGROW_HOST_MNT_NS'] ?? -1),
    status: () => encodeLine(status()),
    log: environment.log,
    onBug: (error) => {
      errors.add(`a bug in regrow: ${messageOf(error)}`, environment.clock.wallTime());
      volume.fail(`a bug in regrow: ${messageOf(error)}`);
    },
    isHeld: () => succession.isArranged,
  };
}

export function afterReady(
  running: RunningVolume,
  volume: Volume,
  source: Source,
  {environment}: DaemonContext,
): void {
  const {record, signal} = running;
  const {hydrate, rate, blockSize} = record.options;
  volume.setHydration({mode: hydrate, ...(rate === null ? {} : {rateLimit: rate})});
  if (record.witnesses.length > 0) return;
  const takeWitnesses = async (): Promise<void> => {
    const {random} = environment;
    record.witnesses = await pickWitnesses({source, blockSize, random, signal});
    await running.save();
  };
  // Owned by the volume's end, which aborts the signal and closes the source.
  void takeWitnesses().catch((error: unknown) => {
    if (signal.aborted) return;
    environment.log('warning', `no witnesses were taken: ${messageOf(error)}`);
  });
}
