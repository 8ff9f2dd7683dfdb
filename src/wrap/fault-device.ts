/**
 * A device that fails on purpose, by rules: in a range, at the n-th request, with a probability,
 * for some operations, with an errno. It is how the error paths of whatever stands above are tried,
 * over a real kernel device as well as in a test.
 *
 * A request fails if any rule matches; the first one in order gives the errno. A failing write may
 * first reach the wrapped device (`after: true`): the guest sees an error, the bytes are there.
 */
import type {Environment} from '../base/environment.js';
import {BlockError, type ErrnoCode} from '../base/errors.js';
import {Prng} from '../base/prng.js';
import type {BlockDevice} from '../device/block-device.js';
import {interpose, type Around, type DeviceOp, type DeviceRequest} from './interpose.js';

/** Every condition given must hold; a rule without any fails everything. */
export interface FaultRule {
  /** @default all operations */
  ops?: readonly DeviceOp[];
  /** Bytes; requests that touch the range. A flush touches none. @default everywhere */
  range?: {readonly offset: number; readonly length: number};
  /** Lets so many matching requests pass first. @default 0 */
  skip?: number;
  /** Fails at most so many requests, then the rule is spent. @default no end */
  times?: number;
  /** From 0 (never) to 1 (always). @default 1 */
  probability?: number;
  /** @default 'EIO' */
  code?: ErrnoCode;
  /** The wrapped device does the request before it fails. @default false */
  after?: boolean;
}

export interface FaultDeviceOptions {
  /** Of the probabilities; the same seed and requests fail alike. @default 0 */
  seed?: number;
  /** Where given, each fault is logged as a warning. */
  environment?: Pick<Environment, 'log'>;
}

interface RuleState {
  readonly rule: FaultRule;
  matched: number;
  failed: number;
}

export class FaultDevice implements BlockDevice {
  readonly size: number;
  readonly #device: BlockDevice;
  readonly #prng: Prng;
  #rules: RuleState[] = [];
  #faults = 0;

  /** `next` fails as `rules` say. RangeError for a probability outside 0..1 or a negative count. */
  constructor(
    next: BlockDevice,
    rules: readonly FaultRule[] = [],
    options: FaultDeviceOptions = {},
  ) {
    this.size = next.size;
    this.#prng = new Prng(options.seed ?? 0);
    const around: Around = async (request, run) => {
      const rule = this.#ruleFor(request);
      if (!rule) return run();
      const {op, offset, length} = request;
      const code = rule.code ?? 'EIO';
      options.environment?.log('warning', 'fault injected', {op, offset, length, code});
      if (rule.after) await run();
      const message = `${op} at ${offset}+${length} failed because a fault rule said so`;
      throw new BlockError(code, message, {op, offset, length});
    };
    this.#device = interpose(next, around);
    this.setRules(rules);
  }

  /** Requests failed so far. */
  get faults(): number {
    return this.#faults;
  }

  /** Replaces the rules and forgets their counts; `[]` heals the device. */
  setRules(rules: readonly FaultRule[]): void {
    for (const {probability = 1, skip = 0, times = 0} of rules) {
      if (!(probability >= 0 && probability <= 1)) throw new RangeError('a probability is 0 to 1');
      if (skip < 0 || times < 0) throw new RangeError('counts of a fault rule are not negative');
    }
    this.#rules = rules.map((rule) => ({rule, matched: 0, failed: 0}));
  }

  read(offset: number, buffer: Buffer): Promise<void> {
    return this.#device.read(offset, buffer);
  }

  write(offset: number, buffer: Buffer, options?: {fua?: boolean}): Promise<void> {
    return this.#device.write(offset, buffer, options);
  }

  writeZeroes(
    offset: number,
    length: number,
    options?: {fua?: boolean; mayTrim?: boolean},
  ): Promise<void> {
    return this.#device.writeZeroes(offset, length, options);
  }

  discard(offset: number, length: number): Promise<void> {
    return this.#device.discard(offset, length);
  }

  flush(): Promise<void> {
    return this.#device.flush();
  }

  close(): Promise<void> {
    return this.#device.close();
  }

  /** Every rule counts a request it matches, also when an earlier rule already fails it. */
  #ruleFor(request: DeviceRequest): FaultRule | undefined {
    let found: FaultRule | undefined;
    for (const state of this.#rules) {
      const {rule} = state;
      if (!matches(rule, request)) continue;
      state.matched++;
      if (state.matched <= (rule.skip ?? 0) || state.failed >= (rule.times ?? Infinity)) continue;
      if (rule.probability !== undefined && this.#prng.fraction() >= rule.probability) continue;
      state.failed++;
      found ??= rule;
    }
    if (found) this.#faults++;
    return found;
  }
}

function matches(rule: FaultRule, request: DeviceRequest): boolean {
  if (rule.ops && !rule.ops.includes(request.op)) return false;
  if (!rule.range) return true;
  const {offset, length} = rule.range;
  return request.offset < offset + length && request.offset + request.length > offset;
}
