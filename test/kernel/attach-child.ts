/**
 * Helper of stale-mount.kernel.test.ts: attaches 64 MiB of memory at the directory given, prints
 * the device, then does what standard input says: `detach` or `exit`.
 */
import {once} from 'node:events';

import {MiB} from '../../src/base/units.js';
import {attachDevice} from '../../src/index.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';

const [mountDirectory = ''] = process.argv.slice(2);
const namespace = process.env['REGROW_HOST_MNT_NS'];
const device = await attachDevice(new MemoryDevice(64 * MiB), {
  mountDirectory,
  ...(namespace === undefined ? {} : {hostNamespace: Number(namespace)}),
});
process.stdout.write(`${device.path}\n`);
const [order] = await once(process.stdin, 'data');
if (String(order).trim() === 'exit') process.exit(3);
await device.detach();
process.exit();
