/**
 * Helper of torn-memory.test.ts: changes the map in the shared memory it inherited as descriptor 3,
 * one step of map-steps.ts after the other, until it is killed. The section `journal` says which
 * steps were begun and done.
 */
import {SharedMemory} from '../../src/native/memory.js';
import {openSteps} from '../support/shared-steps.js';
import {step} from '../support/map-steps.js';

const seed = Number(process.argv[2]);
const memory = SharedMemory.adopt(3);
const {target, journal} = openSteps(memory);
if (typeof target === 'string') throw new Error(target);
// The code is compiled before it counts.
process.stdout.write('begun\n');
for (let index = 0; ; index++) {
  journal[0] = index + 1;
  step(target, seed, index);
  journal[1] = index + 1;
}
