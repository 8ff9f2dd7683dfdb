/**
 * `regrow restart NAME`: a planned take-over. The daemon kills itself, another goes on with the
 * device, and this returns when that one answers, with the pause it made.
 */
import {setTimeout as sleep} from 'node:timers/promises';
import {UserError} from '../base/errors.js';
import {ControlClient} from '../control/client.js';
import {volumePaths} from '../control/paths.js';
import type {TakeOverStatus} from '../control/status.js';
import {print, printJson} from './terminal.js';
import {withDaemon} from './with-daemon.js';

/** How long the next daemon may take before this gives up on it; the device waits all the same. */
const WAIT_MS_MAX = 30_000;
const RETRY_MS = 20;

export async function restart({name, json}: {name: string; json: boolean}): Promise<number> {
  const before = await withDaemon('restart', name, (client) => client.call('restart'));
  for (let waited = 0; waited < WAIT_MS_MAX; waited += RETRY_MS) {
    const now = await takeOverOf(name);
    if (now !== undefined && now.count > before.takeOvers) {
      if (json) printJson({name, ...now});
      else print(`${name}: another daemon went on after ${now.lastPauseMs ?? 0} ms`);
      return 0;
    }
    await sleep(RETRY_MS);
  }
  throw new UserError(
    `${name} was restarted, but its new daemon does not answer; requests wait until it does: see ` +
      `daemon.log in ${volumePaths(name).state} and the kernel's log`,
  );
}

/** Undefined while nobody answers, or the old daemon is about to go. */
async function takeOverOf(name: string): Promise<TakeOverStatus | undefined> {
  const client = await ControlClient.connect(volumePaths(name).socket).catch(() => undefined);
  try {
    return (await client?.call('status'))?.takeOver;
  } catch {
    return undefined;
  } finally {
    client?.close();
  }
}
