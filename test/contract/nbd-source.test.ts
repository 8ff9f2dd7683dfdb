/** NbdSource and ResilientSource against servers that are slow, huge, faulty, frozen and killed. */
import {Buffer} from 'node:buffer';
import {open, truncate} from 'node:fs/promises';
import test from 'ava';
import fc from 'fast-check';
import {KiB, MiB, TiB} from '../../src/base/units.js';
import {isLoss} from '../../src/base/loss.js';
import {NbdConnection} from '../../src/native/nbd.js';
import {NbdSource} from '../../src/source/nbd-source.js';
import {parseNbdUri} from '../../src/source/nbd-uri.js';
import {openSource} from '../../src/source/open-source.js';
import type {SourceExtent} from '../../src/source/source.js';
import {startNbdkit, startQemuNbd} from '../support/nbd-server.js';
import {realEnvironment} from '../support/real-environment.js';
import {testRequiring} from '../support/requires.js';
import {makeImage} from './source.contract.js';

const environment = realEnvironment();

/** Polls until something holds; the test's own time-out ends a vain wait. */
async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await environment.clock.sleep(5);
}

/**
 * What nbdkit's pattern plugin has at an offset: each 8 bytes hold their own offset, big-endian.
 */
function isPattern(buffer: Buffer, offset: number): boolean {
  for (let at = 0; at + 8 <= buffer.length; at += 8) {
    if (Number(buffer.readBigUInt64BE(at)) !== offset + at) return false;
  }
  return true;
}

testRequiring(['nbdkit'], 'offsets above 2^45 reach the right bytes', async (t) => {
  const size = 64 * TiB;
  const server = await startNbdkit(t, ['pattern', `size=${size}`]);
  const source = await NbdSource.open(parseNbdUri(server.uri));
  t.teardown(() => source.close());
  t.is(source.size, size);
  const offsets = [0, 2 ** 31, 2 ** 32 - 8, 2 ** 45 + 8, size - 64 * KiB];
  const random = fc
    .sample(fc.maxSafeNat(), 20)
    .map((number) => (number % (size / 8 - KiB * 8)) * 8);
  for (const offset of [...offsets, ...random]) {
    const buffer = Buffer.alloc(64 * KiB);
    await source.read(offset, buffer);
    t.true(isPattern(buffer, offset), String(offset));
  }
});

testRequiring(
  ['nbdkit'],
  'a hole of terabytes is known to be zero, in as many answers as that needs',
  async (t) => {
    const server = await startNbdkit(t, ['memory', `${64 * TiB}`]);
    const source = await NbdSource.open(parseNbdUri(server.uri));
    t.teardown(() => source.close());
    t.deepEqual(await source.extents(2 ** 45 + 512, 4 * TiB), [
      {offset: 2 ** 45 + 512, length: 4 * TiB, isZero: true},
    ]);
  },
);

testRequiring(['nbdkit'], 'what a sparse random disk calls zero is zero', async (t) => {
  const options = ['size=1T', 'seed=3', 'percent=10', 'runlength=65536'];
  const server = await startNbdkit(t, ['sparse-random', ...options]);
  const source = await NbdSource.open(parseNbdUri(server.uri));
  t.teardown(() => source.close());
  const offset = 2 ** 39 + 4096;
  const extents = await source.extents(offset, 64 * MiB);
  const isCovered = (list: SourceExtent[]): boolean =>
    list.reduce((at, extent) => (extent.offset === at ? at + extent.length : NaN), offset) ===
    offset + 64 * MiB;
  t.true(isCovered(extents));
  t.true(extents.some((extent) => extent.isZero));
  for (const extent of extents.filter(({isZero}) => isZero).slice(0, 20)) {
    const buffer = Buffer.alloc(Math.min(extent.length, MiB), 0xee);
    await source.read(extent.offset, buffer);
    t.true(buffer.every((byte) => byte === 0));
  }
});

