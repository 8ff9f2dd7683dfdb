/**
 * One run of the simulation: a seed makes a world (world-config.ts), a guest works on its volume,
 * the machine fails, and after every event the volume checks itself and the oracle checks the
 * answers. At the end the volume hydrates and the store alone must be the volume.
 *
 *   while steps are left:  event happens → everything it woke runs → checks → perhaps a crash
 *   crash:                 life ends → disks settle → Volume.open → perhaps read everything → go on
 *
 * Everything is chosen by the seed; a failure names it and replays exactly.
 */
import {assert} from '../../../src/base/assert.js';
import {toErrno, ERRNO} from '../../../src/base/errors.js';
import {Prng} from '../../../src/base/prng.js';
import type {HydrationMode, VolumeMode} from '../../../src/volume/report.js';
import {CUT_MODES} from '../../../src/wrap/cut.js';
import {BackupEvents} from './backup-events.js';
import {checkCopied, checkStoreAlone} from './check-copied.js';
import {DecayEvents} from './decay.js';
import {Guest, type GuestRequest} from './guest.js';
import {
  SimulationError,
  type SimulationOptions,
  type SimulationResult,
} from './simulation-result.js';
import {World, type CrashChoice} from './world.js';
import {randomConfig, type GuestAction} from './world-config.js';

export {SimulationError} from './simulation-result.js';

/** Virtual ms a request may take while source and disks answer; longer means it hangs (I5). */
const REQUEST_MAX_MS = 60_000;
/** Virtual ms a flush may take though the source is away: it never waits for it. */
const FLUSH_MAX_MS = 20_000;
/** Virtual ms after which everything that was begun has ended, the slowest disk included. */
const SETTLE_MS = 5000;
const MODES: readonly VolumeMode[] = ['read-write', 'read-only', 'failed'];
const STEPS_DEFAULT = 1500;

/** Runs one seed; throws {@link SimulationError}. */
export async function simulate(options: SimulationOptions): Promise<SimulationResult> {
  const prng = new Prng(options.seed);
  const seeded = randomConfig(prng);
  const config = options.adjust ? options.adjust(seeded) : seeded;
  const world = new World(config, prng, {
    bugs: new Set(options.bug ? [options.bug] : []),
    traceMax: options.traceMax,
  });
  const simulation = new Simulation(world);
  try {
    await simulation.run(options.steps ?? STEPS_DEFAULT);
  } catch (error) {
    throw new SimulationError(options.seed, error, world.trace.last(options.traceMax));
  } finally {
    world.life.isAlive = false;
  }
  const {steps, now} = world.scheduler;
  return {
    seed: options.seed,
    steps,
    requests: simulation.guest.requests,
    crashes: world.crashes,
    virtualMs: now,
  };
}

class Simulation {
  readonly guest: Guest;
  readonly backup: BackupEvents;
  readonly decay: DecayEvents;
  readonly #world: World;
  #pendingCrash: CrashChoice | undefined;
  /** Storage events until a crash; it then happens at exactly that moment of the protocol. */
  #eventsToCrash = 0;
  #isRestarting = false;
  #isOver = false;
  #awaySince = Infinity;
  #backAt = 0;
  #mode: VolumeMode = 'read-write';

