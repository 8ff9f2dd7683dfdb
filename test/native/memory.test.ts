import {spawnSync} from 'node:child_process';
import test from 'ava';
import {GiB, MiB} from '../../src/base/units.js';
import {createSharedMemory, SharedMemory} from '../../src/native/memory.js';

test('a section is zeroed memory of exactly its length', (t) => {
  const memory = createSharedMemory();
  const {bytes} = memory.allocate('map', 10_000);
  t.is(bytes.length, 10_000);
  t.true(bytes.every((byte) => byte === 0));
  memory.close();
});

test('a second holder of the descriptor finds the sections with their content', (t) => {
  const memory = createSharedMemory();
  memory.allocate('first', 5000).bytes.fill(1);
  memory.allocate('second', 70_000).bytes.set([1, 2, 3], 69_997);
  const copy = spawnSync('cat', ['/proc/self/fd/3'], {
    stdio: ['ignore', 'pipe', 'inherit', memory.fd],
    maxBuffer: MiB,
  });
  t.is(copy.status, 0);
  t.is(copy.stdout.subarray(0, 8).toString(), 'regrowmf');
  const adopted = SharedMemory.adopt(memory.fd);
  t.deepEqual(adopted.names, ['first', 'second']);
  t.is(adopted.find('first')?.bytes[4999], 1);
  t.deepEqual([...(adopted.find('second')?.bytes.subarray(69_996) ?? [])], [0, 1, 2, 3]);
  adopted.allocate('third', 1).bytes[0] = 9;
  t.is(SharedMemory.adopt(memory.fd).find('third')?.bytes[0], 9);
});

test('released memory reads zeroes and costs nothing', (t) => {
  const memory = createSharedMemory();
  const section = memory.allocate('map', 8 * MiB);
  section.bytes.fill(0xff);
  section.release(4096, 8 * MiB - 8192);
  t.is(section.bytes[4095], 0xff);
  t.is(section.bytes[4096], 0);
  t.is(section.bytes[8 * MiB - 4096], 0xff);
  const {stdout} = spawnSync('stat', ['-L', '-c', '%b', '/proc/self/fd/3'], {
    stdio: ['ignore', 'pipe', 'inherit', memory.fd],
  });
  t.true(Number(stdout.toString()) * 512 <= 16_384 + 8192);
  memory.close();
});

test('a section of a GiB costs nothing until it is touched', (t) => {
  const memory = createSharedMemory();
  const {bytes} = memory.allocate('big', GiB);
  bytes[GiB - 1] = 1;
  t.is(bytes[GiB - 1], 1);
  memory.close();
});

test('close empties every view instead of leaving a hole behind', (t) => {
  const memory = createSharedMemory();
  const {bytes} = memory.allocate('map', 4096);
  memory.close();
  t.is(bytes.length, 0);
  t.is(bytes[0], undefined);
});

test('what another program made is refused', (t) => {
  const memory = createSharedMemory();
  memory.allocate('map', 1);
  const header = SharedMemory.adopt(memory.fd);
  t.deepEqual(header.names, ['map']);
  t.throws(() => SharedMemory.adopt(0), {message: /shared memory/});
  t.throws(() => memory.allocate('map', 1), {message: /once/});
  t.throws(() => memory.allocate('none', 0));
});
