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
      sleep: (ms, signal) => new Promise((resolve) => {
        const timer = setTimeout(resolve, ms);
        const stop = (): void => {
          clearTimeout(timer);
          resolve();
        };
        if (signal?.aborted === true) stop();
        else signal?.addEventListener('abort', stop, {once: true});
      }),
    },
    random: Math.random,
    log: (level, message) => void lines.push({level, message}),
  };
}
