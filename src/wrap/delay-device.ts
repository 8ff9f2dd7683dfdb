/**
 * A device that takes its time: each request waits before the wrapped device sees it. The waiting
 * runs on the environment's clock, so a simulation does it in no time. Order among requests is
 * whatever their delays make it.
 */
import {assert} from '../base/assert.js';
import type {Environment} from '../base/environment.js';
import type {BlockDevice} from '../device/block-device.js';
import {DEVICE_OPS, interpose, type DeviceOp} from './interpose.js';

/** Milliseconds, fractions allowed: always the same, or uniform between the two ends. */
export type Delay = number | {readonly min: number; readonly max: number};

export interface DelayDeviceOptions {
  environment: Pick<Environment, 'clock' | 'random'>;
  /** For operations that `ops` does not name. @default 0: no delay */
  delay?: Delay;
  ops?: Partial<Record<DeviceOp, Delay>>;
}

/** `next`, slower. Closing closes `next` at once. RangeError for a negative delay or max < min. */
export function delayDevice(next: BlockDevice, options: DelayDeviceOptions): BlockDevice {
  const delays = new Map<DeviceOp, {min: number; max: number}>();
  for (const op of DEVICE_OPS) delays.set(op, toRange(options.ops?.[op] ?? options.delay ?? 0));
  const {clock, random} = options.environment;
  return interpose(next, async ({op}, run) => {
    const range = delays.get(op);
    assert(range !== undefined, 'every operation has a delay');
    const ms = range.min === range.max ? range.min : range.min + random() * (range.max - range.min);
    if (ms > 0) await clock.sleep(ms);
    return run();
  });
}

function toRange(delay: Delay): {min: number; max: number} {
  const range = typeof delay === 'number' ? {min: delay, max: delay} : delay;
  if (!(range.min >= 0 && range.max >= range.min && Number.isFinite(range.max))) {
    throw new RangeError(
      `a delay is 0 ms or more and ends after it begins: ${JSON.stringify(delay)}`,
    );
  }
  return range;
}
