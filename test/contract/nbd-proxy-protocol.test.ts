/** What NbdProxy answers to clients that no library writes: byte by byte over a socket. */
import {once} from 'node:events';
import {connect as connectSocket} from 'node:net';
import test, {type ExecutionContext} from 'ava';
import {ERRNO} from '../../src/base/errors.js';
import {MiB} from '../../src/base/units.js';
import {MemoryBackend, type NbdProxy} from '../support/nbd-proxy.js';
import {ByteReader} from '../support/nbd-proxy/byte-reader.js';
import {MAGIC, OPTION, OPTION_REPLY, REPLY_SIZE} from '../support/nbd-proxy/protocol.js';
import {startProxy} from '../support/nbd-proxy/test-tools.js';

interface Raw {
  send(bytes: Buffer): void;
  read(length: number): Promise<Buffer | undefined>;
}

/** A connection behind the greeting. */
async function greet(t: ExecutionContext, proxy: NbdProxy, clientFlags: number): Promise<Raw> {
  const socket = connectSocket(proxy.socket);
  const reader = new ByteReader(socket);
  t.teardown(() => void socket.destroy());
  await once(socket, 'connect');
  const greeting = await reader.read(18);
  t.is(greeting?.toString('latin1', 0, 16), 'NBDMAGICIHAVEOPT');
  const flags = Buffer.alloc(4);
  flags.writeUInt32BE(clientFlags);
  socket.write(flags);
  return {send: (bytes) => void socket.write(bytes), read: (length) => reader.read(length)};
}

function option(number: number, data = Buffer.alloc(0)): Buffer {
  const header = Buffer.alloc(16);
  header.writeBigUInt64BE(MAGIC.option, 0);
  header.writeUInt32BE(number, 8);
  header.writeUInt32BE(data.length, 12);
  return Buffer.concat([header, data]);
}

function request(type: number, offset: number, length: number, flags = 0): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(MAGIC.request, 0);
  bytes.writeUInt16BE(flags, 4);
  bytes.writeUInt16BE(type, 6);
  bytes.writeBigUInt64BE(77n, 8);
  bytes.writeBigUInt64BE(BigInt(offset), 16);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}

test('old clients come in by NBD_OPT_EXPORT_NAME, with or without its zeroes', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB), exportName: 'backup'});
  for (const [flags, tail] of [
    [1, 124],
    [3, 0],
  ] as const) {
    const raw = await greet(t, proxy, flags);
    raw.send(option(OPTION.exportName, Buffer.from('backup')));
    t.is((await raw.read(10 + tail))?.readBigUInt64BE(0), BigInt(MiB));
    raw.send(request(0, 0, 16));
    t.is((await raw.read(REPLY_SIZE + 16))?.readUInt32BE(0), MAGIC.simpleReply);
    raw.send(request(2, 0, 0));
    t.is(await raw.read(1), undefined);
  }
  const stranger = await greet(t, proxy, 3);
  stranger.send(option(OPTION.exportName, Buffer.from('other')));
  t.is(await stranger.read(1), undefined);
});

test('options that are not served are refused one by one, and NBD_OPT_ABORT ends', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  const raw = await greet(t, proxy, 3);
  const typeOf = async (): Promise<number | undefined> => (await raw.read(20))?.readUInt32BE(12);
  // STARTTLS, STRUCTURED_REPLY, SET_META_CONTEXT, EXTENDED_HEADERS, and one nobody knows.
  for (const number of [5, 8, 10, 11, 999]) {
    raw.send(option(number, Buffer.alloc(7)));
    t.is(await typeOf(), OPTION_REPLY.unsupported);
  }
  raw.send(option(OPTION.go, Buffer.from([0, 0, 0, 9, 0, 0])));
  t.is(await typeOf(), OPTION_REPLY.invalid);
  raw.send(option(OPTION.abort));
  t.is(await typeOf(), OPTION_REPLY.ack);
  t.is(await raw.read(1), undefined);
});

test('requests that no client may send are refused, and counted', async (t) => {
  for (const readOnly of [false, true]) {
    const proxy = await startProxy(t, {backend: new MemoryBackend(MiB), readOnly});
    const raw = await greet(t, proxy, 3);
    raw.send(option(OPTION.exportName));
    await raw.read(10);
    const errnoOf = async (bytes: Buffer): Promise<number | undefined> => {
      raw.send(bytes);
      const reply = await raw.read(REPLY_SIZE);
      t.is(reply?.readBigUInt64BE(8), 77n);
      return reply?.readUInt32BE(4);
    };
    t.is(await errnoOf(request(0, MiB - 1, 2)), ERRNO.EINVAL);
    t.is(await errnoOf(request(99, 0, 0)), ERRNO.EINVAL);
    t.is(await errnoOf(request(6, 0, 512, 16)), ERRNO.EINVAL);
    const past = Buffer.concat([request(1, MiB - 1, 2), Buffer.alloc(2)]);
    t.is(await errnoOf(past), readOnly ? ERRNO.EPERM : ERRNO.ENOSPC);
    t.is(await errnoOf(request(4, 0, 512)), readOnly ? ERRNO.EPERM : 0);
    t.is(await errnoOf(request(6, 0, 0)), readOnly ? ERRNO.EPERM : 0);
    t.is(proxy.counts.refused, readOnly ? 6 : 4);
    raw.send(Buffer.alloc(28, 0x55));
    t.is(await raw.read(1), undefined);
  }
});
