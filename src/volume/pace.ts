/**
 * How fast hydration may go: it gives way to requests, keeps to a rate, and measures what it does.
 */
import type {VolumeCore} from './core.js';

/** Milliseconds over which the shown rate is measured. */
const RATE_WINDOW_MS = 5000;
/** Milliseconds between two looks whether the guest has become idle. */
const LOOK_MS = 1;

export class Pace {
  readonly #core: VolumeCore;
  /** Bytes a second; undefined: no limit. */
  #limit: number | undefined;
  /** Clock time at which the next fetch may begin under the limit. */
  #nextAt = 0;
  #sleeping: AbortController | undefined;
  #samples: {at: number; bytes: number}[] = [];

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  /** A request is in progress or was a moment ago. */
  get isBusy(): boolean {
    const {activeRequests, environment, lastRequestAt, tuning} = this.#core;
    return activeRequests > 0 || environment.clock.now() - lastRequestAt < tuning.idleMs;
  }

  setLimit(limit: number | undefined): void {
    this.#limit = limit;
    this.#nextAt = 0;
  }

  /** Ends a wait that is under way: the settings changed or the volume stops. */
  interrupt(): void {
    this.#sleeping?.abort();
  }

  async rest(ms: number): Promise<void> {
    const sleeping = new AbortController();
    this.#sleeping = sleeping;
    const signal = AbortSignal.any([sleeping.signal, this.#core.stopping.signal]);
    await this.#core.environment.clock.sleep(ms, signal);
    if (this.#sleeping === sleeping) this.#sleeping = undefined;
  }

  /** Waits for its turn: for requests to pass, where `yields`, and for the rate limit. */
  async beforeFetch(bytes: number, yields: boolean): Promise<void> {
    const {clock} = this.#core.environment;
    const deadline = clock.now() + this.#core.tuning.yieldMaxMs;
    while (yields && this.isBusy && clock.now() < deadline && !this.#core.isStopping) {
      await clock.sleep(LOOK_MS);
    }
    if (this.#limit === undefined) return;
    const now = clock.now();
    const startAt = Math.max(now, this.#nextAt);
    this.#nextAt = startAt + (bytes / this.#limit) * 1000;
    if (startAt > now) await this.rest(startAt - now);
  }

  fetched(bytes: number): void {
    this.#samples.push({at: this.#core.environment.clock.now(), bytes});
    this.#forgetOld();
  }

  /** Bytes a second over the last seconds. */
  rate(): number {
    this.#forgetOld();
    const first = this.#samples[0];
    if (first === undefined) return 0;
    const bytes = this.#samples.reduce((sum, sample) => sum + sample.bytes, 0);
    const elapsed = Math.max(1000, this.#core.environment.clock.now() - first.at);
    return (bytes / elapsed) * 1000;
  }

  #forgetOld(): void {
    const oldest = this.#core.environment.clock.now() - RATE_WINDOW_MS;
    const keep = this.#samples.findIndex((sample) => sample.at >= oldest);
    this.#samples.splice(0, keep < 0 ? this.#samples.length : keep);
  }
}