  constructor(world: World) {
    this.#world = world;
    const {config, prng, oracle, scheduler, trace} = world;
    const {blockSize} = config.geometry;
    const {hotBlocks} = config.guest;
    const mayFail = (error: unknown, request: GuestRequest): boolean =>
      this.#mayFail(error, request);
    this.backup = new BackupEvents(world, {
      inFlight: () => this.guest.inFlight,
      failed: (error) => {
        if (!this.#mayFail(error)) this.guest.failure ??= error;
      },
    });
    this.decay = new DecayEvents(world, () => this.backup.isSwitching);
    this.guest = new Guest({
      prng,
      oracle,
      scheduler,
      trace,
      blockSize,
      hotBlocks,
      mayFail,
      noteWrite: (offset, length, value) => this.backup.checker.noteWrite(offset, length, value),
      noteFlush: () => this.backup.checker.noteFlush(),
      noteAnswer: (write) => this.backup.checkStrict(write),
    });
    world.onStorageEvent = () => this.#countDown();
  }

  async run(steps: number): Promise<void> {
    const world = this.#world;
    await world.create();
    if (world.config.guest.hasStoreErrors) this.#makeDisksFail();
    if (world.config.guest.hasSourceErrors) {
      world.sourceFault = () => (world.prng.chance(1, 10) ? 'EIO' : undefined);
    }
    if (world.config.backup.hasErrors) {
      world.backupFault = (op) =>
        op !== 'flush' && world.prng.chance(1, 100)
          ? world.prng.pick(['EIO', 'ENOSPC'])
          : undefined;
    }
    this.#scheduleGuest();
    while (world.scheduler.steps < steps) await this.#step();
    await this.#finish();
  }

  async #step(): Promise<void> {
    const world = this.#world;
    assert(await world.scheduler.step(), 'the guest always has something to do');
    this.#check();
    await this.backup.check();
    if (this.#pendingCrash) await this.#crash(this.#pendingCrash);
    else if (this.#isRestarting && this.guest.inFlight.size === 0) await this.#restart();
  }

  #check(): void {
    const {volume, scheduler} = this.#world;
    this.#throwFailure();
    volume?.selfCheck();
    if (scheduler.steps % 32 !== 0 || !volume) return;
    const {mode} = volume.report();
    assert(
      MODES.indexOf(mode) >= MODES.indexOf(this.#mode),
      'a volume never gets a better mode back',
    );
    this.#mode = mode;
    this.#checkWaiting();
    if (mode !== 'read-write') {
      assert(this.#world.faults > 0, `the volume is ${mode} though nothing failed`);
      this.#pendingCrash ??= {kind: 'process death'};
    }
  }

  /** No request waits for ever, and a flush not even for the source. */
  #checkWaiting(): void {
    const {now} = this.#world.scheduler;
    for (const {op, offset, length, since} of this.guest.inFlight) {
      const limit = op === 'flush' ? FLUSH_MAX_MS : REQUEST_MAX_MS;
      const from = op === 'flush' ? since : Math.max(since, this.#backAt);
      const isExcused = op !== 'flush' && this.#awaySince !== Infinity;
      assert(
        isExcused || now - from < limit,
        `I5: ${op} at ${offset}+${length} hangs since ${since} ms`,
      );
    }
  }

  #throwFailure(): void {
    const failure = this.guest.failure ?? this.decay.failure;
    if (failure !== undefined) throw failure;
  }

  /** Errors are answers only where something was made to fail. */
  #mayFail(error: unknown, request?: GuestRequest): boolean {
    if (this.decay.explains(error, request)) return true;
    const errno = toErrno(error);
    if (this.#world.faults === 0 && !this.backup.wasStrict) return false;
    return errno === ERRNO.EIO || errno === ERRNO.ENOSPC || errno === ERRNO.EROFS;
  }

  #scheduleGuest(): void {
    const {prng, scheduler, config, always} = this.#world;
    const {pause} = config.guest;
    const dice = prng.below(64);
    const delay = dice === 0 ? pause * 2000 : dice < 16 ? 0 : (pause * prng.below(1024)) / 512;
    scheduler.after(delay, always, () => {
      if (this.#isOver) return;
      if (this.#world.volume) this.#act();
      this.#scheduleGuest();
    });
  }

  #act(): void {
    const {prng, config, volume, life} = this.#world;
    if (!volume || this.#isRestarting) return;
    const action: GuestAction = prng.weighted(config.guest.weights);
    if (action === 'hydration') this.#changeHydration();
    else if (action === 'outage') this.#startOutage();
    else if (action === 'slowness') this.#changeSpeed();
    else if (action === 'restart') this.#isRestarting = prng.chance(1, 8);
    else if (action === 'crash') this.#planCrash();
    else if (action === 'backup') this.backup.disturb();
    else if (action === 'decay') this.decay.decay();
    else if (action === 'replace') this.decay.replace();
    else if (this.guest.inFlight.size < config.guest.inFlightMax)
      this.guest.send(volume, life, action);
  }

  #changeHydration(): void {
    const {prng, volume, trace, scheduler} = this.#world;
    const mode: HydrationMode = prng.pick(['off', 'background', 'full']);
    const rateLimit = prng.pick([undefined, undefined, 1e6]);
    trace.add(scheduler.now, 'hydration', mode, rateLimit ?? 'unlimited');
    volume?.setHydration(rateLimit === undefined ? {mode} : {mode, rateLimit});
  }

  #startOutage(): void {
    const world = this.#world;
    if (this.#awaySince !== Infinity || !world.prng.chance(1, 4)) return;
    this.#awaySince = world.scheduler.now;
    world.trace.add(world.scheduler.now, 'source goes away');
    world.source.setAway(true);
    const length = world.prng.pick([5, 100, 30_000]);
    world.scheduler.after(length, world.always, () => this.#endOutage());
  }

  #endOutage(): void {
    const world = this.#world;
    this.#awaySince = Infinity;
    this.#backAt = world.scheduler.now;
    world.trace.add(world.scheduler.now, 'source is back');
    world.source.setAway(false);
  }

  #changeSpeed(): void {
    const world = this.#world;
    world.storeSlowness = world.prng.pick([0, 1, 1, 10]);
    world.sourceSlowness = world.prng.pick([0, 1, 1, 10]);
  }

  #makeDisksFail(): void {
    const {prng} = this.#world;
    const code = prng.pick(['EIO', 'EIO', 'ENOSPC'] as const);
    this.#world.storageFault = (_storage, op) => {
      if (op === 'extents' || (op === 'read' && code === 'ENOSPC')) return undefined;
      return prng.chance(1, 200) ? code : undefined;
    };
  }

  /** A crash now, or at one of the next calls and answers of the disks. */
  #planCrash(): void {
    const {prng} = this.#world;
    if (!prng.chance(1, 8) || this.#eventsToCrash > 0) return;
    if (prng.chance(1, 4)) this.#pendingCrash = this.#chooseCrash();
    else this.#eventsToCrash = prng.between(1, prng.pick([4, 40]));
  }

  #countDown(): void {
    if (this.#eventsToCrash === 0) return;
    this.#eventsToCrash--;
    if (this.#eventsToCrash > 0) return;
    this.#pendingCrash ??= this.#chooseCrash();
    this.#world.life.isAlive = false;
  }

  /** Losses of store and map are chosen apart, often the worst of each. */
  #chooseCrash(): CrashChoice {
    const {prng} = this.#world;
    if (prng.chance(1, 2)) return {kind: 'process death', isTakenOver: prng.chance(2, 3)};
    if (prng.chance(1, 3)) return {kind: 'power cut', storeMode: 'none', mapMode: 'all'};
    return {kind: 'power cut', storeMode: prng.pick(CUT_MODES), mapMode: prng.pick(CUT_MODES)};
  }

  async #crash(choice: CrashChoice): Promise<void> {
    const world = this.#world;
    this.#pendingCrash = undefined;
    this.#isRestarting = false;
    this.#eventsToCrash = 0;
    const {storageFault} = world;
    world.storageFault = undefined;
    await this.#reopen(world.crash(choice));
    world.storageFault = storageFault;
  }

  /** An orderly close is a flush; the next daemon finds everything. */
  async #restart(): Promise<void> {
    const world = this.#world;
    const {volume, oracle, trace, scheduler} = world;
    if (!volume) return;
    const began = oracle.beginFlush();
    trace.add(scheduler.now, '== close');
    const isHealthy = volume.report().mode === 'read-write' && !world.config.guest.hasStoreErrors;
    const closing = volume.close();
    let isSettled = false;
    const settle = (): void => {
      isSettled = true;
    };
    closing.then(settle, settle);
    for (let turns = 0; !isSettled && world.life.isAlive; turns++) {
      assert(turns < 20_000 && (await scheduler.step()), 'I5: close hangs');
    }
    if (!isSettled) return;
    if (isHealthy) {
      await closing;
      oracle.acknowledgeFlush(began);
    } else {
      await closing.catch(() => undefined);
      await this.#crash({kind: 'process death'});
      return;
    }
    this.#eventsToCrash = 0;
    this.#isRestarting = false;
    world.restart();
    await this.#reopen(false);
  }

  /** After a take-over the guest's requests are still there, and the mode is no better. */
  async #reopen(isTakenOver: boolean): Promise<void> {
    const world = this.#world;
    const {prng, scheduler, trace} = world;
    if (!isTakenOver) {
      this.guest.forget();
      this.#mode = 'read-write';
    }
    this.backup.reopened();
    this.decay.reopened();
    // A crash in the middle of a recovery is a crash like any other.
    if (prng.chance(1, 6)) this.#eventsToCrash = prng.between(1, 12);
    const volume = await world.open();
    if (!volume) {
      await this.#crash(this.#pendingCrash ?? this.#chooseCrash());
      return;
    }
    trace.add(scheduler.now, '== open');
    volume.selfCheck();
    await checkCopied(world, volume);
    if (isTakenOver) this.guest.resend(volume, world.life);
    if (prng.chance(1, 2)) this.#changeHydration();
    if (prng.chance(1, 2)) this.guest.readAll(volume, world.life);
  }

  /** Heals everything, hydrates, closes, and looks at the store alone. */
  async #finish(): Promise<void> {
    const world = this.#world;
    this.#isOver = true;
    world.sourceFault = undefined;
    world.storageFault = undefined;
    world.backupFault = undefined;
    world.backup.isAway = false;
    this.#eventsToCrash = 0;
    this.#isRestarting = false;
    if (this.#pendingCrash) await this.#crash(this.#pendingCrash);
    if (this.#awaySince !== Infinity) this.#endOutage();
    await this.#settle();
    // What was made to fail before may have been answered only now.
    if (this.#needsRestart()) await this.#crash({kind: 'process death'});
    this.#eventsToCrash = 0;
    await this.#settle();
    const {volume, scheduler, oracle} = world;
    assert(volume !== undefined, 'the volume is open');
    await this.decay.rewrite(this.guest);
    await this.#settle();
    volume.setHydration({mode: 'full'});
    await scheduler.run(volume.whenHydrated(), 200_000);
    this.#throwFailure();
    volume.selfCheck();
    assert(volume.report().isHydrated, 'a hydrated volume says so');
    await this.backup.bringInSync(volume);
    const began = oracle.beginFlush();
    await scheduler.run(volume.flush(), 20_000);
    oracle.acknowledgeFlush(began);
    await scheduler.run(volume.close(), 20_000);
    checkStoreAlone(world);
    this.backup.checker.checkEnd();
  }

  #needsRestart(): boolean {
    const {volume} = this.#world;
    return !volume || volume.report().mode !== 'read-write';
  }

  /** Lets everything that was begun come to its end. */
  async #settle(): Promise<void> {
    const {scheduler, always} = this.#world;
    let isOver = false;
    scheduler.after(SETTLE_MS, always, () => {
      isOver = true;
    });
    while (!isOver || this.guest.inFlight.size > 0) {
      assert(await scheduler.step(), 'I5: requests are in flight and nothing is left to happen');
      this.#checkWaiting();
      this.#throwFailure();
    }
  }
}
