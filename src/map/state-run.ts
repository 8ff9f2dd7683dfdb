/** Runs of blocks in one state, and images of pages: how changes of the map travel. */
import type {StateCode} from './block-state.js';

/** Blocks [start, start+count) are in `state`. */
export interface StateRun {
  start: number;
  count: number;
  state: StateCode;
}

/** Appends a run, joined to the last one where they touch and agree. */
export function pushRun(runs: StateRun[], run: StateRun): void {
  const last = runs.at(-1);
  if (last && last.state === run.state && last.start + last.count === run.start)
    last.count += run.count;
  else runs.push(run);
}

/** A page as a checkpoint writes it; `entries` (a copy, marks cleared) only where it is mixed. */
export interface PageImage {
  page: number;
  kind: number;
  counts: number[];
  entries: Uint8Array | undefined;
}
