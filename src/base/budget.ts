/**
 * A bounded amount (bytes of buffers, slots) that is taken and given back; takers wait in order of
 * arrival. A taker that wants more than the whole bound gets in alone, so nothing waits for ever.
 */
import {assert} from './assert.js';

export class Budget {
  readonly limit: number;
  #used = 0;
  readonly #waiting: {amount: number; wake: () => void}[] = [];

  constructor(limit: number) {
    assert(limit > 0, 'a budget has room');
    this.limit = limit;
  }

  get used(): number {
    return this.#used;
  }

  get waiters(): number {
    return this.#waiting.length;
  }

  /** Takes `amount` at once if there is room and nobody waits. */
  tryTake(amount: number): boolean {
    if (this.#waiting.length > 0 || !this.#fits(amount)) return false;
    this.#used += amount;
    return true;
  }

  async take(amount: number): Promise<void> {
    if (this.tryTake(amount)) return;
    await new Promise<void>((wake) => this.#waiting.push({amount, wake}));
  }

  give(amount: number): void {
    this.#used -= amount;
    assert(this.#used >= 0, 'a budget gets back what was taken');
    for (let next = this.#waiting[0]; next && this.#fits(next.amount); next = this.#waiting[0]) {
      this.#waiting.shift();
      this.#used += next.amount;
      next.wake();
    }
  }

  #fits(amount: number): boolean {
    return this.#used === 0 || this.#used + amount <= this.limit;
  }
}
