/**
 * Runs code that waits on the environment's clock in virtual time, for tests that need no disks.
 */
import type {Environment} from '../../src/base/environment.js';
import {Prng} from '../../src/base/prng.js';
import {Scheduler} from './simulation/scheduler.js';
import {simEnvironment} from './simulation/sim-environment.js';
import {Trace} from './simulation/trace.js';

export interface VirtualTime {
  readonly scheduler: Scheduler;
  readonly environment: Environment;
  readonly trace: Trace;
}

export function virtualTime(seed = 1): VirtualTime {
  const prng = new Prng(seed);
  const scheduler = new Scheduler(prng.fork());
  const trace = new Trace();
  const environment = simEnvironment({scheduler, prng, trace, life: {isAlive: true}});
  return {scheduler, environment, trace};
}
