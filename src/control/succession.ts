/**
 * Arranges for the daemon that takes over when this one dies: the supervisor holds every descriptor
 * it will need, and the handover says the rest. From then on a death costs a pause, not the device.
 */
import type {Log} from '../base/environment.js';
import type {AttachedDevice} from '../device/attach-device.js';
import {isIoFlusher} from '../native/host.js';
import type {SharedMemory} from '../native/memory.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {type Handover, type TakeOvers, writeHandover} from './handover.js';
import type {TakeOverStatus} from './status.js';
import {type Generation, heldNames} from './store-generation.js';
import type {Supervisor} from './supervisor.js';

export interface Estate {
  device: AttachedDevice;
  directory: StateDirectory;
  /** Of the store (store-generation.ts). */
  generation: Generation;
  storeFd: number;
  mapFd: number;
  /** Of a source that is a file. */
  sourceFd: number | undefined;
  /** The control socket that listens. */
  controlFd: number;
  handover: Omit<Handover, 'version' | 'device' | 'channelCount'>;
}

export class Succession {
  readonly #supervisor: Supervisor | undefined;
  readonly #memory: SharedMemory;
  readonly #log: Log;
  readonly #isFlusher = isIoFlusher();
  #takeOvers: TakeOvers | undefined;
  #problem: string | undefined = 'the device is not ready yet';
  #device: AttachedDevice | undefined;

  constructor(supervisor: Supervisor | undefined, memory: SharedMemory, log: Log) {
    this.#supervisor = supervisor;
    this.#memory = memory;
    this.#log = log;
  }

  /** True while another process would go on with the device if this one ended now. */
  get isArranged(): boolean {
    return this.#problem === undefined;
  }

  /** From here on this daemon may be killed. */
  arrange(estate: Estate): void {
    const {device, directory, handover} = estate;
    const {channels, ...rest} = device.handover;
    this.#device = device;
    this.#takeOvers = handover.takeOvers;
    this.#problem = this.#findProblem(rest.hasResend);
    if (this.#problem !== undefined || this.#supervisor === undefined) {
      this.#log('warning', `a death of this daemon will end the device: ${this.#problem}`);
      return;
    }
    const supervisor = this.#supervisor;
    writeHandover(this.#memory, {...handover, device: rest, channelCount: channels.length});
    const {fd, lockFd} = directory.descriptors;
    channels.forEach((channel, index) => supervisor.hold(`fuse.${index}`, channel));
    supervisor.hold('memory', this.#memory.fd);
    supervisor.hold('directory', fd);
    supervisor.hold('lock', lockFd);
    this.#hold(supervisor, estate.generation, estate.storeFd, estate.mapFd);
    supervisor.hold('control', estate.controlFd);
    if (estate.sourceFd !== undefined) supervisor.hold('source', estate.sourceFd);
    supervisor.onGone(() => {
      this.#problem = 'its supervisor is gone';
      this.#log('error', 'the supervisor is gone: a death of this daemon will end the device');
    });
    supervisor.ready(handover.paths.name);
  }

  /** A store that may come to count: which one does, the record says. */
  holdStore(generation: Generation, storeFd: number, mapFd: number): void {
    if (this.#supervisor && this.isArranged)
      this.#hold(this.#supervisor, generation, storeFd, mapFd);
  }

  /** A store that does not count any more. */
  dropStore(generation: Generation): void {
    if (!this.#supervisor || !this.isArranged) return;
    const {store, map} = heldNames(generation);
    this.#supervisor.drop(store);
    this.#supervisor.drop(map);
  }

  #hold(supervisor: Supervisor, generation: Generation, storeFd: number, mapFd: number): void {
    const {store, map} = heldNames(generation);
    supervisor.hold(store, storeFd);
    supervisor.hold(map, mapFd);
  }

  /** The device has gone: nobody is to take over. Resolves when nothing is held any more. */
  async finish(): Promise<void> {
    this.#problem = 'the volume is being detached';
    await this.#supervisor?.finish();
  }

  status(): TakeOverStatus {
    const {count = 0, lastAt = null, lastPauseMs = null, lastDeath = null} = this.#takeOvers ?? {};
    return {
      isPossible: this.isArranged,
      problem: this.#problem ?? null,
      ...{count, lastAt, lastPauseMs, lastDeath},
      isIoFlusher: this.#isFlusher,
      unlockedBuffers: this.#device?.unlockedBuffers ?? 0,
    };
  }

  #findProblem(hasResend: boolean): string | undefined {
    if (this.#supervisor === undefined) return 'it has no supervisor';
    if (!this.#supervisor.isAlive) return 'its supervisor is gone';
    return hasResend
      ? undefined
      : 'this kernel cannot send requests again (Linux 6.9 and later can)';
  }
}
