/** NbdProxy is an NBD server to every client we know, over every backend, while no fault is on. */
import {randomBytes} from 'node:crypto';
import {readFile, truncate, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import type {ExecutionContext} from 'ava';
import {MiB} from '../../src/base/units.js';
import {FileBackend, MemoryBackend, ServerBackend, type Backend} from '../support/nbd-proxy.js';
import {connect, run, startProxy} from '../support/nbd-proxy/test-tools.js';
import {startNbdkit, startNbdServer, startQemuNbd} from '../support/nbd-server.js';
import {testRequiring} from '../support/requires.js';
import {temporaryDirectory} from '../support/temporary.js';

async function imageOf(t: ExecutionContext, size: number): Promise<string> {
  const path = join(await temporaryDirectory(t), 'backup.img');
  await writeFile(path, '');
  await truncate(path, size);
  return path;
}

testRequiring(['nbdinfo'], 'nbdinfo finds the export and what it can do', async (t) => {
  const backend = new MemoryBackend(3 * MiB);
  const proxy = await startProxy(t, {backend, canMultiConn: true, exportName: 'backup'});
  for (const uri of [proxy.uri, proxy.tcpUri]) {
    const list = JSON.parse(await run('nbdinfo', '--list', '--json', uri)) as {exports: object[]};
    t.is(list.exports.length, 1);
    t.like(list.exports[0], {
      'export-name': 'backup',
      'export-size': 3 * MiB,
      is_read_only: false,
      can_flush: true,
      can_fua: true,
      can_trim: true,
      can_zero: true,
      can_multi_conn: true,
      block_size_maximum: 32 * MiB,
    });
  }
  await t.throwsAsync(run('nbdinfo', `nbd+unix:///other?socket=${proxy.socket}`));
  const readOnly = await startProxy(t, {backend, readOnly: true});
  const info = JSON.parse(await run('nbdinfo', '--json', readOnly.uri)) as {exports: object[]};
  t.like(info.exports[0], {is_read_only: true, can_multi_conn: false});
});

/** What nbdcopy writes through the proxy is what it reads back; the bytes. */
async function roundTrip(t: ExecutionContext, backend: Backend): Promise<Buffer> {
  const proxy = await startProxy(t, {backend, canMultiConn: true});
  const folder = await temporaryDirectory(t);
  const bytes = randomBytes(backend.size);
  bytes.fill(0, MiB, 3 * MiB);
  await writeFile(join(folder, 'in'), bytes);
  await run('nbdcopy', '--flush', join(folder, 'in'), proxy.uri);
  await run('nbdcopy', proxy.tcpUri, join(folder, 'out'));
  t.is(Buffer.compare(await readFile(join(folder, 'out')), bytes), 0);
  t.deepEqual(proxy.missing('write', 'read', 'flush', 'landed'), []);
  t.deepEqual([proxy.counts.held, proxy.counts.upstreamFailures], [0, 0]);
  await proxy.settle();
  return bytes;
}

testRequiring(['nbdcopy'], 'nbdcopy there and back, over memory and a file', async (t) => {
  const memory = new MemoryBackend(8 * MiB + 512);
  t.is(Buffer.compare(await roundTrip(t, memory), memory.bytes), 0);
  const path = await imageOf(t, 8 * MiB);
  const file = await FileBackend.open(path);
  t.teardown(() => file.close());
  t.is(Buffer.compare(await roundTrip(t, file), await readFile(path)), 0);
});

testRequiring(
  ['nbdcopy', 'qemu-nbd', 'nbdkit', 'nbd-server'],
  'nbdcopy there and back, over qemu-nbd, nbdkit and nbd-server',
  async (t) => {
    const [one, two, three] = await Promise.all([1, 2, 3].map(() => imageOf(t, 8 * MiB)));
    const servers = [
      [one, await startQemuNbd(t, [one as string])],
      [two, await startNbdkit(t, ['file', two as string])],
      [three, await startNbdServer(t, [three as string])],
    ] as const;
    for (const [path, {uri}] of servers) {
      const backend = await ServerBackend.connect(uri);
      const bytes = await roundTrip(t, backend);
      await backend.close();
      t.is(Buffer.compare(bytes, await readFile(path as string)), 0);
    }
  },
);

testRequiring(['qemu-io'], 'qemu-io writes, reads, zeroes, discards and flushes', async (t) => {
  const backend = new MemoryBackend(4 * MiB);
  const proxy = await startProxy(t, {backend});
  const commands = [
    'write -P 0x11 0 1M',
    'write -f -P 0x22 1M 64k',
    'flush',
    'write -z -u 512k 256k',
    'discard 0 128k',
    'read -P 0x00 0 128k',
    'read -P 0x11 128k 384k',
    'read -P 0x00 512k 256k',
    'read -P 0x11 768k 256k',
    'read -P 0x22 1M 64k',
  ];
  const args = commands.flatMap((command) => ['-c', command]);
  const said = await run('qemu-io', '-f', 'raw', ...args, proxy.uri);
  t.notRegex(said, /fail|error|Invalid/i);
  t.deepEqual(proxy.missing('read', 'write', 'zero', 'trim', 'flush', 'fua'), []);
  t.is(proxy.counts.refused, 0);
  t.true(backend.bytes.subarray(MiB, MiB + 65_536).every((byte) => byte === 0x22));
});

testRequiring(['fio'], 'fio verifies what it wrote through delay and reordering', async (t) => {
  const backend = new MemoryBackend(8 * MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({delayMs: 3, reorder: true, volatile: true});
  const said = await run(
    'fio',
    '--name=verify',
    '--ioengine=nbd',
    `--uri=${proxy.uri}`,
    '--rw=randwrite',
    '--bs=4k',
    '--size=8m',
    '--iodepth=32',
    '--fsync=64',
    '--verify=crc32c',
    '--verify_fatal=1',
    '--randseed=5',
    '--allrandrepeat=1',
    '--verify_state_save=0',
  );
  t.regex(said, /err= 0/);
  const wanted = ['delayed', 'reordered', 'repliesReordered', 'held', 'flush'] as const;
  t.deepEqual(proxy.missing(...wanted), []);
});

testRequiring(['qemu-nbd'], 'a killed server behind the proxy is a failing one', async (t) => {
  const server = await startQemuNbd(t, [await imageOf(t, MiB)]);
  const backend = await ServerBackend.connect(server.uri);
  t.teardown(() => backend.close());
  const proxy = await startProxy(t, {backend});
  const client = await connect(t, proxy.uri);
  await client.write(0, Buffer.alloc(4096, 1));
  await server.kill();
  await t.throwsAsync(client.write(0, Buffer.alloc(4096, 2)), {code: 'EIO'});
  t.deepEqual(proxy.missing('upstreamFailures'), []);
  await server.restart();
  const write = (): Promise<boolean> =>
    client.write(0, Buffer.alloc(4096, 3)).then(
      () => true,
      () => false,
    );
  while (!(await write())) await new Promise((resolve) => setTimeout(resolve, 20));
  const buffer = Buffer.alloc(4096);
  await client.read(0, buffer);
  t.true(buffer.every((byte) => byte === 3));
});
