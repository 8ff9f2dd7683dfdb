/**
 * Replacing the store of an attached volume. The command line looks at the new store, makes it
 * where it is a file, and keeps a descriptor of it open, by which the daemon opens it: the daemon
 * opens nothing by path. What counts is in the record alone: its store and its `generation`, which
 * names the map file and the descriptors that the supervisor holds. So the one replacement of
 * volume.json switches all of them at once, for whoever starts next.
 */
import {messageOf, UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import {FileStorage} from '../storage/file-storage.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {
  LostPlacesError,
  type ReplacementProgress,
  type ReplacementReport,
} from '../volume/replacement.js';
import {mapFileSize, mapReservedBytes, type Volume} from '../volume/volume.js';
import type {ReplaceStoreParams} from './protocol.js';
import type {Succession} from './succession.js';
import {type Generation, generationOf, mapName} from './store-generation.js';
import type {VolumeRecord} from './volume-record.js';

export interface ReplaceParts {
  record: VolumeRecord;
  directory: StateDirectory;
  volume: Volume;
  save: () => Promise<void>;
  succession: Succession;
}

export class StoreReplacer {
  readonly #parts: ReplaceParts;
  #isAtWork = false;

  constructor(parts: ReplaceParts) {
    this.#parts = parts;
  }

  async replace(
    params: ReplaceStoreParams,
    onProgress: (progress: ReplacementProgress) => void,
  ): Promise<ReplacementReport> {
    const {record} = this.#parts;
    const doing = `replace the store of ${record.name}`;
    if (this.#isAtWork)
      throw new UserError(`cannot ${doing}: it is being replaced already; wait for that`);
    this.#isAtWork = true;
    try {
      return await this.#replace(params, onProgress);
    } catch (error) {
      if (error instanceof UserError) throw error;
      throw new UserError(`cannot ${doing}: ${reasonOf(error)}; ${record.store.path} stays`, {
        cause: error,
      });
    } finally {
      this.#isAtWork = false;
    }
  }

  async #replace(
    {path, via, identity, isForced}: ReplaceStoreParams,
    onProgress: (progress: ReplacementProgress) => void,
  ): Promise<ReplacementReport> {
    const {directory, record, succession, volume} = this.#parts;
    const before = generationOf(record);
    const next = before + 1;
    const store = await FileStorage.open(via, {name: path});
    let mapFile: FileStorage | undefined;
    let isSwitched = false;
    try {
      if (!store.isBlockDevice && !store.tryLock())
        throw new UserError(`another program has locked ${path}; stop that one first`);
      mapFile = await this.#makeMap(next);
    } catch (error) {
      await store.close();
      throw error;
    }
    const [storeFd, mapFd] = [store.fd, mapFile.fd];
    try {
      return await volume.replaceStore({
        store,
        mapFile,
        isForced,
        commit: async () => {
          succession.holdStore(next, storeFd, mapFd);
          await this.#commit({path, identity}, next);
          isSwitched = true;
        },
        onProgress,
      });
    } finally {
      const over = isSwitched ? before : next;
      succession.dropStore(over);
      await directory.remove(mapName(over)).catch(() => undefined);
    }
  }

  async #makeMap(generation: Generation): Promise<FileStorage> {
    const {directory, volume} = this.#parts;
    const {size, blockSize} = volume;
    await directory.remove(mapName(generation));
    const path = directory.pathOf(mapName(generation));
    const createSize = mapFileSize({size, blockSize});
    const mapFile = await FileStorage.open(path, {createSize, isNew: true});
    try {
      await mapFile.allocate(0, mapReservedBytes({size, blockSize}));
      return mapFile;
    } catch (error) {
      await mapFile.close();
      throw error;
    }
  }

  /**
   * The one moment. Where the record cannot be written, the old one must be there for sure before
   * the volume goes on with the old store; else nobody knows which counts, and it ends.
   */
  async #commit(store: VolumeRecord['store'], generation: Generation): Promise<void> {
    const {record, save, volume} = this.#parts;
    const before = {...record};
    const isTouched = volume.protection().mode !== 'off';
    record.store = store;
    record.generation = generation;
    // An absent block no longer says that the source holds what it held at first.
    if (isTouched)
      record.witnesses = before.witnesses.filter((one) => volume.isUntouched(one.offset));
    try {
      await save();
    } catch (error) {
      Object.assign(record, before);
      record.generation = before.generation ?? 1;
      await save().catch((again: unknown) => {
        volume.fail(`its record can no longer be written (${messageOf(again)})`);
      });
      throw error;
    }
  }
}

function reasonOf(error: unknown): string {
  if (!(error instanceof LostPlacesError)) return messageOf(error);
  const bytes = error.places.reduce((sum, {length}) => sum + length, 0);
  const [first] = error.places;
  return (
    `${formatSize(bytes)} in ${error.places.length} places, the first at byte ${first?.offset}, ` +
    'can be read neither there nor from the backup, and --force would make them zeroes'
  );
}
