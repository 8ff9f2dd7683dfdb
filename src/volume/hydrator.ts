/**
 * Hydration: brings the rest home in the background until the store alone is the volume.
 *
 *   for each run of absent blocks, in order:
 *     the source says it is zero        → zeroes in the store, no transfer
 *     else                              → fetches of up to 1 MiB, several in flight
 *   then ranges whose fetch failed, again and again with back-off, while the rest is done
 *   then the zeroes of zeroed blocks    → settler.ts
 *   then a commit                       → hydrated
 *
 * In mode `background` each step first lets requests pass: it waits until none is in progress, but
 * never longer than a bound, so that a busy guest slows hydration and does not stop it. In mode
 * `full` it does not wait. One loop decides, one step at a time; only the fetches run beside it.
 */
import {Budget} from '../base/budget.js';
import {messageOf} from '../base/errors.js';
import {Signal} from '../base/signal.js';
import {ABSENT, PARTIAL, ZEROED} from '../map/block-state.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import {BadRanges} from './bad-ranges.js';
import type {Committer} from './committer.js';
import type {VolumeCore} from './core.js';
import type {Fetcher} from './fetcher.js';
import {Pace} from './pace.js';
import type {HydrationMode, HydrationReport} from './report.js';
import {Settler} from './settler.js';
import {SourceExtents} from './source-extents.js';
import {installZeroes} from './zero-install.js';

/** Milliseconds between two looks when nothing can be done but wait for time to pass. */
const REST_MS = 250;

export interface HydrationSettings {
  mode: HydrationMode;
  /** Bytes fetched a second at most; left out or undefined: no limit. */
  rateLimit?: number | undefined;
}

type Step = 'worked' | 'nothing' | 'rest';

export class Hydrator {
  readonly #core: VolumeCore;
  readonly #fetcher: Fetcher;
  readonly #committer: Committer;
  readonly #settler: Settler;
  readonly #extents: SourceExtents;
  readonly #bad: BadRanges;
  readonly #pace: Pace;
  readonly #slots: Budget;
  readonly #wake = new Signal();
  readonly #finished = new Signal();
  #settings: HydrationSettings = {mode: 'off'};
  #state: HydrationReport['state'] = 'idle';
  /**
   * A commit has ended that took a map in which every block was local. Cleared when one no longer
   * is.
   */
  #isLocalOnDisk = false;
  #cursor = 0;
  #loop: Promise<void> = Promise.resolve();
  #survey: Promise<void> | undefined;

  constructor(core: VolumeCore, fetcher: Fetcher, committer: Committer) {
    this.#core = core;
    this.#fetcher = fetcher;
    this.#committer = committer;
    this.#settler = new Settler(core);
    this.#extents = new SourceExtents(core);
    this.#bad = new BadRanges(core);
    this.#pace = new Pace(core);
    this.#slots = new Budget(core.tuning.hydrationDepth);
  }

  /** True once every block's bytes are in the store, synced, and the map on disk says so. */
  get isHydrated(): boolean {
    return this.#isLocal && this.#isLocalOnDisk;
  }

