/**
 * A block device in ten lines: 64 MiB of memory, made a file system, then gone. Run it as root:
 * `node dist/test/kernel/ten-lines-example.js`; it prints the device's path and waits for a line.
 */
import {once} from 'node:events';

import {attachDevice} from '../../src/index.js';

const memory = Buffer.alloc(64 * 2 ** 20);
const device = await attachDevice({
  size: memory.length,
  read: async (offset, buffer) => void memory.copy(buffer, 0, offset),
  write: async (offset, buffer) => void buffer.copy(memory, offset),
});
process.stdout.write(`${device.path}\n`);
await once(process.stdin, 'data');
await device.detach();
process.exit();
