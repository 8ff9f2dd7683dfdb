/**
 * Everything a volume takes from outside itself besides disks and links: time, chance, memory and
 * the log. Production passes {@link systemEnvironment} (control/), the simulation one that replays
 * a seed.
 */
import type {SeededBug} from './seeded-bugs.js';

export interface Clock {
  /** Milliseconds from some fixed moment; never goes back. */
  now(): number;
  /** Milliseconds since 1970, as the wall says. */
  wallTime(): number;
  /** Resolves after `ms`, or at once when `signal` aborts (it never rejects). */
  sleep(ms: number, signal?: AbortSignal): Promise<void>;
}

export type LogLevel = 'debug' | 'info' | 'warning' | 'error';
export type LogFields = Readonly<Record<string, string | number | boolean | undefined>>;

export interface Log {
  (level: LogLevel, message: string, fields?: LogFields): void;
}

export interface Environment {
  readonly clock: Clock;
  /** Uniform in [0, 1). */
  readonly random: () => number;
  readonly log: Log;
  /**
   * Memory of exactly `length` bytes for in-core state: zeroed, or where a daemon that died left a
   * section of that name and length, that section as it stands (`isInherited`). In production it is
   * a memfd mapping that costs nothing where it was never touched, and that outlives the process.
   */
  readonly allocate: (name: string, length: number) => Memory;
  /** Bugs the laboratory switched on to see whether it finds them; empty in production. */
  readonly bugs: ReadonlySet<SeededBug>;
}

export interface Memory {
  readonly bytes: Uint8Array;
  /** Holds what an earlier daemon left in it. */
  readonly isInherited?: boolean;
  /** Gives [offset, offset+length) back to the system; it reads zeroes afterwards. */
  release(offset: number, length: number): void;
}
