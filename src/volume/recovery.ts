/**
 * Brings the map back, from its file or from the memory of a daemon that died. Nothing is written
 * until all of it has been read and found sound.
 *
 * From the file, after any stop: checkpoint, then log records in order, then the intent marks'
 * verdict. The result is what was last flushed, or later (I9).
 *
 * From memory, when a daemon takes over: every state and mask as it was, so that no acknowledged
 * write is lost (I3). The file only says which regions carry a mark: their copied blocks count as
 * overwritten here too, since a write may have been on its way to the store. Memory that cannot be
 * believed is emptied, and the file is read as after a crash.
 */
import {assert} from '../base/assert.js';
import type {Environment} from '../base/environment.js';
import {BlockSet} from '../map/block-set.js';
import {COPIED, OVERWRITTEN, PARTIAL} from '../map/block-state.js';
import {type Geometry, REGION_BYTES} from '../map/geometry.js';
import {CoreState} from '../map/core-state.js';
import {DamagedStateError, MapFile, type MapRecovery} from '../map/map-file.js';
import type {LogRecord} from '../map/map-log.js';
import {MaskTable} from '../map/mask-table.js';
import {OverwriteMap} from '../map/overwrite-map.js';
import type {Storage} from '../storage/storage.js';

/**
 * Mixed pages up to which all are loaded at once: later reads and writes then never wait for one.
 */
const EAGER_PAGES_MAX = 4096;

export interface RecoveredMap {
  mapFile: MapFile;
  map: OverwriteMap;
  masks: MaskTable;
  /** What the map on disk says the backup lacks. */
  behind: BlockSet;
  /** Regions whose store and backup may differ since the last stop: none after a clean one. */
  suspects: readonly number[];
  state: CoreState;
  wasClean: boolean;
  /** From memory: what no commit has made durable is still to be committed. */
  isAdopted: boolean;
}

export async function recoverMap(
  storage: Storage,
  environment: Environment,
  takesOver = false,
): Promise<RecoveredMap> {
  const {file, recovery} = await MapFile.open(storage, takesOver);
  const {geometry, limits} = file;
  const state = new CoreState(environment, geometry, limits, file.generation);
  const adopted = await adoptMap(file, recovery, state, environment);
  if (typeof adopted !== 'string') return adopted;
  if (takesOver) {
    environment.log('error', `the memory of the last daemon cannot be used: ${adopted}`);
    await storage.sync();
  }
  state.begin(geometry, limits);
  const map = new OverwriteMap(geometry, environment);
  const masks = new MaskTable(geometry, environment, limits.maskCountMax);
  const behind = new BlockSet(geometry, environment, 'behind');
  const behindPages = file.fillDirectory(map);
  const intents = replayIntents(recovery);
  const pages = new Set([...pagesToLoad(geometry, map, recovery, intents), ...behindPages]);
  await loadPages([...pages], (page) => file.loadPage(map, page, behind));
  for (const image of recovery.masks) restoreMask(masks, image, storage);
  for (const record of recovery.records) replay(record, {map, masks, behind}, storage);
  if (!recovery.wasClean) for (const region of intents) distrust(map, region);
  if (masks.count !== map.count(PARTIAL)) {
    throw new DamagedStateError(
      storage.name,
      `${map.count(PARTIAL)} partial blocks have ${masks.count} masks`,
    );
  }
  // All of this goes into the checkpoint that opening ends with; nothing is left for a commit.
  map.takeChanges();
  masks.takeChanges();
  const suspects = recovery.wasClean ? [] : [...intents];
  const {wasClean} = recovery;
  return {mapFile: file, map, masks, behind, suspects, state, wasClean, isAdopted: false};
}

/** May be cut short anywhere and done again. A text says why the memory cannot be used. */
async function adoptMap(
  file: MapFile,
  recovery: MapRecovery,
  state: CoreState,
  environment: Environment,
): Promise<RecoveredMap | string> {
  if (state.problem !== undefined) return state.problem;
  // All is durable then, and marks would be passed over while the file says so.
  if (recovery.wasClean) return 'the volume was closed in order, its map file has everything';
  const {geometry, limits} = file;
  const map = OverwriteMap.adopt(geometry, environment, (page) => file.countsOnDisk(page));
  if (typeof map === 'string') return map;
  const masks = new MaskTable(geometry, environment, limits.maskCountMax, true);
  const isPartial = (block: number): boolean =>
    Number.isInteger(block) &&
    block >= 0 &&
    block < geometry.blockCount &&
    (!map.isPageLoaded(geometry.pageOf(block)) || map.get(block) === PARTIAL);
  const problem = masks.adopt(isPartial, map.count(PARTIAL));
  if (problem !== undefined) return problem;
  const intents = replayIntents(recovery);
  const behind = new BlockSet(geometry, environment, 'behind', true);
  await loadPages(unloadedIn(geometry, map, intents), (page) => file.loadPage(map, page, behind));
  for (const region of intents) distrust(map, region);
  // What was on its way to the backup is in the backlog's own memory, block by block.
  const found = {mapFile: file, map, masks, behind, suspects: [], state};
  return {...found, wasClean: false, isAdopted: true};
}