testRequiring(['nbdkit'], 'sixty-four reads of a slow server are in flight at once', async (t) => {
  const server = await startNbdkit(t, [
    '--threads=64',
    '--filter=delay',
    'memory',
    '16M',
    'rdelay=50ms',
  ]);
  const {name, target} = parseNbdUri(server.uri);
  const connection = await NbdConnection.connect(name, target);
  t.teardown(() => connection.close());
  const start = performance.now();
  const reads = Array.from({length: 64}, (_, index) =>
    connection.read(index * 4096, Buffer.alloc(4096)),
  );
  t.is(connection.inFlight, 64);
  await Promise.all(reads);
  const elapsed = performance.now() - start;
  t.true(elapsed < (64 * 50) / 4, `${elapsed} ms; one after the other they take 3200 ms`);
});

testRequiring(['nbdkit'], 'foreground and background use different connections', async (t) => {
  const server = await startNbdkit(t, [
    '--threads=1',
    '--filter=delay',
    'memory',
    '16M',
    'rdelay=40ms',
  ]);
  const source = await NbdSource.open(parseNbdUri(server.uri));
  t.teardown(() => source.close());
  await source.settled();
  t.is(source.connectionCount, 4);
  let backgroundDone = 0;
  const background = Array.from({length: 40}, async () => {
    await source.read(0, Buffer.alloc(512), {priority: 'background'});
    backgroundDone++;
  });
  await source.read(0, Buffer.alloc(512), {priority: 'foreground'});
  t.true(backgroundDone < 20, `${backgroundDone} of 40 background reads went before`);
  await Promise.all(background);
});

testRequiring(['qemu-nbd'], 'a server for one client is used by one connection', async (t) => {
  const {path} = await makeImage(t);
  const server = await startQemuNbd(t, ['--read-only', '--shared=1', path]);
  const source = await NbdSource.open(parseNbdUri(server.uri), {timeouts: {connect: 300}});
  t.teardown(() => source.close());
  await source.settled();
  t.is(source.connectionCount, 1);
  const reads = Array.from({length: 20}, () =>
    source.read(0, Buffer.alloc(512), {priority: 'background'}),
  );
  await Promise.all(reads);
});

testRequiring(
  ['nbdkit'],
  "a bad block is that read's error; the connection and the others live",
  async (t) => {
    const server = await startNbdkit(t, [
      '--filter=error',
      'memory',
      '1M',
      'error-pread=EIO',
      'error-pread-rate=50%',
    ]);
    const {source, health} = await openSource(server.uri, {environment});
    t.teardown(() => source.close());
    const results = await Promise.allSettled(
      Array.from({length: 200}, () => source.read(0, Buffer.alloc(512))),
    );
    const failures = results.flatMap((result) =>
      result.status === 'rejected' ? [result.reason as unknown] : [],
    );
    t.true(failures.length > 20 && failures.length < 180, `${failures.length} of 200 failed`);
    for (const error of failures) {
      t.is((error as {code?: string}).code, 'EIO');
      t.false(isLoss(error));
    }
    t.is(health().state, 'connected');
  },
);

testRequiring(
  ['nbdkit'],
  'a server killed in mid-read and started again costs no error',
  async (t) => {
    const server = await startNbdkit(t, ['--filter=delay', 'pattern', '256M', 'rdelay=20ms']);
    const {source, health} = await openSource(server.uri, {environment});
    t.teardown(() => source.close());
    const readAt = async (offset: number): Promise<boolean> => {
      const buffer = Buffer.alloc(64 * KiB, 0xee);
      await source.read(offset, buffer);
      return isPattern(buffer, offset);
    };
    for (let round = 0; round < 5; round++) {
      const reads = Array.from({length: 200}, (_, index) => readAt(index * 64 * KiB));
      await environment.clock.sleep(10 * round);
      await server.kill();
      await environment.clock.sleep(20);
      await server.restart();
      t.true((await Promise.all(reads)).every((isRight) => isRight));
    }
    await until(() => health().state === 'connected');
  },
);

