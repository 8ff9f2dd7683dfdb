/**
 * The connection to the backup: one at a time, opened anew with back-off after each loss.
 *
 *   off ──start──▶ connecting ──opened, identity proved──▶ connected ──lost──▶ waiting
 *                      ├── failed ────▶ waiting ── back-off over ──▶ connecting
 *                      └── another content, too small, read-only ──▶ refused ── the same
 *
 * Nothing waits here: whoever finds no connection leaves its blocks in the backlog.
 */
import type {Environment} from '../base/environment.js';
import {BlockError, messageOf} from '../base/errors.js';
import {isLoss} from '../base/loss.js';
import type {BackupTarget} from '../source/backup-target.js';

const BACKOFF_MIN = 100;
const BACKOFF_MAX = 10_000;

export interface BackupLinkOptions {
  environment: Environment;
  /** Opens a connection; gives up soon when `signal` aborts. */
  open: (signal: AbortSignal) => Promise<BackupTarget>;
  /** Proves, by rejecting if not, that this is the backup of this volume. */
  verify: (target: BackupTarget) => Promise<void>;
  onConnected: () => void;
  /** `reason` is what ended the connection. */
  onLost: (reason: string) => void;
}

export interface LinkHealth {
  state: 'off' | 'connecting' | 'connected' | 'waiting' | 'refused';
  /** Wall time in ms since when it is in this state. */
  since: number;
  lastError: string | undefined;
}

export class BackupLink {
  readonly #options: BackupLinkOptions;
  #current: BackupTarget | undefined;
  #state: LinkHealth['state'] = 'off';
  #since: number;
  #lastError: string | undefined;
  #attempts = 0;
  #stop = new AbortController();
  #task: Promise<void> = Promise.resolve();
  readonly #closing = new Set<Promise<void>>();

  constructor(options: BackupLinkOptions) {
    this.#options = options;
    this.#since = options.environment.clock.wallTime();
  }

  /** The connection writes may go to now. */
  get current(): BackupTarget | undefined {
    return this.#current;
  }

  health(): LinkHealth {
    return {state: this.#state, since: this.#since, lastError: this.#lastError};
  }

  start(): void {
    if (this.#state !== 'off') return;
    this.#stop = new AbortController();
    this.#enter('connecting');
    this.#task = this.#connect(0, this.#stop.signal);
  }

  /** Lets go of the connection; `onLost` is not called. */
  async stop(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    this.#enter('off');
    this.#stop.abort();
    await Promise.all([current?.close(), this.#task, ...this.#closing]);
  }

  /** Called by everyone who notices; only the first for this connection does anything. */
  lose(target: BackupTarget, error: unknown): void {
    if (target !== this.#current) return;
    this.#current = undefined;
    this.#lastError = messageOf(error);
    const closing: Promise<void> = target
      .close()
      .catch(() => undefined)
      .finally(() => this.#closing.delete(closing));
    this.#closing.add(closing);
    this.#enter('waiting');
    this.#options.environment.log('warning', 'the backup is lost; its writes wait in the backlog', {
      backup: target.name,
      reason: this.#lastError,
    });
    this.#options.onLost(this.#lastError);
    this.#task = this.#connect(this.#backoff(), this.#stop.signal);
  }

  /** A request was answered: the next loss starts its back-off anew. */
  noteAnswer(): void {
    this.#attempts = 0;
  }

  async #connect(delay: number, signal: AbortSignal): Promise<void> {
    const {clock} = this.#options.environment;
    for (let pause = delay; !signal.aborted; pause = this.#backoff()) {
      if (pause > 0) await clock.sleep(pause, signal);
      if (signal.aborted) return;
      this.#attempts++;
      if (this.#state !== 'refused') this.#enter('connecting');
      const target = await this.#attempt(signal);
      if (!target) continue;
      if (signal.aborted) return await target.close();
      this.#current = target;
      this.#lastError = undefined;
      this.#enter('connected');
      void target.lost.then((error) => this.lose(target, error));
      this.#options.onConnected();
      return;
    }
  }

  async #attempt(signal: AbortSignal): Promise<BackupTarget | undefined> {
    let target: BackupTarget;
    try {
      target = await this.#options.open(signal);
    } catch (error) {
      this.#fail(error);
      return undefined;
    }
    try {
      await this.#options.verify(target);
      return target;
    } catch (error) {
      this.#fail(error);
      await target.close().catch(() => undefined);
      return undefined;
    }
  }

  #fail(error: unknown): void {
    if (this.#state === 'off') return;
    const reason = messageOf(error);
    const isRefusal = error instanceof BlockError && !isLoss(error);
    if (reason !== this.#lastError) {
      this.#options.environment.log('warning', 'the backup cannot be used', {reason});
    }
    this.#lastError = reason;
    this.#enter(isRefusal ? 'refused' : 'waiting');
  }

  #backoff(): number {
    const whole = Math.min(BACKOFF_MAX, BACKOFF_MIN * 2 ** Math.min(this.#attempts, 20));
    return whole * (0.5 + this.#options.environment.random() / 2);
  }

  #enter(state: LinkHealth['state']): void {
    if (state === this.#state) return;
    this.#state = state;
    this.#since = this.#options.environment.clock.wallTime();
  }
}
