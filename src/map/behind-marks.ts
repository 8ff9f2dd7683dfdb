/**
 * How the map on disk says which blocks the backup lacks: the fourth bit of a block's entry in a
 * page slot, which in core is the "changed" mark. A page of one state in which the backup lacks
 * something is therefore written as a mixed one.
 */
import {clearMarks, fillEntries, isMarkedAt, markAt, nextMarked} from '../base/nibbles.js';
import type {BlockSet} from './block-set.js';
import {type Geometry, PAGE_BLOCKS, PAGE_BYTES} from './geometry.js';
import {MIXED, type PageImage} from './overwrite-map.js';

/** The image with the marks of what `behind` holds of its page. */
export function withBehindMarks(image: PageImage, behind: BlockSet, geometry: Geometry): PageImage {
  const {page} = image;
  if (behind.countIn(page) === 0) return image;
  const first = page * PAGE_BLOCKS;
  const blocks = geometry.blocksIn(page);
  let {entries} = image;
  if (entries === undefined) {
    entries = new Uint8Array(PAGE_BYTES);
    fillEntries(entries, 0, blocks, image.kind, false);
  }
  for (const run of behind.runs(first, first + blocks)) {
    for (let block = run.start; block < run.start + run.count; block++)
      markAt(entries, block - first);
  }
  return {...image, kind: MIXED, entries};
}

/** Moves the marks of a page that was read from disk into `behind`. */
export function takeBehindMarks(
  entries: Uint8Array,
  page: number,
  behind: BlockSet,
  geometry: Geometry,
): void {
  const first = page * PAGE_BLOCKS;
  const blocks = geometry.blocksIn(page);
  for (let index = nextMarked(entries, 0, blocks); index < blocks;) {
    let end = index + 1;
    while (end < blocks && isMarkedAt(entries, end)) end++;
    behind.add(first + index, first + end);
    index = nextMarked(entries, end, blocks);
  }
  clearMarks(entries);
}
