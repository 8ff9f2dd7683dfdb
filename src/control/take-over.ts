/**
 * Goes on with a volume whose daemon died, under its running device. The supervisor has reaped that
 * daemon, so nothing it had begun is still on its way (the fence), and passed its descriptors on.
 *
 *   1 handover, record      what the volume is; beneath the state folder's descriptor
 *   2 source                without waiting for it: requests that need it wait, others go on
 *   3 in-core state         every acknowledged write, flushed or not (Volume.takeOver)
 *   4 device                the kernel sends again what was not answered, then threads read
 *   5 control socket        clients that came meanwhile have waited in its queue
 *
 * Nothing is opened by a path that could lie on the volume itself, and no disk is waited for but
 * for the few pages of record and map that are read; the store is not looked at. Witnesses are
 * compared when the source answers, as at each reconnect.
 */
import {generationOf, heldNames} from './store-generation.js';
import {assert} from '../base/assert.js';
import {adoptDevice} from '../device/attach-device.js';
import type {SharedMemory} from '../native/memory.js';
import {textAt} from '../storage/files.js';
import {FileStorage} from '../storage/file-storage.js';
import {LogFile} from '../storage/log-file.js';
import {StateDirectory} from '../storage/state-directory.js';
import {Volume} from '../volume/volume.js';
import {readHandover, type Handover} from './handover.js';
import {prepareKnownBackup} from './prepare-backup.js';
import {openSourceAgain} from './prepare-source.js';
import {readRecord} from './read-record.js';
import {recordSaver} from './record-saver.js';
import {RunningVolume} from './running-volume.js';
import type {DaemonContext} from './start-context.js';
import {afterReady, deviceOptions, type StartedVolume} from './start-volume.js';
import type {Death, Supervisor} from './supervisor.js';

export interface TakenOver extends StartedVolume {
  /** Of the socket that listens already. */
  controlFd: number;
  /** Whether the daemon before was killed in the middle of a detach. */
  isDeviceGone(): boolean;
}

export async function takeOver(
  supervisor: Supervisor,
  death: Death,
  memory: SharedMemory,
  context: DaemonContext,
): Promise<TakenOver> {
  const {environment, errors, succession} = context;
  const held = (name: string): number => {
    const fd = supervisor.inherited.get(name);
    assert(fd !== undefined, `the supervisor held ${name}`);
    return fd;
  };
  const handover = readHandover(memory);
  const {paths} = handover;
  process.title = `regrow daemon ${paths.name}`;
  const descriptors = {fd: held('directory'), lockFd: held('lock')};
  const directory = await StateDirectory.adopt(paths.state, descriptors);
  context.onLogFile(new LogFile(directory.pathOf('daemon.log')));
  const {at, of, attempt} = death;
  environment.log('warning', 'the last daemon died; this one takes over', {of, attempt});
  const record = await readRecord(`take over ${paths.name}`, paths, directory);
  assert(record !== undefined, 'an attached volume has a record');
  const names = heldNames(generationOf(record));
  let opened: Volume | undefined;
  // Until the volume is open nobody knows which witnesses writes went through to.
  const isUntouched = (offset: number): boolean =>
    opened === undefined ? record.protection === null : opened.isUntouched(offset);
  const [source, store, mapFile] = await Promise.all([
    openSourceAgain(record, environment, supervisor.inherited.get('source'), isUntouched),
    FileStorage.adopt(held(names.store), record.store.path),
    FileStorage.adopt(held(names.map), paths.mapFile),
  ]);
  const {options: attachOptions, source: sourceText} = record;
  const backup = prepareKnownBackup({options: attachOptions, sourceText, context}, record);
  const save = recordSaver(directory, record);
  backup.bind(record, save);
  backup.bindUntouched(isUntouched);
  const parts = {store, mapFile, source: source.source, environment, backup};
  const volume = await Volume.takeOver(parts);
  opened = volume;
  volume.setResyncRate(attachOptions.resyncRate ?? undefined);
  volume.resumeWriteThrough(attachOptions.writeThrough);
  let running: RunningVolume | undefined;
  const status = (): object => running?.status() ?? {name: paths.name, state: 'starting'};
  const options = deviceOptions({paths, record, volume, status}, context);
  const device = adoptDevice(volume, options, deviceOf(handover, held));
  const now = environment.clock.wallTime();
  const takeOvers = {
    count: handover.takeOvers.count + 1,
    lastAt: now,
    lastPauseMs: Math.max(0, now - at),
    lastDeath: of,
  };
  const {startedAt, isResumed} = handover;
  running = new RunningVolume({
    ...{paths, record, save, volume, source, device, environment, errors, startedAt},
    ...{isResumed, succession},
  });
  errors.add(`the daemon died (${of}) and was replaced`, now);
  const going = running;
  return {
    ...{running, volume, device, directory, store, mapFile, source, takeOvers},
    controlFd: held('control'),
    afterReady: () => afterReady(going, volume, source.source, context),
    isDeviceGone: () => isLoopGone(handover),
  };
}

function deviceOf(
  {device, channelCount}: Handover,
  held: (name: string) => number,
): Parameters<typeof adoptDevice>[2] {
  const channels = Array.from({length: channelCount}, (_, index) => held(`fuse.${index}`));
  return {...device, channels};
}

function isLoopGone({device}: Handover): boolean {
  const {number, sequence} = device.loop;
  const found = textAt(`/sys/block/loop${number}/diskseq`)?.trim();
  return found !== undefined && found !== String(sequence);
}
