/**
 * One machine with a volume on it, all from one seed: geometry, tuning, source, disks, daemon. The
 * machine can lose power, its daemon can die, and it comes back with Volume.open.
 *
 * Lives: the daemon's parts (environment, disks, source handle) belong to a Life. A crash ends it:
 * nothing the old daemon waits for ever happens, and the next life gets disks made from what the
 * old ones would have kept.
 */
import {Prng} from '../../../src/base/prng.js';
import type {ErrnoCode} from '../../../src/base/errors.js';
import type {SeededBug} from '../../../src/base/seeded-bugs.js';
import type {ProtectionMemory, WriteThroughMode} from '../../../src/volume/protection.js';
import {Volume} from '../../../src/volume/volume.js';
import type {Backup} from '../../../src/volume/write-through.js';
import {mapFileSize} from '../../../src/map/map-file.js';
import type {CutMode} from '../../../src/wrap/cut.js';
import {Oracle, type CrashKind} from '../oracle.js';
import {GARBAGE, stamp} from '../stamps.js';
import {BadSectors} from './decay.js';
import {Scheduler, type Life} from './scheduler.js';
import {simEnvironment} from './sim-environment.js';
import {SimBackup} from './sim-backup.js';
import {fillFromSource, SimSource, sourceValue} from './sim-source.js';
import {Trace} from './trace.js';
import {
  VolatileStorage,
  type StorageEvent,
  type StorageOp,
  type StorageShape,
} from './volatile-storage.js';
import type {WorldConfig} from './world-config.js';

/** A crash that may pick what each disk keeps; left out: as the seed says. */
export interface CrashChoice {
  kind: CrashKind;
  /**
   * Of a process death: the next daemon takes over. It inherits the memory, and the guest notices
   * nothing: its requests are sent again.
   */
  isTakenOver?: boolean;
  storeMode?: CutMode;
  mapMode?: CutMode;
}

export interface WorldOptions {
  bugs?: ReadonlySet<SeededBug> | undefined;
  /** Events the trace keeps. @default 400 */
  traceMax?: number | undefined;
  /** What is known already. @default that nothing was written yet */
  oracle?: Oracle;
}

export class World {
  readonly config: WorldConfig;
  readonly prng: Prng;
  readonly scheduler: Scheduler;
  readonly trace: Trace;
  readonly oracle: Oracle;
  /** The machine itself: what no crash ends. */
  readonly always: Life = {isAlive: true};
  /** The daemon that runs now, or the one that will run. */
  life: Life = {isAlive: true};
  store: VolatileStorage;
  mapFile: VolatileStorage;
  source: SimSource;
  readonly backup: SimBackup;
  /** What the volume's record says: the mode it is attached with again. */
  writeThrough: WriteThroughMode;
  /** What the record says of the backup. */
  protection: ProtectionMemory = {consistentAsOf: undefined, inconsistentSince: undefined};
  volume: Volume | undefined;
  /** Of the store. */
  bad = new BadSectors();
  /** The record names the new store, and the daemon does not know it yet. */
  isBetweenStores = false;
  crashes = 0;
  faults = 0;
  /** Virtual times are multiplied by these; the workload changes them. */
  storeSlowness = 1;
  sourceSlowness = 1;
  /** Asked for every storage call; n-th failure loops and the workload set it. */
  storageFault: ((storage: string, op: StorageOp) => ErrnoCode | undefined) | undefined;
  sourceFault: (() => ErrnoCode | undefined) | undefined;
  backupFault: ((op: string) => ErrnoCode | undefined) | undefined;
  onStorageEvent: ((event: StorageEvent) => void) | undefined;
  /** Told where the volume says that its store failed, and what it did. */
  onStoreError: ((offset: number, length: number, done: string) => void) | undefined;
  readonly #bugs: ReadonlySet<SeededBug>;
  /** In-core memory of the daemon that runs now, or what it inherits before it runs. */
  #memories = new Map<string, Uint8Array>();
  #isTakingOver = false;

