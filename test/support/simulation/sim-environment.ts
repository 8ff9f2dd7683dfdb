/**
 * The environment of one simulated daemon: virtual clock, seeded chance, a bounded trace for a log,
 * plain memory. When its life ends, its sleepers never wake.
 */
import type {Clock, Environment, Memory} from '../../../src/base/environment.js';
import type {Prng} from '../../../src/base/prng.js';
import type {SeededBug} from '../../../src/base/seeded-bugs.js';
import type {Life, Scheduler} from './scheduler.js';
import type {Trace} from './trace.js';

export interface SimEnvironmentOptions {
  scheduler: Scheduler;
  prng: Prng;
  trace: Trace;
  life: Life;
  bugs?: ReadonlySet<SeededBug>;
}

/** The wall clock of the world's first moment, in ms since 1970. */
const WALL_START = 1_700_000_000_000;

export function simEnvironment(options: SimEnvironmentOptions): Environment {
  const {scheduler, prng, trace, life} = options;
  return {
    clock: simClock(scheduler, life),
    random: () => prng.fraction(),
    log: (level, message, fields) => {
      const text = fields ? JSON.stringify(fields) : '';
      trace.add(scheduler.now, `log ${level}`, message, text);
    },
    allocate: (_name, length) => plainMemory(length),
    bugs: options.bugs ?? new Set(),
  };
}

function simClock(scheduler: Scheduler, life: Life): Clock {
  return {
    now: () => scheduler.now,
    wallTime: () => WALL_START + scheduler.now,
    sleep: (ms, signal) =>
      new Promise((resolve) => {
        if (signal?.aborted) {
          resolve();
          return;
        }
        const wake = (): void => {
          event.action = undefined;
          signal?.removeEventListener('abort', wake);
          resolve();
        };
        const event = scheduler.after(Math.max(0, ms), life, wake);
        signal?.addEventListener('abort', wake);
      }),
  };
}

/** Memory on the JavaScript heap, for tests. */
export function plainMemory(length: number): Memory {
  const bytes = new Uint8Array(length);
  return {
    bytes,
    release: (offset, count) => {
      bytes.fill(0, offset, offset + count);
    },
  };
}
