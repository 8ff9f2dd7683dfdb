#!/usr/bin/env node
/**
 * The `regrow` command. Understands the call, loads the one file that runs it, and turns every
 * error into one sentence and an exit code: 0 done, 1 failed, 2 the call was wrong.
 */
import {isBug, messageOf, UserError} from '../base/errors.js';
import type {DaemonProcess} from '../control/start-daemon.js';
import {VERSION} from '../control/version.js';
import type {Call} from './call.js';
import {say} from './terminal.js';

/**
 * `attach` has its daemon load while the command line is still being understood: the two take about
 * as long, and attach is to be quick.
 */
async function spareDaemon(args: string[]): Promise<DaemonProcess | undefined> {
  if (args[0] !== 'attach' || process.getuid?.() !== 0) return undefined;
  const {DaemonProcess: Spare} = await import('../control/start-daemon.js');
  return new Spare();
}

async function run(call: Call, spare: DaemonProcess | undefined): Promise<number> {
  switch (call.command) {
    case 'attach':
      return (await import('./attach.js')).attach(call, spare);
    case 'list':
      return (await import('./list.js')).list(call);
    case 'status':
      return (await import('./status.js')).status(call);
    case 'hydrate':
      return (await import('./hydrate.js')).hydrate(call);
    case 'write-through':
      return (await import('./write-through.js')).writeThrough(call);
    case 'wait':
      return (await import('./wait.js')).wait(call);
    case 'verify':
      return (await import('./verify.js')).verify(call);
    case 'replace-store':
      return (await import('./replace-store.js')).replaceStore(call);
    case 'restart':
      return (await import('./restart.js')).restart(call);
    case 'detach':
      return (await import('./detach.js')).detach(call);
    case 'forget':
      return (await import('./forget.js')).forget(call);
    case 'doctor':
      return (await import('./doctor.js')).doctor(call);
  }
}

/** Runs a command line; the result is the exit code. */
async function main(args: string[]): Promise<number> {
  const spare = await spareDaemon(args);
  try {
    const {parseArguments} = await import('./program.js');
    const call = parseArguments(VERSION, args);
    return call === undefined ? 0 : await run(call, spare);
  } catch (error) {
    say(messageOf(error));
    if (isBug(error) && error instanceof Error) process.stderr.write(`${error.stack ?? ''}\n`);
    return error instanceof UserError ? error.exitCode : 1;
  } finally {
    spare?.abandon();
  }
}

// A reader that has seen enough (`regrow status --watch | head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});
const exitCode = await main(process.argv.slice(2));
process.exitCode = exitCode;
