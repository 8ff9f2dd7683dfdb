/**
 * Attaching a volume again from its state: after a detach, a reboot, a daemon that was killed.
 * Nothing is written before source, store and state have shown that they belong together.
 */
import {join} from 'node:path';
import {messageOf, UserError} from '../base/errors.js';
import {FileStorage} from '../storage/file-storage.js';
import type {StateDirectory} from '../storage/state-directory.js';
import {isMediumError} from '../volume/mender.js';
import {DamagedStateError, Volume, type VolumeParts} from '../volume/volume.js';
import {changedOptions, type Values} from './attach-options.js';
import type {VolumePaths} from './paths.js';
import {prepareKnownBackup, settleBackup} from './prepare-backup.js';
import {openKnownSource} from './prepare-source.js';
import {isItsStore, reopenStore, type PreparedStore} from './prepare-store.js';
import type {AssembledVolume, StartContext} from './start-context.js';
import {generationOf, isMapName, mapName} from './store-generation.js';
import {recordSaver} from './record-saver.js';
import type {StartRequest} from './start-protocol.js';
import {Untouched} from './untouched.js';
import {RECORD_NAME, type VolumeRecord, type Witness} from './volume-record.js';
import {findMismatch} from './witnesses.js';

export async function resumeVolume(
  request: StartRequest,
  known: VolumeRecord,
  paths: VolumePaths,
  directory: StateDirectory,
  context: StartContext,
): Promise<AssembledVolume> {
  const {undo} = context;
  const doing = `attach ${request.name}`;
  const record = await changedRecord(request, known);
  refuseUnproved(doing, record, known);
  const {source: text, options} = record;
  await removeOtherMaps(directory, known);
  const mapFile = await openMapFile(
    doing,
    join(paths.state, mapName(generationOf(known))),
    paths,
    context,
  );
  const untouched = new Untouched();
  if (record.protection !== null) await untouched.peek(mapFile, record, context.environment);
  const isUntouched = (offset: number): boolean => untouched.has(offset);
  const source = await openKnownSource({doing, text, options, context, isUntouched}, record, known);
  undo.add('close the source', () => source.source.close());
  record.source = source.text;
  record.sourceName = source.source.name;
  const store = await reopenStore({doing, record, context});
  const backup = prepareKnownBackup({options, sourceText: text, context}, record);
  const parts = {store: store.storage, mapFile, source: source.source, backup};
  const volume = await openVolume(doing, paths, parts, context);
  untouched.bind(volume);
  backup.bindUntouched(isUntouched);
  await compareStore(doing, record, volume, store);
  record.detached = null;
  undo.add(`restore ${paths.volumeFile}`, () => directory.writeJson(RECORD_NAME, known));
  const save = recordSaver(directory, record);
  backup.bind(record, save);
  await resumeWriteThrough(volume, record, known, save);
  await settleBackup(volume, context);
  return {record, source, volume, store: store.storage, mapFile, save};
}

/** The record with what this call changes; throws for what may not change. */
async function changedRecord(request: StartRequest, known: VolumeRecord): Promise<VolumeRecord> {
  const {name, source, store, given} = request;
  const record = structuredClone(known);
  if (store !== undefined && (await isItsStore(store, known))) record.store.path = store;
  if (source !== undefined && store !== undefined) {
    if (source !== known.source && store !== record.store.path) throw nameTaken(name, known);
  }
  const values: Values = {...given};
  if (source !== undefined) values.source = source;
  if (store !== undefined) values.store = store;
  changedOptions(name, 'resumed', values, {
    ...known.options,
    source: known.source,
    store: record.store.path,
  });
  Object.assign(record.options, given);
  record.source = source ?? known.source;
  return record;
}

/** Another source and another store: not a resume with changes but another volume's name. */
function nameTaken(name: string, known: VolumeRecord): UserError {
  return new UserError(
    `cannot attach ${name}: the name is taken by the volume that ${known.sourceName} grows back ` +
      `into ${known.store.path}; choose another name, or remove that one with \`regrow forget ` +
      `${name}\``,
  );
}

