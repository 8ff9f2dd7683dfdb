/**
 * What a volume says of itself; `status --json` prints it with the daemon's own fields around it.
 */
import type {BlockState} from '../map/block-state.js';
import type {ProtectionReport} from './protection.js';
import type {ReplacementProgress} from './replacement.js';

/** One-way: a volume never gets a better mode back while it is attached. */
export type VolumeMode = 'read-write' | 'read-only' | 'failed';

export type HydrationMode = 'off' | 'background' | 'full';

export interface HydrationReport {
  mode: HydrationMode;
  /** Bytes a second at most; undefined: no limit. */
  rateLimit: number | undefined;
  /** `idle`: nothing to do in this mode; `yielding`: gives way to requests; `hydrated`: done. */
  state: 'idle' | 'running' | 'yielding' | 'waiting for the source' | 'hydrated' | 'stopped';
  /**
   * Bytes of data (not holes) still to be fetched, and in the whole source; undefined until
   * surveyed.
   */
  remainingDataBytes: number | undefined;
  totalDataBytes: number | undefined;
  /** Bytes fetched a second, over the last seconds. */
  rate: number;
  /** Milliseconds until all data is local at the present rate; undefined if unknown. */
  etaMs: number | undefined;
  /** Ranges whose fetch failed and will be tried again, the oldest first, at most 64 listed. */
  badRanges: {offset: number; length: number; error: string; attempts: number}[];
}

/** A place where the store failed, and what was done about it. */
export interface StoreErrorReport {
  /** Bytes. */
  offset: number;
  length: number;
  /** Wall time in ms of the last time. */
  at: number;
  /** How often it failed there. */
  count: number;
  /**
   *   fetched anew   a copied block: absent again, and fetched from the source
   *   put back       it was read from the backup and written to the store once more
   *   lost           nobody else holds it: who reads it is told of an error until it is written
   *   not written    a write failed twice, and whoever asked for it was told
   */
  done: 'fetched anew' | 'put back' | 'lost' | 'not written';
}

export interface VolumeReport {
  size: number;
  blockSize: number;
  mode: VolumeMode;
  /** Why it is not read-write; undefined while it is. */
  modeReason: string | undefined;
  /** Blocks in each state; they add up to all blocks. */
  blocks: Record<BlockState, number>;
  /** True once every block's bytes are durable in the store: it can be mounted without regrow. */
  isHydrated: boolean;
  /** For a picture: up to 256 equal parts of the volume, each the share (0-1) that is local. */
  picture: number[];
  counters: VolumeCounters;
  hydration: HydrationReport;
  /** Wall time in ms of the last commit of the map; undefined before the first. */
  lastCommitAt: number | undefined;
  /** Partial writes that wait for room in the mask table. */
  waitingForMasks: number;
  protection: ProtectionReport;
  /** While the store is being replaced. */
  replacement: ReplacementProgress | undefined;
  /** Where the store failed, the oldest first; the last 64. */
  storeErrors: StoreErrorReport[];
}

export interface VolumeCounters {
  reads: number;
  writes: number;
  zeroings: number;
  flushes: number;
  readBytes: number;
  writtenBytes: number;
  /** Bytes read from the source, for whom. */
  fetchedForRequests: number;
  fetchedAhead: number;
  fetchedInBackground: number;
  installedBlocks: number;
  /** Fetched blocks dropped because they had stopped being absent (I4). */
  droppedBlocks: number;
  /** Blocks known to be zero at the source and taken without transfer. */
  zeroBlocks: number;
  commits: number;
  checkpoints: number;
  intentMarks: number;
  storeErrors: number;
  sourceErrors: number;
}
