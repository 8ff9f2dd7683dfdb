/**
 * Witnesses: blocks whose content is known, by which a source or store is recognised (I7).
 *
 * At the first attach some random blocks of data are read from the source and their hashes kept in
 * volume.json. At every resume and reconnect some of them are read again; one that differs stops
 * before the first write. A witness lies inside one block of the map, so whether the store should
 * still hold it is one state. Zeroes are no witnesses: every empty disk has them.
 */
import {createHash} from 'node:crypto';
import {alignDown, GiB, KiB} from '../base/units.js';
import type {Source, SourceExtent} from '../source/source.js';
import type {Witness} from './volume-record.js';

/** How many are kept. */
export const WITNESSES_KEPT = 8;
/** How many are compared at a reconnect, where requests wait for the answer. */
export const WITNESSES_AT_RECONNECT = 4;

/**
 * Parts of the source that are asked for their extents, at most; a mostly empty one may need all.
 */
const WINDOWS_MAX = 48;
const WINDOW_BYTES = GiB;
const LENGTH_MAX = 64 * KiB;

export interface PickOptions {
  source: Source;
  /** Bytes; of the map. */
  blockSize: number;
  /** Uniform in [0, 1). */
  random: () => number;
  signal: AbortSignal;
}

/** Up to eight witnesses from all over the source; fewer where it holds little data. */
export async function pickWitnesses(options: PickOptions): Promise<Witness[]> {
  const {source, random, signal} = options;
  const length = Math.min(options.blockSize, LENGTH_MAX);
  const found = new Map<number, Witness>();
  const windows = Math.max(1, Math.ceil(source.size / WINDOW_BYTES));
  const perWindow = Math.ceil(WITNESSES_KEPT / Math.min(windows, WITNESSES_KEPT));
  const visits = Math.min(WINDOWS_MAX, windows === 1 ? 1 : windows * 2);
  for (let visit = 0; visit < visits && found.size < WITNESSES_KEPT; visit++) {
    // The first window first: it holds the partition table or superblock of nearly every disk.
    const window = visit === 0 ? 0 : Math.floor(random() * windows);
    const start = window * WINDOW_BYTES;
    const end = Math.min(start + WINDOW_BYTES, source.size);
    const extents = await source.extents(start, end - start, {priority: 'background', signal});
    for (const offset of pickOffsets(extents, length, perWindow, random)) {
      const witness = await readWitness(source, offset, length, signal);
      if (witness !== undefined) found.set(offset, witness);
    }
  }
  return [...found.values()].slice(0, WITNESSES_KEPT).sort((a, b) => a.offset - b.offset);
}

/** Random blocks, aligned, that touch data; twice as many as wanted since some may be zeroes. */
function pickOffsets(
  extents: readonly SourceExtent[],
  length: number,
  wanted: number,
  random: () => number,
): number[] {
  const data = extents.filter((extent) => !extent.isZero);
  const total = data.reduce((sum, extent) => sum + extent.length, 0);
  const offsets = new Set<number>();
  for (let i = 0; i < 2 * wanted && total > 0; i++) {
    let rest = Math.floor(random() * total);
    for (const extent of data) {
      if (rest < extent.length) {
        offsets.add(alignDown(extent.offset + rest, length));
        break;
      }
      rest -= extent.length;
    }
  }
  return [...offsets];
}

async function readWitness(
  source: Source,
  offset: number,
  lengthMax: number,
  signal: AbortSignal,
): Promise<Witness | undefined> {
  const length = Math.min(lengthMax, source.size - offset);
  const buffer = Buffer.alloc(length);
  await source.read(offset, buffer, {priority: 'background', signal});
  if (buffer.every((byte) => byte === 0)) return undefined;
  return {offset, length, sha256: hashOf(buffer)};
}

function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** What can be read: a source or a store. */
export interface Readable {
  readonly size: number;
  read(offset: number, buffer: Uint8Array): Promise<void>;
}

/** The first of these witnesses that `content` contradicts; undefined if it holds all of them. */
export async function findMismatch(
  content: Readable,
  witnesses: readonly Witness[],
): Promise<Witness | undefined> {
  const checks = await Promise.all(
    witnesses.map(async (witness) => {
      const {offset, length, sha256} = witness;
      if (offset + length > content.size) return witness;
      const buffer = Buffer.alloc(length);
      await content.read(offset, buffer);
      return hashOf(buffer) === sha256 ? undefined : witness;
    }),
  );
  return checks.find((witness) => witness !== undefined);
}

/** Some of the witnesses, at random, so that repeated checks come to see all. */
export function someOf(
  witnesses: readonly Witness[],
  count: number,
  random: () => number,
): Witness[] {
  const rest = [...witnesses];
  const chosen: Witness[] = [];
  while (chosen.length < count && rest.length > 0) {
    chosen.push(...rest.splice(Math.floor(random() * rest.length), 1));
  }
  return chosen;
}
