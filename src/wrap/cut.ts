/**
 * What a power cut leaves of a volatile cache: for each sector its durable bytes or any version
 * written since. Pure and seeded, so the same seed over the same versions gives the same loss.
 *
 * A uniformly random choice per sector almost never makes the losses that hurt, so a cut has a
 * mode:
 *
 *   all       everything arrived in time           one-lost   everything but one request
 *   none      nothing did                          one-kept   nothing but one request
 *   prefix    what was written before a moment     requests   each request wholly or not
 *   sectors   each sector by itself: reordered, torn, any version
 */
import type {Prng} from '../base/prng.js';

export const CUT_MODES = [
  'all',
  'none',
  'prefix',
  'requests',
  'one-lost',
  'one-kept',
  'sectors',
] as const;
export type CutMode = (typeof CUT_MODES)[number];

export interface SectorVersion {
  readonly bytes: Uint8Array;
  /** The moment it was written; later is higher. */
  readonly order: number;
  /** Which request wrote it; the same number for all its sectors. */
  readonly request: number;
}

export interface Survivors {
  readonly mode: CutMode;
  /** What the medium gets; a sector that is not here keeps its durable bytes. */
  readonly kept: [sector: number, version: SectorVersion][];
  /** How many sectors kept their newest version, and an older one. */
  readonly newest: number;
  readonly older: number;
  /** Sectors without their newest version. */
  readonly lost: number[];
}

/** Chooses what survives of `cache`: sector → versions since the durable one, oldest first. */
export function chooseSurvivors(
  cache: ReadonlyMap<number, readonly SectorVersion[]>,
  prng: Prng,
  mode: CutMode = prng.pick(CUT_MODES),
): Survivors {
  const keeps = keepRule(cache, prng, mode);
  const kept: [number, SectorVersion][] = [];
  const lost: number[] = [];
  let newest = 0;
  for (const [sector, versions] of cache) {
    const chosen =
      mode === 'sectors' ? versions[prng.below(versions.length + 1)] : versions.findLast(keeps);
    if (chosen) kept.push([sector, chosen]);
    if (chosen && chosen === versions.at(-1)) newest++;
    else lost.push(sector);
  }
  return {mode, kept, newest, older: kept.length - newest, lost};
}

/** Whether a version survives, for the modes that decide by request or moment. */
function keepRule(
  cache: ReadonlyMap<number, readonly SectorVersion[]>,
  prng: Prng,
  mode: CutMode,
): (version: SectorVersion) => boolean {
  if (mode === 'all') return () => true;
  if (mode === 'none' || mode === 'sectors') return () => false;
  const requests = new Set<number>();
  const orders = new Set<number>();
  for (const versions of cache.values()) {
    for (const {request, order} of versions) {
      requests.add(request);
      orders.add(order);
    }
  }
  if (requests.size === 0) return () => true;
  if (mode === 'prefix') {
    const last = prng.pick([...orders]);
    return ({order}) => order <= last;
  }
  if (mode === 'requests') {
    const survivors = new Set([...requests].filter(() => prng.chance(1, 2)));
    return ({request}) => survivors.has(request);
  }
  const one = prng.pick([...requests]);
  return mode === 'one-lost' ? ({request}) => request !== one : ({request}) => request === one;
}
