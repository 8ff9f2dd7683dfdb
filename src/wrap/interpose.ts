/**
 * The one shape of a wrapper: a BlockDevice that hands every request to a function which decides
 * whether, when and how often the wrapped device sees it. Fault, delay, rate, log and read-only are
 * each a few lines over this.
 *
 *   guest ──request──► around(request, run) ──run()──► next
 *
 * `close` is not a request: it always reaches the wrapped device.
 */
import type {BlockDevice} from '../device/block-device.js';

export const DEVICE_OPS = ['read', 'write', 'zeroes', 'discard', 'flush'] as const;
export type DeviceOp = (typeof DEVICE_OPS)[number];

export interface DeviceRequest {
  readonly op: DeviceOp;
  /** Bytes; both 0 for a flush. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
}

/** Calls `run` to let the request through; what it throws is what the guest gets. */
export type Around = (request: DeviceRequest, run: () => Promise<void>) => Promise<void>;

/** A device that passes each request of `next` through `around`. */
export function interpose(next: BlockDevice, around: Around): BlockDevice {
  return {
    size: next.size,
    read: (offset, buffer) =>
      around({op: 'read', offset, length: buffer.length, fua: false}, () =>
        next.read(offset, buffer),
      ),
    write: (offset, buffer, options) =>
      around({op: 'write', offset, length: buffer.length, fua: options?.fua ?? false}, () =>
        next.write(offset, buffer, options),
      ),
    writeZeroes: (offset, length, options) =>
      around({op: 'zeroes', offset, length, fua: options?.fua ?? false}, () =>
        next.writeZeroes(offset, length, options),
      ),
    discard: (offset, length) =>
      around({op: 'discard', offset, length, fua: false}, () => next.discard(offset, length)),
    flush: () => around({op: 'flush', offset: 0, length: 0, fua: false}, () => next.flush()),
    close: () => next.close(),
  };
}
