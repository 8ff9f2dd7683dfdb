/** How requests become calls and answers, without a kernel: each is answered once (I5). */
import test from 'ava';

import {ERRNO, BlockError} from '../../src/base/errors.js';
import type {BlockDevice} from '../../src/device/block-device.js';
import {DISK_NODE, RequestServer, STATUS_NODE} from '../../src/device/serve.js';
import {FUSE_OPERATION} from '../../src/native/fuse.js';
import type {FuseOperation, FuseRequest} from '../../src/native/fuse.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';

const SIZE = 2 ** 20;

interface Bench {
  readonly server: RequestServer;
  readonly answers: [number, number][];
  readonly bugs: unknown[];
  /** Resolves when everything that can be answered is. */
  settled(): Promise<void>;
}

function bench(device: Partial<BlockDevice> = {}, readOnly = false): Bench {
  const memory = new MemoryDevice(SIZE);
  const answers: [number, number][] = [];
  const bugs: unknown[] = [];
  const server = new RequestServer({
    device: {
      size: SIZE,
      read: (offset, buffer) => memory.read(offset, buffer),
      write: (offset, buffer) => memory.write(offset, buffer),
      writeZeroes: (offset, length) => memory.writeZeroes(offset, length),
      discard: (offset, length) => memory.discard(offset, length),
      flush: () => memory.flush(),
      close: () => memory.close(),
      ...device,
    },
    readOnly,
    status: () => 'x'.repeat(600),
    log: () => undefined,
    onBug: (error) => bugs.push(error),
    complete: (tag, result) => answers.push([tag, result]),
  });
  return {server, answers, bugs, settled: () => new Promise((resolve) => setImmediate(resolve))};
}

function request(
  operation: FuseOperation,
  offset: number,
  length: number,
  node = DISK_NODE,
): FuseRequest {
  const buffer = Buffer.alloc(operation <= FUSE_OPERATION.write ? length : 0, 7);
  return {tag: 5, operation, node, offset, length, mayTrim: true, handle: 1, buffer};
}

test('each kind of request is answered with what it moved', async (t) => {
  const {server, answers, settled} = bench();
  server.handle(request(FUSE_OPERATION.write, 512, 1024));
  await settled();
  const read = request(FUSE_OPERATION.read, 512, 1024);
  read.buffer.fill(0);
  server.handle(read);
  server.handle(request(FUSE_OPERATION.flush, 0, 0));
  server.handle(request(FUSE_OPERATION.zero, 0, SIZE));
  await settled();
  t.deepEqual(
    answers.map(([, result]) => result),
    [1024, 1024, 0, 0],
  );
  t.deepEqual(read.buffer, Buffer.alloc(1024, 7));
});

test('a read at odd offsets is widened, an odd write refused', async (t) => {
  const {server, answers, settled} = bench();
  server.handle(request(FUSE_OPERATION.write, 512, 512));
  await settled();
  const read = request(FUSE_OPERATION.read, 510, 4);
  server.handle(read);
  server.handle(request(FUSE_OPERATION.write, 1, 512));
  await settled();
  t.deepEqual([...read.buffer], [0, 0, 7, 7]);
  t.deepEqual(answers.map(([, result]) => result).sort(), [-ERRNO.EINVAL, 4, 512].sort());
});

test('errors become errnos; only bugs are reported', async (t) => {
  const errors = [
    new BlockError('ENOSPC', 'full', {op: 'write'}),
    Object.assign(new Error('system'), {errno: -ERRNO.ETIMEDOUT}),
    new TypeError('bug'),
    'not even an error',
  ];
  const {server, answers, bugs, settled} = bench({
    write() {
      throw errors.shift();
    },
  });
  for (let round = 0; round < 4; round++) server.handle(request(FUSE_OPERATION.write, 0, 512));
  await settled();
  t.deepEqual(
    answers.map(([, result]) => -result),
    [ERRNO.ENOSPC, ERRNO.ETIMEDOUT, ERRNO.EIO, ERRNO.EIO],
  );
  t.is(bugs.length, 2);
});

test('a read-only device refuses writes and zeroes', async (t) => {
  const {server, answers, settled} = bench({}, true);
  server.handle(request(FUSE_OPERATION.write, 0, 512));
  server.handle(request(FUSE_OPERATION.zero, 0, 512));
  await settled();
  t.deepEqual(
    answers.map(([, result]) => result),
    [-ERRNO.EROFS, -ERRNO.EROFS],
  );
});

test('I5: a shut down answers what is in work, and a late handler not again', async (t) => {
  let finish = (): void => undefined;
  const {server, answers, settled} = bench({
    read: () => new Promise((resolve) => (finish = resolve)),
  });
  server.handle(request(FUSE_OPERATION.read, 0, 512));
  await settled();
  t.is(server.pending, 1);
  server.shutDown();
  finish();
  await settled();
  server.handle(request(FUSE_OPERATION.flush, 0, 0));
  t.deepEqual(
    answers.map(([, result]) => result),
    [-ERRNO.ESHUTDOWN, -ERRNO.ESHUTDOWN],
  );
  t.is(server.pending, 0);
});

test('one who reads status in pieces sees one text', async (t) => {
  const {server, answers, settled} = bench();
  for (const offset of [0, 512, 1024]) {
    server.handle(request(FUSE_OPERATION.read, offset, 512, STATUS_NODE));
    await settled();
  }
  t.deepEqual(
    answers.map(([, result]) => result),
    [512, 88, 0],
  );
});
