/**
 * What the parts of a restoring volume share: its geometry, its map with masks and intent marks,
 * its store and source, the locks, the mode and the counters. No policy lives here.
 *
 * Whoever changes a block's state follows one pattern: plan (synchronous), perform (asynchronous,
 * no decisions), apply (synchronous, looking again at what the plan assumed). Each `await` drops
 * every assumption but the range lock held over it:
 *
 *   guest write          its bytes; whole blocks where it must put zeroes around itself
 *   zeroing, settling    whole blocks
 *   install              nothing while it fetches, whole blocks over store write and mark
 *   read, commit         nothing
 */
import {assert} from '../base/assert.js';
import type {Environment} from '../base/environment.js';
import {BlockError, messageOf} from '../base/errors.js';
import {RangeLock} from '../base/range-lock.js';
import {SECTOR} from '../base/units.js';
import type {BlockSet} from '../map/block-set.js';
import {ABSENT, isLoss, stateRow} from '../map/block-state.js';
import type {CoreState} from '../map/core-state.js';
import type {Geometry} from '../map/geometry.js';
import type {IntentLog} from '../map/intent-log.js';
import type {MapFile} from '../map/map-file.js';
import type {MaskTable} from '../map/mask-table.js';
import type {OverwriteMap} from '../map/overwrite-map.js';
import type {Source} from '../source/source.js';
import {Losses} from './losses.js';
import type {VolumeCounters, VolumeMode} from './report.js';
import {StoreErrors} from './store-errors.js';
import type {StoreSlot} from './store-slot.js';
import type {VolumeTuning} from './tuning.js';
import type {WriteThrough} from './write-through.js';

const MODE_ORDER: readonly VolumeMode[] = ['read-write', 'read-only', 'failed'];

export interface CoreParts {
  geometry: Geometry;
  environment: Environment;
  tuning: VolumeTuning;
  store: StoreSlot;
  source: Source;
  mapFile: MapFile;
  map: OverwriteMap;
  masks: MaskTable;
  behind: BlockSet;
  state: CoreState;
}

export class VolumeCore {
  readonly geometry: Geometry;
  readonly environment: Environment;
  readonly tuning: VolumeTuning;
  readonly store: StoreSlot;
  readonly source: Source;
  /** Another one after the store was replaced. */
  mapFile: MapFile;
  readonly map: OverwriteMap;
  readonly masks: MaskTable;
  /** Blocks that the backup lacks, as far as the map on disk knows (backlog.ts). */
  readonly behind: BlockSet;
  readonly state: CoreState;
  readonly locks = new RangeLock();
  readonly counters: VolumeCounters = emptyCounters();
  /** What the store could not read or write. */
  readonly storeErrors: StoreErrors;
  /** Blocks that were copied on disk and are absent now. */
  readonly losses = new Losses();
  /** Set once the volume closes or is abandoned: background work ends at its next step. */
  readonly stopping = new AbortController();
  /** Set by the volume once the log exists. */
  intents!: IntentLog;
  /** Set by the volume once the log exists. */
  through!: WriteThrough;
  /** Rises when the source may have changed: what it was known to hold in absent blocks is not. */
  sourceAge = 0;
  /** True from the moment a commit took its changes until they are durable. */
  isCommitting = false;
  /** Set by the laboratory when the daemon dies: nothing is written or decided any more. */
  isAbandoned = false;
  /** Guest requests in progress, and when the last one came or went (clock time). */
  activeRequests = 0;
  lastRequestAt = -Infinity;
  #mode: VolumeMode = 'read-write';
  #modeReason: string | undefined;

