/**
 * What is done about a store that cannot read what it holds (DC12). By the state of the block:
 *
 *   copied        it is lost: absent again, read from the source and fetched anew
 *   overwritten,  where the backup has it (in step, write-through on): read from there and written
 *   partial       to the store once more, which often gives a disk's bad sector another place
 *                 else an error for whoever reads it, listed, until the guest writes it anew
 *
 * Only the parts that cannot be read are mended: one bad sector does not cost its neighbours. What
 * is decided is decided under the block's lock, after the store was asked once more, so no write is
 * overtaken. After a crash nothing of this needs to be known: a durable *copied* whose sector is
 * bad is found again, and what was put back is what was there before.
 */
import {BlockError} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import {alignDown, alignUp, KiB, SECTOR} from '../base/units.js';
import {COPIED, OVERWRITTEN, PARTIAL, ZEROED} from '../map/block-state.js';
import type {VolumeCore} from './core.js';
import type {Fetcher} from './fetcher.js';

/** What is written at once when a sector is put back: a disk's physical sector, a kernel's page. */
const CELL = 4 * KiB;
/** Reads that may fail while a place's readable parts are looked for: a dying disk is slow. */
const FAILURES_MAX = 64;
/** Milliseconds between two looks for the backup's connection. */
const LOOK_MS = 20;

/** Bytes [start, end) of the volume. */
export interface Span {
  start: number;
  end: number;
}

export interface MenderEvents {
  /** The map changed. */
  changed: () => void;
  /** Makes what was sent durable on the backup. */
  commit: () => Promise<unknown>;
}

/** True for what a broken disk answers, as opposed to a call that was wrong or too late. */
export function isMediumError(error: unknown): boolean {
  return (
    error instanceof BlockError &&
    (error.code === 'EIO' || error.code === 'ENXIO' || error.code === 'ENODEV')
  );
}

export class Mender {
  readonly #core: VolumeCore;
  readonly #fetcher: Fetcher;
  readonly #events: MenderEvents;
  readonly #tasks = new Set<Promise<void>>();

  constructor(core: VolumeCore, fetcher: Fetcher, events: MenderEvents) {
    this.#core = core;
    this.#fetcher = fetcher;
    this.#events = events;
  }

  /** Fills `part` with the volume's bytes at `offset`, which the store cannot read whole. */
  async read(offset: number, part: Buffer): Promise<void> {
    const {geometry} = this.#core;
    const end = offset + part.length;
    for (let block = geometry.blockOf(offset); block < geometry.blockEndOf(end); block++) {
      const start = Math.max(offset, geometry.offsetOf(block));
      const stop = Math.min(end, geometry.offsetOf(block + 1));
      const slice = part.subarray(start - offset, stop - offset);
      for (const bad of await this.readAround(start, slice))
        await this.#rescue(block, bad, part.subarray(bad.start - offset, bad.end - offset));
    }
  }

  /** Fills what the store can read of `part`; where it cannot. */
  async readAround(offset: number, part: Buffer): Promise<Span[]> {
    const bad: Span[] = [];
    let failures = 0;
    const look = async (start: number, end: number): Promise<void> => {
      if (failures < FAILURES_MAX) {
        if (await this.#canRead(start, part.subarray(start - offset, end - offset))) return;
        failures++;
        const middle = alignUp((start + end) / 2, end - start > 2 * CELL ? CELL : SECTOR);
        if (middle < end) {
          await look(start, middle);
          await look(middle, end);
          return;
        }
      }
      const last = bad.at(-1);
      if (last?.end === start) last.end = end;
      else bad.push({start, end});
    };
    await look(offset, offset + part.length);
    return bad;
  }

  /** Fills `part` from the backup; false where it is not known to have it, or cannot be read. */
  async readFromBackup(block: number, offset: number, part: Buffer): Promise<boolean> {
    const {through} = this.#core;
    const {target} = through;
    if (!target || this.#isLacking(block)) return false;
    try {
      await target.read(offset, part);
    } catch (error) {
      if (isLoss(error)) through.link.lose(target, error);
      return false;
    }
    return through.target === target && !this.#isLacking(block);
  }

  /** Ends with what is under way; nothing new is begun once the volume stops. */
  async stop(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks);
  }

  async #canRead(offset: number, part: Buffer): Promise<boolean> {
    try {
      await this.#core.store.read(offset, part);
      return true;
    } catch (error) {
      if (!isMediumError(error)) throw error;
      return false;
    }
  }

