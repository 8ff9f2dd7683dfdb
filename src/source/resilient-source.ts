/**
 * The one place where a source is tried again: it stands before a source that can be lost and
 * replaces it by a new one, opened the same way, until the request is done.
 *
 *   connecting ──opened, same size, identity proved──► connected ──lost──► waiting
 *        ├── failed ──► waiting ──── back-off over ──► connecting
 *        └── another disk ──► mismatch ── back-off over ──► connecting      any ──► closed
 *
 * While there is no connected source, requests wait: those that arrive and those whose answer went
 * under with the connection. All are released at once when the source is back, and not before
 * `verifyIdentity` has proved that it is the same content (I7). With `onLoss: 'error'` each waits
 * at most `ioTimeout`, then fails with EIO; it never gets zeroes, nor bytes of another disk.
 *
 * A source that answers a request with an error while the connection lives (a bad block) is not
 * lost: that error is passed on, and nothing is tried again. close() rejects whatever waits with
 * ESHUTDOWN.
 *
 * Time and chance come from the environment alone. One task at a time reconnects (#task).
 */
import type {Environment} from '../base/environment.js';
import {BlockError, type ErrnoCode, messageOf} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import {assertRange} from '../base/units.js';
import type {Source, SourceExtent, SourceHealth, SourceReadOptions} from './source.js';

/**
 * ms before the first further attempt; doubles up to the maximum. Each is drawn between half and
 * whole.
 */
const BACKOFF_MIN = 100;
const BACKOFF_MAX = 10_000;

/** A source that may say by itself that it is lost, before a request notices. */
export interface LosableSource extends Source {
  readonly lost?: Promise<unknown>;
}

export interface ResilientSourceOptions {
  /** Opens the source anew; gives up soon when `signal` aborts. */
  open: (signal: AbortSignal) => Promise<LosableSource>;
  environment: Pick<Environment, 'clock' | 'random' | 'log'>;
  /**
   * Proves, by rejecting if not, that a source just opened holds the content that was used so far.
   * A loss of connection (LOSS_CODES) during it is a loss, anything else a mismatch.
   */
  verifyIdentity?: (source: Source) => Promise<void>;
  /** @default 'wait' */
  onLoss?: 'wait' | 'error';
  /** ms a request waits for the source to come back, with onLoss 'error'. @default 60000 */
  ioTimeout?: number;
}

interface Waiter {
  release: () => void;
  fail: (error: BlockError) => void;
}

export class ResilientSource implements Source {
  readonly name: string;
  readonly size: number;
  readonly #options: ResilientSourceOptions;
  readonly #stop = new AbortController();
  readonly #waiters = new Set<Waiter>();
  /** Undefined exactly while no request may be sent. */
  #current: LosableSource | undefined;
  #state: SourceHealth['state'] = 'connecting';
  #since: number;
  /** Attempts since the last answer; a connection that never answers keeps the back-off growing. */
  #attempts = 0;
  #lastError: string | undefined;
  #task: Promise<void> = Promise.resolve();
  readonly #closing = new Set<Promise<void>>();

  private constructor(name: string, size: number, options: ResilientSourceOptions) {
    this.name = name;
    this.size = size;
    this.#options = options;
    this.#since = options.environment.clock.wallTime();
  }

  /**
   * Opens the source once; what prevents that is the caller's to report, and is not tried again.
   */
  static async open(options: ResilientSourceOptions): Promise<ResilientSource> {
    const source = await options.open(new AbortController().signal);
    const resilient = new ResilientSource(source.name, source.size, options);
    try {
      await options.verifyIdentity?.(source);
    } catch (error) {
      await source.close();
      throw error;
    }
    resilient.#adopt(source);
    return resilient;
  }

  /**
   * Starts without the source, whose size is known from before; requests wait until it is there.
   */
  static resume(name: string, size: number, options: ResilientSourceOptions): ResilientSource {
    const resilient = new ResilientSource(name, size, options);
    resilient.#task = resilient.#reconnect(0);
    return resilient;
  }

