/**
 * The restoring volume: a block device whose absent blocks come from a source while it is used.
 *
 *   reads   reader.ts    ┐                 ┌ fetcher.ts    fetch, join, install
 *   writes  writer.ts    ├─▶ core.ts ◀─────┤ hydrator.ts   the rest, in the background
 *   flushes committer.ts ┘   map, masks,   └ settler.ts    zeroes into the store
 *                            locks, mode
 *
 * This file only puts them together, counts, and knows how a volume begins and ends. What is
 * acknowledged when, and what is on disk then, is docs/DURABILITY.md.
 */
import type {Environment} from '../base/environment.js';
import {BlockError} from '../base/errors.js';
import type {BlockDevice} from '../device/block-device.js';
import {withBehindMarks} from '../map/behind-marks.js';
import {ABSENT, type BlockState, COPIED, stateName} from '../map/block-state.js';
import type {GeometryInput} from '../map/geometry.js';
import {IntentLog} from '../map/intent-log.js';
import {MapFile} from '../map/map-file.js';
import type {Source} from '../source/source.js';
import type {Storage} from '../storage/storage.js';
import {Committer} from './committer.js';
import {VolumeCore} from './core.js';
import {Fetcher} from './fetcher.js';
import {guestFlush} from './guest-flush.js';
import {type HydrationSettings, Hydrator} from './hydrator.js';
import {MaskRelief} from './mask-relief.js';
import {Mender} from './mender.js';
import {pictureOf} from './picture.js';
import type {ProtectionReport, WriteThroughMode} from './protection.js';
import {Reader} from './reader.js';
import {recoverMap} from './recovery.js';
import type {VolumeMode, VolumeReport} from './report.js';
import {Replacement, type ReplacementParts, type ReplacementReport} from './replacement.js';
import {RequestGate} from './request-gate.js';
import {Resyncer} from './resyncer.js';
import {StoreSlot} from './store-slot.js';
import {tuningWith, type VolumeTuning} from './tuning.js';
import {verifyCopied, type VerifyOptions, type VerifyReport} from './verify.js';
import {type Backup, WriteThrough} from './write-through.js';
import {Writer} from './writer.js';

export {DamagedStateError, mapFileSize, mapReservedBytes} from '../map/map-file.js';
export type {VerifyOptions, VerifyReport} from './verify.js';
export type {VolumeTuning} from './tuning.js';

/**
 * What a volume is made of. It owns all of them from create or open on, and close() closes them.
 */
export interface VolumeParts {
  /** At least as large as the volume. */
  store: Storage;
  /** At least mapFileSize() bytes. */
  mapFile: Storage;
  /** At least as large as the volume. */
  source: Source;
  /** Where writes may go through to; left out: nowhere. */
  backup?: Backup | undefined;
  environment: Environment;
}

export class Volume implements BlockDevice {
  readonly #core: VolumeCore;
  #mapStorage: Storage;
  readonly #committer: Committer;
  readonly #fetcher: Fetcher;
  readonly #mender: Mender;
  readonly #reader: Reader;
  readonly #writer: Writer;
  readonly #hydrator: Hydrator;
  readonly #relief: MaskRelief;
  readonly #through: WriteThrough;
  readonly #resyncer: Resyncer;
  readonly #gate: RequestGate;
  #replacing: Promise<unknown> = Promise.resolve();
  #replacement: Replacement | undefined;
  readonly #periodic: Promise<void>;

