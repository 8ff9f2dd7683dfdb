/** Which store a volume is at, and what of it carries that number. */
import type {VolumeRecord} from './volume-record.js';

/** 1 for the store of the first attach, one more with each replacement. */
export type Generation = number;

export function generationOf({generation}: Pick<VolumeRecord, 'generation'>): Generation {
  return generation ?? 1;
}

/** The map file's name in the state folder. */
export function mapName(generation: Generation): string {
  return generation === 1 ? 'map' : `map.${generation}`;
}

/** Whether a file of the state folder is a map, of whatever generation. */
export function isMapName(name: string): boolean {
  return /^map(\.\d+)?$/.test(name);
}

/** Under which names the supervisor holds store and map. */
export function heldNames(generation: Generation): {store: string; map: string} {
  if (generation === 1) return {store: 'store', map: 'map'};
  return {store: `store.${generation}`, map: `map.${generation}`};
}
