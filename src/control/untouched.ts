/**
 * Which blocks the source and the backup still hold as they did at the first attach: only a witness
 * in one of these says anything once writes go through. Before the volume is open this is read
 * from its map file, which nobody changes meanwhile.
 */
import type {Environment, Memory} from '../base/environment.js';
import type {Storage} from '../storage/storage.js';
import {peekUntouched} from '../volume/peek.js';
import type {Volume} from '../volume/volume.js';
import type {VolumeRecord} from './volume-record.js';

export class Untouched {
  #look: (offset: number) => boolean = () => true;

  has(offset: number): boolean {
    return this.#look(offset);
  }

  /** Reads what the map file says of the record's witnesses. */
  async peek(mapFile: Storage, record: VolumeRecord, environment: Environment): Promise<void> {
    const offsets = record.witnesses.map((witness) => witness.offset);
    const found = await peekUntouched(mapFile, {...environment, allocate: onHeap}, offsets);
    this.#look = (offset) => found.has(offset);
  }

  /** From now on the volume is asked. */
  bind(volume: Volume): void {
    this.#look = (offset) => volume.isUntouched(offset);
  }
}

/** Memory that nobody adopts: this is a look, not the volume's state. */
function onHeap(_name: string, length: number): Memory {
  const bytes = new Uint8Array(length);
  return {bytes, release: (offset, count) => void bytes.fill(0, offset, offset + count)};
}