testRequiring(
  ['nbdkit'],
  'every command in flight ends exactly once when the server dies (I5)',
  async (t) => {
    const server = await startNbdkit(t, ['--filter=delay', 'memory', '16M', 'rdelay=10']);
    const {name, target} = parseNbdUri(server.uri);
    const connection = await NbdConnection.connect(name, target);
    t.teardown(() => connection.close());
    const reads = Array.from({length: 50}, () => connection.read(0, Buffer.alloc(4096)));
    await environment.clock.sleep(20);
    await server.kill();
    const results = await Promise.allSettled(reads);
    for (const result of results) {
      t.is(result.status, 'rejected');
      if (result.status === 'rejected') t.true(isLoss(result.reason));
    }
    t.is(connection.inFlight, 0);
    t.regex((await connection.ended)?.message ?? '', /is lost/);
    await t.throwsAsync(connection.read(0, Buffer.alloc(1)), {code: 'ENOTCONN'});
  },
);

testRequiring(
  ['nbdkit'],
  'a server that falls silent counts as lost, one that only rests does not',
  async (t) => {
    const server = await startNbdkit(t, ['memory', '16M'], {useTcp: true});
    const {name, target} = parseNbdUri(server.uri);
    const connection = await NbdConnection.connect(name, target, {io: 300});
    t.teardown(() => connection.close());
    await connection.read(0, Buffer.alloc(512));
    await environment.clock.sleep(600);
    await connection.read(0, Buffer.alloc(512));
    await server.freeze();
    const error = await t.throwsAsync(connection.read(0, Buffer.alloc(512)), {code: 'ETIMEDOUT'});
    t.true(isLoss(error));
    server.thaw();
  },
);

testRequiring(['nbdkit'], 'close does not wait for a server that is frozen', async (t) => {
  const server = await startNbdkit(t, ['memory', '16M'], {useTcp: true});
  const source = await NbdSource.open(parseNbdUri(server.uri));
  t.teardown(() => source.close());
  await source.settled();
  await server.freeze();
  const reading = source.read(0, Buffer.alloc(512));
  const start = performance.now();
  await Promise.all([source.close(), t.throwsAsync(reading, {code: 'ESHUTDOWN'})]);
  t.true(performance.now() - start < 3000);
});

testRequiring(
  ['nbdkit'],
  'a server that comes back with another size is not used (I7)',
  async (t) => {
    const {path} = await makeImage(t);
    const server = await startNbdkit(t, ['--readonly', 'file', path]);
    const {source, health} = await openSource(server.uri, {environment});
    t.teardown(() => source.close());
    const file = await open(path);
    const {size} = await file.stat();
    await file.close();
    await server.kill();
    await truncate(path, size + MiB);
    await server.restart();
    await until(() => health().state === 'mismatch');
    let isDone = false;
    const reading = source.read(0, Buffer.alloc(512)).then(() => {
      isDone = true;
    });
    await environment.clock.sleep(300);
    t.false(isDone);
    await server.kill();
    await truncate(path, size);
    await server.restart();
    await reading;
    t.is(health().state, 'connected');
  },
);

testRequiring(['nbdkit'], 'writes, zeroes and flush arrive', async (t) => {
  const server = await startNbdkit(t, ['memory', '16M']);
  const {name, target} = parseNbdUri(server.uri);
  const connection = await NbdConnection.connect(name, target);
  t.teardown(() => connection.close());
  await connection.write(4096, Buffer.alloc(8192, 7), {fua: true});
  await connection.zero(6000, 100, {mayTrim: true});
  await connection.flush();
  const buffer = Buffer.alloc(8192);
  await connection.read(4096, buffer);
  t.is(buffer[1903], 7);
  t.true(buffer.subarray(1904, 2004).every((byte) => byte === 0));
  t.is(buffer[2004], 7);
  t.deepEqual(await connection.blockStatus(0, MiB), [
    {length: 32 * KiB, isZero: false},
    {length: MiB - 32 * KiB, isZero: true},
  ]);
});

test('a closed source refuses', async (t) => {
  const {source} = await openSource('/proc/self/exe', {environment});
  await source.close();
  await t.throwsAsync(source.read(0, Buffer.alloc(1)), {code: 'EBADF'});
});
