/** An environment for tests that need no simulated world: real time, plain memory, a silent log. */
import type {Environment} from '../../src/base/environment.js';
import {Prng} from '../../src/base/prng.js';

export function plainEnvironment(): Environment {
  const prng = new Prng(1);
  return {
    clock: {
      now: () => performance.now(),
      wallTime: () => performance.timeOrigin + performance.now(),
      sleep: (ms, signal) =>
        new Promise((resolve) => {
          const timer = setTimeout(resolve, ms);
          signal?.addEventListener('abort', () => {
            clearTimeout(timer);
            resolve();
          });
        }),
    },
    random: () => prng.fraction(),
    log: () => undefined,
    allocate: (_name, length) => {
      const bytes = new Uint8Array(length);
      return {bytes, release: (offset, count) => void bytes.fill(0, offset, offset + count)};
    },
    bugs: new Set(),
  };
}
