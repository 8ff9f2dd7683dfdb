/**
 * A small seeded generator of numbers for laboratories: the same seed gives the same numbers on
 * every machine. Choices use whole numbers only, so a seed replays exactly. Not for secrets.
 *
 * The algorithm is sfc32 (Chris Doty-Humphrey, PractRand), seeded through splitmix32. Bit operators
 * act on its 32-bit words, never on offsets.
 */
import {assert} from './assert.js';

const TWO_32 = 2 ** 32;

export class Prng {
  /** What it was made from, to print when something fails. */
  readonly seed: number;
  #a: number;
  #b: number;
  #c: number;
  #counter = 1;

  /** `seed`: a whole number from 0 to 2^53-1. */
  constructor(seed: number) {
    assert(Number.isSafeInteger(seed) && seed >= 0, `seed ${seed} is a whole number below 2^53`);
    this.seed = seed;
    let state = (seed % TWO_32) ^ Math.imul(Math.floor(seed / TWO_32) + 1, 0x9e3779b9);
    const next = (): number => {
      state = (state + 0x9e3779b9) | 0;
      let z = state ^ (state >>> 16);
      z = Math.imul(z, 0x21f0aaad);
      z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
      return z ^ (z >>> 15);
    };
    this.#a = next();
    this.#b = next();
    this.#c = next();
    for (let round = 0; round < 12; round++) this.uint32();
  }

  /** A whole number from 0 to 2^32-1. */
  uint32(): number {
    const sum = (((this.#a + this.#b) | 0) + this.#counter) | 0;
    this.#counter = (this.#counter + 1) | 0;
    this.#a = this.#b ^ (this.#b >>> 9);
    this.#b = (this.#c + (this.#c << 3)) | 0;
    this.#c = (((this.#c << 21) | (this.#c >>> 11)) + sum) | 0;
    return sum >>> 0;
  }

  /** A whole number from 0 to `limit`-1; `limit` from 1 to 2^53. */
  below(limit: number): number {
    assert(limit >= 1 && limit <= 2 ** 53, `limit ${limit} lies in 1..2^53`);
    if (limit <= TWO_32) return this.uint32() % limit;
    return ((this.uint32() % 2 ** 21) * TWO_32 + this.uint32()) % limit;
  }

  /** A whole number from `min` to `max`, both included. */
  between(min: number, max: number): number {
    return min + this.below(max - min + 1);
  }

  /** True `numerator` times out of `denominator`. */
  chance(numerator: number, denominator: number): boolean {
    return this.uint32() % denominator < numerator;
  }

  /** One of the items, which must not be empty. */
  pick<T>(items: readonly T[]): T {
    assert(items.length > 0, 'there is something to pick from');
    return items[this.uint32() % items.length] as T;
  }

  /** The key of a table, as often as its weight says; weights are whole numbers, not all zero. */
  weighted<K extends string>(weights: Readonly<Record<K, number>>): K {
    const entries = Object.entries(weights) as [K, number][];
    let left = this.below(entries.reduce((sum, [, weight]) => sum + weight, 0));
    for (const [key, weight] of entries) {
      if (left < weight) return key;
      left -= weight;
    }
    throw new Error('weights add up');
  }

  /** Uniform in [0, 1), for what asks for `Math.random`'s shape. */
  fraction(): number {
    return this.uint32() / TWO_32;
  }

  /** Puts the items in a random order, in place. */
  shuffle<T>(items: T[]): T[] {
    for (let last = items.length - 1; last > 0; last--) {
      const other = this.uint32() % (last + 1);
      const kept = items[last] as T;
      items[last] = items[other] as T;
      items[other] = kept;
    }
    return items;
  }

  /** An independent generator; takes two numbers from this one. */
  fork(): Prng {
    return new Prng((this.uint32() % 2 ** 21) * TWO_32 + this.uint32());
  }
}
