/**
 * Virtual time. Everything production code can wait for in the simulation is an event here: a
 * sleep, a disk's or source's completion, the guest's next request. One event happens at a time;
 * then all promises it woke run to their end before the next.
 *
 * Order: by time, then by a number drawn from the seed, so that events of one moment come in any
 * order but in the same one for the same seed.
 */
import {setImmediate as nextTurn} from 'node:timers/promises';
import {assert} from '../../../src/base/assert.js';
import type {Prng} from '../../../src/base/prng.js';

/** Who an event belongs to: a daemon's life, a machine. Events of the dead never happen. */
export interface Life {
  isAlive: boolean;
}

export interface SimEvent {
  readonly time: number;
  readonly tie: number;
  readonly life: Life;
  action: (() => void) | undefined;
}

export class Scheduler {
  /** Virtual milliseconds since the world began. */
  now = 0;
  /** Events that happened. */
  steps = 0;
  readonly #prng: Prng;
  readonly #heap: SimEvent[] = [];

  constructor(prng: Prng) {
    this.#prng = prng;
  }

  /** Makes `action` happen in `delay` ms; taking the event's action away cancels it. */
  after(delay: number, life: Life, action: () => void): SimEvent {
    assert(delay >= 0, 'nothing happens in the past');
    const event = {time: this.now + delay, tie: this.#prng.uint32(), life, action};
    this.#push(event);
    return event;
  }

  /** Lets the next event happen and everything it woke run. False: nothing is left to happen. */
  async step(): Promise<boolean> {
    for (;;) {
      const event = this.#pop();
      if (!event) return false;
      if (!event.action || !event.life.isAlive) continue;
      this.now = event.time;
      this.steps++;
      event.action();
      await nextTurn();
      return true;
    }
  }

  /**
   * Steps until the promise settles; throws if nothing is left to happen before, or after
   * `stepsMax`.
   */
  async run<T>(promise: Promise<T>, stepsMax = 1e6): Promise<T> {
    let isSettled = false;
    const settle = (): void => {
      isSettled = true;
    };
    promise.then(settle, settle);
    await nextTurn();
    for (let count = 0; !isSettled; count++) {
      assert(count < stepsMax, 'what is waited for happens');
      assert(await this.step(), 'nothing is left to happen, and still something waits: a deadlock');
    }
    return promise;
  }

  #push(event: SimEvent): void {
    const heap = this.#heap;
    let at = heap.length;
    heap.push(event);
    while (at > 0) {
      const parent = (at - 1) >>> 1;
      const above = heap[parent] as SimEvent;
      if (!isBefore(event, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = event;
  }

  #pop(): SimEvent | undefined {
    const heap = this.#heap;
    const first = heap[0];
    const last = heap.pop();
    if (!first || !last || heap.length === 0) return first;
    let at = 0;
    for (;;) {
      let child = 2 * at + 1;
      if (child >= heap.length) break;
      const right = heap[child + 1];
      if (right && isBefore(right, heap[child] as SimEvent)) child++;
      const smaller = heap[child] as SimEvent;
      if (!isBefore(smaller, last)) break;
      heap[at] = smaller;
      at = child;
    }
    heap[at] = last;
    return first;
  }
}

function isBefore(one: SimEvent, other: SimEvent): boolean {
  return one.time < other.time || (one.time === other.time && one.tie < other.tie);
}
