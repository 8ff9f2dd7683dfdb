/**
 * A device that logs each request once, when it is answered: what, where, how long it took, the
 * error. Contents are never logged.
 */
import type {Environment, LogLevel} from '../base/environment.js';
import {errnoCode, toErrno} from '../base/errors.js';
import type {BlockDevice} from '../device/block-device.js';
import {interpose} from './interpose.js';

export interface LogDeviceOptions {
  environment: Pick<Environment, 'clock' | 'log'>;
  /** Stands before each line, to tell devices apart. @default 'device' */
  name?: string;
  /** Of answered requests; failed ones are always warnings. @default 'debug' */
  level?: LogLevel;
}

/** `next` with a line in the log for each request. Closing closes `next`. */
export function logDevice(next: BlockDevice, options: LogDeviceOptions): BlockDevice {
  const {clock, log} = options.environment;
  const name = options.name ?? 'device';
  return interpose(next, async ({op, offset, length, fua}, run) => {
    const start = clock.now();
    try {
      await run();
      log(options.level ?? 'debug', `${name}: ${op}`, {
        offset,
        length,
        fua,
        ms: clock.now() - start,
      });
    } catch (error) {
      const code = errnoCode(toErrno(error));
      log('warning', `${name}: ${op} failed`, {offset, length, fua, ms: clock.now() - start, code});
      throw error;
    }
  });
}