  private constructor(core: VolumeCore, mapStorage: Storage) {
    this.#core = core;
    this.#mapStorage = mapStorage;
    this.#gate = new RequestGate(core);
    this.#through = core.through;
    this.#committer = new Committer(core);
    this.#through.commitSoon = () => this.#committer.commitSoon();
    core.intents = new IntentLog({
      environment: core.environment,
      capacity: core.mapFile.limits.intentCountMax,
      regionCount: core.geometry.regionCount,
      append: (regions) => this.#committer.appendIntents(regions),
      needRoom: () => this.#committer.commitSoon(),
    });
    this.#fetcher = new Fetcher(core, () => this.#changed());
    this.#relief = new MaskRelief(core, this.#fetcher);
    this.#mender = new Mender(core, this.#fetcher, {
      changed: () => this.#changed(),
      commit: () => this.#committer.commit(),
    });
    this.#reader = new Reader(core, this.#fetcher, this.#mender);
    this.#writer = new Writer(core, {
      changed: () => this.#changed(),
      masksFull: () => this.#relief.poke(),
      bring: (block) => this.#resyncer.bring(block),
    });
    this.#resyncer = new Resyncer(core, this.#through, this.#fetcher);
    this.#hydrator = new Hydrator(core, this.#fetcher, this.#committer);
    this.#hydrator.start();
    this.#resyncer.start();
    this.#periodic = this.#committer.runPeriodically();
  }

  /** Formats the map file for a volume whose blocks are all absent, durably, and opens it. */
  static async create(
    parts: VolumeParts,
    geometry: GeometryInput,
    tuning: Partial<VolumeTuning> = {},
  ): Promise<Volume> {
    await MapFile.format(parts.mapFile, geometry, tuningWith(tuning).map);
    return Volume.open(parts, tuning);
  }

  /**
   * Opens a volume after any stop, clean or not. Throws {@link DamagedStateError} where the map
   * file contradicts itself; nothing has been written then.
   */
  static open(parts: VolumeParts, tuning: Partial<VolumeTuning> = {}): Promise<Volume> {
    return Volume.#open(parts, tuning, false);
  }

  /**
   * Takes over from a daemon that died and whose memory the environment inherited: acknowledged
   * writes are there, flushed or not (I3). No write of that daemon may be under way any more.
   * Memory that cannot be used is logged, and the volume opened as after a crash.
   */
  static takeOver(parts: VolumeParts, tuning: Partial<VolumeTuning> = {}): Promise<Volume> {
    return Volume.#open(parts, tuning, true);
  }

  static async #open(
    parts: VolumeParts,
    tuning: Partial<VolumeTuning>,
    takesOver: boolean,
  ): Promise<Volume> {
    const {environment, mapFile: mapStorage, source, store} = parts;
    const found = await recoverMap(mapStorage, environment, takesOver);
    const {mapFile, map, masks, behind, state, isAdopted} = found;
    const {geometry} = mapFile;
    for (const part of [store, source]) {
      if (part.size >= geometry.size) continue;
      const what = `${part.name} has ${part.size} bytes, the volume ${geometry.size}`;
      throw new BlockError('EINVAL', what, {op: 'open', isPermanent: true});
    }
    const core = new VolumeCore({
      geometry,
      environment,
      tuning: tuningWith(tuning),
      store: new StoreSlot(store),
      source,
      mapFile,
      map,
      masks,
      behind,
      state,
    });
    core.through = new WriteThrough(core, found, parts.backup);
    if (isAdopted) core.losses.forget();
    if (!isAdopted) {
      await mapFile.checkpoint(() => ({
        pages: map.takePageImages().map((image) => withBehindMarks(image, behind, geometry)),
        masks: masks.images(),
        intents: [],
        isClean: false,
      }));
      map.finishTaken();
      state.goLive(mapFile.generation);
    }
    const volume = new Volume(core, mapStorage);
    if (isAdopted && core.mode === 'read-write') volume.#committer.checkpointSoon();
    return volume;
  }

  get size(): number {
    return this.#core.geometry.size;
  }

  /** Bytes of a block. */
  get blockSize(): number {
    return this.#core.geometry.blockSize;
  }

  get mode(): VolumeMode {
    return this.#core.mode;
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return this.#gate.serve(async () => {
      this.#core.checkRange('read', offset, buffer.length);
      this.#core.assertMode('read');
      this.#core.counters.reads++;
      this.#core.counters.readBytes += buffer.length;
      await this.#reader.read(offset, buffer);
    });
  }

  write(offset: number, buffer: Buffer, options: {fua?: boolean} = {}): Promise<void> {
    return this.#gate.serve(async () => {
      this.#core.checkRange('write', offset, buffer.length);
      this.#core.counters.writes++;
      this.#core.counters.writtenBytes += buffer.length;
      await this.#writer.write(offset, buffer);
      if (options.fua) await guestFlush(this.#core, this.#committer);
    });
  }

  writeZeroes(
    offset: number,
    length: number,
    options: {fua?: boolean; mayTrim?: boolean} = {},
  ): Promise<void> {
    return this.#gate.serve(async () => {
      this.#core.checkRange('writeZeroes', offset, length);
      this.#core.counters.zeroings++;
      await this.#writer.zero(offset, length);
      if (options.fua) await guestFlush(this.#core, this.#committer);
    });
  }

  /** The range reads zeroes afterwards, and is never fetched. */
  discard(offset: number, length: number): Promise<void> {
    return this.writeZeroes(offset, length);
  }

  flush(): Promise<void> {
    return this.#gate.serve(async () => {
      this.#core.counters.flushes++;
      await guestFlush(this.#core, this.#committer);
    });
  }

  /**
   * Switches write-through. From `off`, what the backup lacks is durably listed when it resolves,
   * and sent from then on.
   */
  setWriteThrough(mode: WriteThroughMode): Promise<void> {
    return this.#through.setMode(mode, () => this.#committer.commit());
  }

  /** Goes on in the mode of before a restart; not for a change of it. */
  resumeWriteThrough(mode: WriteThroughMode): void {
    this.#through.resume(mode);
  }

  /** Bytes of the resync a second at most; undefined: no limit. */
  setResyncRate(limit: number | undefined): void {
    this.#resyncer.setRate(limit);
  }

  protection(): ProtectionReport {
    return this.#resyncer.report();
  }

  /** Whether the backup durably holds a byte's block as the volume has it, as far as is known. */
  isOnBackup(offset: number): boolean {
    return !this.#through.backlog.isLacking(this.#core.geometry.blockOf(offset));
  }

  /** Whether the source and the backup still hold what they held at first in a byte's block. */
  isUntouched(offset: number): boolean {
    const {geometry, map} = this.#core;
    const block = geometry.blockOf(offset);
    if (map.firstUnloadedPage(block, block + 1) !== undefined) return false;
    const state = map.get(block);
    return (state === ABSENT || state === COPIED) && this.isOnBackup(offset);
  }

  /** Switches hydration, its rate included; takes effect at once. */
  setHydration(settings: HydrationSettings): void {
    this.#hydrator.set(settings);
  }

  /** Resolves once the store alone is the volume, or when the volume closes. */
  whenHydrated(): Promise<void> {
    return this.#hydrator.whenHydrated();
  }

  /** Compares every copied block with the source. */
  verify(options: VerifyOptions = {}): Promise<VerifyReport> {
    return verifyCopied(this.#core, options).finally(() => this.#changed());
  }

  /**
   * Puts another store in the place of this one while the volume is in use (replacement.ts). The
   * volume owns the new store and map file from the call on, and closes those that do not count.
   */
  replaceStore(parts: ReplacementParts): Promise<ReplacementReport> {
    const replacement = new Replacement(this.#core, parts, {
      mender: this.#mender,
      commit: () => this.#committer.commit(),
      exclusively: (section) => this.#gate.hold(() => this.#committer.exclusively(section)),
      switched: (mapStorage) => {
        const before = this.#mapStorage;
        this.#mapStorage = mapStorage;
        this.#fetcher.disown();
        return before;
      },
    });
    this.#replacement = replacement;
    const running = this.#replacing.then(() => replacement.run());
    this.#replacing = running.then(() => this.#changed()).catch(() => undefined);
    return running;
  }

  async stateAt(offset: number): Promise<BlockState> {
    const block = this.#core.geometry.blockOf(offset);
    await this.#core.ensureLoaded(block, block + 1);
    return stateName(this.#core.map.get(block));
  }

  report(): VolumeReport {
    const {counters, geometry, map, masks, mode, modeReason} = this.#core;
    return {
      size: geometry.size,
      blockSize: geometry.blockSize,
      mode,
      modeReason,
      blocks: map.counts(),
      isHydrated: this.#hydrator.isHydrated,
      picture: pictureOf(map),
      counters: {...counters},
      hydration: this.#hydrator.report(),
      lastCommitAt: this.#committer.lastCommitAt,
      waitingForMasks: masks.waiters,
      protection: this.protection(),
      replacement: this.#replacement?.progress,
      storeErrors: this.#core.storeErrors.list(),
    };
  }

  /** Asserts what must hold between any two steps; for tests. */
  selfCheck(): void {
    this.#core.selfCheck();
  }

  /**
   * Ends the volume in order: the source is closed first, so that whoever waits for it is answered
   * (ESHUTDOWN); requests and installs in progress end, remaining zeroes are put into the store
   * where nothing else is missing, everything is committed, and store and map file are closed.
   */
  async close(): Promise<void> {
    if (this.#gate.isShut) return;
    this.#gate.shut();
    const {source, store} = this.#core;
    const sourceClosed = source.close().catch(() => undefined);
    await this.#gate.drain();
    if (this.#core.mode === 'read-write') await this.#hydrator.settleAll().catch(() => undefined);
    await this.#hydrator.stop();
    await this.#relief.stop();
    await this.#mender.stop();
    await this.#fetcher.drain();
    await this.#resyncer.stop();
    await this.#periodic;
    await sourceClosed;
    await this.#replacing;
    try {
      await this.#committer.finish();
      await this.#through.close();
    } finally {
      await Promise.allSettled([store.close(), this.#mapStorage.close()]);
    }
  }

  /** Ends all writing for good: something is wrong that no recovery knows of (a bug, above all). */
  fail(reason: string): void {
    this.#core.degrade('failed', reason);
  }

  /** For the laboratory: the daemon dies here. */
  abandon(): void {
    this.#gate.shut();
    this.#core.isAbandoned = true;
    this.#core.degrade('failed', 'the daemon died');
    void this.#hydrator.stop();
    void this.#resyncer.stop();
  }

  #changed(): void {
    const {map, tuning} = this.#core;
    this.#hydrator.poke();
    this.#relief.poke();
    if (map.changedPageCount > tuning.checkpointPages) this.#committer.commitSoon();
  }
}