  constructor(config: WorldConfig, prng: Prng, options: WorldOptions = {}) {
    this.config = config;
    this.prng = prng;
    this.#bugs = options.bugs ?? new Set();
    this.trace = new Trace(options.traceMax);
    this.scheduler = new Scheduler(prng.fork());
    const {content, geometry, mapLimits} = config;
    this.oracle =
      options.oracle ?? new Oracle(geometry.size, (offset) => sourceValue(content, offset));
    const mapSize = mapFileSize(geometry, mapLimits);
    this.store = new VolatileStorage(this.#storeShape(), this.#storageTools('store', this.life));
    this.mapFile = new VolatileStorage(
      {name: 'map', size: mapSize},
      this.#storageTools('map', this.life),
    );
    this.writeThrough = config.backup.mode;
    this.backup = this.#newBackup();
    this.source = this.#newSource();
  }

  /**
   * Replaces the store by another of the same kind. What counts changes at one event, as the
   * renaming of a record does; the daemon learns of it later, if it lives.
   */
  async replaceStore(): Promise<void> {
    const {life, volume, config, scheduler} = this;
    const bad = new BadSectors();
    const store = new VolatileStorage(this.#storeShape(), this.#storageTools('store', life, bad));
    const mapSize = mapFileSize(config.geometry, config.mapLimits);
    const mapFile = new VolatileStorage(
      {name: 'map', size: mapSize},
      this.#storageTools('map', life),
    );
    const later = (): Promise<void> =>
      new Promise((resolve) => {
        scheduler.after(this.#latency(config.syncLatency), life, resolve);
      });
    this.isBetweenStores = false;
    await volume?.replaceStore({
      store,
      mapFile,
      commit: async () => {
        await later();
        [this.store, this.mapFile, this.bad] = [store, mapFile, bad];
        this.isBetweenStores = true;
        this.trace.add(scheduler.now, '== another store');
        await later();
      },
    });
    if (life.isAlive) this.isBetweenStores = false;
  }

  #storeShape(): StorageShape {
    const {geometry, hasGarbage} = this.config;
    const background = (offset: number, bytes: Uint8Array): void => stamp(bytes, offset, GARBAGE);
    return {name: 'store', size: geometry.size, ...(hasGarbage ? {background} : {})};
  }

  /** Formats the map and opens the volume for the first time. */
  async create(): Promise<void> {
    const {geometry, tuning} = this.config;
    this.volume = await this.scheduler.run(Volume.create(this.#parts(), geometry, tuning));
    this.volume.resumeWriteThrough(this.writeThrough);
  }

  /** Opens the volume after a crash or close; undefined if the life ended meanwhile. */
  async open(): Promise<Volume | undefined> {
    const {life} = this;
    const {tuning} = this.config;
    const opening = this.#isTakingOver
      ? Volume.takeOver(this.#parts(), tuning)
      : Volume.open(this.#parts(), tuning);
    let isSettled = false;
    const settle = (): void => {
      isSettled = true;
    };
    opening.then(settle, settle);
    while (!isSettled && life.isAlive) {
      if (!(await this.scheduler.step()) && !isSettled) throw new Error('I5: opening hangs');
    }
    if (!life.isAlive) return undefined;
    this.volume = await opening;
    this.volume.resumeWriteThrough(this.writeThrough);
    return this.volume;
  }

  /**
   * Ends the daemon's life, and with a power cut what the disks had not made durable. After a
   * failed sync the machine goes down with it: what a page cache that forgot its dirty pages shows
   * the next daemon nobody can make durable or tell apart (docs/DURABILITY.md); but a daemon that
   * has noticed tells who takes over. True if the next one takes over.
   */
  crash(choice: CrashChoice): boolean {
    const {kind, isTakenOver = false} = choice;
    const isNoted = isTakenOver && this.volume !== undefined && this.volume.mode !== 'read-write';
    const hasLostSync = this.store.hasLostSync || this.mapFile.hasLostSync;
    if (kind === 'process death' && hasLostSync && !isNoted) return this.crash({kind: 'power cut'});
    this.crashes++;
    this.trace.add(this.scheduler.now, '==', isTakenOver ? 'taken over' : kind);
    const memories = copyOf(isTakenOver ? this.#memories : new Map());
    this.endLife();
    this.#memories = memories;
    this.#isTakingOver = isTakenOver;
    if (!isTakenOver) this.oracle.crash(kind);
    [this.store, this.mapFile] = this.#disksAfter(choice, this.prng, this);
    return isTakenOver;
  }

  /** The world that comes out of such a crash here; this one goes on as if nothing had happened. */
  branch(choice: CrashChoice, prng: Prng): World {
    const branch = new World(this.config, prng, {bugs: this.#bugs, oracle: this.oracle.fork()});
    const {isTakenOver = false} = choice;
    // Nothing is sent again here: what was not answered may be there or not.
    branch.oracle.crash(choice.kind, isTakenOver);
    if (isTakenOver) branch.#memories = copyOf(this.#memories);
    branch.#isTakingOver = isTakenOver;
    branch.backup.takeOver(this.backup);
    branch.writeThrough = this.writeThrough;
    branch.protection = this.protection;
    [branch.store, branch.mapFile] = this.#disksAfter(choice, prng, branch);
    return branch;
  }

  /** This world's disks after such a crash, as disks of `heir`. */
  #disksAfter(choice: CrashChoice, prng: Prng, heir: World): [VolatileStorage, VolatileStorage] {
    const {store, mapFile} = this;
    const storeTools = heir.#storageTools('store', heir.life);
    const mapTools = heir.#storageTools('map', heir.life);
    if (choice.kind === 'process death') {
      return [store.afterProcessDeath(storeTools, prng), mapFile.afterProcessDeath(mapTools, prng)];
    }
    return [
      store.afterPowerCut(storeTools, prng, choice.storeMode),
      mapFile.afterPowerCut(mapTools, prng, choice.mapMode),
    ];
  }

  /** After an orderly close: the same disks, a new daemon. */
  restart(): void {
    this.endLife();
    [this.store, this.mapFile] = this.#disksAfter({kind: 'process death'}, this.prng, this);
  }

  /** The daemon is gone; a new life with a new handle on the source begins. */
  endLife(): void {
    this.life.isAlive = false;
    this.volume?.abandon();
    this.volume = undefined;
    this.life = {isAlive: true};
    this.isBetweenStores = false;
    this.#memories = new Map();
    this.#isTakingOver = false;
    const {isAway} = this.source;
    this.source = this.#newSource();
    this.source.setAway(isAway);
  }

  #parts(): Parameters<typeof Volume.open>[0] {
    const {scheduler, trace, life} = this;
    const own = {prng: this.prng.fork(), bugs: this.#bugs, memories: this.#memories};
    const environment = simEnvironment({
      ...{scheduler, trace, life, ...own},
      onLog: (_level, message, fields) => {
        if (!life.isAlive || message !== 'the store failed') return;
        const {offset, length, done} = fields as {offset: number; length: number; done: string};
        this.onStoreError?.(offset, length, done);
      },
    });
    const {store, mapFile, source} = this;
    return {store, mapFile, source, environment, backup: this.#backupOf(life)};
  }

  #backupOf(life: Life): Backup {
    const {scheduler, config} = this;
    return {
      open: () => this.backup.open(life),
      verify: () => Promise.resolve(),
      isSource: config.backup.isSource,
      known: this.protection,
      remember: (memory) =>
        new Promise((resolve) => {
          scheduler.after(this.#latency(config.syncLatency), life, () => {
            this.protection = memory;
            resolve();
          });
        }),
    };
  }

  #newBackup(): SimBackup {
    const {scheduler, prng, config, trace} = this;
    const {latency} = config.backup;
    const background = (offset: number, bytes: Uint8Array): void =>
      fillFromSource(config.content, offset, bytes);
    return new SimBackup(config.geometry.size, background, {
      scheduler,
      prng: prng.fork(),
      latency: () => this.#latency(latency),
      disk: (life) => ({scheduler, prng, life, latency: () => this.#latency(latency)}),
      fault: (op) => this.#counted(this.backupFault?.(op)),
      note: (what) => trace.add(scheduler.now, what),
    });
  }

  #newSource(): SimSource {
    const {scheduler, prng, life, config} = this;
    return new SimSource(config.content, {
      scheduler,
      prng,
      life,
      latency: () => this.#latency(config.sourceLatency) * this.sourceSlowness,
      fault: () => this.#counted(this.sourceFault?.()),
      ...(config.backup.isSource
        ? {peek: (offset, buffer) => this.backup.disk.peek(offset, buffer)}
        : {}),
    });
  }

  #storageTools(
    name: 'store' | 'map',
    life: Life,
    bad = this.bad,
  ): ConstructorParameters<typeof VolatileStorage>[1] {
    const {scheduler, prng, config} = this;
    return {
      scheduler,
      prng,
      life,
      latency: (op) => {
        const base = op === 'sync' ? config.syncLatency : config.storeLatency;
        return this.#latency(base) * this.storeSlowness;
      },
      fault: (op, offset, length) => {
        if (op === 'read' && name === 'store' && bad.isHit(offset, length)) return 'EIO';
        return this.#counted(this.storageFault?.(name, op));
      },
      record: (event) => {
        if (name === 'store' && event.kind === 'resolved') bad.written(event.offset, event.length);
        this.trace.add(scheduler.now, name, event.kind, event.offset, event.length);
        if (life === this.life) this.onStorageEvent?.(event);
      },
    };
  }

  #counted(code: ErrnoCode | undefined): ErrnoCode | undefined {
    if (code) this.faults++;
    return code;
  }

  /** Mostly about `typical` ms, now and then nothing, now and then twenty times that. */
  #latency(typical: number): number {
    const dice = this.prng.below(16);
    if (dice === 0) return 0;
    const fraction = this.prng.below(1024) / 1024;
    return dice === 1 ? typical * 20 * fraction : typical * fraction;
  }
}

function copyOf(memories: ReadonlyMap<string, Uint8Array>): Map<string, Uint8Array> {
  return new Map([...memories].map(([name, bytes]) => [name, bytes.slice()]));
}
