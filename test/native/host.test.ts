/** Calls of the host: locks, credentials, space, directories. */
import {once} from 'node:events';
import {mkdtemp, rm, statfs} from 'node:fs/promises';
import {connect, createServer} from 'node:net';
import type {Socket} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

import test from 'ava';
import type {ExecutionContext} from 'ava';

import {BlockError} from '../../src/base/errors.js';
import {
  closeDescriptor,
  freeSpace,
  isIoFlusher,
  lockFile,
  makeDirectory,
  openFile,
  peerCredentials,
  removeDirectory,
  removeDirectoryNow,
  setIoFlusher,
} from '../../src/native/host.js';

async function directoryFor(t: ExecutionContext): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), 'regrow-host-'));
  t.teardown(() => rm(directory, {recursive: true, force: true}));
  return directory;
}

test('a lock is held once, until it is released', async (t) => {
  const directory = await directoryFor(t);
  const lock = await lockFile(directory);
  await t.throwsAsync(lockFile(directory), {
    instanceOf: BlockError,
    code: 'EAGAIN',
    message: /lock/,
  });
  lock.release();
  lock.release();
  (await lockFile(directory)).release();
});

test('a directory is made once and removed once', async (t) => {
  const path = join(await directoryFor(t), 'inner');
  t.true(await makeDirectory(path));
  t.false(await makeDirectory(path));
  t.true(await removeDirectory(path));
  t.false(await removeDirectory(path));
  t.false(removeDirectoryNow(path));
  await t.throwsAsync(makeDirectory(join(path, 'deeper')), {code: 'ENOENT', message: /deeper/});
});

test('free space is what statfs says', async (t) => {
  const {bsize, blocks} = await statfs('/');
  t.is((await freeSpace('/')).total, bsize * blocks);
  await t.throwsAsync(freeSpace('/nowhere'), {code: 'ENOENT'});
});

test('a file opened by descriptor can be closed by it', async (t) => {
  const descriptor = await openFile('/proc/self/ns/mnt', 0);
  t.true(descriptor > 2);
  t.notThrows(() => closeDescriptor(descriptor));
  const other = await openFile('/', 0, -1);
  closeDescriptor(other);
});

test('the peer of a UNIX socket is known', async (t) => {
  const path = join(await directoryFor(t), 'socket');
  const server = createServer().listen(path);
  t.teardown(() => server.close());
  await once(server, 'listening');
  const client = connect(path);
  t.teardown(() => client.destroy());
  const [socket] = (await once(server, 'connection')) as [Socket];
  t.teardown(() => socket.destroy());
  const {fd} = Reflect.get(socket, '_handle') as {fd: number};
  t.deepEqual(peerCredentials(fd), {pid: process.pid, uid: 0, gid: 0});
  t.throws(() => peerCredentials(999_999), {message: /getsockopt/});
});

test('the I/O flusher state can be asked, and set where that is allowed', (t) => {
  const before = isIoFlusher();
  try {
    setIoFlusher(true);
    t.true(isIoFlusher());
    setIoFlusher(before);
  } catch (error) {
    t.regex(String(error), /PR_SET_IO_FLUSHER/);
  }
  t.is(isIoFlusher(), before);
});
