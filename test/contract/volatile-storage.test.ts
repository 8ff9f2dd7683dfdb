/** The simulation's disk joins the contract of storages: what production runs on, it may run on. */
import {setImmediate as nextTurn} from 'node:timers/promises';
import {Prng} from '../../src/base/prng.js';
import type {Storage} from '../../src/storage/storage.js';
import {Scheduler} from '../support/simulation/scheduler.js';
import {VolatileStorage} from '../support/simulation/volatile-storage.js';
import {storageContract} from './storage.contract.js';

/** Lets virtual time pass as long as anybody waits for the storage. */
function pumped(storage: Storage, scheduler: Scheduler): Storage {
  let active = 0;
  const pump = async (): Promise<void> => {
    while (active > 0) if (!(await scheduler.step())) await nextTurn();
  };
  const run = async <T>(call: () => Promise<T>): Promise<T> => {
    active++;
    if (active === 1) void pump();
    try {
      return await call();
    } finally {
      active--;
    }
  };
  return {
    name: storage.name,
    size: storage.size,
    read: (offset, buffer) => run(() => storage.read(offset, buffer)),
    write: (offset, buffer) => run(() => storage.write(offset, buffer)),
    zero: (offset, length) => run(() => storage.zero(offset, length)),
    extents: (offset, length) => run(() => storage.extents(offset, length)),
    sync: () => run(() => storage.sync()),
    close: () => run(() => storage.close()),
  };
}

storageContract('volatile', async (_t, size) => {
  const prng = new Prng(5);
  const scheduler = new Scheduler(prng.fork());
  const tools = {scheduler, prng, life: {isAlive: true}, latency: () => prng.below(50) / 10};
  return pumped(new VolatileStorage({name: 'disk', size}, tools), scheduler);
});
