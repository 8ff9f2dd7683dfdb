/**
 * What `status --json` prints and the FUSE file `status` holds: everything the volume reports, with
 * what only the daemon knows around it. Field names are stable; what is not known is null.
 */
import type {SourceHealth} from '../source/source.js';
import type {VolumeReport} from '../volume/report.js';
import type {AttachOptions} from './attach-options.js';
import type {RecentError} from './recent-errors.js';

export interface VolumeStatus extends VolumeReport {
  name: string;
  /** `stopping`: a SIGTERM came; the daemon leaves once nobody uses the device. */
  state: 'starting' | 'attached' | 'stopping';
  /** The block device: `/dev/loop3`. */
  device: string | undefined;
  /** The folder of the small FUSE file system. */
  mountpoint: string;
  pid: number;
  version: string;
  /** Wall time in ms, and ms since then. */
  startedAt: number;
  uptimeMs: number;
  store: {path: string; identity: string};
  source: SourceStatus;
  takeOver: TakeOverStatus;
  options: AttachOptions;
  /** Blocks whose content is known, by which source and store are recognised. */
  witnesses: number;
  /** The last things that went wrong, the oldest first. */
  errors: RecentError[];
  /** Bytes. */
  memory: {resident: number; heapUsed: number; external: number};
}

/** What a death of the daemon would mean, and what deaths there were. */
export interface TakeOverStatus {
  /** True: another daemon would go on with the device. */
  isPossible: boolean;
  /** Why not. */
  problem: string | null;
  /** How often one has taken over since the attach, and how the last time went. */
  count: number;
  /** Wall time in ms. */
  lastAt: number | null;
  lastPauseMs: number | null;
  /** What the daemon before died of: `signal 9`. */
  lastDeath: string | null;
  /** False (no CAP_SYS_RESOURCE): memory reclaim may come to wait for the daemon's own device. */
  isIoFlusher: boolean;
  /** Request buffers that could not be locked in memory: a death may then cost an I/O error. */
  unlockedBuffers: number;
}

export interface SourceStatus extends SourceHealth {
  /** Without secrets. */
  name: string;
}

/** What `list` says of a volume, attached or not. */
export interface VolumeSummary {
  name: string;
  state: 'attached' | 'stopping' | 'starting' | 'detached' | 'damaged' | 'unfinished';
  device: string | null;
  size: number | null;
  /** The share (0-1) of the volume that is local; null where nobody has counted. */
  local: number | null;
  store: string | null;
  source: string | null;
  /** Why it is damaged. */
  problem: string | null;
}

/** The share (0-1) of a volume's blocks that the store alone gives. */
export function localShare(report: Pick<VolumeReport, 'blocks'>): number {
  const {absent, partial, copied, overwritten, zeroed} = report.blocks;
  const all = absent + partial + copied + overwritten + zeroed;
  return all === 0 ? 1 : (all - absent - partial) / all;
}
