/**
 * The volume's bounds and paces, each with its unit, default and the consequence of another value.
 */
import {MiB} from '../base/units.js';
import type {MapLimits} from '../map/map-layout.js';

export interface VolumeTuning {
  /**
   * Milliseconds after which changes are committed without a flush. More: more is fetched again
   * after a crash.
   */
  commitIntervalMs: number;
  /**
   * Changed map pages that ask for a checkpoint: bounds the memory and time one takes (4 KiB a
   * page).
   */
  checkpointPages: number;
  /** Bytes of buffers for misses of requests; a miss beyond waits for one before it. */
  requestFetchBytes: number;
  /** The same for hydration and read-ahead. */
  backgroundFetchBytes: number;
  /** Bytes of one fetch at most; a multiple of the block size or one block. */
  fetchBytesMax: number;
  /** Bytes fetched ahead of a sequential reader at most; 0 switches read-ahead off. */
  readAheadMax: number;
  /**
   * Fetches hydration has in flight at once. More: faster over a long way, more in a request's way.
   */
  hydrationDepth: number;
  /** Milliseconds without a request after which background hydration goes on. */
  idleMs: number;
  /**
   * Milliseconds that hydration waits for a busy guest at most before each fetch: it never starves.
   */
  yieldMaxMs: number;
  /**
   * Milliseconds until a range whose fetch failed is tried again; doubles up to a hundred times
   * this.
   */
  badRetryMs: number;
  /** Bytes of the source asked for allocation in one go. */
  extentWindow: number;
  /**
   * Milliseconds a flush of the backup may take before the connection counts as lost and the flush
   * goes on without it. More: a guest's flush may hang as long on a silent backup.
   */
  backupPatienceMs: number;
  /**
   * Milliseconds after the loss of a connection in which the backup may still carry out a write
   * that was under way; the block is sent again only then. More: longer behind after each loss.
   */
  zombieGraceMs: number;
  /**
   * Milliseconds that new requests are held at most for those under way to end, when the store is
   * replaced; it is then left as it was.
   */
  replaceHoldMs: number;
  /** Sizes the map file is formatted with. */
  map: Partial<MapLimits>;
}

export const DEFAULT_TUNING: VolumeTuning = {
  commitIntervalMs: 2000,
  checkpointPages: 4096,
  requestFetchBytes: 32 * MiB,
  backgroundFetchBytes: 16 * MiB,
  fetchBytesMax: MiB,
  readAheadMax: 4 * MiB,
  hydrationDepth: 8,
  idleMs: 3,
  yieldMaxMs: 50,
  badRetryMs: 3000,
  extentWindow: 1024 * MiB,
  backupPatienceMs: 5000,
  zombieGraceMs: 10_000,
  replaceHoldMs: 10_000,
  map: {},
};

export function tuningWith(wanted: Partial<VolumeTuning>): VolumeTuning {
  return {...DEFAULT_TUNING, ...wanted};
}
