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
