/**
 * The first attach of a volume: everything is made, and made undone again if a later step fails.
 * The record is written last: a folder without one is what a first attach left that was killed.
 */
import {messageOf, UserError} from '../base/errors.js';
import {defaultBlockSize, geometryProblem} from '../map/geometry.js';
import {FileStorage} from '../storage/file-storage.js';
import type {Source} from '../source/source.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {mapFileSize, mapReservedBytes, Volume} from '../volume/volume.js';
import {DEFAULT_OPTIONS, type AttachOptions} from './attach-options.js';
import type {VolumePaths} from './paths.js';
import {
  type PreparedBackup,
  prepareFirstBackup,
  refuseStoreAsBackup,
  settleBackup,
} from './prepare-backup.js';
import {openFirstSource} from './prepare-source.js';
import {prepareNewStore} from './prepare-store.js';
import type {AssembledVolume, StartContext} from './start-context.js';
import type {StartRequest} from './start-protocol.js';
import {recordSaver} from './record-saver.js';
import {Untouched} from './untouched.js';
import {RECORD_VERSION, type VolumeRecord, type Witness} from './volume-record.js';
import {findMismatch, pickWitnesses} from './witnesses.js';

export async function attachFirst(
  request: StartRequest,
  paths: VolumePaths,
  directory: StateDirectory,
  context: StartContext,
): Promise<AssembledVolume> {
  const {environment, undo} = context;
  const doing = `attach ${request.name}`;
  const {source: text = '', store: storePath = '', given, overwriteStore} = request;
  const options: AttachOptions = {...DEFAULT_OPTIONS, blockSize: 0, ...given};
  let record: VolumeRecord | undefined;
  const untouched = new Untouched();
  const isUntouched = (offset: number): boolean => untouched.has(offset);
  const source = await openFirstSource({doing, text, options, context, isUntouched}, () => record);
  undo.add('close the source', () => source.source.close());
  const {size} = source.source;
  options.blockSize ||= defaultBlockSize(size);
  checkSizes(doing, size, options);
  refuseStoreAsBackup(doing, storePath, options);
  const {exactSize: sourceSize} = source;
  const backupRequest = {doing, options, sourceText: source.text, sourceSize, size, context};
  const {mode, backup} = await prepareFirstBackup(backupRequest, given.writeThrough);
  options.writeThrough = mode;
  const witnesses = await compareBackup(doing, source.source, backup, options, context);
  const store = await prepareNewStore({
    doing,
    paths,
    path: storePath,
    size,
    sourceText: text,
    overwrite: overwriteStore,
    context,
  });
  const geometry = {size, blockSize: options.blockSize};
  const mapFile = await createMapFile(doing, paths, mapFileSize(geometry));
  undo.add('close the map file', () => mapFile.close());
  const parts = {store: store.storage, mapFile, source: source.source, environment, backup};
  const volume = await Volume.create(parts, geometry).catch((error: unknown) => {
    throw mapRefusal(doing, paths, error);
  });
  undo.add('close the volume', () => volume.close());
  await mapFile.allocate(0, mapReservedBytes(geometry)).catch((error: unknown) => {
    throw mapRefusal(doing, paths, error);
  });
  record = {
    version: RECORD_VERSION,
    name: request.name,
    createdAt: environment.clock.wallTime(),
    source: source.text,
    sourceName: source.source.name,
    sourceSize: size,
    size,
    store: {path: store.path, identity: store.identity},
    options,
    witnesses,
    protection: null,
    detached: null,
  };
  const save = recordSaver(directory, record);
  backup.bind(record, save);
  untouched.bind(volume);
  backup.bindUntouched(isUntouched);
  await save();
  volume.setResyncRate(options.resyncRate ?? undefined);
  volume.resumeWriteThrough(mode);
  await settleBackup(volume, context);
  return {record, source, volume, store: store.storage, mapFile, save};
}

/** A backup that is not the source must hold what the source holds, before it is written to. */
async function compareBackup(
  doing: string,
  source: Source,
  backup: PreparedBackup,
  {blockSize, writeThrough}: AttachOptions,
  {environment, signal}: StartContext,
): Promise<Witness[]> {
  if (backup.isSource || writeThrough === 'off') return [];
  const {random} = environment;
  const witnesses = await pickWitnesses({source, blockSize, random, signal});
  const mismatch = await backup.withTarget((target) => findMismatch(target, witnesses));
  if (mismatch === undefined) return witnesses;
  throw new UserError(
    `cannot ${doing}: the backup does not hold what the source holds, at byte ${mismatch.offset} ` +
      'they differ; name another --backup',
  );
}

function checkSizes(doing: string, size: number, {blockSize, sectorSize}: AttachOptions): void {
  const problem = geometryProblem({size, blockSize});
  if (problem !== undefined) {
    throw new UserError(`cannot ${doing}: ${problem}; choose another --block-size`);
  }
  if (size % sectorSize === 0) return;
  throw new UserError(
    `cannot ${doing} with --sector-size ${sectorSize}: the source has ${size} bytes, which is no ` +
      'multiple of it; leave the option out',
  );
}

async function createMapFile(
  doing: string,
  paths: VolumePaths,
  createSize: number,
): Promise<FileStorage> {
  try {
    return await FileStorage.open(paths.mapFile, {createSize, isNew: true});
  } catch (error) {
    throw mapRefusal(doing, paths, error);
  }
}

function mapRefusal(doing: string, paths: VolumePaths, cause: unknown): UserError {
  return new UserError(
    `cannot ${doing}: its map ${paths.mapFile} cannot be written (${messageOf(cause)}); make ` +
      'room there or choose another folder with REGROW_STATE_DIR',
    {cause},
  );
}
