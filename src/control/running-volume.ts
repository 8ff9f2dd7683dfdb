/**
 * A volume that is attached: what it tells, what it can be told, and how it ends.
 *
 *   attached ──SIGTERM──▶ stopping ──device unused──▶ ended      state stays, `attach NAME` resumes
 *       └────────detach, device unused or --force───▶ ended
 *
 * A SIGTERM (a shutdown, systemd) never takes the device from under a mounted file system: what was
 * written is made durable at once, then the daemon waits until nobody uses the device. Nothing is
 * opened by path here: a volume may be mounted over anything.
 */
import type {Environment} from '../base/environment.js';
import {messageOf, UserError} from '../base/errors.js';
import type {AttachedDevice} from '../device/attach-device.js';
import type {OpenedSource} from '../source/open-source.js';
import type {Volume} from '../volume/volume.js';
import {changedOptions, type AttachOptions} from './attach-options.js';
import type {VolumePaths} from './paths.js';
import type {
  AttachParams,
  DetachResult,
  HydrateParams,
  RestartResult,
  WriteThroughParams,
} from './protocol.js';
import type {RecentErrors} from './recent-errors.js';
import type {ReadyReport} from './start-protocol.js';
import type {VolumeStatus} from './status.js';
import type {Succession} from './succession.js';
import {VERSION} from './version.js';
import type {VolumeRecord} from './volume-record.js';

/** A probe (udev, blkid) holds a device for a moment; longer is somebody who uses it. */
const PROBE_MS_MAX = 1500;
const PROBE_POLL_MS = 50;
/** How often a daemon that is to stop looks whether its device is still used. */
const STOP_POLL_MS = 1000;

export interface RunningParts {
  paths: VolumePaths;
  record: VolumeRecord;
  /** Makes the record durable as it is now. */
  save: () => Promise<void>;
  volume: Volume;
  source: OpenedSource;
  device: AttachedDevice;
  environment: Environment;
  errors: RecentErrors;
  /** Wall time in ms. */
  startedAt: number;
  isResumed: boolean;
  succession: Succession;
}

export class RunningVolume {
  readonly #parts: RunningParts;
  #state: 'attached' | 'stopping' = 'attached';
  /** Set while a detach is at work; back to false only if the device would not go. */
  #isEnding = false;
  /** Set once the device has gone: from there on there is no way back. */
  #closing: Promise<DetachResult> | undefined;
  readonly #stopping = new AbortController();

  constructor(parts: RunningParts) {
    this.#parts = parts;
  }

  get name(): string {
    return this.#parts.paths.name;
  }

  get paths(): VolumePaths {
    return this.#parts.paths;
  }

  get startedAt(): number {
    return this.#parts.startedAt;
  }

  get isResumed(): boolean {
    return this.#parts.isResumed;
  }

  /** Aborted when the volume ends. */
  get signal(): AbortSignal {
    return this.#stopping.signal;
  }

  get record(): VolumeRecord {
    return this.#parts.record;
  }

  status(): VolumeStatus {
    const {paths, record, volume, source, device, environment, errors, startedAt} = this.#parts;
    const {rss, heapUsed, external} = process.memoryUsage();
    return {
      name: paths.name,
      state: this.#state,
      device: device.path,
      mountpoint: device.mountpoint,
      pid: process.pid,
      version: VERSION,
      startedAt,
      uptimeMs: Math.max(0, environment.clock.wallTime() - startedAt),
      store: {path: record.store.path, identity: describeStore(record)},
      source: {name: source.source.name, ...source.health()},
      takeOver: this.#parts.succession.status(),
      options: record.options,
      witnesses: record.witnesses.length,
      errors: errors.list(),
      memory: {resident: rss, heapUsed, external},
      ...volume.report(),
    };
  }

  ready(): ReadyReport {
    const {paths, volume, device, isResumed} = this.#parts;
    const {name} = paths;
    const {path, mountpoint} = device;
    const {size, blockSize} = volume;
    return {name, device: path, mountpoint, size, blockSize, pid: process.pid, isResumed};
  }

