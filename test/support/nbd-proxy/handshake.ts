/**
 * "Fixed newstyle negotiation" from the server's side: one export, no TLS, simple replies only.
 * Structured replies, contexts and extended headers are answered with NBD_REP_ERR_UNSUP, so clients
 * do without them.
 */
import type {Socket} from 'node:net';
import type {ByteReader} from './byte-reader.js';
import {
  HANDSHAKE,
  INFO,
  MAGIC,
  OPTION,
  OPTION_REPLY,
  PAYLOAD_MAX,
  TRANSMISSION,
} from './protocol.js';

export interface Export {
  /** Beside '', which always means this export, too. */
  readonly name: string;
  /** Bytes. */
  readonly size: number;
  readonly isReadOnly: boolean;
  readonly canMultiConn: boolean;
  /** "Size constraints"; bytes. */
  readonly minimumBlock: number;
}

/** Nobody sends longer options. */
const OPTION_MAX = 64 * 1024;
const PREFERRED_BLOCK = 4096;

/** True once the client may send requests; false if it left, or is not understood. */
export async function shakeHands(
  socket: Socket,
  reader: ByteReader,
  served: Export,
): Promise<boolean> {
  const greeting = Buffer.alloc(18);
  greeting.writeBigUInt64BE(MAGIC.server, 0);
  greeting.writeBigUInt64BE(MAGIC.option, 8);
  greeting.writeUInt16BE(HANDSHAKE.fixedNewstyle + HANDSHAKE.noZeroes, 16);
  socket.write(greeting);
  const clientFlags = (await reader.read(4))?.readUInt32BE(0);
  if (clientFlags === undefined) return false;
  for (;;) {
    const header = await reader.read(16);
    if (!header || header.readBigUInt64BE(0) !== MAGIC.option) return false;
    const option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    const data = length <= OPTION_MAX ? await reader.read(length) : undefined;
    if (!data) return false;
    const next = answer(socket, option, data, served, (clientFlags & HANDSHAKE.noZeroes) !== 0);
    if (next !== 'option') return next === 'transmission';
  }
}

/** Answers one option; what comes after it. */
function answer(
  socket: Socket,
  option: number,
  data: Buffer,
  served: Export,
  isTailOmitted: boolean,
): 'option' | 'transmission' | 'end' {
  const reply = (type: number, bytes = Buffer.alloc(0)): void =>
    void socket.write(optionReply(option, type, bytes));
  switch (option) {
    case OPTION.exportName: {
      // It has no way to say no but to hang up.
      if (!isServed(data.toString(), served)) return 'end';
      const tail = Buffer.alloc(isTailOmitted ? 0 : 124);
      socket.write(Buffer.concat([describe(served), tail]));
      return 'transmission';
    }
    case OPTION.abort:
      reply(OPTION_REPLY.ack);
      return 'end';
    case OPTION.list: {
      const name = Buffer.from(served.name);
      reply(OPTION_REPLY.server, Buffer.concat([uint32(name.length), name]));
      reply(OPTION_REPLY.ack);
      return 'option';
    }
    case OPTION.info:
    case OPTION.go: {
      const length = data.length >= 6 ? data.readUInt32BE(0) : Infinity;
      if (length + 6 > data.length) {
        reply(OPTION_REPLY.invalid);
        return 'option';
      }
      if (!isServed(data.toString('utf8', 4, 4 + length), served)) {
        reply(OPTION_REPLY.unknown);
        return 'option';
      }
      reply(OPTION_REPLY.info, Buffer.concat([uint16(INFO.export), describe(served)]));
      const sizes = [served.minimumBlock, PREFERRED_BLOCK, PAYLOAD_MAX].map(uint32);
      reply(OPTION_REPLY.info, Buffer.concat([uint16(INFO.blockSize), ...sizes]));
      reply(OPTION_REPLY.ack);
      return option === OPTION.go ? 'transmission' : 'option';
    }
    default:
      reply(OPTION_REPLY.unsupported);
      return 'option';
  }
}

function isServed(name: string, served: Export): boolean {
  return name === '' || name === served.name;
}

/** Size and transmission flags, as NBD_OPT_EXPORT_NAME and NBD_INFO_EXPORT both want them. */
function describe({size, isReadOnly, canMultiConn}: Export): Buffer {
  const {hasFlags, sendFlush, sendFua, sendTrim, sendWriteZeroes} = TRANSMISSION;
  let flags = hasFlags + sendFlush + sendFua + sendTrim + sendWriteZeroes;
  if (isReadOnly) flags += TRANSMISSION.readOnly;
  if (canMultiConn) flags += TRANSMISSION.canMultiConn;
  const bytes = Buffer.alloc(10);
  bytes.writeBigUInt64BE(BigInt(size), 0);
  bytes.writeUInt16BE(flags, 8);
  return bytes;
}

function optionReply(option: number, type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(20);
  header.writeBigUInt64BE(MAGIC.optionReply, 0);
  header.writeUInt32BE(option, 8);
  header.writeUInt32BE(type, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

function uint16(value: number): Buffer {
  const bytes = Buffer.alloc(2);
  bytes.writeUInt16BE(value);
  return bytes;
}

function uint32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}
