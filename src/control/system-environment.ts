/**
 * The environment of production: the machine's clock, its chance, the bounded log, and memory in a
 * memfd that outlives the JavaScript heap. The simulation has its own (test/support).
 */
import type {Clock, Environment, Log} from '../base/environment.js';
import type {SharedMemory} from '../native/memory.js';

/** Longer time-outs overflow what the system's timers take. */
const TIMER_MS_MAX = 2 ** 31 - 1;

export const systemClock: Clock = {
  now: () => performance.now(),
  wallTime: () => Date.now(),
  sleep,
};

/** `memory` may be that of a daemon that died: its sections are given out as they stand. */
export function systemEnvironment(log: Log, memory: SharedMemory): Environment {
  return {
    clock: systemClock,
    random: () => Math.random(),
    log,
    allocate: (name, length) => {
      const left = memory.find(name);
      if (left?.bytes.length === length) return {...left, isInherited: true};
      // A section of another length is of another volume, or of another version of this program.
      const free = left === undefined ? name : `${name}.${memory.names.length}`;
      return memory.allocate(free, length);
    },
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
