/**
 * What a daemon leaves to the one that takes over, beside descriptors and in-core state: a text in
 * the same shared memory. There are two places for it, and one byte says which counts, so that a
 * death while it is written leaves the one before.
 *
 *   0   u8 which place counts, 0 or 1; 64 KiB follow for each, from 4 KiB on: u32 bytes, JSON
 */
import {assert} from '../base/assert.js';
import type {SharedMemory} from '../native/memory.js';
import type {DeviceHandover} from '../device/attach-device.js';
import type {VolumePaths} from './paths.js';

const SECTION = 'handover';
const PLACES_AT = 4096;
const PLACE_BYTES = 64 * 1024;
const VERSION = 1;

export interface Handover {
  version: typeof VERSION;
  paths: VolumePaths;
  device: Omit<DeviceHandover, 'channels'>;
  /** Descriptors of the connection, held as `fuse.0` and so on. */
  channelCount: number;
  /** Wall time in ms of the attach. */
  startedAt: number;
  isResumed: boolean;
  /** How often a daemon has taken over since the attach, and how the last time went. */
  takeOvers: TakeOvers;
}

export interface TakeOvers {
  count: number;
  /** Wall time in ms; null before the first. */
  lastAt: number | null;
  /** From the end of the old daemon until the new one served. */
  lastPauseMs: number | null;
  /** What the old one died of. */
  lastDeath: string | null;
}

export const NO_TAKE_OVERS: TakeOvers = {
  count: 0,
  lastAt: null,
  lastPauseMs: null,
  lastDeath: null,
};

export function writeHandover(memory: SharedMemory, handover: Omit<Handover, 'version'>): void {
  const section = memory.find(SECTION) ?? memory.allocate(SECTION, PLACES_AT + 2 * PLACE_BYTES);
  const {bytes} = section;
  const next = bytes[0] === 0 ? 1 : 0;
  const text = new TextEncoder().encode(JSON.stringify({...handover, version: VERSION}));
  assert(text.length + 4 <= PLACE_BYTES, 'a handover fits its place');
  const place = bytes.subarray(PLACES_AT + next * PLACE_BYTES);
  new DataView(place.buffer, place.byteOffset).setUint32(0, text.length, true);
  place.set(text, 4);
  bytes[0] = next;
}

/** Throws where there is none, or one of another version of this program. */
export function readHandover(memory: SharedMemory): Handover {
  const bytes = memory.find(SECTION)?.bytes;
  assert(bytes !== undefined, 'the last daemon left a handover');
  const place = bytes.subarray(PLACES_AT + (bytes[0] as number) * PLACE_BYTES);
  const length = new DataView(place.buffer, place.byteOffset).getUint32(0, true);
  const text = new TextDecoder().decode(place.slice(4, 4 + Math.min(length, PLACE_BYTES)));
  const handover = JSON.parse(text) as Handover;
  const {version} = handover;
  assert(version === VERSION, `a handover has version ${VERSION}, this one ${String(version)}`);
  return handover;
}
