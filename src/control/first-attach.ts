/**
 * The first attach of a volume: everything is made, and made undone again if a later step fails.
 * The record is written last: a folder without one is what a first attach left that was killed.
 */
import {messageOf, UserError} from '../base/errors.js';
import {defaultBlockSize, geometryProblem} from '../map/geometry.js';
import {FileStorage} from '../storage/file-storage.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {mapFileSize, mapReservedBytes, Volume} from '../volume/volume.js';
import {DEFAULT_OPTIONS, type AttachOptions} from './attach-options.js';
import type {VolumePaths} from './paths.js';
import {openFirstSource} from './prepare-source.js';
import {prepareNewStore} from './prepare-store.js';
import type {AssembledVolume, StartContext} from './start-context.js';
import type {StartRequest} from './start-protocol.js';
import {RECORD_NAME, RECORD_VERSION, type VolumeRecord} from './volume-record.js';

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
  const source = await openFirstSource({doing, text, options, context}, () => record);
  undo.add('close the source', () => source.source.close());
  const {size} = source.source;
  options.blockSize ||= defaultBlockSize(size);
  checkSizes(doing, size, options);
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
  const parts = {store: store.storage, mapFile, source: source.source, environment};
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
    witnesses: [],
    detached: null,
  };
  await directory.writeJson(RECORD_NAME, record);
  return {record, source, volume, store: store.storage, mapFile};
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
