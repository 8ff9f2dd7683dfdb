/** What kind of world a seed makes: geometry, tuning, speeds, habits of the guest, faults. */
import type {Prng} from '../../../src/base/prng.js';
import {KiB, MiB, SECTOR} from '../../../src/base/units.js';
import type {GeometryInput} from '../../../src/map/geometry.js';
import type {MapLimits} from '../../../src/map/map-layout.js';
import type {VolumeTuning} from '../../../src/volume/tuning.js';
import type {WriteThroughMode} from '../../../src/volume/protection.js';
import type {SourceContent} from './sim-source.js';

/** Longer than a late write and the slowest disk take together. */
const ZOMBIE_GRACE_MS = 60;

export interface WorldConfig {
  readonly geometry: GeometryInput;
  readonly mapLimits: Partial<MapLimits>;
  readonly tuning: Partial<VolumeTuning>;
  readonly content: SourceContent;
  /** Whether the store begins full of stale bytes. */
  readonly hasGarbage: boolean;
  /** Typical milliseconds. */
  readonly storeLatency: number;
  readonly syncLatency: number;
  readonly sourceLatency: number;
  readonly backup: BackupConfig;
  readonly guest: GuestHabits;
}

export interface BackupConfig {
  /** The mode the volume begins with. */
  readonly mode: WriteThroughMode;
  /** The source is the same server and export. */
  readonly isSource: boolean;
  /** Typical milliseconds, one way and of its disk. */
  readonly latency: number;
  /** Single requests fail now and then. */
  readonly hasErrors: boolean;
}

export interface GuestHabits {
  /** Requests at once. */
  readonly inFlightMax: number;
  /** Typical milliseconds between two requests. */
  readonly pause: number;
  /** Blocks most requests go to. */
  readonly hotBlocks: number;
  /** Single requests of the source fail now and then. */
  readonly hasSourceErrors: boolean;
  /** Storage calls fail now and then. */
  readonly hasStoreErrors: boolean;
  readonly weights: Readonly<Record<GuestAction, number>>;
}

export type GuestAction =
  | 'read'
  | 'write'
  | 'zeroes'
  | 'discard'
  | 'flush'
  | 'hydration'
  | 'outage'
  | 'slowness'
  | 'crash'
  | 'backup'
  | 'decay'
  | 'replace'
  | 'restart';

/** A world as the generator says. */
export function randomConfig(prng: Prng): WorldConfig {
  const blockSize = prng.pick([4, 4, 4, 8, 16, 64]) * KiB;
  const isLarge = prng.chance(1, 12);
  const blocks = isLarge
    ? Math.ceil((9 * MiB) / blockSize)
    : prng.between(2, prng.pick([6, 24, 64]));
  const short = prng.chance(1, 3) ? prng.between(1, blockSize / SECTOR - 1) * SECTOR : 0;
  const geometry = {size: blocks * blockSize - short, blockSize};
  const mapLimits = {
    logBytes: prng.pick([4, 4, 8, 64]) * KiB,
    intentCountMax: prng.pick([2, 4, 64]),
    maskCountMax: 16,
  };
  return {
    geometry,
    mapLimits,
    tuning: randomTuning(prng, geometry, mapLimits),
    content: {
      seed: prng.below(1e9),
      size: geometry.size,
      cellSize: prng.pick([1, 4, 4, 32]) * KiB,
      holes: prng.pick([0, 1, 3]),
      secretZeroes: prng.pick([0, 1]),
    },
    hasGarbage: prng.chance(7, 8),
    storeLatency: prng.pick([0.05, 0.2, 1]),
    syncLatency: prng.pick([0.1, 1, 5]),
    sourceLatency: prng.pick([0.1, 1, 10]),
    backup: {
      mode: prng.pick(['off', 'sync', 'sync', 'sync', 'strict'] as const),
      isSource: prng.chance(2, 3),
      latency: prng.pick([0.05, 0.2, 0.8]),
      hasErrors: prng.chance(1, 8),
    },
    guest: randomHabits(prng),
  };
}

function randomTuning(
  prng: Prng,
  geometry: GeometryInput,
  map: Partial<MapLimits>,
): Partial<VolumeTuning> {
  const blocks = (...counts: number[]): number => prng.pick(counts) * geometry.blockSize;
  return {
    map,
    commitIntervalMs: prng.pick([2, 20, 200, 5000]),
    checkpointPages: prng.pick([1, 4096]),
    fetchBytesMax: blocks(1, 3, 16),
    requestFetchBytes: blocks(2, 16, 64),
    backgroundFetchBytes: blocks(1, 4, 64),
    readAheadMax: blocks(0, 0, 4, 32),
    hydrationDepth: prng.pick([1, 2, 8]),
    idleMs: prng.pick([0, 3]),
    yieldMaxMs: prng.pick([1, 50]),
    badRetryMs: prng.pick([10, 1000]),
    backupPatienceMs: prng.pick([30, 5000]),
    zombieGraceMs: ZOMBIE_GRACE_MS,
    replaceHoldMs: prng.pick([50, 2000]),
    extentWindow: blocks(1, 8, 1024),
  };
}

function randomHabits(prng: Prng): GuestHabits {
  return {
    inFlightMax: prng.pick([1, 3, 8, 16]),
    pause: prng.pick([0.02, 0.2, 0.2, 2]),
    hotBlocks: prng.pick([1, 2, 4]),
    hasSourceErrors: prng.chance(1, 6),
    hasStoreErrors: prng.chance(1, 10),
    weights: {
      read: prng.pick([10, 30]),
      write: prng.pick([10, 30, 60]),
      zeroes: prng.pick([1, 6]),
      discard: prng.pick([1, 6]),
      flush: prng.pick([2, 8, 20]),
      hydration: 2,
      outage: prng.pick([0, 1]),
      slowness: 1,
      crash: prng.pick([0, 1, 1, 3]),
      backup: prng.pick([0, 1, 3]),
      restart: prng.pick([0, 1]),
      decay: prng.pick([0, 0, 1, 4]),
      replace: prng.pick([0, 0, 1, 3]),
    },
  };
}
