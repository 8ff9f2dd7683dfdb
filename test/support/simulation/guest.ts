/**
 * The guest: sends requests to a device, many at once and often to the same place, and tells the
 * oracle what it asked and what it was answered. It scribbles over its write buffers once they are
 * answered, and over read buffers before: whoever keeps or forgets a buffer is found out.
 */
import type {Prng} from '../../../src/base/prng.js';
import {alignDown, SECTOR} from '../../../src/base/units.js';
import {messageOf} from '../../../src/base/errors.js';
import type {BlockDevice} from '../../../src/device/block-device.js';
import type {Oracle} from '../oracle.js';
import {stamp, ZERO} from '../stamps.js';
import type {Life, Scheduler} from './scheduler.js';
import type {Trace} from './trace.js';

export interface GuestTools {
  readonly prng: Prng;
  readonly oracle: Oracle;
  readonly scheduler: Scheduler;
  readonly trace: Trace;
  readonly blockSize: number;
  readonly hotBlocks: number;
  /**
   * Where all requests go; left out: the guest chooses hot blocks itself, and others now and then.
   */
  readonly places?: readonly number[];
  /** Whether an error may be an answer now; without it each one fails the run. */
  readonly mayFail: (error: unknown, request: GuestRequest) => boolean;
  /** Told of each write before it is sent. */
  readonly noteWrite?: (offset: number, length: number, value: number) => void;
  /** Told of each answered flush. */
  readonly noteFlush?: () => void;
  /** Told of each answered write without FUA: its answer says how late it took effect. */
  readonly noteAnswer?: (write: AnsweredWrite) => void;
}

/** A write that was answered, and when it was sent. */
export interface AnsweredWrite {
  readonly offset: number;
  readonly length: number;
  readonly value: number;
  readonly since: number;
}

/** A request on its way. */
export interface GuestRequest {
  readonly op: string;
  readonly offset: number;
  readonly length: number;
  readonly since: number;
}

/** What is needed to send it again. */
interface SentRequest extends GuestRequest {
  readonly call: (device: BlockDevice) => Promise<void>;
  readonly done: () => void;
  readonly failed?: (() => void) | undefined;
}

/** Bytes a buffer holds while it is not the guest's. */
const SCRIBBLE = 0xbb;
/** Blocks one request covers at most. */
const BLOCKS_MAX = 4;

export class Guest {
  readonly inFlight = new Set<SentRequest>();
  /** What went wrong first. */
  failure: unknown;
  requests = 0;
  readonly #tools: GuestTools;
  #hot: number[] = [];

  constructor(tools: GuestTools) {
    this.#tools = tools;
  }

