/**
 * What the NBD protocol fixes: numbers, and how a request and a simple reply are laid out. Names
 * and sections follow https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md, "Values".
 * All numbers are big-endian.
 */
import {assert} from '../../../src/base/assert.js';
import {MiB} from '../../../src/base/units.js';

export const MAGIC = {
  server: 0x4e42_444d_4147_4943n,
  option: 0x4948_4156_454f_5054n,
  optionReply: 0x0003_e889_0455_65a9n,
  request: 0x2560_9513,
  simpleReply: 0x6744_6698,
} as const;

/** "Handshake flags" and "Client flags": the same two bits in both. */
export const HANDSHAKE = {fixedNewstyle: 1, noZeroes: 2} as const;

/** "Transmission flags". */
export const TRANSMISSION = {
  hasFlags: 0x001,
  readOnly: 0x002,
  sendFlush: 0x004,
  sendFua: 0x008,
  sendTrim: 0x020,
  sendWriteZeroes: 0x040,
  canMultiConn: 0x100,
} as const;

/** "Option types"; what is not here is refused. */
export const OPTION = {exportName: 1, abort: 2, list: 3, info: 6, go: 7} as const;

/** "Option reply types". */
export const OPTION_REPLY = {
  ack: 1,
  server: 2,
  info: 3,
  unsupported: 0x8000_0001,
  invalid: 0x8000_0003,
  unknown: 0x8000_0006,
} as const;

/** Information types of NBD_REP_INFO. */
export const INFO = {export: 0, blockSize: 3} as const;

/** "Request types" that are served, by number. */
const OPS = {0: 'read', 1: 'write', 3: 'flush', 4: 'trim', 6: 'zero'} as const;
export type Op = (typeof OPS)[keyof typeof OPS];
const DISCONNECT = 2;

/** "Command flags". */
const COMMAND_FLAG = {fua: 1, noHole: 2} as const;

export const REQUEST_SIZE = 28;
export const REPLY_SIZE = 16;

/** "Size constraints": the most one read or write may carry, in bytes. */
export const PAYLOAD_MAX = 32 * MiB;

export interface Request {
  /** Undefined for a type that is not served. */
  readonly op: Op | 'disconnect' | undefined;
  readonly cookie: bigint;
  /** Bytes. */
  readonly offset: number;
  readonly length: number;
  readonly fua: boolean;
  readonly mayTrim: boolean;
  /** Flags other than FUA and NO_HOLE are set, none of which was offered. */
  readonly hasStrangeFlags: boolean;
}

/** "Request message"; undefined if it does not begin with its magic number. */
export function parseRequest(bytes: Buffer): Request | undefined {
  assert(bytes.length === REQUEST_SIZE, 'a request header has its size');
  if (bytes.readUInt32BE(0) !== MAGIC.request) return undefined;
  const flags = bytes.readUInt16BE(4);
  const type = bytes.readUInt16BE(6);
  return {
    op: type === DISCONNECT ? 'disconnect' : (OPS as Record<number, Op | undefined>)[type],
    cookie: bytes.readBigUInt64BE(8),
    offset: Number(bytes.readBigUInt64BE(16)),
    length: bytes.readUInt32BE(24),
    fua: (flags & COMMAND_FLAG.fua) !== 0,
    mayTrim: (flags & COMMAND_FLAG.noHole) === 0,
    hasStrangeFlags: flags > (COMMAND_FLAG.fua | COMMAND_FLAG.noHole),
  };
}

/** "Simple reply message": the header, behind which a successful read's data comes. */
export function simpleReply(cookie: bigint, errno: number): Buffer {
  const bytes = Buffer.alloc(REPLY_SIZE);
  bytes.writeUInt32BE(MAGIC.simpleReply, 0);
  bytes.writeUInt32BE(errno, 4);
  bytes.writeBigUInt64BE(cookie, 8);
  return bytes;
}