  /** `attach` of what is attached: applies what may change, refuses the rest. */
  async attachAgain({source, store, given}: AttachParams): Promise<ReadyReport> {
    const {paths, record} = this.#parts;
    const current = {...record.options, source: record.source, store: record.store.path};
    const wanted = {
      ...given,
      ...(source === undefined ? {} : {source}),
      ...(store === undefined ? {} : {store}),
    };
    const changed = changedOptions(paths.name, 'running', wanted, current);
    const {writeThrough: mode = record.options.writeThrough, resyncRate} = given;
    if (changed.includes('writeThrough') || changed.includes('resyncRate')) {
      await this.writeThrough({mode, ...(resyncRate === undefined ? {} : {rate: resyncRate})});
    }
    if (changed.length > 0) {
      const {hydrate: mode = record.options.hydrate, rate = record.options.rate} = given;
      await this.hydrate({mode, rate});
    }
    return this.ready();
  }

  /** Throws unless another daemon would go on with the device if this one died. */
  checkRestart(): RestartResult {
    const {isPossible, problem, count} = this.#parts.succession.status();
    if (isPossible && !this.#isEnding) return {pid: process.pid, takeOvers: count};
    throw new UserError(
      `cannot restart ${this.name}: ${problem ?? 'it is being detached'}, so the device would go ` +
        'with the daemon; detach it and attach it again when nobody uses it',
    );
  }

  /** Takes effect at once and is remembered for the next attach. */
  async hydrate({mode, rate}: HydrateParams): Promise<VolumeStatus> {
    const {volume, record} = this.#parts;
    const limit = rate === undefined ? record.options.rate : rate;
    volume.setHydration({mode, ...(limit === null ? {} : {rateLimit: limit})});
    await this.changeOptions({hydrate: mode, rate: limit});
    return this.status();
  }

  /**
   * `off` is on record before it takes effect, any other mode after: a crash in between errs on the
   * safe side.
   */
  async writeThrough({mode, rate}: WriteThroughParams): Promise<VolumeStatus> {
    const {volume, record, paths} = this.#parts;
    const resyncRate = rate === undefined ? record.options.resyncRate : rate;
    volume.setResyncRate(resyncRate ?? undefined);
    if (mode === 'off') await this.changeOptions({writeThrough: mode, resyncRate});
    try {
      await volume.setWriteThrough(mode);
    } catch (error) {
      throw new UserError(
        `cannot switch write-through of ${paths.name} to ${mode}: ${messageOf(error)}`,
        {cause: error},
      );
    }
    if (mode !== 'off') await this.changeOptions({writeThrough: mode, resyncRate});
    return this.status();
  }

  /** Resolves when the backup has every write that was answered before; rejects where it cannot. */
  async whenInSync(onProgress: (status: VolumeStatus) => void, signal: AbortSignal): Promise<void> {
    const {volume, environment, paths} = this.#parts;
    while (!signal.aborted) {
      if (volume.protection().mode === 'off') {
        throw new UserError(
          `cannot wait until ${paths.name} is in sync: write-through is off, so no write goes to ` +
            `a backup; \`regrow write-through ${paths.name} sync\` switches it on`,
        );
      }
      const isFlushed = await volume.flush().then(
        () => true,
        () => false,
      );
      const {state, unflushedBlocks, link} = volume.protection();
      const isInSync = state === 'protected' && unflushedBlocks === 0 && link.state === 'connected';
      if (isFlushed && isInSync) return;
      const {mode, modeReason} = volume.report();
      if (mode !== 'read-write') {
        throw new UserError(
          `cannot wait for ${paths.name}: it is ${mode} and will not get in sync ` +
            `(${modeReason ?? ''}); detach it, mend that and attach it again`,
        );
      }
      onProgress(this.status());
      await environment.clock.sleep(250, signal);
    }
  }

  async changeOptions(changes: Partial<AttachOptions>): Promise<void> {
    Object.assign(this.#parts.record.options, changes);
    await this.save();
  }

  /** Makes the record durable as it is now. */
  async save(): Promise<void> {
    await this.#parts.save();
  }

  /** True once there is no device any more: the daemon has nothing left to do. */
  get isGone(): boolean {
    return this.#closing !== undefined;
  }

  /** Refuses, or takes the device away and ends the volume; only once. */
  async detach(force: boolean): Promise<DetachResult> {
    const {paths, device} = this.#parts;
    this.#refuseSecond();
    if (!force && (await this.#isUsed())) {
      throw new UserError(
        `cannot detach ${paths.name}: ${device.path} is in use; unmount it and end the programs ` +
          'that have it open, or add --force to break them off',
      );
    }
    this.#refuseSecond();
    this.#isEnding = true;
    try {
      await device.detach({force});
    } catch (error) {
      this.#isEnding = false;
      throw new UserError(`cannot detach ${paths.name}: ${messageOf(error)}; try again`, {
        cause: error,
      });
    }
    this.#closing = this.#close();
    return this.#closing;
  }

  #refuseSecond(): void {
    if (!this.#isEnding) return;
    throw new UserError(`cannot detach ${this.name}: it is being detached already`);
  }

  /** The device was taken away from outside: ends the volume as well as can be. */
  async endWithoutDevice(): Promise<void> {
    if (this.#isEnding) return;
    this.#isEnding = true;
    const {device, environment} = this.#parts;
    environment.log('error', 'the device was taken away from outside; the volume ends');
    await device.detach({force: true}).catch((error: unknown) => {
      environment.log('error', messageOf(error));
    });
    this.#closing = this.#close();
    await this.#closing;
  }

  /**
   * Without a device: 1 nobody is to take over; 2 whoever still waits for the source is let go; 3
   * the volume commits and closes; 4 how it was left is written down.
   */
  async #close(): Promise<DetachResult> {
    const {paths, device, volume, source, record, environment} = this.#parts;
    this.#state = 'stopping';
    this.#stopping.abort();
    await this.#parts.succession.finish();
    try {
      volume.setHydration({mode: 'off'});
      if (source.health().state !== 'connected') await source.source.close();
      await volume.close();
      const {blocks, isHydrated: isComplete} = volume.report();
      const absentBlocks = blocks.absent + blocks.partial;
      const all = Object.values(blocks).reduce((sum, count) => sum + count, 0);
      const at = environment.clock.wallTime();
      record.detached = {at, isComplete, absentBlocks, blocks: all};
      await this.save();
      environment.log('info', 'detached', {isComplete, absentBlocks});
      const {mode, behindBlocks} = volume.protection();
      return {device: device.path, isComplete, absentBlocks, writeThrough: mode, behindBlocks};
    } catch (error) {
      throw new UserError(
        `${paths.name} has no device any more, but not all could be written ` +
          `(${messageOf(error)}); see to the disk, then \`regrow attach ${paths.name}\` recovers ` +
          'what was flushed',
        {cause: error},
      );
    }
  }

  async #isUsed(): Promise<boolean> {
    const {device, environment} = this.#parts;
    for (let waited = 0; await device.isInUse(); waited += PROBE_POLL_MS) {
      if (waited >= PROBE_MS_MAX) return true;
      await environment.clock.sleep(PROBE_POLL_MS);
    }
    return false;
  }

  /** After a SIGTERM: resolves when the device was unused and the volume has ended. */
  async stopWhenUnused(): Promise<void> {
    const {device, volume, environment} = this.#parts;
    this.#state = 'stopping';
    environment.log('info', 'asked to stop');
    await volume.flush().catch((error: unknown) => {
      environment.log('error', `the flush before stopping failed: ${messageOf(error)}`);
    });
    while (this.#closing === undefined) {
      if (!this.#isEnding && !(await device.isInUse())) {
        await this.detach(false).catch((error: unknown) => {
          environment.log('warning', messageOf(error));
        });
      }
      if (this.#closing === undefined) await environment.clock.sleep(STOP_POLL_MS);
    }
    await this.#closing;
  }

  /** Resolves when the store alone is the volume; rejects where that will not come any more. */
  async whenHydrated(
    onProgress: (status: VolumeStatus) => void,
    signal: AbortSignal,
  ): Promise<void> {
    const {volume, environment, paths} = this.#parts;
    const done = volume.whenHydrated().then(() => true);
    while (!signal.aborted) {
      const tick = environment.clock.sleep(500, signal).then(() => false);
      if (await Promise.race([done, tick])) break;
      const {mode, modeReason} = volume.report();
      if (mode !== 'read-write') {
        throw new UserError(
          `cannot wait for ${paths.name}: it is ${mode} and will not hydrate ` +
            `(${modeReason ?? ''}); detach it, mend that and attach it again`,
        );
      }
      onProgress(this.status());
    }
    if (!volume.report().isHydrated && !signal.aborted) {
      throw new UserError(`cannot wait for ${paths.name}: it was detached; attach it again`);
    }
  }
}

function describeStore(record: VolumeRecord): string {
  return JSON.stringify(record.store.identity);
}