  /** Sends one request of a kind to a place of its own choice. Answers count while `life` lasts. */
  send(
    device: BlockDevice,
    life: Life,
    op: 'read' | 'write' | 'zeroes' | 'discard' | 'flush',
  ): void {
    const {prng, oracle} = this.#tools;
    if (op === 'flush') {
      const began = oracle.beginFlush();
      this.#send(device, life, {
        ...{op, offset: 0, length: 0},
        call: (to) => to.flush(),
        done: () => {
          oracle.acknowledgeFlush(began);
          this.#tools.noteFlush?.();
        },
      });
      return;
    }
    const [offset, length] = this.#range(device.size);
    if (op === 'read') this.read(device, life, offset, length);
    else
      this.#change(device, life, op, {offset, length, fua: op !== 'discard' && prng.chance(1, 12)});
  }

  /** Reads everything, in pieces, at once. */
  readAll(device: BlockDevice, life: Life): void {
    const step = this.#tools.blockSize * 8;
    for (let offset = 0; offset < device.size; offset += step) {
      this.read(device, life, offset, Math.min(step, device.size - offset));
    }
  }

  read(device: BlockDevice, life: Life, offset: number, length: number): void {
    const {oracle} = this.#tools;
    const buffer = Buffer.alloc(length, SCRIBBLE);
    const read = oracle.beginRead(offset, length);
    this.#send(device, life, {
      ...{op: 'read', offset, length},
      call: (to) => to.read(offset, buffer),
      done: () => oracle.endRead(read, buffer),
      failed: () => oracle.endRead(read, undefined),
    });
  }

  write(device: BlockDevice, life: Life, offset: number, length: number): void {
    this.#change(device, life, 'write', {offset, length, fua: false});
  }

  /** Forgets what was in flight: the daemon died. */
  forget(): void {
    this.inFlight.clear();
  }

  /** Sends what was not answered once more, in any order, as the kernel does after a take-over. */
  resend(device: BlockDevice, life: Life): void {
    for (const request of this.#tools.prng.shuffle([...this.inFlight])) {
      this.#run(device, life, request);
    }
  }

  #change(
    device: BlockDevice,
    life: Life,
    op: 'write' | 'zeroes' | 'discard',
    {offset, length, fua}: {offset: number; length: number; fua: boolean},
  ): void {
    const {oracle, prng} = this.#tools;
    const value = op === 'write' ? ++this.requests : ZERO;
    const write = oracle.beginWrite(offset, length, value);
    this.#tools.noteWrite?.(offset, length, value);
    const since = this.#tools.scheduler.now;
    const buffer = Buffer.alloc(op === 'write' ? length : 0);
    stamp(buffer, offset, value);
    const mayTrim = prng.chance(1, 2);
    const call = (to: BlockDevice): Promise<void> => {
      if (op === 'write') return to.write(offset, buffer, {fua});
      if (op === 'discard') return to.discard(offset, length);
      return to.writeZeroes(offset, length, {fua, mayTrim});
    };
    const name =
      op === 'write' ? `write ${value}${fua ? ' fua' : ''}` : `${op}${fua ? ' fua' : ''}`;
    this.#send(device, life, {
      ...{op: name, offset, length, call},
      done: () => {
        oracle.acknowledge(write, fua);
        if (!fua) this.#tools.noteAnswer?.({offset, length, value, since});
        buffer.fill(SCRIBBLE);
      },
      failed: () => oracle.fail(write),
    });
  }

  #send(device: BlockDevice, life: Life, what: Omit<SentRequest, 'since'>): void {
    const request = {...what, since: this.#tools.scheduler.now};
    this.inFlight.add(request);
    this.#run(device, life, request);
  }

  #run(device: BlockDevice, life: Life, request: SentRequest): void {
    const {scheduler, trace} = this.#tools;
    const {op, offset, length} = request;
    trace.add(scheduler.now, '->', op, offset, length);
    const settle = (how: () => void, note: string): void => {
      if (!life.isAlive) return;
      if (!this.inFlight.delete(request))
        this.failure ??= new Error('I5: a request was answered twice');
      trace.add(scheduler.now, '<-', op, offset, length, note);
      try {
        how();
      } catch (error) {
        this.failure ??= error;
      }
    };
    request.call(device).then(
      () => settle(request.done, ''),
      (error: unknown) =>
        settle(() => {
          request.failed?.();
          if (!this.#tools.mayFail(error, request)) throw error;
        }, messageOf(error)),
    );
  }

  /** A range, mostly in hot blocks: a part of a block, a whole one, or several. */
  #range(size: number): [offset: number, length: number] {
    const {prng, blockSize, hotBlocks, places} = this.#tools;
    const blockCount = Math.ceil(size / blockSize);
    if (this.#hot.length === 0 || prng.chance(1, 64)) {
      this.#hot = Array.from({length: hotBlocks}, () => prng.below(blockCount));
    }
    const anywhere = prng.chance(4, 5) ? prng.pick(this.#hot) : prng.below(blockCount);
    const block = places ? prng.pick(places) : anywhere;
    const start = block * blockSize;
    const inBlock = Math.min(blockSize, size - start);
    const kind = prng.weighted({part: 8, whole: 6, several: 3, crooked: 3});
    if (kind === 'whole') return [start, inBlock];
    if (kind === 'part') {
      const from = prng.below(inBlock / SECTOR) * SECTOR;
      const most = (inBlock - from) / SECTOR;
      return [start + from, prng.between(1, prng.chance(1, 2) ? Math.min(2, most) : most) * SECTOR];
    }
    const length = Math.min(prng.between(1, BLOCKS_MAX) * blockSize, size - start);
    if (kind === 'several') return [start, length];
    const from = prng.below(inBlock / SECTOR) * SECTOR;
    const rest = alignDown(Math.min(length, size - start - from), SECTOR);
    return [start + from, prng.between(1, rest / SECTOR) * SECTOR];
  }
}
