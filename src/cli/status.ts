/** `regrow status [NAME] [--json] [--watch]`. */
import {setTimeout as sleep} from 'node:timers/promises';
import {ControlClient} from '../control/client.js';
import {volumePaths} from '../control/paths.js';
import {nullForUndefined} from '../control/protocol.js';
import type {VolumeStatus} from '../control/status.js';
import {volumeNames} from './list.js';
import {renderStatus, statusLine} from './render-status.js';
import {isUnicode, print, printJson, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

interface StatusCall {
  name: string | undefined;
  json: boolean;
  watch: boolean;
}

const WATCH_MS = 1000;

export async function status({name, json, watch}: StatusCall): Promise<number> {
  if (watch) return watchStatus(name, json);
  const statuses = await read(name);
  if (json) {
    printJson(name === undefined ? statuses : statuses[0]);
    return 0;
  }
  if (statuses.length === 0) say('no volume is attached; `regrow list` shows those that are not');
  print(await renderAll(statuses));
  return 0;
}

/** The status of one volume, which must be attached, or of all that are. */
async function read(name: string | undefined): Promise<VolumeStatus[]> {
  if (name !== undefined) {
    return [await withDaemon('show', name, (client) => client.call('status'))];
  }
  const all = await Promise.all(volumeNames().map((each) => readIfAttached(each)));
  return all.filter((each) => each !== undefined);
}

async function readIfAttached(name: string): Promise<VolumeStatus | undefined> {
  const client = await ControlClient.connect(volumePaths(name).socket);
  try {
    return await client?.call('status');
  } finally {
    client?.close();
  }
}

async function renderAll(statuses: VolumeStatus[]): Promise<string> {
  const {default: colors} = await import('picocolors');
  const look = {
    unicode: isUnicode(),
    dim: process.stdout.isTTY ? colors.dim : String,
    alarm: process.stdout.isTTY ? colors.red : String,
  };
  const now = Date.now();
  return statuses.map((each) => renderStatus(each, now, look)).join('\n\n');
}

/** Until it is interrupted or the volume goes: redraws on a terminal, else adds a line a second. */
async function watchStatus(name: string | undefined, json: boolean): Promise<number> {
  let height = 0;
  for (;;) {
    const statuses = await read(name);
    if (json) {
      print(JSON.stringify(name === undefined ? statuses : statuses[0], nullForUndefined));
    } else if (process.stdout.isTTY) {
      const text = await renderAll(statuses);
      process.stdout.write(`${height > 0 ? `\u001B[${height}A` : ''}\u001B[J${text}\n`);
      height = text.split('\n').length;
    } else {
      for (const each of statuses) print(statusLine(each));
    }
    if (statuses.length === 0) return 0;
    await sleep(WATCH_MS);
  }
}
