/**
 * The FUSE session and its file system, without a loop device: what is answered natively, what is
 * delivered, and that every request ends once. Needs root and /dev/fuse.
 */
import {once} from 'node:events';
import {
  mkdtemp,
  open,
  readdir,
  readFile,
  readlink,
  rmdir,
  stat,
  statfs,
  truncate,
} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {Worker} from 'node:worker_threads';

import test from 'ava';
import type {ExecutionContext} from 'ava';

import {FUSE_OPERATION, FuseSession, openFuse, unmountFuse} from '../../src/native/fuse.js';
import type {FuseRequest} from '../../src/native/fuse.js';
import {failure, run} from '../support/kernel-device.js';

const DISK = {node: 2, name: 'disk', mode: 0o600, size: 2 ** 40, isText: false, isHeld: false};
const TEXT = {node: 3, name: 'status', mode: 0o400, size: 0, isText: true, isHeld: false};

interface Served {
  readonly mountpoint: string;
  readonly session: FuseSession;
  readonly requests: FuseRequest[];
}

/** A mount whose requests are answered by `answer` (default: at once, everything done). */
async function serve(
  t: ExecutionContext,
  answer: (session: FuseSession, request: FuseRequest) => void = (session, request) => {
    const {operation, length} = request;
    const isTransfer = operation === FUSE_OPERATION.read || operation === FUSE_OPERATION.write;
    session.complete(request.tag, isTransfer ? length : 0);
  },
): Promise<Served> {
  const mountpoint = await mkdtemp(join(tmpdir(), 'regrow-fuse-'));
  t.teardown(() => rmdir(mountpoint));
  const connection = await openFuse({
    mountpoint,
    source: 'regrow:test',
    namespace: -1,
    channels: 2,
    maxBackground: 16,
  });
  t.teardown(() => unmountFuse(mountpoint, -1, true).catch(() => undefined));
  const session = new FuseSession(connection, 24, [DISK, TEXT]);
  const requests: FuseRequest[] = [];
  session.start(
    (request) => {
      requests.push(request);
      answer(session, request);
    },
    () => undefined,
  );
  t.teardown(() => session.stop());
  return {mountpoint, session, requests};
}

test.serial('metadata is answered without JavaScript', async (t) => {
  const {mountpoint, requests, session} = await serve(t);
  t.deepEqual((await readdir(mountpoint)).sort(), ['disk', 'status']);
  const disk = await stat(join(mountpoint, 'disk'));
  t.is(disk.size, 2 ** 40);
  t.is(disk.mode & 0o777, 0o600);
  t.is((await statfs(mountpoint)).blocks, 2 ** 40 / 4096);
  await t.throwsAsync(stat(join(mountpoint, 'nothing')), {code: 'ENOENT'});
  t.deepEqual(requests, []);
  t.true(session.counters().metadata > 0);
});

test.serial('the file system cannot be changed', async (t) => {
  const {mountpoint} = await serve(t);
  await t.throwsAsync(truncate(join(mountpoint, 'disk'), 4096), {code: 'EPERM'});
  await t.notThrowsAsync(truncate(join(mountpoint, 'disk'), DISK.size));
  await t.throwsAsync(open(join(mountpoint, 'other'), 'w'), {code: 'EPERM'});
  await t.throwsAsync(open(join(mountpoint, 'status'), 'r+'), {code: 'EROFS'});
});

test.serial('the disk has one writer and any number of readers', async (t) => {
  const {mountpoint} = await serve(t);
  const writer = await open(join(mountpoint, 'disk'), 'r+');
  t.teardown(() => writer.close());
  await t.throwsAsync(open(join(mountpoint, 'disk'), 'r+'), {code: 'EBUSY'});
  const reader = await open(join(mountpoint, 'disk'), 'r');
  await reader.close();
});

