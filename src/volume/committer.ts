/**
 * Makes what happened durable (DESIGN section 5, docs/DURABILITY.md). The order is the point (I2):
 *
 *   1. take the changes of map, masks and marks       synchronous; what comes later waits its turn
 *   2. sync the store; flush the backup beside it      the data those changes speak of
 *   3. append them to the map's log, or checkpoint     the map
 *   4. sync the map file
 *   5. the same for what the backup lacks, where that changed
 *   6. acknowledge
 *
 * Flushes that arrive while a commit runs share the one after it: theirs may be changes it did not
 * take. A failed sync or write is final: the volume drops to read-only and nothing is tried again.
 */
import {deferred} from '../base/deferred.js';
import {BlockError, messageOf} from '../base/errors.js';
import {withBehindMarks} from '../map/behind-marks.js';
import {EMPTY_RECORD, type LogRecord} from '../map/map-log.js';
import type {MaskImage} from '../map/mask-table.js';
import type {PageImage} from '../map/overwrite-map.js';
import type {VolumeCore} from './core.js';

/** What a commit took in step 1. */
interface Taken {
  record: LogRecord;
  /** Where a checkpoint is due: all masks and changed pages as they were at that moment. */
  checkpoint: {pages: PageImage[]; masks: MaskImage[]} | undefined;
}

interface CommitKind {
  isCheckpoint: boolean;
  /** The last commit: all marks leave, and the map file says that it was closed. */
  isFinal: boolean;
}

