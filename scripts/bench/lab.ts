/**
 * The place where a run of the benchmark happens: a folder, programs with a time limit, and a list
 * of what has to be undone, which is undone last to first on every way out.
 */
import {execFile, spawn, type ChildProcess} from 'node:child_process';
import {existsSync, mkdirSync, mkdtempSync, rmSync} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {promisify} from 'node:util';

const execute = promisify(execFile);

/** No single program runs longer: what hangs is a finding, and must not cost the whole run. */
const PROGRAM_MS_MAX = 90_000;
const READY_MS_MAX = 15_000;

export type Undo = () => Promise<void>;

export class Lab {
  readonly folder: string;
  readonly #undo: Undo[] = [];
  #count = 0;

  constructor(parent: string) {
    this.folder = mkdtempSync(join(parent, 'regrow-bench-'));
    mkdirSync(this.path('run'));
    process.env['REGROW_STATE_DIR'] = this.path('state');
    process.env['REGROW_RUN_DIR'] = this.path('run');
  }

  path(name: string): string {
    return join(this.folder, name);
  }

  /** A path that nothing has had yet. */
  fresh(name: string): string {
    this.#count += 1;
    return this.path(`${name}-${this.#count}`);
  }

  /** Standard output; rejects with the program's own words. */
  async run(program: string, ...args: string[]): Promise<string> {
    try {
      const {stdout} = await execute(program, args, {timeout: PROGRAM_MS_MAX, maxBuffer: 2 ** 26});
      return stdout;
    } catch (error) {
      const {
        stderr = '',
        message,
        killed,
      } = error as {stderr?: string; message: string; killed?: boolean};
      const command = [program, ...args].join(' ').slice(0, 200);
      const late = killed ? `was not done after ${PROGRAM_MS_MAX / 1000} s; ` : '';
      throw new Error(`${command}: ${late}${stderr.trim() || message}`);
    }
  }

  /** Starts a server and waits until `isReady`; gives it and what stops it. */
  async serve(
    program: string,
    args: readonly string[],
    isReady: () => boolean | Promise<boolean>,
  ): Promise<{pid: number; stop: Undo}> {
    const child = spawn(program, args, {stdio: ['ignore', 'ignore', 'pipe']});
    let words = '';
    child.stderr
      .setEncoding('utf8')
      .on('data', (part: string) => (words = (words + part).slice(-4096)));
    child.on('error', (error) => (words += error.message));
    const stop = this.undoLater(() => end(child));
    const deadline = performance.now() + READY_MS_MAX;
    while (!(await isReady())) {
      if (child.exitCode !== null || performance.now() > deadline) {
        throw new Error(`${program} did not start: ${words.trim()}`);
      }
      await sleep(5);
    }
    return {pid: child.pid ?? 0, stop};
  }

  /** Registers what must be undone; the result undoes it early, and then it is not undone again. */
  undoLater(undo: Undo): Undo {
    this.#undo.push(undo);
    return async () => {
      const index = this.#undo.indexOf(undo);
      if (index === -1) return;
      this.#undo.splice(index, 1);
      await undo();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (let undo = this.#undo.pop(); undo; undo = this.#undo.pop()) {
      await undo().catch((error: unknown) =>
        process.stderr.write(`bench: clean-up: ${String(error)}\n`),
      );
    }
    rmSync(this.folder, {recursive: true, force: true});
  }
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGTERM');
  const isGone = await Promise.race([gone.then(() => true), sleep(10_000, false)]);
  if (!isGone) child.kill('SIGKILL');
}

/** A loop device on a file, with direct I/O to the file or through the page cache. */
export async function loopOn(
  lab: Lab,
  file: string,
  direct: boolean,
): Promise<{device: string; stop: Undo}> {
  const option = `--direct-io=${direct ? 'on' : 'off'}`;
  const device = (await lab.run('losetup', '--find', '--show', option, file)).trim();
  const stop = lab.undoLater(async () => {
    await lab.run('losetup', '--detach', device);
  });
  return {device, stop};
}

export interface Export {
  readonly socket: string;
  readonly uri: string;
  readonly size: number;
  stop: Undo;
}

/** nbdkit on a Unix socket; `args` are its plugin with filters and parameters. */
export async function nbdkit(
  lab: Lab,
  size: number,
  args: readonly string[],
): Promise<Export & {pid: number}> {
  const socket = lab.fresh('nbd');
  const all = ['--foreground', '--unix', socket, ...args];
  const {pid, stop} = await lab.serve('nbdkit', all, () => existsSync(socket));
  return {socket, uri: `nbd+unix:///?socket=${socket}`, size, pid, stop};
}

/** Milliseconds that `work` takes. */
export async function timed(work: () => Promise<unknown>): Promise<number> {
  const since = performance.now();
  await work();
  return performance.now() - since;
}
