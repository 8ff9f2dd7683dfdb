/** Every device and wrapper that ships joins the contract of block devices. */
import {Prng} from '../../src/base/prng.js';
import {GiB, MiB, TiB} from '../../src/base/units.js';
import {delayDevice} from '../../src/wrap/delay-device.js';
import {FaultDevice} from '../../src/wrap/fault-device.js';
import {logDevice} from '../../src/wrap/log-device.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';
import {rateDevice} from '../../src/wrap/rate-device.js';
import {VolatileDevice} from '../../src/wrap/volatile-device.js';
import {virtualTime} from '../support/virtual-time.js';
import {blockDeviceContract} from './block-device.contract.js';

/** Sleeps by letting the event loop turn, so that requests overtake each other. */
function restlessEnvironment(): Parameters<typeof delayDevice>[1]['environment'] {
  const prng = new Prng(3);
  const {environment} = virtualTime();
  const sleep = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      const turn = (left: number): void => {
        if (left <= 0) resolve();
        else setImmediate(turn, left - 1);
      };
      turn(Math.ceil(ms));
    });
  return {clock: {...environment.clock, sleep}, random: () => prng.fraction()};
}

blockDeviceContract('memory', async (size) => new MemoryDevice(size), {size: 64 * TiB});
blockDeviceContract(
  'memory in small chunks',
  async (size) => new MemoryDevice(size, {chunkSize: 512}),
);
blockDeviceContract(
  'fault without a matching rule',
  async (size) => new FaultDevice(new MemoryDevice(size), [{ops: ['read'], skip: 1e9}]),
);
blockDeviceContract('delay', async (size) =>
  delayDevice(new MemoryDevice(size), {
    environment: restlessEnvironment(),
    delay: {min: 0, max: 5},
  }),
);
blockDeviceContract('log', async (size) =>
  logDevice(new MemoryDevice(size), {environment: virtualTime().environment}),
);
blockDeviceContract('rate', async (size) =>
  rateDevice(new MemoryDevice(size), {environment: restlessEnvironment(), bytesPerSecond: GiB}),
);
blockDeviceContract('volatile', async (size) => new VolatileDevice(new MemoryDevice(size)), {
  size: 64 * TiB,
});
blockDeviceContract('volatile over delay with a small cache', async (size) => {
  const slow = delayDevice(new MemoryDevice(size), {
    environment: restlessEnvironment(),
    delay: {min: 0, max: 3},
  });
  return new VolatileDevice(slow, {cacheMax: MiB});
});
