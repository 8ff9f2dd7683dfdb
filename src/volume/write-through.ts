/**
 * Write-through (DC3): what is written goes to the backup as well, in one of three modes.
 *
 *   off      to the store alone
 *   sync     sent to the backup at once, not awaited; a flush waits for it, or leaves it in the
 *            durable backlog where the backup is away
 *   strict   answered by the backup before the store is written; fails where the backup fails
 *
 * Two overlapping writes reach the backup in the order in which they reach the store (I6): a send
 * takes its turn while its writer holds the range of the store, and begins when the one before it
 * was answered. One connection carries all writes and flushes, so a flush needs no promise about
 * several of them. What goes to the backlog and what leaves it is backlog.ts.
 */
import {Budget} from '../base/budget.js';
import {BlockError, messageOf} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import {MiB} from '../base/units.js';
import {ABSENT, COPIED} from '../map/block-state.js';
import {BlockSet} from '../map/block-set.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import type {BackupTarget} from '../source/backup-target.js';
import {Backlog} from './backlog.js';
import {BackupLink} from './backup-link.js';
import {BackupSends} from './backup-sends.js';
import type {VolumeCore} from './core.js';
import type {ProtectionMemory, WriteThroughMode} from './protection.js';
import {blocksOfRegion, type RecoveredMap} from './recovery.js';

/** Bytes on their way to the backup at most; a write beyond waits for some before it. */
const SENDING_BYTES_MAX = 32 * MiB;

/** Milliseconds between two looks of a strict write whose block may not be sent yet. */
const STRICT_LOOK_MS = 10;

/** Where writes go through to. */
export interface Backup {
  open: (signal: AbortSignal) => Promise<BackupTarget>;
  /** Proves, by rejecting if not, that this is the backup of this volume. */
  verify: (target: BackupTarget) => Promise<void>;
  /** It is the source's own content: absent blocks are as the backup has them. */
  isSource: boolean;
  /** What was known of the backup when the last daemon ended. */
  known: ProtectionMemory;
  /** Keeps what is known for the next daemon; durable when it resolves. */
  remember: (memory: ProtectionMemory) => Promise<void>;
}

export class WriteThrough {
  readonly backlog: Backlog;
  readonly link: BackupLink;
  readonly sends: BackupSends;
  readonly isSource: boolean;
  readonly #core: VolumeCore;
  readonly #backup: Backup | undefined;
  readonly #budget = new Budget(SENDING_BYTES_MAX);
  #mode: WriteThroughMode = 'off';
  /** Switched on, but what the backup lacks from before is not listed yet: nothing is sent. */
  #isListing = false;
  #memory: ProtectionMemory;
  /** Called when there may be something to send. */
  onWork: () => void = () => undefined;
  /** Asks for a commit that nobody waits for. */
  commitSoon: () => void = () => undefined;

  /** `suspects`: regions that an unclean stop left marked. */
  constructor(
    core: VolumeCore,
    {suspects, isAdopted}: Pick<RecoveredMap, 'suspects' | 'isAdopted'>,
    backup: Backup | undefined,
  ) {
    this.#core = core;
    this.#backup = backup;
    this.isSource = backup?.isSource ?? true;
    this.#memory = backup?.known ?? {consistentAsOf: undefined, inconsistentSince: undefined};
    const {environment, geometry} = core;
    this.backlog = new Backlog(core, new BlockSet(geometry, environment, 'backlog', isAdopted));
    // After an unclean stop what was written there may be on one side only.
    for (const region of suspects) core.behind.add(...blocksOfRegion(geometry, region));
    this.backlog.open(core.tuning.zombieGraceMs);
    this.link = new BackupLink({
      environment,
      open: (signal) => this.#open(signal),
      verify: (target) => this.#verify(target),
      onConnected: () => this.#connected(),
      onLost: () => this.#lost(),
    });
    this.sends = new BackupSends(core, this);
  }

  get mode(): WriteThroughMode {
    return this.#mode;
  }

  get isOn(): boolean {
    return this.#mode !== 'off';
  }

  /** Whether the backlog names all that the backup lacks: not while it is off or being listed. */
  get isTracking(): boolean {
    return this.isOn && !this.#isListing;
  }

  get hasBackup(): boolean {
    return this.#backup !== undefined;
  }

  get memory(): ProtectionMemory {
    return this.#memory;
  }

  /** The last error of a single request to the backup; undefined after one that went well. */
  get lastError(): string | undefined {
    return this.sends.lastError;
  }

  /** The connection, if writes may be sent now. */
  get target(): BackupTarget | undefined {
    return this.isOn && !this.#isListing ? this.link.current : undefined;
  }