/** Without witnesses nothing shows that another source holds the same. */
function refuseUnproved(doing: string, record: VolumeRecord, known: VolumeRecord): void {
  if (record.source === known.source || record.witnesses.length > 0) return;
  throw new UserError(
    `cannot ${doing} with the source ${record.source}: nothing is known by which to see that it ` +
      `holds the same as ${known.sourceName}; attach it with that one once`,
  );
}

/** A daemon that ended while it replaced the store left a map that does not count. */
async function removeOtherMaps(directory: StateDirectory, known: VolumeRecord): Promise<void> {
  const its = mapName(generationOf(known));
  for (const name of await directory.list())
    if (isMapName(name) && name !== its) await directory.remove(name);
}

async function openMapFile(
  doing: string,
  path: string,
  paths: VolumePaths,
  {undo}: StartContext,
): Promise<FileStorage> {
  try {
    const mapFile = await FileStorage.open(path);
    undo.add('close the map file', () => mapFile.close());
    await mapFile.reload();
    return mapFile;
  } catch (error) {
    throw stateRefusal(doing, paths, error);
  }
}

async function openVolume(
  doing: string,
  paths: VolumePaths,
  parts: Omit<VolumeParts, 'environment'>,
  {environment, undo}: StartContext,
): Promise<Volume> {
  try {
    const volume = await Volume.open({...parts, environment});
    undo.add('close the volume', () => volume.close());
    return volume;
  } catch (error) {
    throw stateRefusal(doing, paths, error);
  }
}

function stateRefusal(doing: string, paths: VolumePaths, error: unknown): UserError {
  if (!(error instanceof DamagedStateError)) {
    return new UserError(`cannot ${doing}: ${messageOf(error)}`, {cause: error});
  }
  return new UserError(
    `cannot ${doing}: its state is damaged (${messageOf(error)}); nothing was touched: put ` +
      `${paths.mapFile} back from a copy, or give the state up with \`regrow forget --force\``,
    {cause: error},
  );
}

/**
 * Goes on in the mode of before; another one that was asked for is a switch. `off` is on record
 * before it takes effect, any other mode after: a crash in between errs on the safe side.
 */
async function resumeWriteThrough(
  volume: Volume,
  record: VolumeRecord,
  known: VolumeRecord,
  save: () => Promise<void>,
): Promise<void> {
  const {writeThrough: wanted, resyncRate} = record.options;
  const before = known.options.writeThrough;
  volume.setResyncRate(resyncRate ?? undefined);
  if (wanted !== 'off') record.options.writeThrough = before;
  await save();
  volume.resumeWriteThrough(wanted === 'off' ? 'off' : before);
  if (wanted === 'off' || wanted === before) return;
  await volume.setWriteThrough(wanted);
  record.options.writeThrough = wanted;
  await save();
}

/** A witness in a sector that went bad says nothing; the volume mends it once it is read. */
async function findReadableMismatch(
  storage: FileStorage,
  copied: readonly Witness[],
): Promise<Witness | undefined> {
  for (const witness of copied) {
    try {
      const mismatch = await findMismatch(storage, [witness]);
      if (mismatch !== undefined) return mismatch;
    } catch (error) {
      if (!isMediumError(error)) throw error;
    }
  }
  return undefined;
}

/** What was copied must still be in the store. */
async function compareStore(
  doing: string,
  record: VolumeRecord,
  volume: Volume,
  {storage, path}: PreparedStore,
): Promise<void> {
  const copied: Witness[] = [];
  for (const witness of record.witnesses) {
    if ((await volume.stateAt(witness.offset)) === 'copied') copied.push(witness);
  }
  const mismatch = await findReadableMismatch(storage, copied);
  if (mismatch === undefined) return;
  throw new UserError(
    `cannot ${doing}: the store ${path} no longer holds at byte ${mismatch.offset} what was ` +
      'copied there, so something else wrote to it or it is another disk; nothing was written: ' +
      'give the right store back',
  );
}
