/**
 * A device that refuses every change with EROFS and passes reads and flushes on. For snapshots,
 * past times, and volumes somebody only wants to look at.
 */
import {BlockError} from '../base/errors.js';
import type {BlockDevice} from '../device/block-device.js';
import {interpose} from './interpose.js';

/** `next` as nobody can change it. Closing closes `next`. */
export function readOnlyDevice(next: BlockDevice): BlockDevice {
  return interpose(next, async ({op, offset, length}, run) => {
    if (op === 'read' || op === 'flush') return run();
    const message = `${op} at ${offset}+${length} refused: the device is read-only`;
    throw new BlockError('EROFS', message, {op, offset, length, isPermanent: true});
  });
}
