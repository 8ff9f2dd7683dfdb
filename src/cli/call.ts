/** A command line, understood: which command, with what. Each command's file runs one of these. */
import type {GivenOptions} from '../control/attach-options.js';
import type {WriteThroughMode} from '../volume/protection.js';
import type {HydrationMode} from '../volume/report.js';

export interface AttachCall {
  command: 'attach';
  name: string;
  /** Left out: resume from the volume's state. */
  source: string | undefined;
  store: string | undefined;
  given: GivenOptions;
  overwriteStore: boolean;
  json: boolean;
}

export interface HydrateCall {
  command: 'hydrate';
  name: string;
  mode: HydrationMode;
  /** Bytes a second; null: no limit; undefined: as it was. */
  rate: number | null | undefined;
}

export interface WriteThroughCall {
  command: 'write-through';
  name: string;
  mode: WriteThroughMode;
  /** Bytes a second; null: no limit; undefined: as it was. */
  rate: number | null | undefined;
}

export interface ReplaceStoreCall {
  command: 'replace-store';
  name: string;
  store: string;
  overwriteStore: boolean;
  force: boolean;
  json: boolean;
}

export type Call =
  | AttachCall
  | HydrateCall
  | WriteThroughCall
  | ReplaceStoreCall
  | {command: 'list'; json: boolean}
  | {command: 'status'; name: string | undefined; json: boolean; watch: boolean}
  | {command: 'wait'; name: string; until: 'hydrated' | 'in sync'}
  | {command: 'verify'; name: string; json: boolean}
  | {command: 'restart'; name: string; json: boolean}
  | {command: 'detach'; name: string; force: boolean; json: boolean}
  | {command: 'forget'; name: string; force: boolean}
  | {command: 'doctor'; json: boolean};
