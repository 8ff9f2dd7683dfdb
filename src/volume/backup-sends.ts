/**
 * What is on its way to the backup: sends of overlapping ranges take turns (I6), each begins when
 * the one before it was answered, and each ends by telling the backlog how.
 */
import {BlockError, messageOf} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import {RangeLock} from '../base/range-lock.js';
import type {BlockRun} from '../map/block-set.js';
import type {BackupTarget} from '../source/backup-target.js';
import type {VolumeCore} from './core.js';
import type {WriteThrough} from './write-through.js';

/** Bytes for the backup; `bytes` undefined: zeroes. */
export interface Piece {
  offset: number;
  length: number;
  bytes: Uint8Array | undefined;
}

export class BackupSends {
  readonly #core: VolumeCore;
  readonly #through: WriteThrough;
  readonly #turns = new RangeLock();
  readonly #sends = new Set<Promise<void>>();
  /** Of the last send that failed; undefined after one that went well. */
  lastError: string | undefined;

  constructor(core: VolumeCore, through: WriteThrough) {
    this.#core = core;
    this.#through = through;
  }

  /**
   * Sends the pieces of a run of blocks that the backlog counts as live, in their turn. Its turn is
   * taken at once, so call it while nobody else can change the range in the store.
   */
  async transmit(target: BackupTarget, run: BlockRun, pieces: Piece[]): Promise<void> {
    const {geometry} = this.#core;
    const turn = this.#turns.acquire(
      geometry.offsetOf(run.start),
      geometry.offsetOf(run.start + run.count),
    );
    const sending = this.#transmit(target, turn, pieces).then(
      () => this.#through.backlog.answered(run, true),
      (error: unknown) => {
        this.#through.backlog.answered(run, false);
        this.#through.onWork();
        throw error;
      },
    );
    const settled: Promise<void> = sending
      .catch(() => undefined)
      .finally(() => this.#sends.delete(settled));
    this.#sends.add(settled);
    await sending;
  }

  /** Resolves when nothing that was begun before is under way. */
  async settle(): Promise<void> {
    await Promise.all(this.#sends);
  }

  async #transmit(
    target: BackupTarget,
    turn: Promise<{release(): void}>,
    pieces: Piece[],
  ): Promise<void> {
    const {environment} = this.#core;
    const hold = await turn;
    try {
      for (const {offset, length, bytes} of pieces) {
        // Sent on the next connection it could overtake what is sent there in its place.
        if (this.#through.target !== target)
          throw new BlockError('EIO', 'the connection to the backup was lost', {op: 'write'});
        if (bytes) await target.write(offset, bytes);
        else if (!environment.bugs.has('trim-for-zeroes')) await target.zero(offset, length);
      }
      this.lastError = undefined;
      this.#through.link.noteAnswer();
    } catch (error) {
      this.lastError = messageOf(error);
      if (isLoss(error)) this.#through.link.lose(target, error);
      throw error;
    } finally {
      hold.release();
    }
  }
}
