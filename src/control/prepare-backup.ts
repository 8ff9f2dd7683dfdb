/**
 * Finds out where writes go through to, and whether they can (DC3).
 *
 * The backup is the source itself unless `--backup` names another place. Where nothing was asked
 * for, an NBD source that takes writes is written through to (`sync`), and anything else is not,
 * which is said. A first attach opens the backup before anything is made, and refuses what cannot
 * work; a resume goes on without it where it is away, with a backlog.
 */
import {BlockError, messageOf, UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import type {BackupTarget} from '../source/backup-target.js';
import {isNbdUri} from '../source/nbd-uri.js';
import {openTarget, targetName} from '../source/open-target.js';
import {isSameFile} from '../storage/files.js';
import type {WriteThroughMode} from '../volume/protection.js';
import type {Volume} from '../volume/volume.js';
import type {Backup} from '../volume/write-through.js';
import type {AttachOptions} from './attach-options.js';
import type {StartContext} from './start-context.js';
import type {VolumeRecord} from './volume-record.js';
import {findMismatch, someOf, WITNESSES_AT_RECONNECT} from './witnesses.js';

/** How long an attach waits for the backup; without it, it goes on with a backlog. */
const CONNECT_WAIT_MS = 1000;
/** How long connecting may take; a shorter --io-timeout goes before it. */
const CONNECT_MS_MAX = 10_000;

export interface BackupRequest {
  /** Starts the sentence of a refusal: `attach vol0`. */
  doing: string;
  options: AttachOptions;
  /** What the source was given as, and its exact bytes. */
  sourceText: string;
  sourceSize: number;
  /** Of the volume. */
  size: number;
  context: StartContext;
}

/** All that a known backup needs. */
export type KnownBackupRequest = Pick<BackupRequest, 'options' | 'sourceText'> & {
  context: Pick<StartContext, 'environment'>;
};

/** What a volume is given to write through to; `record` and `save` come once they are there. */
export interface PreparedBackup extends Backup {
  /** What the record keeps of the backup is kept through these. */
  bind(record: VolumeRecord, save: () => Promise<void>): void;
  /** Uses the connection of a first attach before anything is sent over it. */
  withTarget<Result>(use: (target: BackupTarget) => Promise<Result>): Promise<Result | undefined>;
  /** Tells whether the backup should still hold a witness; true until the volume is open. */
  bindUntouched(isUntouched: (offset: number) => boolean): void;
}

/**
 * Of a first attach: the mode, and the backup if there is one. `asked`: undefined where the user
 * left the choice to us.
 */
export async function prepareFirstBackup(
  request: BackupRequest,
  asked: WriteThroughMode | undefined,
): Promise<{mode: WriteThroughMode; backup: PreparedBackup}> {
  const {doing, options, sourceText, context} = request;
  const text = options.backup ?? sourceText;
  const name = describePlace(doing, text);
  const off = {mode: 'off' as const, backup: makeBackup(request, undefined)};
  if (asked === 'off') return off;
  if (asked === undefined && options.backup === null && !isNbdUri(sourceText)) {
    context.link.note('write-through is off: a file or disk is written to only when asked for');
    return off;
  }
  const found = await tryOpen(request, text);
  const problem = 'target' in found ? sizeProblem(request, found.target) : messageOf(found.error);
  if (problem === undefined && 'target' in found) {
    const mode = asked ?? 'sync';
    context.link.note(
      `write-through is ${mode}: what is written changes ${name} as well; to keep that as it is, ` +
        'use --write-through off',
    );
    const {target} = found;
    context.undo.add(`close ${target.name}`, () => target.close());
    return {mode, backup: makeBackup(request, target)};
  }
  if ('target' in found) await found.target.close();
  if (asked !== undefined || options.backup !== null) {
    const flag = asked === undefined ? '--backup' : `--write-through ${asked}`;
    throw new UserError(
      `cannot ${doing} with ${flag}: ${problem ?? ''}; name another with --backup, or use ` +
        '--write-through off',
    );
  }
  context.link.note(`write-through is off: ${problem ?? ''}`);
  return off;
}

/** Of a resume or a take-over. */
export function prepareKnownBackup(
  request: KnownBackupRequest,
  record: VolumeRecord,
): PreparedBackup {
  const backup = makeBackup(request, undefined);
  Object.assign(backup.known, {
    consistentAsOf: record.protection?.consistentAsOf ?? undefined,
    inconsistentSince: record.protection?.inconsistentSince ?? undefined,
  });
  return backup;
}

/** Gives a backup that is there its moment to connect, so that the first write finds it. */
export async function settleBackup(volume: Volume, {environment}: StartContext): Promise<void> {
  const {clock} = environment;
  const deadline = clock.now() + CONNECT_WAIT_MS;
  while (volume.protection().link.state === 'connecting' && clock.now() < deadline) {
    await clock.sleep(1);
  }
}

function describePlace(doing: string, text: string): string {
  try {
    return targetName(text);
  } catch (error) {
    throw new UserError(`cannot ${doing}: ${messageOf(error)}`, {exitCode: 2, cause: error});
  }
}

async function tryOpen(
  {options, context}: BackupRequest,
  text: string,
): Promise<{target: BackupTarget} | {error: unknown}> {
  try {
    return {target: await openBackup(text, options, context.signal)};
  } catch (error) {
    return {error};
  }
}

function openBackup(
  text: string,
  {ioTimeoutMs}: AttachOptions,
  signal: AbortSignal,
): Promise<BackupTarget> {
  const timeouts = {connect: Math.min(CONNECT_MS_MAX, ioTimeoutMs), io: ioTimeoutMs};
  return openTarget(text, {timeouts, signal});
}

/** Why a target cannot hold the volume. */
function sizeProblem({size, sourceSize}: BackupRequest, target: BackupTarget): string | undefined {
  if (target.size < size && target.size >= sourceSize) {
    return `${target.name} has ${target.size} bytes, which are no whole sectors`;
  }
  if (target.size >= size) return undefined;
  return (
    `the backup ${target.name} has ${formatSize(target.size)}, the volume ${formatSize(size)}, ` +
    'so it is too small'
  );
}

/** The backup may not be the store: what is written would be read back as proof of itself. */
export function refuseStoreAsBackup(doing: string, store: string, {backup}: AttachOptions): void {
  if (backup === null || isNbdUri(backup) || !isSameFile(store, backup)) return;
  throw new UserError(
    `cannot ${doing}: backup and store are the same, ${store}; name another --backup`,
  );
}

function makeBackup(request: KnownBackupRequest, first: BackupTarget | undefined): PreparedBackup {
  const {options, sourceText, context} = request;
  const text = options.backup ?? sourceText;
  let opened = first;
  let known: VolumeRecord | undefined;
  let save = (): Promise<void> => Promise.resolve();
  let isUntouched = (_: number): boolean => true;
  return {
    isSource: options.backup === null || options.backup === sourceText,
    known: {consistentAsOf: undefined, inconsistentSince: undefined},
    open: async (signal) => {
      const target = opened ?? (await openBackup(text, options, signal));
      opened = undefined;
      return target;
    },
    verify: async (target) => {
      const {witnesses} = known ?? {witnesses: []};
      const usable = witnesses.filter(({offset}) => isUntouched(offset));
      const {random} = context.environment;
      const mismatch = await findMismatch(target, someOf(usable, WITNESSES_AT_RECONNECT, random));
      if (mismatch === undefined) return;
      throw new BlockError(
        'ESTALE',
        `${target.name} is not this volume's backup: at byte ${mismatch.offset} it holds ` +
          'something else; nothing is written to it',
        {op: 'verify', isPermanent: true},
      );
    },
    remember: async (memory) => {
      if (!known) return;
      known.protection = {
        consistentAsOf: memory.consistentAsOf ?? null,
        inconsistentSince: memory.inconsistentSince ?? null,
      };
      await save();
    },
    withTarget: async (use) => (opened === undefined ? undefined : use(opened)),
    bind: (record, saveRecord) => {
      known = record;
      save = saveRecord;
    },
    bindUntouched: (look) => {
      isUntouched = look;
    },
  };
}