  constructor(parts: CoreParts) {
    this.geometry = parts.geometry;
    this.environment = parts.environment;
    this.tuning = parts.tuning;
    this.store = parts.store;
    this.source = parts.source;
    this.mapFile = parts.mapFile;
    this.map = parts.map;
    this.masks = parts.masks;
    this.behind = parts.behind;
    this.state = parts.state;
    this.#mode = MODE_ORDER[this.state.mode] ?? 'failed';
    if (this.#mode !== 'read-write') this.#modeReason = this.state.modeReason;
    this.storeErrors = new StoreErrors(parts.environment);
  }

  get mode(): VolumeMode {
    return this.#mode;
  }

  get modeReason(): string | undefined {
    return this.#modeReason;
  }

  get isStopping(): boolean {
    return this.stopping.signal.aborted;
  }

  /** The one-way ratchet: read-write, read-only, failed. */
  degrade(mode: VolumeMode, reason: string): void {
    if (MODE_ORDER.indexOf(mode) <= MODE_ORDER.indexOf(this.#mode)) return;
    this.#mode = mode;
    this.#modeReason = reason;
    if (!this.isAbandoned) this.state.setMode(MODE_ORDER.indexOf(mode), reason);
    this.environment.log('error', `the volume is now ${mode}: ${reason}`);
  }

  /** Throws what a guest sees where the mode forbids `op`. */
  assertMode(op: 'read' | 'write' | 'flush'): void {
    if (this.#mode === 'read-write' || (op === 'read' && this.#mode === 'read-only')) return;
    const code = op === 'write' && this.#mode === 'read-only' ? 'EROFS' : 'EIO';
    throw new BlockError(code, `${op}: the volume is ${this.#mode}: ${this.#modeReason ?? ''}`, {
      op,
    });
  }

  /** Throws EINVAL for a range that no kernel would send. */
  checkRange(op: string, offset: number, length: number): void {
    const isSane =
      Number.isSafeInteger(offset) &&
      Number.isSafeInteger(length) &&
      offset >= 0 &&
      length >= 0 &&
      offset % SECTOR === 0 &&
      length % SECTOR === 0 &&
      offset + length <= this.geometry.size;
    if (isSane) return;
    const what = `${op} of ${length} bytes at ${offset}`;
    throw new BlockError(
      'EINVAL',
      `${what} is not in whole sectors inside ${this.geometry.size} bytes`,
      {op, offset, length},
    );
  }

  /**
   * Loads the pages of blocks [start, end); undefined where all are there, so that nobody waits.
   */
  ensureLoaded(start: number, end: number): Promise<void> | undefined {
    if (this.map.firstUnloadedPage(start, end) === undefined) return undefined;
    return this.#load(start, end);
  }

  async #load(start: number, end: number): Promise<void> {
    const {map, mapFile} = this;
    for (;;) {
      const page = map.firstUnloadedPage(start, end);
      if (page === undefined) return;
      try {
        await mapFile.loadPage(map, page, this.behind);
      } catch (error) {
        this.degrade('failed', messageOf(error));
        throw error;
      }
    }
  }

  /** Whether writing to blocks [start, end) needs a durable intent mark first (I11). */
  needsIntent(start: number, end: number): boolean {
    for (let block = start; block < end;) {
      const {writeNeedsIntent} = stateRow(this.map.get(block));
      if (writeNeedsIntent === 'yes') return true;
      if (writeNeedsIntent === 'until committed' && !this.isCommitted(block)) return true;
      const mayBeLost = writeNeedsIntent === 'until its loss is committed' && !this.losses.isEmpty;
      if (mayBeLost && this.losses.has(block)) return true;
      const isAlike = writeNeedsIntent !== 'until committed' && !mayBeLost;
      block = isAlike ? this.map.runEnd(block, end) : block + 1;
    }
    return false;
  }

  /** Whether a block's state on disk is its state in core. */
  isCommitted(block: number): boolean {
    return !this.isCommitting && !this.map.isChanged(block);
  }

  /**
   * The store cannot read a copied block: it is absent again (I1: only a copied one, which the
   * source still has). The caller holds its lock.
   */
  lose(block: number): void {
    assert(isLoss(this.map.get(block)), `I1: block ${block} is one that may be lost`);
    this.map.restore({start: block, count: 1, state: ABSENT});
    this.losses.add(block);
  }

  /** Marks a request as in progress; background work gives way to it. */
  enterRequest(): void {
    this.activeRequests++;
    this.lastRequestAt = this.environment.clock.now();
  }

  leaveRequest(): void {
    this.activeRequests--;
    assert(this.activeRequests >= 0, 'I5: a request ends once');
    this.lastRequestAt = this.environment.clock.now();
  }

  selfCheck(): void {
    this.map.selfCheck();
    this.through.backlog.selfCheck();
    assert(
      this.masks.count === this.map.counts().partial,
      'each partial block has a mask, and no other',
    );
  }
}

function emptyCounters(): VolumeCounters {
  return {
    reads: 0,
    writes: 0,
    zeroings: 0,
    flushes: 0,
    readBytes: 0,
    writtenBytes: 0,
    fetchedForRequests: 0,
    fetchedAhead: 0,
    fetchedInBackground: 0,
    installedBlocks: 0,
    droppedBlocks: 0,
    zeroBlocks: 0,
    commits: 0,
    checkpoints: 0,
    intentMarks: 0,
    storeErrors: 0,
    sourceErrors: 0,
  };
}
