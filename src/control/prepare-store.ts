/**
 * Makes sure that a store may be written, and is the one that is meant, before anything is written
 * to it.
 *
 * A new store belongs to no other volume, is not the source, is not in use and holds nothing,
 * unless the user insists. A known store is recognised by what it is (storage/identity.ts), not by
 * its path: a disk that has another name since the last boot is found again.
 */
import {dirname} from 'node:path';
import {messageOf, UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import {isSameFile, namesAt, remove, restoreSize} from '../storage/files.js';
import {FileStorage} from '../storage/file-storage.js';
import {
  compareIdentity,
  describeIdentity,
  identifyStore,
  type StoreIdentity,
} from '../storage/identity.js';
import {inspectStore, storeRefusal, type StoreInspection} from '../storage/inspect.js';
import {isVolumeName, volumePaths, type VolumePaths} from './paths.js';
import {peekRecord} from './read-record.js';
import type {StartContext} from './start-context.js';
import type {VolumeRecord} from './volume-record.js';

export interface PreparedStore {
  storage: FileStorage;
  path: string;
  identity: StoreIdentity;
}

export interface NewStoreRequest {
  /** Starts the sentence of a refusal: `attach vol0`. */
  doing: string;
  paths: VolumePaths;
  path: string;
  /** Bytes of the volume. */
  size: number;
  /** What the source was given as; a path may turn out to be the same file. */
  sourceText: string;
  overwrite: boolean;
  context: NewStoreContext;
}

/** What making a store needs of whoever asks for it. */
export interface NewStoreContext {
  undo: StartContext['undo'];
  link: Pick<StartContext['link'], 'note'>;
}

/** The store of a first attach; a file is made, or grown to the volume's size. */
export async function prepareNewStore(request: NewStoreRequest): Promise<PreparedStore> {
  const {doing, path, size, sourceText, overwrite, context} = request;
  refuseSource(doing, path, sourceText);
  const inspection = await inspectStore(path).catch((error: unknown) => {
    const isLost = (error as {code?: unknown}).code === 'ENOENT';
    const reason = isLost
      ? `its folder ${dirname(path)} does not exist; make it or name another`
      : messageOf(error);
    throw new UserError(`cannot ${doing}: the store ${path} cannot be made: ${reason}`, {
      cause: error,
    });
  });
  if (inspection.kind === 'file' || inspection.kind === 'device') await refuseForeign(request);
  // A file may be sparse: how much room it will need nobody knows, so that is a warning (I13).
  const demanded = inspection.kind === 'device' ? size : 0;
  const refusal = storeRefusal(inspection, {size: demanded, overwrite});
  if (refusal !== undefined) {
    throw new UserError(`cannot ${doing}: ${refusal.message}`, {cause: refusal});
  }
  noteRoom(inspection, request);
  const storage = await openNewStore(inspection, request);
  context.undo.add(`close ${path}`, () => storage.close());
  lockStore(doing, storage);
  return {storage, path, identity: await identifyStore(path)};
}

function refuseSource(doing: string, path: string, sourceText: string): void {
  if (!isSameFile(path, sourceText)) return;
  throw new UserError(
    `cannot ${doing}: store and source are the same, ${path}; name another store, so that the ` +
      'source stays as it is',
  );
}

/** Another volume's store may not be taken, not even with --overwrite-store. */
async function refuseForeign({doing, paths, path}: NewStoreRequest): Promise<void> {
  const identity = await identifyStore(path);
  for (const name of namesAt(paths.stateParent)) {
    if (name === paths.name || !isVolumeName(name)) continue;
    const record = await peekRecord(doing, volumePaths(name)).catch(() => undefined);
    if (record === undefined) continue;
    const verdict = compareIdentity(identity, record.store.identity);
    if (verdict === 'different' || (verdict === 'unknown' && record.store.path !== path)) continue;
    throw new UserError(
      `cannot ${doing}: the store ${path} belongs to the volume ${name}; name another, or give ` +
        `that one up with \`regrow forget ${name}\``,
    );
  }
}

function noteRoom(inspection: StoreInspection, {path, size, context}: NewStoreRequest): void {
  if (inspection.kind === 'device') return;
  const room = inspection.free + inspection.allocated;
  if (room >= size) return;
  context.link.note(
    `the file system of ${path} has ${formatSize(room)} left and the volume may come to need ` +
      `${formatSize(size)}; writes fail when it is full`,
  );
}

async function openNewStore(
  inspection: StoreInspection,
  {doing, path, size, context}: NewStoreRequest,
): Promise<FileStorage> {
  try {
    if (inspection.kind === 'device') return await FileStorage.open(path);
    const isNew = inspection.kind === 'absent';
    const storage = await FileStorage.open(path, {createSize: size, isNew});
    if (isNew) {
      context.undo.add(`remove ${path}`, () => remove(path));
    } else if (inspection.size < size) {
      context.undo.add(`restore the size of ${path}`, () => restoreSize(path, inspection.size));
    }
    return storage;
  } catch (error) {
    throw new UserError(
      `cannot ${doing}: the store ${path} cannot be opened (${messageOf(error)}); name another ` +
        `or mend that`,
      {cause: error},
    );
  }
}

/** Two volumes on one file would destroy each other; devices are opened exclusively. */
function lockStore(doing: string, storage: FileStorage): void {
  if (storage.isBlockDevice || storage.tryLock()) return;
  throw new UserError(
    `cannot ${doing}: another program has locked the store ${storage.name}; stop that one first`,
  );
}

export interface KnownStoreRequest {
  doing: string;
  record: VolumeRecord;
  context: StartContext;
}

/**
 * The store of a resume: the same disk or file, wherever it is now. Its new path goes into
 * `record`.
 */
export async function reopenStore(request: KnownStoreRequest): Promise<PreparedStore> {
  const {doing, record, context} = request;
  const {store} = record;
  const path = await locateStore(doing, record);
  if (path !== store.path) {
    context.link.note(`the store ${store.path} is ${path} now`);
    store.path = path;
  }
  const storage = await FileStorage.open(path).catch(async (error: unknown) => {
    const users = (await inspectStore(path).catch(() => undefined))?.users ?? [];
    const reason = users.length > 0 ? `${users.join(', ')}; free it first` : messageOf(error);
    throw new UserError(`cannot ${doing}: its store ${path} cannot be opened: ${reason}`, {
      cause: error,
    });
  });
  context.undo.add(`close ${path}`, () => storage.close());
  lockStore(doing, storage);
  await reload(doing, storage);
  if (storage.size < record.size) {
    throw new UserError(
      `cannot ${doing}: its store ${path} has ${formatSize(storage.size)} and the volume ` +
        `${formatSize(record.size)}; give it back the size it had`,
    );
  }
  return {storage, path, identity: store.identity};
}

/** Sees what the medium holds, not what an earlier daemon's failed sync left in memory. */
async function reload(doing: string, storage: FileStorage): Promise<void> {
  try {
    await storage.reload();
  } catch (error) {
    throw new UserError(
      `cannot ${doing}: its store does not take what was written to it (${messageOf(error)}); ` +
        'look at the disk before anything else',
      {cause: error},
    );
  }
}

/** Whether what lies at `path` is this volume's store, under whatever name. */
export async function isItsStore(path: string, {store}: VolumeRecord): Promise<boolean> {
  const identity = await identifyStore(path).catch(() => undefined);
  return identity !== undefined && compareIdentity(identity, store.identity) === 'same';
}

async function locateStore(doing: string, record: VolumeRecord): Promise<string> {
  const {path, identity: wanted} = record.store;
  let found: StoreIdentity | undefined;
  let reason = '';
  try {
    found = await identifyStore(path);
    if (compareIdentity(found, wanted) !== 'different') return path;
  } catch (error) {
    const isAbsent = (error as {code?: unknown}).code === 'ENOENT';
    reason = isAbsent ? 'does not exist' : `cannot be looked at (${messageOf(error)})`;
  }
  const elsewhere = wanted.kind === 'device' ? await findDevice(wanted) : undefined;
  if (elsewhere !== undefined) return elsewhere;
  if (found === undefined) {
    throw new UserError(
      `cannot ${doing}: its store ${path} ${reason}; connect the disk again or put the file back`,
    );
  }
  throw new UserError(
    `cannot ${doing}: ${path} is not its store: it is ${describeIdentity(found)} and not ` +
      `${describeIdentity(wanted)}; nothing was written: give the right one back`,
  );
}

async function findDevice(wanted: StoreIdentity): Promise<string | undefined> {
  for (const name of namesAt('/sys/class/block')) {
    const path = `/dev/${name}`;
    const identity = await identifyStore(path).catch(() => undefined);
    if (identity !== undefined && compareIdentity(identity, wanted) === 'same') return path;
  }
  return undefined;
}