/** Pages of marked regions that are still on disk. */
function unloadedIn(geometry: Geometry, map: OverwriteMap, regions: ReadonlySet<number>): number[] {
  const pages = new Set<number>();
  for (const region of regions) {
    const [start, end] = blocksOfRegion(geometry, region);
    for (let page = geometry.pageOf(start); page <= geometry.pageOf(end - 1); page++) {
      if (!map.isPageLoaded(page)) pages.add(page);
    }
  }
  return [...pages];
}

/** The regions marked at the end of the log. */
function replayIntents(recovery: MapRecovery): Set<number> {
  const intents = new Set(recovery.intents);
  for (const record of recovery.records) {
    for (const region of record.intentsSet) intents.add(region);
    for (const region of record.intentsCleared) intents.delete(region);
  }
  return intents;
}

/** Pages that records or marks will change, and all mixed ones where they are few. */
function pagesToLoad(
  geometry: Geometry,
  map: OverwriteMap,
  recovery: MapRecovery,
  intents: ReadonlySet<number>,
): number[] {
  const pages = new Set<number>();
  const touch = (start: number, end: number): void => {
    for (let page = geometry.pageOf(start); page <= geometry.pageOf(end - 1); page++) {
      if (!map.isPageLoaded(page)) pages.add(page);
    }
  };
  for (const {runs, behindSet, behindCleared} of recovery.records)
    for (const run of [...runs, ...behindSet, ...behindCleared])
      touch(run.start, run.start + run.count);
  if (!recovery.wasClean) for (const region of intents) touch(...blocksOfRegion(geometry, region));
  const unloaded: number[] = [];
  for (let page = 0; page < geometry.pageCount; page++)
    if (!map.isPageLoaded(page)) unloaded.push(page);
  return unloaded.length <= EAGER_PAGES_MAX ? unloaded : [...pages];
}

async function loadPages(
  pages: readonly number[],
  load: (page: number) => Promise<void>,
): Promise<void> {
  const SIDE_BY_SIDE = 64;
  for (let index = 0; index < pages.length; index += SIDE_BY_SIDE) {
    await Promise.all(pages.slice(index, index + SIDE_BY_SIDE).map(load));
  }
}

function replay(
  record: LogRecord,
  {map, masks, behind}: Pick<RecoveredMap, 'map' | 'masks' | 'behind'>,
  storage: Storage,
): void {
  for (const run of record.runs) {
    map.restore(run);
    if (run.state !== PARTIAL) masks.dropRange(run.start, run.start + run.count);
  }
  for (const image of record.masks) restoreMask(masks, image, storage);
  for (const {start, count} of record.behindSet) behind.add(start, start + count);
  for (const {start, count} of record.behindCleared) behind.delete(start, start + count);
  for (const {start, count} of [...record.behindSet, ...record.behindCleared])
    map.touch(start, start + count);
}

function restoreMask(masks: MaskTable, image: LogRecord['masks'][number], storage: Storage): void {
  if (!masks.restore(image))
    throw new DamagedStateError(storage.name, 'it has more masks than places for them');
}

/** I11: after an unclean stop the copied blocks of a marked region may differ from the source. */
function distrust(map: OverwriteMap, region: number): void {
  const [start, end] = blocksOfRegion(map.geometry, region);
  for (let block = start; block < end;) {
    const runEnd = map.runEnd(block, end);
    if (map.get(block) === COPIED) map.set(block, runEnd, OVERWRITTEN);
    block = runEnd;
  }
}

/** Blocks [start, end) that a region touches. */
export function blocksOfRegion(geometry: Geometry, region: number): [number, number] {
  const start = region * REGION_BYTES;
  assert(start < geometry.size, 'a marked region lies in the volume');
  return [
    geometry.blockOf(start),
    geometry.blockEndOf(Math.min(start + REGION_BYTES, geometry.size)),
  ];
}
