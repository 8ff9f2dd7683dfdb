/**
 * Replaces the store of a volume that is in use (DC12): by a larger or a healthy one.
 *
 *   while the guest goes on    1 blocks that must move are copied, and copied again where they
 *                                changed meanwhile
 *   requests held              2 those in progress end; the backup is flushed; the rest is copied
 *                              3 the new store is synced, a new map that describes it is durable
 *                              4 `commit`: the record names both, and only now they count
 *                              5 the map in core becomes the new one, the old store is let go
 *
 * What moves is what nobody else has. Where the backup is the source and can be reached, a block
 * that is in step with it need not: it becomes absent, and grows back. Else whatever the guest
 * wrote is copied. Copied blocks become absent in any case. So a replacement begins a new restore:
 * within one, I1 holds; between two, an overwritten block may become absent if, and only if, the
 * source now has what was written.
 */
import {BlockError} from '../base/errors.js';
import type {Environment} from '../base/environment.js';
import {SECTOR} from '../base/units.js';
import {BlockSet} from '../map/block-set.js';
import {withBehindMarks} from '../map/behind-marks.js';
import {ABSENT, COPIED, PARTIAL, ZEROED} from '../map/block-state.js';
import {MapFile} from '../map/map-file.js';
import {OverwriteMap} from '../map/overwrite-map.js';
import type {StateRun} from '../map/state-run.js';
import type {Storage} from '../storage/storage.js';
import type {VolumeCore} from './core.js';
import type {Mender, Span} from './mender.js';

/** Rounds of copying beside the guest; what changes during the last waits for the requests' end. */
const ROUNDS_MAX = 4;
/** Blocks left to copy at which the requests may be held. */
const HELD_BLOCKS_MAX = 256;

export interface ReplacementParts {
  /** At least as large as the volume; it may hold anything. */
  store: Storage;
  /** At least mapFileSize() bytes; it may hold anything. */
  mapFile: Storage;
  /** Goes on where the old store cannot read what nobody else has: it reads zeroes then. */
  isForced?: boolean;
  /** Makes the new store and map the ones that count, durably and at once or not at all. */
  commit: () => Promise<void>;
  onProgress?: (progress: ReplacementProgress) => void;
}

export interface ReplacementProgress {
  copiedBytes: number;
  /** Bytes that are to be copied, as far as is known. */
  totalBytes: number;
}

export interface ReplacementReport extends ReplacementProgress {
  /** Blocks that are absent now and were not before. */
  absentAgain: number;
  /** Places nobody could read, which read zeroes now. */
  lost: {offset: number; length: number}[];
}

/** Somebody must say that these places may be lost before the store is replaced. */
export class LostPlacesError extends BlockError {
  readonly places: readonly {offset: number; length: number}[];

  constructor(store: string, places: readonly {offset: number; length: number}[]) {
    super('EIO', `${store} cannot read ${places.length} places that nobody else has`, {
      op: 'replace',
    });
    this.places = places;
  }
}

/** What replacement needs of the volume around it. */
export interface ReplacementTools {
  mender: Mender;
  /** Makes durable what was written, on the backup as well. */
  commit: () => Promise<unknown>;
  /** Runs a section with no request, commit, install or resync beside it. */
  exclusively: (section: (commit: () => Promise<unknown>) => Promise<void>) => Promise<void>;
  /** The switch has been made; the map file before. */
  switched: (mapStorage: Storage) => Storage;
}

export class Replacement {
  readonly #core: VolumeCore;
  readonly #parts: ReplacementParts;
  readonly #tools: ReplacementTools;
  /** Blocks whose bytes in the new store are not those of the old one. */
  readonly #stale: BlockSet;
  readonly #lost = new Map<number, Span[]>();
  /** Copied blocks that the old store cannot read: fetched anew. */
  readonly #unreadableCopies = new Set<number>();
  /** What is in step need not move: the backup is the source, and was there at the beginning. */
  readonly #isWithSource: boolean;
  /** What does not count and is closed at the end. */
  #leftOver: Storage[];
  #isRunning = false;
  #copiedBytes = 0;
  #totalBlocks = 0;

  constructor(core: VolumeCore, parts: ReplacementParts, tools: ReplacementTools) {
    this.#core = core;
    this.#parts = parts;
    this.#tools = tools;
    this.#stale = new BlockSet(core.geometry, scratch(core.environment), 'stale');
    this.#stale.add(0, core.geometry.blockCount);
    this.#leftOver = [parts.store, parts.mapFile];
    this.#isWithSource = core.through.isSource && core.through.target !== undefined;
  }