  /**
   * Switches the mode. From `off`, every block that is not as the source has it becomes behind, and
   * is durably so when this resolves.
   */
  async setMode(mode: WriteThroughMode, commit: () => Promise<unknown>): Promise<void> {
    if (mode !== 'off' && this.#backup === undefined)
      throw new BlockError('EINVAL', 'the volume has no backup to write to', {op: 'writeThrough'});
    const before = this.#mode;
    if (mode === before) return;
    if (before === 'off') await this.#probe();
    this.#mode = mode;
    if (mode === 'off') {
      await this.link.stop();
      this.backlog.loseUnflushed(this.#core.tuning.zombieGraceMs);
      await this.sends.settle();
      await commit();
      return;
    }
    if (before !== 'off') return;
    this.#isListing = true;
    try {
      await this.#listBehind();
      await commit();
    } finally {
      this.#isListing = false;
    }
    this.link.start();
  }

  /** After a restart: the backlog is on disk, and nothing needs to be listed. */
  resume(mode: WriteThroughMode): void {
    this.#mode = mode;
    if (mode !== 'off') this.link.start();
  }

  /**
   * Before a strict write locks anything: blocks [start, end) must be in step, so that its bytes
   * complete them. Rejects where the backup is away.
   */
  async prepare(
    start: number,
    end: number,
    bring: (block: number) => Promise<void>,
  ): Promise<void> {
    if (this.#mode !== 'strict') return;
    while (this.backlog.isAnyBehind(start, end)) {
      if (!this.target) throw this.#away();
      let hasSent = false;
      for (let block = start; block < end; block++) {
        if (!this.backlog.maySend(block)) continue;
        await bring(block).catch((error: unknown) => {
          throw strictError(error);
        });
        hasSent = true;
      }
      if (!hasSent) await this.#core.environment.clock.sleep(STRICT_LOOK_MS);
      if (this.#core.isStopping) throw this.#away();
    }
  }

  /** Whether a strict write of these blocks may go on, now that it holds its lock. */
  isReady(start: number, end: number): boolean {
    return this.#mode !== 'strict' || !this.backlog.isAnyBehind(start, end);
  }

  /**
   * Sends bytes (`undefined`: zeroes) that a writer is about to put into the store, whose range and
   * intent marks it holds. Resolves when the store may be written; with `strict` that is when the
   * backup has answered, and it rejects where the backup did not take them.
   */
  async send(offset: number, length: number, bytes: Uint8Array | undefined): Promise<void> {
    const {geometry, environment} = this.#core;
    const first = geometry.blockOf(offset);
    const last = geometry.blockEndOf(offset + length);
    if (!this.isOn) return;
    const isStrict = this.#mode === 'strict';
    if (!this.target) {
      if (isStrict) throw this.#away();
      this.backlog.note(first, last);
      return;
    }
    if (bytes) await this.#budget.take(length);
    const {target} = this;
    // The connection may have been lost, with what came before, since isReady().
    if (!target || (isStrict && this.backlog.isAnyBehind(first, last))) {
      if (bytes) this.#budget.give(length);
      if (isStrict) throw this.#away();
      this.backlog.note(first, last);
      return;
    }
    const parts = this.backlog.begin(first, last).map((run) => {
      const start = Math.max(offset, geometry.offsetOf(run.start));
      const end = Math.min(offset + length, geometry.offsetOf(run.start + run.count));
      const part = bytes && Buffer.from(bytes.subarray(start - offset, end - offset));
      return this.sends.transmit(target, run, [{offset: start, length: end - start, bytes: part}]);
    });
    const all = Promise.allSettled(parts).then((results) => {
      if (bytes) this.#budget.give(length);
      const failed = results.find((result) => result.status === 'rejected');
      if (failed) throw failed.reason;
    });
    all.catch(() => undefined);
    if (!isStrict || environment.bugs.has('strict-parallel-legs')) return;
    try {
      await all;
    } catch (error) {
      throw strictError(error);
    }
  }

  /** The store did not take what was sent: which of the two holds what, nobody knows. */
  doubt(offset: number, length: number): void {
    if (!this.isOn) return;
    const {geometry} = this.#core;
    this.backlog.note(geometry.blockOf(offset), geometry.blockEndOf(offset + length));
    this.onWork();
  }

  /**
   * Makes what was sent durable on the backup. Resolves true if the backup now holds everything
   * that was written before; never rejects.
   */
  async flush(): Promise<boolean> {
    if (!this.isOn) return true;
    const {target} = this;
    const {clock} = this.#core.environment;
    const {backlog} = this;
    if (!target) return backlog.behindCount + backlog.liveCount === 0;
    const at = clock.wallTime();
    const {falls} = backlog;
    const wasBehind = backlog.behindCount > 0;
    const timer = new AbortController();
    void clock.sleep(this.#core.tuning.backupPatienceMs, timer.signal).then(() => {
      if (timer.signal.aborted) return;
      const what = 'a flush of the backup was not answered in time';
      this.link.lose(target, new BlockError('ETIMEDOUT', what, {op: 'flush'}));
    });
    try {
      await this.sends.settle();
      if (this.target !== target) return false;
      const blocks = backlog.beginFlush();
      if (backlog.liveCount > 0) await target.flush();
      if (this.target !== target) return false;
      backlog.covered(blocks);
      this.link.noteAnswer();
      if (backlog.unprovedCount > 0) this.onWork();
      // A block sent by the resync meanwhile is not behind any more, nor covered by this flush.
      if (wasBehind || backlog.behindCount > 0 || backlog.falls !== falls) return false;
      await this.#consistent(at);
      return true;
    } catch (error) {
      this.link.lose(target, error);
      return false;
    } finally {
      timer.abort();
    }
  }

  /** Sent blocks, or a claim, wait for a flush that nobody has asked for yet. */
  get needsFlush(): boolean {
    const {backlog} = this;
    if (!this.target || backlog.behindCount > 0) return backlog.liveCount > 0;
    const {consistentAsOf, inconsistentSince} = this.#memory;
    const hasNoClaim = consistentAsOf === undefined || inconsistentSince !== undefined;
    return backlog.liveCount > 0 || hasNoClaim;
  }

  /** The backup is about to change in another order than the guest wrote; durably known first. */
  async declareInconsistent(): Promise<void> {
    if (this.#memory.inconsistentSince !== undefined) return;
    const inconsistentSince = this.#core.environment.clock.wallTime();
    await this.#remember({...this.#memory, inconsistentSince});
  }

  async close(): Promise<void> {
    await this.link.stop();
    await this.sends.settle();
    if (this.#backup && this.isOn) await this.#backup.remember(this.#memory).catch(() => undefined);
  }

  /** I8: at this moment, and only then, the backup is known to be a state of the volume. */
  async #consistent(at: number): Promise<void> {
    const {inconsistentSince} = this.#memory;
    this.#memory = {consistentAsOf: at, inconsistentSince: undefined};
    if (inconsistentSince !== undefined) await this.#remember(this.#memory);
  }

  async #remember(memory: ProtectionMemory): Promise<void> {
    await this.#backup?.remember(memory);
    this.#memory = memory;
  }

  /** Every block that is not as the source has it, in the order of the volume. */
  async #listBehind(): Promise<void> {
    const {geometry, locks, map} = this.#core;
    const all = await locks.acquire(0, geometry.size);
    all.release();
    for (let page = 0; page < geometry.pageCount; page++) {
      if (map.countIn(page, ABSENT) + map.countIn(page, COPIED) === geometry.blocksIn(page))
        continue;
      const first = page * PAGE_BLOCKS;
      const end = first + geometry.blocksIn(page);
      await this.#core.ensureLoaded(first, end);
      for (let block = first; block < end;) {
        const runEnd = map.runEnd(block, end);
        const state = map.get(block);
        if (state !== ABSENT && state !== COPIED) this.backlog.addBulk(block, runEnd);
        block = runEnd;
      }
    }
  }

  /** Before it is switched on: rejects where the backup is there and cannot be one. */
  async #probe(): Promise<void> {
    try {
      const target = await this.#open(this.#core.stopping.signal);
      await this.#verify(target).finally(() => target.close());
    } catch (error) {
      if (!isLoss(error)) throw error;
    }
  }

  async #open(signal: AbortSignal): Promise<BackupTarget> {
    if (!this.#backup) throw new BlockError('EINVAL', 'there is no backup', {op: 'open'});
    return this.#backup.open(signal);
  }

  /** Its first flush makes durable whatever a dead connection left behind. */
  async #verify(target: BackupTarget): Promise<void> {
    const {size} = this.#core.geometry;
    if (target.size < size) {
      const what = `the backup ${target.name} has ${target.size} bytes, the volume ${size}`;
      throw new BlockError('EINVAL', what, {op: 'open'});
    }
    await this.#backup?.verify(target);
    await target.flush();
  }

  #connected(): void {
    this.onWork();
    this.commitSoon();
  }

  #lost(): void {
    this.backlog.loseUnflushed(this.#core.tuning.zombieGraceMs);
    const memory = this.#memory;
    void this.#backup?.remember(memory).catch(() => undefined);
    this.commitSoon();
  }

  #away(): BlockError {
    const {lastError} = this.link.health();
    const why = lastError === undefined ? '' : ` (${lastError})`;
    return new BlockError('EIO', `the backup is away and write-through is strict${why}`, {
      op: 'write',
    });
  }
}

/** What a guest is told where the backup did not take a strict write. */
function strictError(cause: unknown): BlockError {
  const code = cause instanceof BlockError && cause.code === 'ENOSPC' ? 'ENOSPC' : 'EIO';
  const what = `write: the backup did not take it (${messageOf(cause)})`;
  return new BlockError(code, what, {op: 'write', cause});
}
