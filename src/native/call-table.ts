/**
 * Calls that native threads are working on, by slot: a small number goes down with the call and
 * comes back with its result, so that a call needs no native promise and no native reference. The
 * entry also keeps the call's buffer alive, which native code reads or fills until the slot is
 * settled.
 */
import {assert} from '../base/assert.js';

/** More calls than this at once are a caller that forgot to wait. */
const MAX_CALLS = 65_536;

interface Call<Result> {
  resolve: (result: Result) => void;
  reject: (error: Error) => void;
  /** Turns a native error number into the error of this call. */
  describe: (error: number) => Error;
  buffer: Uint8Array | undefined;
}

export class CallTable<Result> {
  readonly #calls: (Call<Result> | undefined)[] = [];
  readonly #free: number[] = [];
  #idle: (() => void)[] = [];

  /** Calls begun and not settled. */
  get size(): number {
    return this.#calls.length - this.#free.length;
  }

  /**
   * Starts a call: `start` hands the slot to native code. The promise settles by {@link settle}.
   */
  begin(
    start: (slot: number) => void,
    describe: (error: number) => Error,
    buffer?: Uint8Array,
  ): Promise<Result> {
    return new Promise((resolve, reject) => {
      const slot = this.#free.pop() ?? this.#calls.length;
      assert(slot < MAX_CALLS, 'a caller bounds its calls in flight');
      this.#calls[slot] = {resolve, reject, describe, buffer};
      try {
        start(slot);
      } catch (error) {
        this.#release(slot);
        throw error;
      }
    });
  }

  /** Ends a call, exactly once: `error` 0 resolves it with `result`. */
  settle(slot: number, error: number, result: Result): void {
    const call = this.#release(slot);
    if (error === 0) call.resolve(result);
    else call.reject(call.describe(error));
  }

  /** Resolves once no call is in flight. */
  async idle(): Promise<void> {
    if (this.size > 0) await new Promise<void>((resolve) => this.#idle.push(resolve));
  }

  #release(slot: number): Call<Result> {
    const call = this.#calls[slot];
    assert(call !== undefined, 'I5: a call is settled once');
    this.#calls[slot] = undefined;
    this.#free.push(slot);
    if (this.size === 0 && this.#idle.length > 0) {
      const waiting = this.#idle;
      this.#idle = [];
      for (const resolve of waiting) resolve();
    }
    return call;
  }
}
