/**
 * What command line and daemon say to each other over the control socket: one JSON object a line,
 * in both directions, UTF-8, at most {@link LINE_BYTES_MAX} bytes a line.
 *
 *   → {"id":1,"method":"wait","params":{"until":"hydrated"}}
 *   ← {"id":1,"progress":{…}}            none or many, only for methods that say so
 *   ← {"id":1,"result":{…}}         or {"id":1,"error":{"message":"…","exitCode":1}}: exactly one
 *
 * Requests of one connection run side by side; answers carry their id and come in any order.
 * Closing the connection aborts what it still waits for. A line that is not a request is answered
 * with `"id":null` and an error, and the connection is closed: there is no telling what else was
 * meant.
 */
import type {WriteThroughMode} from '../volume/protection.js';
import type {HydrationMode} from '../volume/report.js';
import type {VerifyReport} from '../volume/verify.js';
import type {StoreIdentity} from '../storage/identity.js';
import type {ReplacementProgress, ReplacementReport} from '../volume/replacement.js';
import type {GivenOptions} from './attach-options.js';
import type {ReadyReport} from './start-protocol.js';
import type {VolumeStatus} from './status.js';

/** Longer lines end the connection: nothing here comes near it. */
export const LINE_BYTES_MAX = 1024 * 1024;

export const METHODS = [
  'ping',
  'status',
  'attach',
  'hydrate',
  'write-through',
  'wait',
  'verify',
  'replace-store',
  'restart',
  'detach',
] as const;
export type Method = (typeof METHODS)[number];

export interface HydrateParams {
  mode: HydrationMode;
  /** Bytes a second; null: no limit; left out: as it was. */
  rate?: number | null;
}

export interface WriteThroughParams {
  mode: WriteThroughMode;
  /** Bytes a second of a resync; null: no limit; left out: as it was. */
  rate?: number | null;
}

/** Attaching what is attached already: what may change is changed, anything else refused. */
export interface AttachParams {
  source?: string;
  store?: string;
  given: GivenOptions;
}

export interface ReplaceStoreParams {
  path: string;
  /** Where the daemon opens it: a descriptor of the command line, below /proc. */
  via: string;
  identity: StoreIdentity;
  /** Goes on where what nobody can read becomes zeroes. */
  isForced: boolean;
}

export interface DetachParams {
  /** Detach although the device is in use: its users get I/O errors. */
  force?: boolean;
}

/** What each method takes and gives; `progress` is what it says meanwhile. */
export interface MethodTypes {
  ping: {params: undefined; progress: never; result: {name: string; pid: number}};
  status: {params: undefined; progress: never; result: VolumeStatus};
  attach: {params: AttachParams; progress: never; result: ReadyReport};
  hydrate: {params: HydrateParams; progress: never; result: VolumeStatus};
  'write-through': {params: WriteThroughParams; progress: never; result: VolumeStatus};
  wait: {params: {until: 'hydrated' | 'in sync'}; progress: VolumeStatus; result: VolumeStatus};
  verify: {params: undefined; progress: VerifyProgress; result: VerifyReport};
  'replace-store': {
    params: ReplaceStoreParams;
    progress: ReplacementProgress;
    result: ReplacementReport;
  };
  restart: {params: undefined; progress: never; result: RestartResult};
  detach: {params: DetachParams; progress: never; result: DetachResult};
}

export interface VerifyProgress {
  checkedBytes: number;
  totalBytes: number;
}

/** The daemon kills itself right after this answer; another takes over. */
export interface RestartResult {
  pid: number;
  /** How often one had taken over before. */
  takeOvers: number;
}

export interface DetachResult {
  device: string;
  /** True: the store alone is the volume. */
  isComplete: boolean;
  /** Blocks that only the source has, wholly or in part. */
  absentBlocks: number;
  writeThrough: WriteThroughMode;
  /** Blocks the backup lacks; they are sent after the next attach. */
  behindBlocks: number;
}

export interface Request {
  id: number;
  method: Method;
  params: unknown;
}

export interface ErrorBody {
  message: string;
  exitCode: 1 | 2;
}

export type Answer =
  | {id: number; progress: unknown}
  | {id: number; result: unknown}
  | {id: number | null; error: ErrorBody};

/** A line that is not what the protocol says; the message tells why. */
export class ProtocolError extends Error {
  override readonly name = 'ProtocolError';
}

/** One line, ready to be written. Undefined fields are sent as null, so that names are stable. */
export function encodeLine(message: object): string {
  return `${JSON.stringify(message, nullForUndefined)}\n`;
}

/** A replacer for JSON.stringify: names of fields are stable, what is not known is null. */
export function nullForUndefined(_: string, value: unknown): unknown {
  return value === undefined ? null : value;
}

function parseObject(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw new ProtocolError('a line is not JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new ProtocolError('a line is not a JSON object');
  }
  return value as Record<string, unknown>;
}

function isId(value: unknown): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0;
}

/** The request in a line; throws ProtocolError for anything else. */
export function parseRequest(line: string): Request {
  const {id, method, params} = parseObject(line);
  if (!isId(id)) throw new ProtocolError('a request has no id that is a whole number');
  const known = METHODS.find((name) => name === method);
  if (known === undefined) throw new ProtocolError('a request names no known method');
  return {id, method: known, params: params ?? undefined};
}

/** The answer in a line; throws ProtocolError for anything else. */
export function parseAnswer(line: string): Answer {
  const {id, progress, result, error} = parseObject(line);
  if (error !== undefined && (id === null || isId(id))) {
    const {message, exitCode} = (error ?? {}) as Record<string, unknown>;
    if (typeof message !== 'string') throw new ProtocolError('an error has no message');
    return {id, error: {message, exitCode: exitCode === 2 ? 2 : 1}};
  }
  if (!isId(id)) throw new ProtocolError('an answer has no id');
  if (result !== undefined) return {id, result};
  if (progress !== undefined) return {id, progress};
  throw new ProtocolError('an answer says nothing');
}

/**
 * Cuts a stream of bytes into lines, however it arrives. Holds at most {@link LINE_BYTES_MAX} bytes
 * of a line that has not ended; a longer one, or one that is not UTF-8, throws ProtocolError.
 */
export class LineDecoder {
  readonly #limit: number;
  #parts: Buffer[] = [];
  #length = 0;

  constructor(limit: number = LINE_BYTES_MAX) {
    this.#limit = limit;
  }

  /** Bytes of a line that has not ended yet. */
  get pendingBytes(): number {
    return this.#length;
  }

  /** The lines that `chunk` completes, without their line ends; empty lines are left out. */
  *push(chunk: Buffer): Generator<string> {
    let start = 0;
    for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
      this.#keep(chunk.subarray(start, end));
      start = end + 1;
      const line = this.#take();
      if (line.trim() !== '') yield line;
    }
    this.#keep(chunk.subarray(start));
  }

  #keep(part: Buffer): void {
    if (part.length === 0) return;
    if (this.#length + part.length > this.#limit) {
      throw new ProtocolError(`a line is longer than ${this.#limit} bytes`);
    }
    this.#parts.push(Buffer.from(part));
    this.#length += part.length;
  }

  #take(): string {
    const bytes = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts);
    this.#parts = [];
    this.#length = 0;
    try {
      return new TextDecoder('utf-8', {fatal: true}).decode(bytes);
    } catch {
      throw new ProtocolError('a line is not UTF-8');
    }
  }
}
