/** Real time and chance for tests against real servers; the log is kept to be looked at. */
import type {Environment, LogLevel} from '../../src/base/environment.js';

type RealEnvironment = Pick<Environment, 'clock' | 'random' | 'log'>;

export interface LogLine {
  level: LogLevel;
  message: string;
}

export function realEnvironment(lines: LogLine[] = []): RealEnvironment {
  return {
    clock: {
      now: () => performance.now(),
      wallTime: () => Date.now(),
      sleep: (ms, signal) =>
        new Promise((resolve) => {
          const stop = (): void => {
            clearTimeout(timer);
            signal?.removeEventListener('abort', stop);
            resolve();
          };
          const timer = setTimeout(stop, ms);
          if (signal?.aborted === true) stop();
          else signal?.addEventListener('abort', stop);
        }),
    },
    random: Math.random,
    log: (level, message) => void lines.push({level, message}),
  };
}
