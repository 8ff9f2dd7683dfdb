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
  /**
   * In-core memory by name. What is in it already an earlier daemon left; what is allocated is put
   * into it.
   */
  memories?: Map<string, Uint8Array>;
  /** Told of each line of the log. */
  onLog?: Environment['log'];
}

/** The wall clock of the world's first moment, in ms since 1970. */
const WALL_START = 1_700_000_000_000;

export function simEnvironment(options: SimEnvironmentOptions): Environment {
  const {scheduler, prng, trace, life, memories = new Map<string, Uint8Array>()} = options;
  return {
    clock: simClock(scheduler, life),
    random: () => prng.fraction(),
    log: (level, message, fields) => {
      const text = fields ? JSON.stringify(fields) : '';
      trace.add(scheduler.now, `log ${level}`, message, text);
      options.onLog?.(level, message, fields);
    },
    allocate: (name, length) => {
      const left = memories.get(name);
      if (left?.length === length) return {...memoryOf(left), isInherited: true};
      const memory = plainMemory(length);
      memories.set(name, memory.bytes);
      return memory;
    },
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
  return memoryOf(new Uint8Array(length));
}

function memoryOf(bytes: Uint8Array): Memory {
  return {
    bytes,
    release: (offset, count) => {
      bytes.fill(0, offset, offset + count);
    },
  };
}
