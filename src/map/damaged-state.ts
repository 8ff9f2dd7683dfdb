/** The error of a map file that cannot be believed. */
import {BlockError} from '../base/errors.js';

/**
 * The state on disk contradicts itself: nothing was written, and nothing may be until a person
 * looked.
 */
export class DamagedStateError extends BlockError {
  constructor(name: string, what: string) {
    super('EIO', `the overwrite map in ${name} is damaged: ${what}`, {
      op: 'open',
      isPermanent: true,
    });
  }
}
