/**
 * The public interface of the package: any object with `read` and `write` becomes a kernel block
 * device, and wrappers take such an object and give another.
 */
export {attachDevice} from './device/attach-device.js';
export type {AttachedDevice, AttachOptions, BlockHandlers} from './device/attach-device.js';
export type {BlockDevice} from './device/block-device.js';
export {BlockError, toErrno} from './base/errors.js';
export type {BlockErrorDetails, ErrnoCode} from './base/errors.js';
export type {Log, LogFields, LogLevel} from './base/environment.js';
export {delayDevice} from './wrap/delay-device.js';
export type {DelayDeviceOptions} from './wrap/delay-device.js';
export {FaultDevice} from './wrap/fault-device.js';
export type {FaultDeviceOptions, FaultRule} from './wrap/fault-device.js';
export {logDevice} from './wrap/log-device.js';
export type {LogDeviceOptions} from './wrap/log-device.js';
export {MemoryDevice} from './wrap/memory-device.js';
export type {MemoryDeviceOptions} from './wrap/memory-device.js';
export {rateDevice} from './wrap/rate-device.js';
export type {RateDeviceOptions} from './wrap/rate-device.js';
export {readOnlyDevice} from './wrap/read-only-device.js';
export {VolatileDevice} from './wrap/volatile-device.js';
export type {CutRecord, VolatileDeviceOptions} from './wrap/volatile-device.js';
