/**
 * Helper of replace-store.kernel.test.ts: a disk whose reads fail as standard input says. A line
 * is the probability from then on, an empty one ends it. Prints the device first.
 */
import {createInterface} from 'node:readline';

import {MiB} from '../../src/base/units.js';
import {attachDevice} from '../../src/index.js';
import {FaultDevice} from '../../src/wrap/fault-device.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';

const [mountDirectory = ''] = process.argv.slice(2);
const disk = new FaultDevice(new MemoryDevice(64 * MiB));
const device = await attachDevice(disk, {mountDirectory});
process.stdout.write(`${device.path}\n`);
for await (const line of createInterface({input: process.stdin})) {
  if (line === '') break;
  disk.setRules([{ops: ['read'], probability: Number(line)}]);
  process.stdout.write('set\n');
}
process.stdout.write(`${disk.faults} faults\n`);
await device.detach({force: true});
process.exit();