export class Committer {
  readonly #core: VolumeCore;
  #running: Promise<boolean> | undefined;
  #next: Promise<boolean> | undefined;
  #wantsCheckpoint = false;
  /** The last commit has begun. */
  #isFinished = false;
  /** Wall time in ms of the last commit that ended well. */
  lastCommitAt: number | undefined;

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  /**
   * Makes everything acknowledged before this call durable. Rejects with EIO once a sync has
   * failed. True if the backup holds all of it, too, or none is asked for.
   */
  commit(): Promise<boolean> {
    if (this.#running === undefined) return this.#start();
    this.#next ??= this.#running
      .catch(() => undefined)
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  /**
   * Runs a section between two commits, with every block locked: neither installs nor the resync
   * are at work. Commits asked for meanwhile come after it.
   */
  async exclusively(section: (commit: () => Promise<unknown>) => Promise<void>): Promise<void> {
    for (let last = this.#next ?? this.#running; last; last = this.#next ?? this.#running) {
      await last.catch(() => undefined);
    }
    const {geometry, locks} = this.#core;
    const locked = async (): Promise<boolean> => {
      const hold = await locks.acquire(0, geometry.size);
      try {
        await section(() => this.#run({isCheckpoint: false, isFinal: false}));
      } finally {
        hold.release();
      }
      return true;
    };
    const running = locked().finally(() => {
      this.#running = undefined;
    });
    this.#running = running;
    await running;
  }

  /** Asks for a commit that nobody waits for. */
  commitSoon(): void {
    if (this.#next === undefined) void this.commit().catch(() => undefined);
  }

  /** Asks for a checkpoint that nobody waits for. */
  checkpointSoon(): void {
    void this.checkpoint().catch(() => undefined);
  }

  /** Asks that the next commit make the log empty. */
  checkpoint(): Promise<boolean> {
    this.#wantsCheckpoint = true;
    return this.commit();
  }

  /** Commits at the pace of the tuning until the volume stops. */
  async runPeriodically(): Promise<void> {
    const {environment, map, stopping, tuning} = this.#core;
    while (!this.#core.isStopping) {
      await environment.clock.sleep(tuning.commitIntervalMs, stopping.signal);
      const isDue = map.isDirty || this.#core.through.needsFlush;
      if (isDue && !this.#core.isStopping) await this.commit().catch(() => undefined);
    }
  }

  /** The last commit; nothing may change afterwards. */
  async finish(): Promise<void> {
    for (let last = this.#next ?? this.#running; last; last = this.#next ?? this.#running) {
      await last.catch(() => undefined);
    }
    this.#isFinished = true;
    if (this.#core.mode === 'read-write') await this.#run({isCheckpoint: true, isFinal: true});
  }

  /** A commit beside the last one could take what that one then fails to say (I8). */
  #start(): Promise<boolean> {
    if (this.#isFinished) return Promise.resolve(false);
    const kind = {isCheckpoint: this.#wantsCheckpoint, isFinal: false};
    this.#wantsCheckpoint = false;
    this.#running = this.#run(kind).finally(() => {
      this.#running = undefined;
    });
    return this.#running;
  }

  async #run(kind: CommitKind): Promise<boolean> {
    const core = this.#core;
    core.assertMode('flush');
    let isOnBackup: boolean;
    try {
      isOnBackup = await this.#round(kind);
      await this.#writeBacklog(kind);
    } catch (error) {
      core.degrade('read-only', `a commit failed: ${messageOf(error)}`);
      throw error instanceof BlockError
        ? error
        : new BlockError('EIO', `commit failed: ${messageOf(error)}`, {op: 'flush', cause: error});
    }
    core.map.finishTaken();
    core.isCommitting = false;
    core.losses.committed();
    core.through.backlog.committed();
    core.counters.commits++;
    this.lastCommitAt = core.environment.clock.wallTime();
    return isOnBackup;
  }

  /** Steps 1 to 4; the backup is flushed beside the store. */
  async #round(kind: CommitKind): Promise<boolean> {
    const {environment, store, through} = this.#core;
    const {bugs} = environment;
    let taken = bugs.has('dirty-set-after-sync') ? undefined : this.#take(kind);
    const flushing = through.flush();
    if (!bugs.has('no-barrier-before-map')) await store.sync();
    const isOnBackup = await flushing;
    taken ??= this.#take(kind);
    await this.#write(taken, kind);
    return isOnBackup;
  }

  /**
   * What the backup lacks is known only after its flush, so it is a record of its own. It is
   * written only when something fell behind or caught up, not while the backup keeps pace.
   */
  async #writeBacklog(kind: CommitKind): Promise<void> {
    const {mapFile, through} = this.#core;
    const changes = through.backlog.takeChanges();
    if (changes === undefined) return;
    const record: LogRecord = {...EMPTY_RECORD, ...changes};
    if (!kind.isFinal && mapFile.tryReserve(record)) await mapFile.append(record, () => record);
    else await this.#round({...kind, isCheckpoint: true});
  }

  #take(kind: CommitKind): Taken {
    const {environment, intents, map, mapFile, masks, tuning} = this.#core;
    this.#core.isCommitting = true;
    this.#core.losses.taken();
    const runs = map.takeChanges();
    const changedMasks = masks.takeChanges();
    const clearCount = intents.takeClears(kind.isFinal);
    const record: LogRecord = {
      ...EMPTY_RECORD,
      runs,
      masks: environment.bugs.has('mask-not-committed') ? [] : changedMasks,
      intentsCleared: new Array<number>(clearCount).fill(0),
    };
    const isDue = kind.isCheckpoint || map.changedPageCount > tuning.checkpointPages;
    if (!isDue && (isEmpty(record) || mapFile.tryReserve(record)))
      return {record, checkpoint: undefined};
    return {record, checkpoint: {pages: this.#pageImages(), masks: masks.images()}};
  }

  #pageImages(): PageImage[] {
    const {behind, geometry, map} = this.#core;
    return map.takePageImages().map((image) => withBehindMarks(image, behind, geometry));
  }

  async #write({record, checkpoint}: Taken, {isFinal}: CommitKind): Promise<void> {
    const {counters, environment, intents, mapFile, state} = this.#core;
    if (checkpoint === undefined && isEmpty(record)) return;
    const gone = deferred<void>();
    let cleared: number[] = [];
    try {
      if (checkpoint === undefined) {
        const build = (): LogRecord => {
          cleared = intents.buildClears(gone.promise);
          return {...record, intentsCleared: cleared};
        };
        await mapFile.append(record, build, !environment.bugs.has('ack-before-map-sync'));
      } else {
        counters.checkpoints++;
        await mapFile.checkpoint(() => {
          cleared = intents.buildClears(gone.promise);
          return {...checkpoint, intents: intents.regions(), isClean: isFinal};
        });
        state.setGeneration(mapFile.generation);
      }
    } catch (error) {
      gone.reject(error);
      throw error;
    }
    intents.finishClears(cleared);
    gone.resolve();
  }

  /** Makes intent marks durable; a full log is emptied first. */
  async appendIntents(regions: number[]): Promise<void> {
    const {counters, mapFile} = this.#core;
    const record: LogRecord = {...EMPTY_RECORD, intentsSet: regions};
    while (!mapFile.tryReserve(record)) await this.checkpoint();
    try {
      await mapFile.append(record, () => record);
    } catch (error) {
      this.#core.degrade('read-only', `an intent mark failed: ${messageOf(error)}`);
      throw error;
    }
    counters.intentMarks += regions.length;
  }
}

function isEmpty({runs, masks, intentsCleared}: LogRecord): boolean {
  return runs.length === 0 && masks.length === 0 && intentsCleared.length === 0;
}
