/** The picture of a volume in a status report: how much of each of its parts is local. */
import {STATE_TABLE, stateRow} from '../map/block-state.js';
import {PAGE_BLOCKS} from '../map/geometry.js';
import type {OverwriteMap} from '../map/overwrite-map.js';

/** Parts in the picture of a volume with as many blocks. */
const PARTS_MAX = 256;

/** States whose bytes need no source: what the picture shows as local. */
const LOCAL_CODES = Object.values(STATE_TABLE).filter(
  (row) => row.isLocal || row.read === 'zeroes',
);

/**
 * For each of up to 256 equal parts, the share (0 to 1) of its blocks that need no source any more.
 */
export function pictureOf(map: OverwriteMap): number[] {
  const {blockCount, pageCount} = map.geometry;
  const parts = Math.min(PARTS_MAX, blockCount);
  const isCoarse = pageCount >= PARTS_MAX;
  const unit = isCoarse ? pageCount : blockCount;
  return Array.from({length: parts}, (_, part) => {
    const start = Math.floor((part * unit) / parts);
    const end = Math.floor(((part + 1) * unit) / parts);
    return isCoarse ? shareOfPages(map, start, end) : shareOfBlocks(map, start, end);
  });
}

function shareOfPages(map: OverwriteMap, start: number, end: number): number {
  let local = 0;
  let all = 0;
  for (let page = start; page < end; page++) {
    for (const {code} of LOCAL_CODES) local += map.countIn(page, code);
    all += map.geometry.blocksIn(page);
  }
  return local / all;
}

function shareOfBlocks(map: OverwriteMap, start: number, end: number): number {
  let local = 0;
  for (let block = start; block < end;) {
    const page = map.geometry.pageOf(block);
    const pageEnd = Math.min(end, (page + 1) * PAGE_BLOCKS);
    if (!map.isPageLoaded(page)) {
      local += (pageEnd - block) * shareOfPages(map, page, page + 1);
      block = pageEnd;
      continue;
    }
    const runEnd = map.runEnd(block, pageEnd);
    const row = stateRow(map.get(block));
    if (row.isLocal || row.read === 'zeroes') local += runEnd - block;
    block = runEnd;
  }
  return local / (end - start);
}
