/**
 * Carries out the kernel's requests on a BlockDevice and answers each of them exactly once (I5).
 *
 *   request ──► device call ──► bytes, or the errno of what was thrown
 *
 * What a handler throws: a BlockError (or a system error) is an answer. Anything else is a bug: it
 * is logged with its stack, reported to `onBug`, and answered EIO. Nothing a handler does leaves a
 * request without an answer, except never settling; `shutDown` answers those too.
 *
 * Loop sends discard and write-zeroes as the same request, so both become `writeZeroes` with leave
 * to deallocate: a range that was discarded reads zeroes. Anyone may read the file `disk` at odd
 * offsets (dd bs=100); such reads are widened to whole sectors here. Odd writes are refused.
 *
 * Requests run concurrently and end in any order. After `shutDown` every request, in work or to
 * come, is answered ESHUTDOWN, and what its handler does later is ignored; the handler keeps a
 * buffer that then means nothing.
 */
import type {Log} from '../base/environment.js';
import {BlockError, ERRNO, isBug, messageOf, toErrno} from '../base/errors.js';
import {alignDown, alignUp, SECTOR} from '../base/units.js';
import {FUSE_OPERATION} from '../native/fuse.js';
import type {FuseRequest} from '../native/fuse.js';
import {unreachable} from '../base/assert.js';
import type {BlockDevice} from './block-device.js';

/** Nodes of the mount; `disk` is the device's bytes, `status` a text. */
export const DISK_NODE = 2;
export const STATUS_NODE = 3;

/** Readers whose text is remembered, so that one who reads in pieces sees one text. */
const TEXTS_MAX = 16;

export interface RequestServerOptions {
  readonly device: BlockDevice;
  readonly readOnly: boolean;
  /** The text of the file `status`. */
  readonly status: () => string;
  readonly log: Log;
  /** Told what a handler threw that is no operating error; must not throw. */
  readonly onBug: (error: unknown) => void;
  /** Sends the answer: bytes, 0, or a negative errno. Called once a request. */
  readonly complete: (tag: number, result: number) => void;
}

export class RequestServer {
  readonly #options: RequestServerOptions;
  /** Requests not answered yet. A request in here is answered and taken out in one step. */
  readonly #inWork = new Set<FuseRequest>();
  /** Texts by reader, the latest last. */
  readonly #texts = new Map<number, Buffer>();
  #isShutDown = false;

  constructor(options: RequestServerOptions) {
    this.#options = options;
  }

  /** Requests delivered and not answered. */
  get pending(): number {
    return this.#inWork.size;
  }

  /** Takes a request over. Never throws. */
  handle(request: FuseRequest): void {
    this.#inWork.add(request);
    if (this.#isShutDown) return this.#answer(request, -ERRNO.ESHUTDOWN);
    // Owned by #inWork: both branches answer, and neither can throw.
    void this.#perform(request).then(
      (result) => this.#answer(request, result),
      (error: unknown) => this.#answer(request, -this.#errnoOf(request, error)),
    );
  }

  /** Answers everything with ESHUTDOWN, now and from now on. */
  shutDown(): void {
    this.#isShutDown = true;
    for (const request of this.#inWork) this.#answer(request, -ERRNO.ESHUTDOWN);
  }

  #answer(request: FuseRequest, result: number): void {
    if (this.#inWork.delete(request)) this.#options.complete(request.tag, result);
  }

  /** Resolves to the positive result of a request; async, so that a throwing handler rejects. */
  async #perform(request: FuseRequest): Promise<number> {
    const {device} = this.#options;
    const {operation, offset, length, buffer} = request;
    switch (operation) {
      case FUSE_OPERATION.read:
        if (request.node === STATUS_NODE) return this.#readStatus(request);
        await (isWhole(request) ? device.read(offset, buffer) : this.#readOdd(request));
        return length;
      case FUSE_OPERATION.write:
        this.#refuseWrite(request);
        await device.write(offset, buffer);
        return length;
      case FUSE_OPERATION.zero:
        this.#refuseWrite(request);
        await device.writeZeroes(offset, length, {mayTrim: request.mayTrim});
        return 0;
      case FUSE_OPERATION.flush:
        await device.flush();
        return 0;
      default:
        return unreachable(operation);
    }
  }

  #refuseWrite(request: FuseRequest): void {
    const {offset, length} = request;
    if (this.#options.readOnly) {
      throw new BlockError('EROFS', 'the device is read-only', {op: 'write', offset, length});
    }
    if (!isWhole(request)) {
      const message = `a write of ${length} bytes at ${offset} is not made of whole sectors`;
      throw new BlockError('EINVAL', message, {op: 'write', offset, length});
    }
  }

  async #readOdd({offset, length, buffer}: FuseRequest): Promise<void> {
    const start = alignDown(offset, SECTOR);
    const whole = Buffer.alloc(alignUp(offset + length, SECTOR) - start);
    await this.#options.device.read(start, whole);
    whole.copy(buffer, 0, offset - start, offset - start + length);
  }

  /** A read from the beginning makes the text anew; what follows comes from the same text. */
  #readStatus({offset, handle, buffer}: FuseRequest): number {
    let text = offset === 0 ? undefined : this.#texts.get(handle);
    text ??= Buffer.from(this.#options.status());
    this.#texts.delete(handle);
    this.#texts.set(handle, text);
    const [oldest] = this.#texts.keys();
    if (this.#texts.size > TEXTS_MAX && oldest !== undefined) this.#texts.delete(oldest);
    return offset >= text.length ? 0 : text.copy(buffer, 0, offset);
  }

  #errnoOf(request: FuseRequest, error: unknown): number {
    if (isBug(error)) {
      const {log, onBug} = this.#options;
      const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
      const {offset, length, operation} = request;
      log('error', `a device handler failed: ${messageOf(error)}`, {
        operation,
        offset,
        length,
        stack,
      });
      onBug(error);
    }
    return toErrno(error);
  }
}

function isWhole({offset, length}: FuseRequest): boolean {
  return offset % SECTOR === 0 && length % SECTOR === 0;
}