test.serial('a request says what was asked, above 2^32 too', async (t) => {
  const {mountpoint, requests} = await serve(t);
  const file = await open(join(mountpoint, 'disk'), 'r+');
  t.teardown(() => file.close());
  const offset = 2 ** 39 + 4096;
  await file.write(Buffer.alloc(8192, 7), 0, 8192, offset);
  await file.read(Buffer.alloc(512), 0, 512, offset + 512);
  await file.sync();
  t.deepEqual(
    requests.map((request) => [request.operation, request.offset, request.length]),
    [
      [FUSE_OPERATION.write, offset, 8192],
      [FUSE_OPERATION.read, offset + 512, 512],
      [FUSE_OPERATION.flush, 0, 0],
    ],
  );
});

test.serial('a written payload is page aligned and arrives whole', async (t) => {
  const seen: [number, boolean][] = [];
  const {mountpoint} = await serve(t, (session, {tag, buffer, length}) => {
    seen.push([buffer.byteOffset % 4096, buffer.every((byte) => byte === 9)]);
    session.complete(tag, length);
  });
  const file = await open(join(mountpoint, 'disk'), 'r+');
  await file.write(Buffer.alloc(2 ** 20, 9), 0, 2 ** 20, 0);
  await file.close();
  t.true(seen.length >= 1);
  t.true(seen.every(([offset, isWhole]) => offset === 0 && isWhole));
});

test.serial(
  'fallocate punches and zeroes, above 4 GiB in one request, and does nothing else',
  async (t) => {
    const {mountpoint, requests} = await serve(t);
    const disk = join(mountpoint, 'disk');
    await run('fallocate', '--punch-hole', '--offset', '4096', '--length', String(2 ** 33), disk);
    await run('fallocate', '--zero-range', '--keep-size', '--offset', '0', '--length', '512', disk);
    t.deepEqual(
      requests
        .filter(({operation}) => operation !== FUSE_OPERATION.flush)
        .map(({operation, length, mayTrim}) => [operation, length, mayTrim]),
      [
        [FUSE_OPERATION.zero, 2 ** 33, true],
        [FUSE_OPERATION.zero, 512, false],
      ],
    );
    t.regex(
      String(await failure('fallocate', '--collapse-range', '--length', '4096', disk)),
      /not supp/,
    );
    t.regex(String(await failure('fallocate', '--length', '4096', disk)), /not supp/);
  },
);

test.serial('an errno is passed on', async (t) => {
  const {mountpoint} = await serve(t, (session, {tag}) => session.complete(tag, -28));
  const file = await open(join(mountpoint, 'disk'), 'r+');
  t.teardown(() => file.close());
  await t.throwsAsync(file.write(Buffer.alloc(512), 0, 512, 0), {code: 'ENOSPC'});
  await t.throwsAsync(file.sync(), {code: 'ENOSPC'});
});

test.serial('I5: a request that is completed twice is an assertion', async (t) => {
  const {mountpoint, session, requests} = await serve(t);
  const file = await open(join(mountpoint, 'disk'), 'r');
  await file.read(Buffer.alloc(512), 0, 512, 0);
  await file.close();
  const [request] = requests;
  t.truthy(request);
  t.throws(() => session.complete(request?.tag ?? 0, 0), {message: /I5/});
  t.throws(() => session.complete(9999, 0), {message: /I5/});
});

test.serial('I5: a result that is larger than what was asked is an assertion', async (t) => {
  let caught: unknown;
  const {mountpoint} = await serve(t, (session, {tag, length}) => {
    try {
      session.complete(tag, length + 1);
    } catch (error) {
      caught = error;
    }
    session.complete(tag, length);
  });
  const file = await open(join(mountpoint, 'disk'), 'r');
  await file.read(Buffer.alloc(512), 0, 512, 0);
  await file.close();
  t.regex(String(caught), /I5/);
});

