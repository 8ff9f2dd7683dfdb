/** What is known of the backup, and how it is said. It is never more than is known (I8, BX11). */

export type WriteThroughMode = 'off' | 'sync' | 'strict';

/** What outlives the daemon. Times are wall time in ms. */
export interface ProtectionMemory {
  /** The backup held everything that had been written until then, and holds it still. */
  consistentAsOf: number | undefined;
  /** A resync has begun to change it in another order than the guest wrote. */
  inconsistentSince: number | undefined;
}

/**
 *   off        nothing goes to the backup
 *   protected  nothing is behind
 *   behind     the backup is a past state of the volume, and lacks later blocks
 *   resync     it is being brought up to date and is no state of the volume until that ends
 */
export type ProtectionState = 'off' | 'protected' | 'behind' | 'resync';

export interface ProtectionReport extends ProtectionMemory {
  mode: WriteThroughMode;
  state: ProtectionState;
  /** Blocks the backup lacks, and their bytes. */
  behindBlocks: number;
  behindBytes: number;
  /** Blocks sent that no flush has covered yet. */
  unflushedBlocks: number;
  link: {state: string; since: number; lastError: string | undefined};
  /** Of the last single request that failed; undefined after one that went well. */
  lastError: string | undefined;
  resync: {rateLimit: number | undefined; rate: number; etaMs: number | undefined};
}
