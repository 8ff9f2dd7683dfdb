/** Writes volume.json, one write at a time: several parts of a volume keep something there. */
import {Mutex} from '../base/mutex.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {RECORD_NAME, type VolumeRecord} from './volume-record.js';

/** A function that makes the record durable as it is at its turn. */
export function recordSaver(directory: StateDirectory, record: VolumeRecord): () => Promise<void> {
  const serial = new Mutex();
  return () => serial.run(() => directory.writeJson(RECORD_NAME, record));
}