  /** Fills `part` with `span` of a block, wherever it is. */
  async #rescue(block: number, span: Span, part: Buffer): Promise<void> {
    const {clock} = this.#core.environment;
    const {tuning, through} = this.#core;
    const deadline = clock.now() + tuning.backupPatienceMs;
    for (let hasFlushed = false; ;) {
      const missing = await this.#attempt(block, span, part);
      if (missing === undefined) return;
      const mayWait = clock.now() < deadline && !this.#core.isStopping;
      if (missing === 'away' && mayWait) await clock.sleep(LOOK_MS);
      else if (missing === 'not flushed' && !hasFlushed) {
        hasFlushed = true;
        await this.#events.commit().catch(() => undefined);
      } else break;
    }
    this.#core.storeErrors.note(span.start, span.end - span.start, 'lost');
    const why = through.isOn ? 'the backup does not have it' : 'write-through is off';
    const what = `${this.#core.store.name} cannot read the volume at ${span.start}, and ${why}`;
    throw new BlockError('EIO', what, {op: 'read', offset: span.start, length: part.length});
  }

  /** Undefined once `part` is filled; else why it is not. */
  async #attempt(
    block: number,
    span: Span,
    part: Buffer,
  ): Promise<'away' | 'not flushed' | 'lost' | undefined> {
    const {geometry, locks, map, storeErrors} = this.#core;
    const fromSource: Span[] = [];
    const hold = await locks.acquire(geometry.offsetOf(block), geometry.offsetOf(block + 1));
    try {
      if (await this.#canRead(span.start, part)) return undefined;
      if (this.#core.isAbandoned) return 'lost';
      const state = map.get(block);
      if (state === ZEROED) part.fill(0);
      else if (state === OVERWRITTEN && !this.#mayTakeFromSource()) {
        return await this.#putBack(block, span, part);
      } else if (state === PARTIAL) {
        const missing = await this.#mendPartial(block, span, part, fromSource);
        if (missing !== undefined) return missing;
      } else fromSource.push(span);
      if (state === COPIED) {
        this.#core.lose(block);
        storeErrors.note(span.start, span.end - span.start, 'fetched anew');
        this.#events.changed();
      }
    } finally {
      hold.release();
    }
    for (const {start, end} of fromSource) {
      const target = part.subarray(start - span.start, end - span.start);
      await this.#core.source.read(start, target, {priority: 'foreground'});
    }
    if (fromSource.length > 0) this.#fetchAnew(block);
    return undefined;
  }

  #isLacking(block: number): boolean {
    const {environment, through} = this.#core;
    return !environment.bugs.has('put-back-though-behind') && through.backlog.isLacking(block);
  }

  #mayTakeFromSource(): boolean {
    return this.#core.environment.bugs.has('refetch-from-source-after-overwrite');
  }

  /** The guest's sectors as those of an overwritten block; the others go to `fromSource`. */
  async #mendPartial(
    block: number,
    span: Span,
    part: Buffer,
    fromSource: Span[],
  ): Promise<'away' | 'not flushed' | 'lost' | undefined> {
    const {geometry, masks} = this.#core;
    const base = geometry.offsetOf(block);
    const first = (span.start - base) / SECTOR;
    for (const run of masks.runs(block, first, (span.end - base) / SECTOR)) {
      const one = {start: base + run.start * SECTOR, end: base + run.end * SECTOR};
      const target = part.subarray(one.start - span.start, one.end - span.start);
      if (!run.isMasked) fromSource.push(one);
      else if (!(await this.#canRead(one.start, target))) {
        const missing = await this.#putBack(block, one, target);
        if (missing !== undefined) return missing;
      }
    }
    return undefined;
  }

  /**
   * From the backup into `part` and into the store. Under the block's lock, and of a block that is
   * in step: nobody changes it on either side.
   */
  async #putBack(
    block: number,
    span: Span,
    part: Buffer,
  ): Promise<'away' | 'not flushed' | 'lost' | undefined> {
    const {counters, geometry, store, storeErrors, through} = this.#core;
    if (!through.isOn) return 'lost';
    if (this.#isLacking(block)) return through.backlog.isBehind(block) ? 'lost' : 'not flushed';
    const base = geometry.offsetOf(block);
    const start = base + alignDown(span.start - base, CELL);
    const end = Math.min(base + alignUp(span.end - base, CELL), geometry.offsetOf(block + 1));
    const bytes = Buffer.allocUnsafeSlow(end - start);
    if (!(await this.readFromBackup(block, start, bytes)) || this.#core.isAbandoned) return 'away';
    bytes.copy(part, 0, span.start - start, span.end - start);
    try {
      if (this.#core.mode === 'read-write') await store.write(start, bytes);
    } catch {
      counters.storeErrors++;
    }
    storeErrors.note(span.start, span.end - span.start, 'put back');
    return undefined;
  }

  /** What was lost comes home again whether hydration is on or not: it had been there. */
  #fetchAnew(block: number): void {
    if (this.#core.isStopping || this.#core.mode !== 'read-write') return;
    const task: Promise<void> = this.#fetcher
      .background(block, block + 1)
      .then((fetches) => Promise.allSettled(fetches.map((fetch) => fetch.installed)))
      .then(
        () => undefined,
        () => undefined,
      )
      .finally(() => this.#tasks.delete(task));
    this.#tasks.add(task);
  }
}
