/**
 * What befalls the backup during a run, and what is checked of it: the link is cut, the server goes
 * away or loses power, the mode of write-through is switched under load.
 */
import {assert} from '../../../src/base/assert.js';
import {SECTOR} from '../../../src/base/units.js';
import type {WriteThroughMode} from '../../../src/volume/protection.js';
import type {Volume} from '../../../src/volume/volume.js';
import {CUT_MODES} from '../../../src/wrap/cut.js';
import {readStamp, ZERO} from '../stamps.js';
import {BackupChecker} from './check-backup.js';
import type {AnsweredWrite, GuestRequest} from './guest.js';
import type {World} from './world.js';

export interface BackupEventsTools {
  readonly inFlight: () => ReadonlySet<GuestRequest>;
  /** Told of a switch that failed. */
  readonly failed: (error: unknown) => void;
}

export class BackupEvents {
  readonly checker: BackupChecker;
  /** Errors were answers a guest may have seen. */
  wasStrict: boolean;
  readonly #world: World;
  readonly #tools: BackupEventsTools;
  #isSwitching = false;
  /** When the mode of write-through was changed last. */
  #switchedAt = 0;

  constructor(world: World, tools: BackupEventsTools) {
    this.#world = world;
    this.#tools = tools;
    this.checker = new BackupChecker(world);
    this.wasStrict = world.config.backup.mode === 'strict';
  }

  /** The mode of write-through is being changed. */
  get isSwitching(): boolean {
    return this.#isSwitching;
  }

  /** A new daemon. */
  reopened(): void {
    this.checker.forget();
    this.#isSwitching = false;
  }

  /** Something happens to the backup, or the mode is switched. */
  disturb(): void {
    const {prng, backup, scheduler, always} = this.#world;
    const kind = prng.weighted({cut: 3, power: 2, away: 2, mode: 1, nothing: 6});
    if (kind === 'cut') backup.cut();
    else if (kind === 'power') backup.losePower(prng.pick(CUT_MODES));
    else if (kind === 'away' && !backup.isAway) {
      backup.isAway = true;
      backup.cut();
      scheduler.after(prng.pick([5, 50, 500]), always, () => {
        backup.isAway = false;
      });
    } else if (kind === 'mode')
      void this.#switchMode(prng.pick(['off', 'sync', 'strict'] as const));
  }

  /** As the daemon does it: `off` is recorded before, any other mode after it has come about. */
  async #switchMode(mode: WriteThroughMode): Promise<void> {
    const world = this.#world;
    const {volume, life, trace, scheduler} = world;
    if (this.#isSwitching || !volume) return;
    this.#isSwitching = true;
    this.wasStrict ||= mode === 'strict';
    trace.add(scheduler.now, 'write-through', mode);
    if (mode === 'off') world.writeThrough = mode;
    try {
      await volume.setWriteThrough(mode);
      if (life.isAlive) world.writeThrough = mode;
      this.#switchedAt = scheduler.now;
    } catch (error) {
      if (life.isAlive) this.#tools.failed(error);
    } finally {
      if (life.isAlive) this.#isSwitching = false;
    }
  }

  /** Strict: what was answered is on the backup. */
  checkStrict({offset, length, value, since}: AnsweredWrite): void {
    const {volume, backup} = this.#world;
    if (volume?.protection().mode !== 'strict' || this.#isSwitching) return;
    if (since <= this.#switchedAt) return;
    if (backup.powerCuts > 0 || value === ZERO) return;
    for (const other of this.#tools.inFlight()) {
      if (other.offset < offset + length && offset < other.offset + other.length) return;
    }
    const bytes = new Uint8Array(length);
    backup.disk.peek(offset, bytes);
    for (let at = 0; at < length; at += SECTOR) {
      const found = readStamp(bytes, at, offset + at);
      assert(
        found >= value || found === ZERO,
        `I3: strict write ${value} is answered, the backup has ${found}`,
      );
    }
  }

  async check(): Promise<void> {
    const {volume, scheduler} = this.#world;
    if (!volume || this.#isSwitching || scheduler.steps % 64 !== 0) return;
    const {mode, state} = volume.protection();
    if (mode === 'off' || state === 'off') return;
    this.checker.check();
    if (this.#tools.inFlight().size === 0) await this.checker.checkSame(volume);
  }

  /** Whatever happened before: switched on and left alone, the backup catches up. */
  async bringInSync(volume: Volume): Promise<void> {
    const {scheduler} = this.#world;
    await scheduler.run(volume.setWriteThrough('sync'), 200_000);
    for (let steps = 0; volume.protection().state !== 'protected'; steps++) {
      const {state, behindBlocks, link} = volume.protection();
      const now = `${state}, ${behindBlocks} behind, link ${link.state}`;
      assert(steps < 200_000 && (await scheduler.step()), `the backup never catches up: ${now}`);
    }
  }
}
