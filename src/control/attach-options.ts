/**
 * The options of `attach`: their values, and as a table which of them may be given again, and with
 * another value, to a volume that is attached already (`running`) or that is attached anew from its
 * state (`resumed`). docs/ prints the table (scripts/render-tables.ts).
 *
 *   applied   takes effect, and is remembered
 *   refused   the same value is fine; another one is an error that says why
 */
import {formatSize} from '../base/units.js';
import {UserError} from '../base/errors.js';
import type {WriteThroughMode} from '../volume/protection.js';
import type {HydrationMode} from '../volume/report.js';

export type OnSourceLoss = 'wait' | 'error';
export type Transport = 'auto' | 'fuse';
export type SectorSize = 512 | 4096;

/** Every option with its value; kept in volume.json. */
export interface AttachOptions {
  transport: Transport;
  /** Bytes; what was chosen where nothing was asked for. */
  blockSize: number;
  sectorSize: SectorSize;
  readOnly: boolean;
  writeThrough: WriteThroughMode;
  /** Where writes go through to; null: to the source. */
  backup: string | null;
  /** Bytes a second that a resync may take; null: no limit. */
  resyncRate: number | null;
  hydrate: HydrationMode;
  /** Bytes a second that hydration may take; null: no limit. */
  rate: number | null;
  onSourceLoss: OnSourceLoss;
  /** Under `wait`: null waits for ever. Under `error`: how long a request waits before it fails. */
  ioTimeoutMs: number;
  /** Where regrow mounts the device once it is there; null: nowhere. */
  mount: string | null;
}

/** Options as a call gives them: only what was written on the command line. */
export type GivenOptions = Partial<AttachOptions>;

export const DEFAULT_OPTIONS: Omit<AttachOptions, 'blockSize'> = {
  transport: 'auto',
  sectorSize: 512,
  readOnly: false,
  writeThrough: 'off',
  backup: null,
  resyncRate: null,
  hydrate: 'off',
  rate: null,
  onSourceLoss: 'wait',
  ioTimeoutMs: 60_000,
  mount: null,
};

type Verdict = 'applied' | 'refused';

export interface OptionRule {
  /** As it is written on the command line. */
  readonly flag: string;
  readonly running: Verdict;
  readonly resumed: Verdict;
  /** Completes "it cannot change, because …"; used where a verdict is `refused`. */
  readonly because: string;
}

export const OPTION_TABLE = {
  source: {
    flag: 'SOURCE',
    running: 'refused',
    resumed: 'applied',
    because: 'the volume reads from its source; detach it and attach it again with the other one',
  },
  store: {
    flag: '--store',
    running: 'refused',
    resumed: 'refused',
    because: 'the map describes what is in that store and in no other',
  },
  transport: {
    flag: '--transport',
    running: 'refused',
    resumed: 'applied',
    because: 'the device exists already; detach the volume first',
  },
  blockSize: {
    flag: '--block-size',
    running: 'refused',
    resumed: 'refused',
    because: 'the map is kept in blocks of that size',
  },
  sectorSize: {
    flag: '--sector-size',
    running: 'refused',
    resumed: 'refused',
    because: 'partition tables and file systems on the volume count in sectors of that size',
  },
  readOnly: {
    flag: '--read-only',
    running: 'refused',
    resumed: 'refused',
    because: 'who uses the volume relies on it; mount the device read-only instead',
  },
  writeThrough: {flag: '--write-through', running: 'applied', resumed: 'applied', because: ''},
  backup: {
    flag: '--backup',
    running: 'refused',
    resumed: 'refused',
    because: 'what the backup lacks is known of that one only',
  },
  resyncRate: {flag: '--resync-rate', running: 'applied', resumed: 'applied', because: ''},
  hydrate: {flag: '--hydrate', running: 'applied', resumed: 'applied', because: ''},
  rate: {flag: '--rate', running: 'applied', resumed: 'applied', because: ''},
  onSourceLoss: {
    flag: '--on-source-loss',
    running: 'refused',
    resumed: 'applied',
    because: 'the source is open with the other choice; detach the volume and attach it again',
  },
  ioTimeoutMs: {
    flag: '--io-timeout',
    running: 'refused',
    resumed: 'applied',
    because: 'the source is open with the other time; detach the volume and attach it again',
  },
  mount: {
    flag: '--mount',
    running: 'refused',
    resumed: 'applied',
    because: 'the device exists already; mount it with mount(8)',
  },
} as const satisfies Record<keyof AttachOptions | 'source' | 'store', OptionRule>;

export type OptionName = keyof typeof OPTION_TABLE;
export type Values = Partial<Record<OptionName, string | number | boolean | null>>;

function show(name: OptionName, value: string | number | boolean | null | undefined): string {
  if (value === null || value === undefined) return 'none';
  if (name === 'ioTimeoutMs' && typeof value === 'number') return `${value / 1000}s`;
  const isSize = name === 'blockSize' || name === 'rate' || name === 'resyncRate';
  if (isSize && typeof value === 'number') return formatSize(value);
  return String(value);
}

/**
 * What of `given` differs from `current` and may be applied; throws a UserError for the first
 * option that differs and may not. `when` picks the table's column.
 */
export function changedOptions(
  name: string,
  when: 'running' | 'resumed',
  given: Values,
  current: Values,
): OptionName[] {
  const changed: OptionName[] = [];
  for (const option of Object.keys(OPTION_TABLE) as OptionName[]) {
    const value = given[option];
    if (value === undefined || value === current[option]) continue;
    const rule: OptionRule = OPTION_TABLE[option];
    if (rule[when] === 'refused') {
      throw new UserError(
        `cannot attach ${name} with ${rule.flag} ${show(option, value)}: it has ` +
          `${show(option, current[option])}, and ${rule.because}`,
      );
    }
    changed.push(option);
  }
  return changed;
}

/** The table as Markdown, for docs/. */
export function optionTableMarkdown(): string {
  const rows = Object.values<OptionRule>(OPTION_TABLE).map(
    ({flag, running, resumed, because}) => `| \`${flag}\` | ${running} | ${resumed} | ${because} |`,
  );
  const head = ['| option | attached already | resumed | why not |', '|---|---|---|---|'];
  return [...head, ...rows].join('\n');
}
