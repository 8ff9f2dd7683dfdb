/** What every step of a start may use, and what both ways of starting come to. */
import type {Environment} from '../base/environment.js';
import type {OpenedSource} from '../source/open-source.js';
import type {LogFile} from '../storage/log-file.js';
import type {Volume} from '../volume/volume.js';
import type {RecentErrors} from './recent-errors.js';
import type {StartLink} from './start-link.js';
import type {Undo} from './undo.js';
import type {VolumeRecord} from './volume-record.js';

export interface StartContext {
  environment: Environment;
  errors: RecentErrors;
  link: StartLink;
  undo: Undo;
  /** Aborted when the start is to be given up. */
  signal: AbortSignal;
  onLogFile: (file: LogFile) => void;
}

/** A first attach or a resume, all but its device. */
export interface AssembledVolume {
  record: VolumeRecord;
  source: OpenedSource;
  volume: Volume;
  /** Makes the record durable as it is; calls take turns. */
  save: () => Promise<void>;
}