  async run(): Promise<ReplacementReport> {
    const {geometry, locks, store} = this.#core;
    const {size} = geometry;
    this.#isRunning = true;
    try {
      this.#checkSize();
      this.#assertGoing();
      await this.#core.ensureLoaded(0, geometry.blockCount);
      store.onChange = (offset, length) => {
        this.#stale.add(geometry.blockOf(offset), geometry.blockEndOf(offset + length));
      };
      // Whatever was under way before has landed once everything could be locked.
      (await locks.acquire(0, size)).release();
      for (let round = 0; round < ROUNDS_MAX; round++) {
        await this.#tools.commit();
        await this.#copy();
        this.#refuseLosses();
        if (this.#waiting() <= HELD_BLOCKS_MAX) break;
      }
      let absentAgain = 0;
      await this.#tools.exclusively(async (commit) => {
        absentAgain = await this.#switch(commit);
      });
      const {copiedBytes, totalBytes} = this.#progress();
      return {copiedBytes, totalBytes, absentAgain, lost: this.#places()};
    } finally {
      store.onChange = undefined;
      this.#isRunning = false;
      await Promise.allSettled(this.#leftOver.map((storage) => storage.close()));
    }
  }

  #checkSize(): void {
    const {store} = this.#parts;
    const {size} = this.#core.geometry;
    if (store.size >= size) return;
    const what = `${store.name} has ${store.size} bytes, the volume ${size}`;
    throw new BlockError('EINVAL', what, {op: 'replace'});
  }

  /** Steps 2 to 5. */
  async #switch(commit: () => Promise<unknown>): Promise<number> {
    const {mapFile, state} = this.#core;
    // All is durable in the old map, in case that is the one that a take-over finds.
    await commit();
    // Once more where write-through was switched off meanwhile: more must move then.
    do {
      await this.#copy();
      this.#refuseLosses();
      await this.#parts.store.sync();
    } while (this.#waiting() > 0);
    const dropped = this.#dropped();
    const file = await this.#writeMap(dropped);
    this.#assertGoing();
    state.suspend();
    try {
      await this.#parts.commit();
    } catch (error) {
      state.goLive(mapFile.generation);
      throw error;
    }
    return this.#apply(dropped, file);
  }

  /** Whether a block's content must be in the new store. */
  #mustMove(block: number): boolean {
    const {map, through} = this.#core;
    const state = map.get(block);
    if (state === ABSENT) return false;
    if (state === COPIED) {
      // A write that failed may change the backup yet: what was read from it stays what it was.
      const isDoubtful = through.isTracking && through.backlog.isLacking(block);
      return isDoubtful && !this.#unreadableCopies.has(block);
    }
    if (this.#core.environment.bugs.has('replace-forgets-backlog') && through.isOn) return false;
    return !this.#isWithSource || !through.isTracking || through.backlog.isLacking(block);
  }

  /** Blocks that are still to be copied. */
  #waiting(): number {
    let count = 0;
    for (const {start, count: length} of this.#stale.runs(0, this.#core.geometry.blockCount))
      for (let block = start; block < start + length; block++) if (this.#mustCopy(block)) count++;
    return count;
  }

  #mustCopy(block: number): boolean {
    return this.#core.map.get(block) !== ZEROED && this.#mustMove(block);
  }

  /** Copies what must move and has changed since it was copied last. */
  async #copy(): Promise<void> {
    this.#totalBlocks = Math.max(this.#totalBlocks, this.#waiting());
    const {blockCount} = this.#core.geometry;
    for (let block = this.#stale.next(0, blockCount); block !== undefined;) {
      if (this.#mustCopy(block)) await this.#copyBlock(block);
      this.#assertGoing();
      block = this.#stale.next(block + 1, blockCount);
    }
  }

  /** What changes from here on makes it stale again. */
  async #copyBlock(block: number): Promise<void> {
    const {geometry} = this.#core;
    const offset = geometry.offsetOf(block);
    const bytes = Buffer.alloc(geometry.offsetOf(block + 1) - offset);
    this.#stale.delete(block, block + 1);
    this.#lost.delete(block);
    const missing: Span[] = [];
    for (const bad of await this.#tools.mender.readAround(offset, bytes)) {
      for (const span of this.#guestsOwn(block, bad)) {
        const part = bytes.subarray(span.start - offset, span.end - offset);
        if (await this.#tools.mender.readFromBackup(block, span.start, part)) continue;
        part.fill(0);
        missing.push(span);
      }
    }
    const isCopy = this.#core.map.get(block) === COPIED;
    if (missing.length > 0 && isCopy) this.#unreadableCopies.add(block);
    else if (missing.length > 0) this.#lost.set(block, missing);
    await this.#parts.store.write(offset, bytes);
    this.#copiedBytes += bytes.length;
    this.#parts.onProgress?.(this.#progress());
  }

