/**
 * The environment of production: the machine's clock, its chance, the bounded log, and memory in a
 * memfd that outlives the JavaScript heap. The simulation has its own (test/support).
 */
import type {Clock, Environment, Log} from '../base/environment.js';
import {SharedMemory} from '../native/memory.js';

/** Longer time-outs overflow what the system's timers take. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  wallTime: () => Date.now(),
  sleep,
};

export function systemEnvironment(log: Log): Environment {
  const memory = SharedMemory.create();
  return {
    clock: systemClock,
    random: () => Math.random(),
    log,
    allocate: (name, length) => memory.allocate(name, length),
    bugs: new Set(),
  };
}

/** Resolves after `ms` or when `signal` aborts; never rejects. */
function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal?.aborted) {
      resolve();
      return;
    }
    const done = (): void => {
      clearTimeout(timer);
      signal?.removeEventListener('abort', done);
      resolve();
    };
    const timer = setTimeout(done, Math.min(Math.max(0, ms), TIMER_MS_MAX));
    signal?.addEventListener('abort', done, {once: true});
  });
}