  read(offset: number, buffer: Uint8Array, options: SourceReadOptions = {}): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    return this.#request(options, (source) => source.read(offset, buffer, options));
  }

  extents(
    offset: number,
    length: number,
    options: SourceReadOptions = {},
  ): Promise<SourceExtent[]> {
    assertRange(offset, length, this.size);
    return this.#request(options, (source) => source.extents(offset, length, options));
  }

  health(): SourceHealth {
    return {
      state: this.#state,
      since: this.#since,
      waiters: this.#waiters.size,
      attempts: this.#state === 'connected' ? 0 : this.#attempts,
      ...(this.#lastError === undefined ? {} : {lastError: this.#lastError}),
    };
  }

  /** Rejects what waits with ESHUTDOWN, lets go of the source, waits for the task. */
  async close(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    this.#enter('closed');
    this.#stop.abort();
    for (const waiter of [...this.#waiters])
      waiter.fail(this.#error('ESHUTDOWN', 'it is being closed'));
    await Promise.all([current?.close(), this.#task, ...this.#closing]);
  }

  /** Sends a request until it is answered, and waits in between. */
  async #request<Result>(
    options: SourceReadOptions,
    send: (source: Source) => Promise<Result>,
  ): Promise<Result> {
    const {clock} = this.#options.environment;
    let deadline: number | undefined;
    for (;;) {
      if (this.#state === 'closed') throw this.#error('ESHUTDOWN', 'it is being closed');
      if (options.signal?.aborted === true)
        throw this.#error('ECANCELED', 'the request was given up');
      const source = this.#current;
      if (source === undefined) {
        deadline ??= clock.now() + (this.#options.ioTimeout ?? 60_000);
        await this.#wait(deadline, options.signal);
        continue;
      }
      try {
        const result = await send(source);
        if (source === this.#current) this.#attempts = 0;
        return result;
      } catch (error) {
        if (!isLoss(error)) {
          if (source === this.#current) this.#attempts = 0;
          throw error;
        }
        this.#lose(source, error);
      }
    }
  }

  /**
   * Resolves when a source may be there; rejects on abort, on close, and when the policy says so.
   */
  async #wait(deadline: number, signal: AbortSignal | undefined): Promise<void> {
    const {clock} = this.#options.environment;
    const settled = new AbortController();
    const onAbort = (): void => waiter.fail(this.#error('ECANCELED', 'the request was given up'));
    let waiter: Waiter = {release: () => undefined, fail: () => undefined};
    const released = new Promise<void>((resolve, reject) => {
      waiter = {release: resolve, fail: reject};
    });
    this.#waiters.add(waiter);
    signal?.addEventListener('abort', onAbort, {once: true});
    if (this.#options.onLoss === 'error') {
      void clock.sleep(Math.max(0, deadline - clock.now()), settled.signal).then(() => {
        if (!settled.signal.aborted)
          waiter.fail(this.#error('EIO', this.#lastError ?? 'it is away'));
      });
    }
    try {
      await released;
    } finally {
      settled.abort();
      this.#waiters.delete(waiter);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #adopt(source: LosableSource): void {
    this.#current = source;
    this.#lastError = undefined;
    this.#enter('connected');
    void source.lost?.then((error) => this.#lose(source, error));
    for (const waiter of [...this.#waiters]) waiter.release();
  }

  /** Called by everyone who notices; only the first for this source does anything. */
  #lose(source: LosableSource, error: unknown): void {
    if (source !== this.#current) return;
    this.#current = undefined;
    this.#lastError = messageOf(error);
    this.#options.environment.log('warning', 'the source is lost, its requests wait', {
      source: this.name,
      reason: this.#lastError,
    });
    this.#discard(source);
    this.#enter('waiting');
    this.#task = this.#reconnect(this.#backoff());
  }

  async #reconnect(delay: number): Promise<void> {
    const {clock, log} = this.#options.environment;
    const signal = this.#stop.signal;
    for (let pause = delay; ; pause = this.#backoff()) {
      if (pause > 0) await clock.sleep(pause, signal);
      if (signal.aborted) return;
      this.#attempts++;
      const source = await this.#attempt();
      if (signal.aborted) return source === undefined ? undefined : await source.close();
      if (source === undefined) continue;
      log('info', 'the source is back', {source: this.name, attempts: this.#attempts});
      this.#adopt(source);
      return;
    }
  }

  /** One attempt: a source that may be used, or undefined with state and error set. */
  async #attempt(): Promise<LosableSource | undefined> {
    if (this.#state !== 'mismatch') this.#enter('connecting');
    let source: LosableSource;
    try {
      source = await this.#options.open(this.#stop.signal);
    } catch (error) {
      this.#fail(this.#state === 'mismatch' ? 'mismatch' : 'waiting', messageOf(error));
      return undefined;
    }
    try {
      if (source.size !== this.size) {
        throw this.#error('ESTALE', `its size was ${this.size} bytes and is ${source.size} now`);
      }
      await this.#options.verifyIdentity?.(source);
      return source;
    } catch (error) {
      this.#fail(isLoss(error) ? 'waiting' : 'mismatch', messageOf(error));
      await source.close();
      return undefined;
    }
  }

  #fail(state: 'waiting' | 'mismatch', reason: string): void {
    if (this.#state === 'closed') return;
    if (state === 'mismatch' && this.#state !== 'mismatch') {
      this.#options.environment.log(
        'error',
        'the source came back as another one and is not used',
        {
          source: this.name,
          reason,
        },
      );
    }
    this.#lastError = reason;
    this.#enter(state);
  }

  #backoff(): number {
    const whole = Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** Math.min(this.#attempts, 20));
    return whole * (0.5 + this.#options.environment.random() / 2);
  }

  /** Lets go of a source without waiting; close() waits for it. */
  #discard(source: Source): void {
    const task: Promise<void> = source
      .close()
      .catch((error: unknown) => {
        this.#options.environment.log('debug', 'closing a lost source failed', {
          reason: messageOf(error),
        });
      })
      .finally(() => this.#closing.delete(task));
    this.#closing.add(task);
  }

  #enter(state: SourceHealth['state']): void {
    if (state === this.#state || this.#state === 'closed') return;
    this.#state = state;
    this.#since = this.#options.environment.clock.wallTime();
  }

  #error(code: ErrnoCode, reason: string): BlockError {
    return new BlockError(code, `reading the source ${this.name}: ${reason} (${code})`, {
      op: 'read',
    });
  }
}
