/** `regrow list`: every volume of this computer, attached or not. */
import {formatSize} from '../base/units.js';
import {ControlClient} from '../control/client.js';
import {isVolumeName, stateParent, volumePaths} from '../control/paths.js';
import {peekRecord} from '../control/read-record.js';
import {localShare, type VolumeSummary} from '../control/status.js';
import {messageOf, UserError} from '../base/errors.js';
import {namesAt} from '../storage/files.js';
import {print, printJson} from './terminal.js';

export async function list({json}: {json: boolean}): Promise<number> {
  const summaries = await Promise.all(volumeNames().map((name) => summarize(name)));
  if (json) {
    printJson(summaries);
    return 0;
  }
  const rows = summaries.map((summary) => [
    summary.name,
    summary.state,
    summary.device ?? '-',
    summary.size === null ? '-' : formatSize(summary.size),
    summary.local === null ? '-' : `${(Math.floor(summary.local * 1000) / 10).toFixed(1)} %`,
    summary.problem ?? summary.source ?? '-',
  ]);
  printTable([['NAME', 'STATE', 'DEVICE', 'SIZE', 'LOCAL', 'SOURCE'], ...rows]);
  return 0;
}

/** The names under the state folder, in order; those of other things are left out. */
export function volumeNames(): string[] {
  try {
    return namesAt(stateParent()).filter(isVolumeName);
  } catch (error) {
    const {code, message} = error as NodeJS.ErrnoException;
    throw new UserError(
      `cannot list volumes in ${stateParent()}: ${message}; ` +
        (code === 'EACCES' ? 'run this with sudo' : 'check REGROW_STATE_DIR'),
      {cause: error},
    );
  }
}

async function summarize(name: string): Promise<VolumeSummary> {
  const paths = volumePaths(name);
  const client = await ControlClient.connect(paths.socket).catch(() => undefined);
  if (client === undefined) return summarizeDetached(name);
  try {
    const status = await client.call('status');
    return {
      name,
      state: status.state,
      device: status.device ?? null,
      size: status.size,
      local: localShare(status),
      store: status.store.path,
      source: status.source.name,
      problem: null,
    };
  } catch {
    return summarizeDetached(name);
  } finally {
    client.close();
  }
}

async function summarizeDetached(name: string): Promise<VolumeSummary> {
  const nothing = {name, device: null, size: null, local: null, store: null, source: null};
  try {
    const record = await peekRecord(`read ${name}`, volumePaths(name));
    if (record === undefined) return {...nothing, state: 'unfinished', problem: null};
    const {detached} = record;
    return {
      name,
      state: 'detached',
      device: null,
      size: record.size,
      local: detached === null ? null : 1 - detached.absentBlocks / detached.blocks,
      store: record.store.path,
      source: record.sourceName,
      problem: null,
    };
  } catch (error) {
    return {...nothing, state: 'damaged', problem: messageOf(error)};
  }
}

/** Columns as wide as their widest cell, two spaces between. */
export function printTable(rows: string[][]): void {
  const widths = (rows[0] ?? []).map((_, column) =>
    Math.max(...rows.map((row) => row[column]?.length ?? 0)),
  );
  for (const row of rows) {
    print(
      row
        .map((cell, column) => cell.padEnd(widths[column] ?? 0))
        .join('  ')
        .trimEnd(),
    );
  }
}
