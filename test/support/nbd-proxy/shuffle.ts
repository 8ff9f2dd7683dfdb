/** A gate that lets those who wait through in batches, each in a random order. */
import type {Prng} from '../../../src/base/prng.js';

interface Waiter {
  readonly arrived: number;
  readonly pass: (isEarly: boolean) => void;
}

/** A batch goes on early when it is this large. */
const BATCH_MAX = 16;

export class Shuffle {
  readonly #prng: Prng;
  #waiting: Waiter[] = [];
  #arrivals = 0;

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  /** Resolves when the batch goes on: with whether it overtook one that had come before. */
  async pass(holdMs: number): Promise<boolean> {
    return await new Promise((pass) => {
      this.#waiting.push({arrived: this.#arrivals++, pass});
      if (this.#waiting.length === 1) setTimeout(() => this.#release(), holdMs);
      else if (this.#waiting.length >= BATCH_MAX) this.#release();
    });
  }

  #release(): void {
    const batch = this.#prng.shuffle(this.#waiting.splice(0));
    for (const [index, {arrived, pass}] of batch.entries()) {
      pass(batch.slice(index + 1).some((later) => later.arrived < arrived));
    }
  }
}
