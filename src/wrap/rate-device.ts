/**
 * A device with a speed limit in bytes a second: a token bucket. A request waits until the bucket
 * has paid for it, in order of arrival; one larger than the bucket waits for its whole size once.
 *
 *   debt:  tokens may go below zero; the next request waits until they are back at zero
 *
 * Flushes cost nothing and do not wait.
 */
import type {Environment} from '../base/environment.js';
import type {BlockDevice} from '../device/block-device.js';
import {interpose, type DeviceOp} from './interpose.js';

export interface RateDeviceOptions {
  environment: Pick<Environment, 'clock'>;
  /** Bytes a second, above 0. */
  bytesPerSecond: number;
  /** Bytes that may pass at once after a pause. @default a tenth of a second's worth */
  burst?: number;
  /**
   * What is limited. Zeroes and discards move no bytes and cost nothing. @default read and write
   */
  ops?: readonly Extract<DeviceOp, 'read' | 'write'>[];
}

/**
 * `next` at a limited rate. Closing closes `next` at once. RangeError for a rate that is not
 * positive.
 */
export function rateDevice(next: BlockDevice, options: RateDeviceOptions): BlockDevice {
  const {bytesPerSecond} = options;
  const burst = options.burst ?? bytesPerSecond / 10;
  if (!(bytesPerSecond > 0) || !(burst >= 0)) {
    throw new RangeError(
      `a rate is above 0 bytes a second and a burst not below 0: ${bytesPerSecond}`,
    );
  }
  const {clock} = options.environment;
  const limited: readonly DeviceOp[] = options.ops ?? ['read', 'write'];
  let tokens = burst;
  let countedAt = clock.now();
  return interpose(next, async ({op, length}, run) => {
    if (limited.includes(op)) {
      const now = clock.now();
      tokens = Math.min(burst, tokens + ((now - countedAt) * bytesPerSecond) / 1000) - length;
      countedAt = now;
      if (tokens < 0) await clock.sleep((-tokens * 1000) / bytesPerSecond);
    }
    return run();
  });
}
