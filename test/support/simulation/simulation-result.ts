/** What a run of the simulation is asked for, and what it gives. */
import type {SeededBug} from '../../../src/base/seeded-bugs.js';
import type {WorldConfig} from './world-config.js';

export interface SimulationOptions {
  seed: number;
  /** Events after which the run comes to its end. @default 1500 */
  steps?: number;
  bug?: SeededBug;
  /** Events the trace of a failure has. @default 60 */
  traceMax?: number;
  /** Changes to the world the seed makes. */
  adjust?: (config: WorldConfig) => WorldConfig;
}

export interface SimulationResult {
  readonly seed: number;
  readonly steps: number;
  readonly requests: number;
  readonly crashes: number;
  /** Virtual milliseconds. */
  readonly virtualMs: number;
}

/** What a failed run throws: the reason first, then how to replay it, then the trace. */
export class SimulationError extends Error {
  override readonly name = 'SimulationError';
  readonly seed: number;
  readonly trace: string;

  constructor(seed: number, cause: unknown, trace: string) {
    super(`seed ${seed}: ${cause instanceof Error ? cause.message : String(cause)}`, {cause});
    this.seed = seed;
    this.trace = trace;
  }
}
