/**
 * What `attach` and the daemon it starts say to each other over the inherited descriptor 3, a
 * socket pair: one JSON object a line. The descriptor closes when the start is over, one way or the
 * other.
 *
 *   attach → {"type":"start", …}         what to attach; not in argv, where everyone could read it
 *   daemon → {"type":"note", …}          a line for stderr; any number
 *   daemon → {"type":"device", …}        only if it is to be mounted: the device is there
 *   attach → {"type":"mounted"}          or {"type":"not mounted"}: the daemon then takes all back
 *   daemon → {"type":"ready", …}         or {"type":"failed", …}: exactly one, the last
 *
 * If attach dies before `ready` the daemon takes back what it did; if the daemon dies attach shows
 * what it left on stderr.
 */
import type {GivenOptions} from './attach-options.js';

export const START_FD = 3;

export interface StartRequest {
  type: 'start';
  name: string;
  /** Left out: as the volume's state has it. Paths are absolute. */
  source?: string;
  store?: string;
  given: GivenOptions;
  overwriteStore: boolean;
}

export type FromAttach = StartRequest | {type: 'mounted'} | {type: 'not mounted'};

export interface ReadyReport {
  name: string;
  device: string;
  mountpoint: string;
  size: number;
  blockSize: number;
  pid: number;
  isResumed: boolean;
}

export type FromDaemon =
  | {type: 'note'; message: string}
  | {type: 'device'; device: string; directory: string; readOnly: boolean}
  | ({type: 'ready'} & ReadyReport)
  | {type: 'failed'; message: string; exitCode: 1 | 2};