  get #isLocal(): boolean {
    const {map} = this.#core;
    return map.count(ABSENT) === 0 && map.count(PARTIAL) === 0 && map.count(ZEROED) === 0;
  }

  start(): void {
    this.#loop = this.#run();
  }

  /** Takes effect at once, also on what is waiting. */
  set(settings: HydrationSettings): void {
    this.#settings = settings;
    this.#pace.setLimit(settings.rateLimit);
    this.#bad.retryNow();
    if (settings.mode !== 'off') this.#survey ??= this.#extents.runSurvey();
    this.#pace.interrupt();
    this.poke();
  }

  /** The map changed: there may be something to do. */
  poke(): void {
    if (!this.#isLocal) this.#isLocalOnDisk = false;
    this.#wake.fire();
  }

  /** Resolves once hydrated; rejects never, returns early when the volume stops. */
  async whenHydrated(): Promise<void> {
    while (!this.isHydrated && !this.#core.isStopping) await this.#finished.wait();
  }

  /** Puts all remaining zeroes into the store, where they are all that is missing. For close(). */
  async settleAll(): Promise<void> {
    const {map} = this.#core;
    if (map.count(ABSENT) + map.count(PARTIAL) > 0) return;
    for (;;) {
      const step = await this.#settler.step();
      if (step === 'done') return;
      if (step === 'waits') await this.#committer.commit();
    }
  }

  /** Ends after the fetches in flight. */
  async stop(): Promise<void> {
    this.#settings = {mode: 'off'};
    this.#core.stopping.abort();
    this.#pace.interrupt();
    this.poke();
    this.#finished.fire();
    await this.#loop;
    await this.#survey;
  }

  report(): HydrationReport {
    const {mode, rateLimit} = this.#settings;
    const {remainingDataBytes, totalDataBytes} = this.#extents.survey();
    const rate = this.#pace.rate();
    const isDone = this.isHydrated;
    const remaining = isDone ? 0 : remainingDataBytes;
    return {
      mode,
      rateLimit,
      rate,
      state: isDone ? 'hydrated' : mode === 'off' ? 'idle' : this.#state,
      remainingDataBytes: remaining,
      totalDataBytes,
      etaMs: remaining === undefined || rate === 0 ? undefined : (remaining / rate) * 1000,
      badRanges: this.#bad.list(),
    };
  }

  async #run(): Promise<void> {
    const {environment} = this.#core;
    while (!this.#core.isStopping) {
      if (this.#settings.mode === 'off' || this.#core.mode !== 'read-write') {
        await this.#wake.wait();
        continue;
      }
      let step: Step;
      try {
        step = await this.#step();
      } catch (error) {
        environment.log('warning', `hydration: ${messageOf(error)}`);
        step = 'rest';
      }
      if (step === 'worked' || this.#core.isStopping) continue;
      if (step === 'rest') await this.#pace.rest(REST_MS);
      else await this.#wake.wait();
    }
    await this.#fetcher.drain();
  }

  async #step(): Promise<Step> {
    const {map} = this.#core;
    if (map.count(ABSENT) + map.count(PARTIAL) > 0) {
      this.#state = 'running';
      this.#isLocalOnDisk = false;
      if (this.#bad.isFull) return 'rest';
      const block = await this.#nextMissing();
      if (block !== undefined) return this.#bring(block);
      if (this.#slots.used > 0) {
        await this.#wake.wait();
        return 'worked';
      }
      this.#cursor = 0;
      return (await this.#nextMissing()) === undefined ? 'rest' : 'worked';
    }
    return this.#isLocal ? this.#concludeLocal() : this.#settle();
  }

  async #concludeLocal(): Promise<Step> {
    if (!this.#isLocalOnDisk) {
      await this.#committer.commit();
      this.#isLocalOnDisk = this.#isLocal;
    }
    this.#state = 'hydrated';
    this.#finished.fire();
    return 'nothing';
  }

  async #settle(): Promise<Step> {
    this.#isLocalOnDisk = false;
    if ((await this.#settler.step()) !== 'waits') return 'worked';
    await this.#pace.rest(REST_MS);
    await this.#committer.commit();
    return 'worked';
  }

  /**
   * The next absent or partial block from the cursor on that is neither under way nor known bad.
   */
  async #nextMissing(): Promise<number | undefined> {
    const {geometry, map} = this.#core;
    for (let page = geometry.pageOf(this.#cursor); page < geometry.pageCount; page++) {
      if (map.countIn(page, ABSENT) + map.countIn(page, PARTIAL) === 0) continue;
      const first = Math.max(this.#cursor, page * PAGE_BLOCKS);
      const end = page * PAGE_BLOCKS + geometry.blocksIn(page);
      if (first >= end) continue;
      await this.#core.ensureLoaded(first, end);
      for (let block = first; block < end;) {
        const state = map.get(block);
        if (state !== ABSENT && state !== PARTIAL) block = map.runEnd(block, end);
        else if (this.#fetcher.isInFlight(block) || this.#bad.isResting(block)) block++;
        else return block;
      }
    }
    return undefined;
  }

  /** Brings the run of missing blocks that begins at `block`, or a piece of it. */
  async #bring(block: number): Promise<Step> {
    const {geometry, map} = this.#core;
    const pageEnd = Math.min((geometry.pageOf(block) + 1) * PAGE_BLOCKS, geometry.blockCount);
    const runEnd = map.runEnd(block, pageEnd);
    const {sourceAge} = this.#core;
    const known = await this.#extents.at(block, runEnd);
    if (known.isZero && map.get(block) === ABSENT) {
      const run = {start: block, end: known.end, sourceAge};
      this.#cursor = await installZeroes(this.#core, run);
      return 'worked';
    }
    const blocksMax = Math.max(1, Math.floor(this.#core.tuning.fetchBytesMax / geometry.blockSize));
    const limit = this.#bad.isSuspect(block) ? 1 : blocksMax;
    const end = Math.min(known.end, block + limit);
    const bytes = geometry.offsetOf(end) - geometry.offsetOf(block);
    this.#state =
      this.#settings.mode === 'background' && this.#pace.isBusy ? 'yielding' : 'running';
    await this.#pace.beforeFetch(bytes, this.#settings.mode === 'background');
    await this.#slots.take(1);
    if (this.#settings.mode === 'off' || this.#core.isStopping) {
      this.#slots.give(1);
      return 'worked';
    }
    this.#cursor = end;
    void this.#fetch(block, end, bytes);
    return 'worked';
  }

  async #fetch(start: number, end: number, bytes: number): Promise<void> {
    try {
      const fetches = await this.#fetcher.background(start, end);
      const results = await Promise.allSettled(fetches.map((fetch) => fetch.installed));
      fetches.forEach((fetch, index) => {
        const result = results[index];
        if (result?.status === 'rejected')
          this.#bad.failed(fetch.start, fetch.end, messageOf(result.reason));
        else this.#bad.succeeded(fetch.start, fetch.end);
      });
      this.#pace.fetched(bytes);
      this.#extents.fetched(bytes);
    } finally {
      this.#slots.give(1);
      this.#wake.fire();
    }
  }
}
