/**
 * One process opens a connection and holds its descriptors, others serve it: the second takes over,
 * without an error for anyone, after the first was killed in the middle of a request.
 */
import {spawn} from 'node:child_process';
import type {ChildProcess} from 'node:child_process';
import {once} from 'node:events';
import {mkdtemp, open, rmdir} from 'node:fs/promises';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';

import test from 'ava';
import type {ExecutionContext} from 'ava';

import {openFuse, unmountFuse} from '../../src/native/fuse.js';
import {closeDescriptor} from '../../src/native/host.js';

const CHILD = fileURLToPath(new URL('adopting-child.js', import.meta.url));

function serve(t: ExecutionContext, order: string, channels: readonly number[]): ChildProcess {
  const child = spawn(process.execPath, [CHILD, order], {
    stdio: ['ignore', 'pipe', 'inherit', ...channels],
  });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

test('a read that was in work when its server was killed is answered by the next', async (t) => {
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
  t.teardown(() => connection.channels.forEach(closeDescriptor));
  if (!connection.hasResend) {
    t.pass('this kernel cannot send requests again');
    return;
  }
  const first = serve(t, 'hold', connection.channels);
  const file = await open(join(mountpoint, 'disk'), 'r');
  const read = file.read(Buffer.alloc(4096), 0, 4096, 8192);
  await once(first.stdout ?? first, 'data');
  first.kill('SIGKILL');
  await once(first, 'exit');
  serve(t, 'answer', connection.channels);
  const {bytesRead, buffer} = await read;
  await file.close();
  t.is(bytesRead, 4096);
  t.true(buffer.every((byte) => byte === 42));
});
