/**
 * Which faults are on. All chances of one request are drawn when it arrives, from a generator of
 * its own and in a fixed order: the same requests meet the same fate for the same seed, whatever
 * the timing, and switching one fault does not change another's draws.
 */
import {ERRNO} from '../../../src/base/errors.js';
import type {Prng} from '../../../src/base/prng.js';
import type {Op} from './protocol.js';

/**
 * Where in a request's life its connection is cut:
 *
 *   header ── payload ── forwarded ── done ── reply
 *        receiving   before        after   replying (in the middle of the reply)
 */
export const CUT_STAGES = ['receiving', 'before', 'after', 'replying'] as const;
export type CutStage = (typeof CUT_STAGES)[number];

export interface FaultSettings {
  /** Each request and each reply waits for up to this long. */
  delayMs: number;
  /** Changes that do not overlap are forwarded, and replies sent, in another order. */
  reorder: boolean;
  /** How long a batch gathers before it goes on in another order. */
  reorderHoldMs: number;
  /** Changes are answered and held back until a flush or FUA covers them. */
  volatile: boolean;
  /** Of each request: from 0 to 1. */
  cutProbability: number;
  cutStages: readonly CutStage[];
  /**
   * 0: a cut by chance ends one connection. Otherwise it ends all, and none is taken for up to
   * this long.
   */
  downMs: number;
  /** Changes of a dead connection may land up to this long after its end; 0: never. */
  zombieMs: number;
  /** Of each change that was on its way when its connection died: from 0 to 1. */
  zombieProbability: number;
  /** Requests are taken and neither done nor answered until this is off again. */
  silent: boolean;
  /** New connections are taken, and not a word is said until this is off again. */
  silentHandshake: boolean;
  /** What a trim does to the bytes; `random`: either. */
  trim: 'zero' | 'ignore' | 'random';
}

const NONE: FaultSettings = {
  delayMs: 0,
  reorder: false,
  reorderHoldMs: 2,
  volatile: false,
  cutProbability: 0,
  cutStages: CUT_STAGES,
  downMs: 0,
  zombieMs: 0,
  zombieProbability: 0.75,
  silent: false,
  silentHandshake: false,
  trim: 'zero',
};

export type FailCode = 'EPERM' | 'EIO' | 'ENOMEM' | 'EINVAL' | 'ENOSPC' | 'EOVERFLOW' | 'ESHUTDOWN';

export interface FailOptions {
  /** From 0 to 1. @default 1 */
  probability?: number;
  /** Only requests that touch these bytes. @default all */
  offset?: number;
  length?: number;
  /** How often, then never again. @default Infinity */
  times?: number;
  /**
   * What the failed request did nevertheless. A change: nothing, some of its sectors, or all of
   * them. A flush: nothing (what is held stays held), some held changes are durable and the others
   * gone for ever (as the kernel forgets pages it could not write), or everything is durable.
   * @default 'nothing'
   */
  effect?: FailEffect;
}
export type FailEffect = 'nothing' | 'part' | 'all';

interface FailRule {
  readonly ops: readonly Op[];
  readonly code: FailCode;
  readonly options: FailOptions;
  left: number;
}

/** The fate of one request. */
export interface Plan {
  readonly requestDelayMs: number;
  readonly replyDelayMs: number;
  readonly cut: CutStage | undefined;
  readonly isZombie: boolean;
  /** Of zombieMs. */
  readonly zombieFraction: number;
  readonly doesTrim: boolean;
  readonly failure: {readonly errno: number; readonly effect: FailEffect} | undefined;
  /** For what else has to be chosen: where to tear, where to cut. */
  readonly dice: Prng;
}

export class Faults {
  #now: FaultSettings = NONE;
  #rules: FailRule[] = [];

  get now(): FaultSettings {
    return this.#now;
  }

  /** Changes the settings that are named. */
  set(settings: Partial<FaultSettings>): void {
    this.#now = {...this.#now, ...settings};
  }

  /** Everything works from now on. */
  clear(): void {
    this.#now = NONE;
    this.heal();
  }

  /** From now on requests of this kind fail as the options say; the first rule that fits counts. */
  fail(op: Op | readonly Op[], code: FailCode, options: FailOptions = {}): void {
    const ops = typeof op === 'string' ? [op] : op;
    this.#rules.push({ops, code, options, left: options.times ?? Infinity});
  }

  /** Takes away what `fail` said, of one kind or of all. */
  heal(op?: Op): void {
    this.#rules = this.#rules.filter(({ops}) => op !== undefined && !ops.includes(op));
  }

  /** Draws what will happen to a request. */
  plan(op: Op, offset: number, length: number, dice: Prng): Plan {
    const now = this.#now;
    const requestDelayMs = dice.fraction() * now.delayMs;
    const replyDelayMs = dice.fraction() * now.delayMs;
    const isCut = dice.fraction() < now.cutProbability;
    const stage = dice.pick(now.cutStages);
    const isZombie = dice.fraction() < now.zombieProbability;
    const zombieFraction = dice.fraction();
    const isLazy = dice.chance(1, 2);
    const failDraw = dice.fraction();
    return {
      requestDelayMs,
      replyDelayMs,
      cut: isCut ? stage : undefined,
      isZombie,
      zombieFraction,
      doesTrim: now.trim === 'zero' || (now.trim === 'random' && !isLazy),
      failure: this.#failure(op, offset, length, failDraw),
      dice,
    };
  }

  #failure(op: Op, offset: number, length: number, draw: number): Plan['failure'] {
    const rule = this.#rules.find(({ops, left, options}) => {
      const {offset: from = 0, length: count = Infinity, probability = 1} = options;
      if (!ops.includes(op) || left === 0 || draw >= probability) return false;
      return op === 'flush' || (offset < from + count && from < offset + length);
    });
    if (!rule) return undefined;
    rule.left--;
    return {errno: ERRNO[rule.code], effect: rule.options.effect ?? 'nothing'};
  }
}
