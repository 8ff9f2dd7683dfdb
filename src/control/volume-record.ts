/**
 * volume.json: what was asked for and what the volume is recognised by. Small, written whole and
 * atomically, before the device is first seen and whenever something in it changes. Anything in it
 * that is not as this program wrote it makes the state damaged: nothing is guessed, nothing is
 * touched.
 */
import {geometryProblem} from '../map/geometry.js';
import type {AttachOptions} from './attach-options.js';
import type {StoreIdentity} from '../storage/identity.js';

/** The file's name in the state folder. */
export const RECORD_NAME = 'volume.json';
export const RECORD_VERSION = 1;

/** A block whose content is known: by it a source or store is recognised (DESIGN 8). */
export interface Witness {
  /** Bytes. */
  offset: number;
  length: number;
  /** Hexadecimal. */
  sha256: string;
}

export interface VolumeRecord {
  version: typeof RECORD_VERSION;
  name: string;
  /** Wall time in ms. */
  createdAt: number;
  /** As it was given, paths made absolute. */
  source: string;
  /** The same for people: without secrets. */
  sourceName: string;
  /** Bytes the source has; the volume is that rounded up to a sector. */
  sourceSize: number;
  size: number;
  store: {path: string; identity: StoreIdentity};
  /** Rises when the store is replaced, and names its map file; missing: 1. */
  generation?: number;
  options: AttachOptions;
  witnesses: Witness[];
  /**
   * What is known of the backup, wall times in ms (volume/protection.ts); null where nothing was
   * ever written through.
   */
  protection: {consistentAsOf: number | null; inconsistentSince: number | null} | null;
  /** How the last orderly detach left the store; null while attached and after a crash. */
  detached: {at: number; isComplete: boolean; absentBlocks: number; blocks: number} | null;
}

/** Why a parsed volume.json cannot be what this program wrote; undefined if it can. */
export function recordProblem(value: unknown): string | undefined {
  if (!isObject(value)) return 'it is no object';
  if (value['version'] !== RECORD_VERSION) {
    const version = JSON.stringify(value['version']);
    return `its version is ${version}, this program knows ${RECORD_VERSION}`;
  }
  for (const key of ['name', 'source', 'sourceName']) {
    if (typeof value[key] !== 'string') return `${key} is no text`;
  }
  const {size, sourceSize, store, options, witnesses, detached} = value;
  if (typeof sourceSize !== 'number' || typeof size !== 'number' || !(sourceSize <= size)) {
    return 'its sizes contradict each other';
  }
  if (!isObject(store) || typeof store['path'] !== 'string' || !isObject(store['identity'])) {
    return 'store is not described';
  }
  const {generation = 1} = value;
  if (!Number.isSafeInteger(generation) || Number(generation) < 1) return 'generation is no number';
  if (!isObject(options)) return 'options is no object';
  const blockSize = Number(options['blockSize']);
  const problem = geometryProblem({size, blockSize});
  if (problem !== undefined) return problem;
  if (!Array.isArray(witnesses) || !witnesses.every(isWitness)) return 'a witness is malformed';
  const {protection} = value;
  if (protection !== null && !isObject(protection)) return 'protection is malformed';
  return detached === null || isObject(detached) ? undefined : 'detached is malformed';
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function isWitness(value: unknown): value is Witness {
  if (!isObject(value)) return false;
  const {offset, length, sha256} = value;
  const isCount = (number: unknown): boolean => Number.isSafeInteger(number) && Number(number) >= 0;
  return isCount(offset) && isCount(length) && /^[0-9a-f]{64}$/.test(String(sha256));
}