test.serial('status is made anew at each read and is whole for a reader in pieces', async (t) => {
  let count = 0;
  const {mountpoint, requests} = await serve(t, (session, {tag, offset, buffer}) => {
    const text = Buffer.from(`read ${offset === 0 ? ++count : count}\n`);
    session.complete(tag, offset >= text.length ? 0 : text.copy(buffer, 0, offset));
  });
  t.is(await readFile(join(mountpoint, 'status'), 'utf8'), 'read 1\n');
  t.is(await readFile(join(mountpoint, 'status'), 'utf8'), 'read 2\n');
  t.true(requests.every((request) => request.node === 3));
});

test.serial('a shared mapping of the disk is refused', async (t) => {
  const {mountpoint} = await serve(t);
  const script = 'import mmap,sys\nf=open(sys.argv[1],"r+b")\nmmap.mmap(f.fileno(),4096)';
  t.regex(
    String(await failure('python3', '-c', script, join(mountpoint, 'disk'))),
    /No such device/,
  );
});

test.serial('more requests than tags are all answered', async (t) => {
  const waiting: (() => void)[] = [];
  const {mountpoint, session} = await serve(t, (owner, {tag, length}) => {
    waiting.push(() => owner.complete(tag, length));
    // The kernel goes on delivering while 8 are held back.
    while (waiting.length > 8) waiting.shift()?.();
  });
  const file = await open(join(mountpoint, 'disk'), 'r');
  const reads = Array.from({length: 100}, (_, index) =>
    file.read(Buffer.alloc(4096), 0, 4096, index * 4096).then((result) => {
      waiting.shift()?.();
      return result;
    }),
  );
  // libuv runs four reads at a time, so the last ones need a push.
  const push = setInterval(() => waiting.shift()?.(), 1);
  t.teardown(() => clearInterval(push));
  const results = await Promise.all(reads);
  await file.close();
  t.true(results.every(({bytesRead}) => bytesRead === 4096));
  t.is(session.counters().borrowed, 0);
});

test.serial('stop ends threads and requests although a handler never answers', async (t) => {
  const {mountpoint, session} = await serve(t, () => undefined);
  const file = await open(join(mountpoint, 'disk'), 'r');
  const read = t.throwsAsync(file.read(Buffer.alloc(512), 0, 512, 0), {code: 'ECONNABORTED'});
  while (session.counters().borrowed === 0) await new Promise(setImmediate);
  await session.stop();
  await read;
  await file.close().catch(() => undefined);
  t.is(await countFuseThreads(), 0);
});

test.serial(
  'a worker that ends while it serves takes its threads along and hangs nobody',
  async (t) => {
    const mountpoint = await mkdtemp(join(tmpdir(), 'regrow-fuse-'));
    t.teardown(() => rmdir(mountpoint));
    const worker = new Worker(new URL('serving-worker.js', import.meta.url), {
      workerData: mountpoint,
    });
    t.teardown(() => worker.terminate());
    t.teardown(() => unmountFuse(mountpoint, -1, true).catch(() => undefined));
    t.deepEqual(await once(worker, 'message'), ['ready']);
    const reader = failure('dd', `if=${mountpoint}/disk`, 'of=/dev/null', 'bs=4096', 'count=1');
    t.deepEqual(await once(worker, 'message'), ['asked']);
    await worker.terminate();
    t.truthy(await reader);
    t.is(await countFuseThreads(), 0);
  },
);

async function countFuseThreads(): Promise<number> {
  let count = 0;
  for (const thread of await readdir('/proc/self/task')) {
    const name = await readFile(`/proc/self/task/${thread}/comm`, 'utf8').catch(() => '');
    if (name.startsWith('regrow-fuse')) count++;
  }
  return count;
}

test.serial('stop closes every descriptor it adopted', async (t) => {
  const {mountpoint, session} = await serve(t);
  await stat(mountpoint);
  await session.stop();
  for (const descriptor of await readdir('/proc/self/fd')) {
    const target = await readlink(`/proc/self/fd/${descriptor}`).catch(() => '');
    t.not(target, '/dev/fuse');
  }
});
