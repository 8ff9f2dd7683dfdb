/**
 * Keeps the mask table from staying full: from three quarters on it fetches the oldest partial
 * blocks until half of the table is free, whatever the hydration mode, because writes wait for
 * places in it.
 */
import {messageOf} from '../base/errors.js';
import type {VolumeCore} from './core.js';
import type {Fetcher} from './fetcher.js';

/** Partial blocks fetched side by side. */
const SIDE_BY_SIDE = 16;
/** Milliseconds until the next try after a fetch failed. */
const RETRY_MS = 500;

export class MaskRelief {
  readonly #core: VolumeCore;
  readonly #fetcher: Fetcher;
  #running: Promise<void> | undefined;

  constructor(core: VolumeCore, fetcher: Fetcher) {
    this.#core = core;
    this.#fetcher = fetcher;
  }

  /** The table grew or a write waits; cheap when there is nothing to do. */
  poke(): void {
    const {masks} = this.#core;
    const isNeeded = masks.waiters > 0 || masks.count >= masks.capacity * 0.75;
    if (!isNeeded || this.#running) return;
    this.#running = this.#run().finally(() => (this.#running = undefined));
  }

  async stop(): Promise<void> {
    await this.#running;
  }

  async #run(): Promise<void> {
    const {environment, masks, stopping} = this.#core;
    while (!this.#core.isStopping && this.#core.mode === 'read-write') {
      if (masks.count === 0 || (masks.waiters === 0 && masks.count < masks.capacity / 2)) return;
      const blocks = masks.blocks().slice(0, SIDE_BY_SIDE);
      try {
        await Promise.all(blocks.map((block) => this.#fill(block)));
      } catch (error) {
        environment.log('warning', `partial blocks could not be filled: ${messageOf(error)}`);
        await environment.clock.sleep(RETRY_MS, stopping.signal);
      }
    }
  }

  async #fill(block: number): Promise<void> {
    const fetches = await this.#fetcher.background(block, block + 1);
    await Promise.all(fetches.map((fetch) => fetch.installed));
  }
}