  /** Of a partial block the sectors in its mask; the others are the source's. */
  #guestsOwn(block: number, {start, end}: Span): Span[] {
    const {geometry, map, masks} = this.#core;
    if (map.get(block) !== PARTIAL) return [{start, end}];
    const base = geometry.offsetOf(block);
    return masks
      .runs(block, (start - base) / SECTOR, (end - base) / SECTOR)
      .filter((run) => run.isMasked)
      .map((run) => ({start: base + run.start * SECTOR, end: base + run.end * SECTOR}));
  }

  /** How far it is; undefined before and after. */
  get progress(): ReplacementProgress | undefined {
    return this.#isRunning ? this.#progress() : undefined;
  }

  #progress(): ReplacementProgress {
    const totalBytes = this.#totalBlocks * this.#core.geometry.blockSize;
    return {copiedBytes: this.#copiedBytes, totalBytes: Math.max(totalBytes, this.#copiedBytes)};
  }

  #places(): {offset: number; length: number}[] {
    const isIn = (block: number): boolean => this.#mustCopy(block) && !this.#stale.has(block);
    const blocks = [...this.#lost].filter(([block]) => isIn(block));
    return blocks.flatMap(([, spans]) =>
      spans.map(({start, end}) => ({offset: start, length: end - start})),
    );
  }

  #refuseLosses(): void {
    const places = this.#places();
    if (places.length > 0 && this.#parts.isForced !== true)
      throw new LostPlacesError(this.#core.store.name, places);
  }

  #assertGoing(): void {
    if (!this.#core.isStopping && this.#core.mode === 'read-write') return;
    throw new BlockError('ESHUTDOWN', 'the volume ends while its store is replaced', {
      op: 'replace',
    });
  }

  /** Runs of blocks that do not move: absent in the new restore. */
  #dropped(): StateRun[] {
    const {geometry, map} = this.#core;
    const runs: StateRun[] = [];
    for (let block = 0; block < geometry.blockCount;) {
      const isAbsent = map.get(block) === ABSENT;
      const end = isAbsent ? map.runEnd(block, geometry.blockCount) : block + 1;
      if (!isAbsent && !this.#mustMove(block)) {
        const last = runs.at(-1);
        if (last && last.start + last.count === block) last.count++;
        else runs.push({start: block, count: 1, state: ABSENT});
      }
      block = end;
    }
    return runs;
  }

  /** Step 3: the new map, durable. */
  async #writeMap(dropped: readonly StateRun[]): Promise<MapFile> {
    const {behind, geometry, intents, map, mapFile, masks} = this.#core;
    const {mapFile: storage} = this.#parts;
    const {size, blockSize} = geometry;
    await MapFile.format(storage, {size, blockSize}, mapFile.limits);
    const {file} = await MapFile.open(storage);
    const next = new OverwriteMap(geometry, scratch(this.#core.environment));
    for (let block = 0; block < geometry.blockCount;) {
      const end = map.runEnd(block, geometry.blockCount);
      next.restore({start: block, count: end - block, state: map.get(block)});
      block = end;
    }
    for (const run of dropped) next.restore(run);
    next.touch(0, geometry.blockCount);
    const pages = next.takePageImages().map((image) => withBehindMarks(image, behind, geometry));
    const kept = masks.images().filter(({block}) => next.get(block) === PARTIAL);
    const content = {pages, masks: kept, intents: intents.regions(), isClean: false};
    await file.checkpoint(() => content);
    return file;
  }

  /** Step 5: nothing waits in here, so no time lies between it and step 4's answer. */
  #apply(dropped: readonly StateRun[], file: MapFile): number {
    const {losses, map, masks, state, store} = this.#core;
    let absentAgain = 0;
    for (const run of dropped) {
      for (let block = run.start; block < run.start + run.count; block++) masks.drop(block);
      map.restore(run);
      absentAgain += run.count;
    }
    // All of it is in the new map: no commit and no checkpoint has to say it again.
    map.takeChanges();
    map.takePageImages();
    map.finishTaken();
    masks.takeChanges();
    losses.taken();
    losses.committed();
    const before = store.replace(this.#parts.store);
    this.#core.mapFile = file;
    this.#core.sourceAge++;
    state.goLive(file.generation);
    this.#leftOver = [before, this.#tools.switched(this.#parts.mapFile)];
    return absentAgain;
  }
}

/** Memory of this process alone, for what ends with a replacement. */
function scratch(environment: Environment): Environment {
  return {
    ...environment,
    allocate: (_name, length) => {
      const bytes = new Uint8Array(length);
      return {bytes, release: (offset, count) => void bytes.fill(0, offset, offset + count)};
    },
  };
}
