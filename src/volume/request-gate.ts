/**
 * Where every request of the guest enters: counted, refused once the volume closes, and held for a
 * moment while the store is replaced.
 */
import {deferred} from '../base/deferred.js';
import {BlockError} from '../base/errors.js';
import {Signal} from '../base/signal.js';
import type {VolumeCore} from './core.js';

export class RequestGate {
  readonly #core: VolumeCore;
  readonly #idle = new Signal();
  /** Set while new requests wait. */
  #held: Promise<void> | undefined;
  #isShut = false;

  constructor(core: VolumeCore) {
    this.#core = core;
  }

  get isShut(): boolean {
    return this.#isShut;
  }

  async serve(request: () => Promise<void>): Promise<void> {
    while (this.#held && !this.#isShut) await this.#held;
    if (this.#isShut) throw new BlockError('ESHUTDOWN', 'the volume is closing', {op: 'request'});
    this.#core.enterRequest();
    try {
      await request();
    } finally {
      this.#core.leaveRequest();
      if (this.#core.activeRequests === 0 && (this.#isShut || this.#held)) this.#idle.fire();
    }
  }

  /** From now on all are refused. */
  shut(): void {
    this.#isShut = true;
  }

  /** Resolves once none is in progress. */
  async drain(): Promise<void> {
    while (this.#core.activeRequests > 0) await this.#idle.wait();
  }

  /** Runs a section with no request in progress; rejects where those under way do not end. */
  async hold(section: () => Promise<void>): Promise<void> {
    const {environment, tuning} = this.#core;
    const ended = deferred<void>();
    this.#held = ended.promise;
    const timer = new AbortController();
    const deadline = environment.clock.now() + tuning.replaceHoldMs;
    const wake = environment.clock.sleep(tuning.replaceHoldMs, timer.signal);
    void wake.then(() => this.#idle.fire());
    try {
      while (this.#core.activeRequests > 0) {
        if (environment.clock.now() >= deadline) {
          const what = 'requests under way do not end (is the source away?)';
          throw new BlockError('ETIMEDOUT', what, {op: 'hold'});
        }
        await this.#idle.wait();
      }
      await section();
    } finally {
      timer.abort();
      this.#held = undefined;
      ended.resolve();
    }
  }
}
