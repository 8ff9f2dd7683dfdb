/**
 * A place to attach volumes for real: folders of its own for state and run-time files, sources
 * served by nbdkit, the `regrow` command as a child process. Whatever a test leaves behind is taken
 * away when it ends, however it ends: mounts, daemons, loop devices, servers, files.
 */
import {spawn, spawnSync, type ChildProcess} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {
  closeSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {fileURLToPath} from 'node:url';
import type {ExecutionContext} from 'ava';
import type {VolumeStatus} from '../../src/control/status.js';

const MAIN = fileURLToPath(new URL('../../bundle/bin/regrow.js', import.meta.url));

/**
 * In the foreground, read-only, one thread a connection: with more, nbdkit 1.32 aborts (an
 * assertion in raw_send_socket) now and then when a client is killed while several of its answers
 * are on their way.
 */
const NBDKIT_FLAGS = ['-f', '-r', '-t', '1'];

/** First argument of a server that clients may write to. */
export const WRITABLE = '--regrow-writable';

export interface Outcome {
  exitCode: number | null;
  stdout: string;
  stderr: string;
}

export class AttachLab {
  readonly folder: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly #servers: ChildProcess[] = [];
  readonly #mounts: string[] = [];
  readonly #loops: string[] = [];

  private constructor(folder: string) {
    this.folder = folder;
    this.stateDir = join(folder, 'state');
    this.runDir = join(folder, 'run');
  }

  /** A lab that is torn down with the test. */
  static create(t: ExecutionContext): AttachLab {
    const lab = new AttachLab(mkdtempSync('/tmp/rgl-'));
    t.teardown(() => lab.#tearDown());
    return lab;
  }

  /** The command's script, for tests that need its process. */
  get main(): string {
    return MAIN;
  }

  get environment(): NodeJS.ProcessEnv {
    return {...process.env, REGROW_STATE_DIR: this.stateDir, REGROW_RUN_DIR: this.runDir};
  }

  path(...parts: string[]): string {
    return join(this.folder, ...parts);
  }

  /** Compares contents, which may be large; `deepEqual` would list every byte. */
  same(t: ExecutionContext, one: Uint8Array, other: Uint8Array): void {
    t.is(one.length, other.length);
    t.is(Buffer.compare(one, other), 0);
  }

  /** Runs `regrow`; never throws for its exit code. */
  async regrow(...args: string[]): Promise<Outcome> {
    return this.run(process.execPath, [MAIN, ...withoutBackup(args)]);
  }

  async run(command: string, args: string[]): Promise<Outcome> {
    const child = spawn(command, args, {env: this.environment, stdio: ['ignore', 'pipe', 'pipe']});
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    const exitCode = await new Promise<number | null>((resolve) => child.on('close', resolve));
    return {exitCode, stdout, stderr};
  }

  /** Runs `regrow`, which must succeed; its standard output. */
  async ok(t: ExecutionContext, ...args: string[]): Promise<string> {
    const {exitCode, stdout, stderr} = await this.regrow(...args);
    t.is(exitCode, 0, `regrow ${args.join(' ')}: ${stderr}`);
    return stdout.trim();
  }

  /** Runs `regrow`, which must refuse with exactly one sentence; the sentence. */
  async refused(t: ExecutionContext, ...args: string[]): Promise<string> {
    return this.refusedIn(t, [], ...args);
  }

  /** The same in a surrounding: a command that runs the one that follows its arguments. */
  async refusedIn(t: ExecutionContext, surrounding: string[], ...args: string[]): Promise<string> {
    const [command = '', ...rest] = [
      ...surrounding,
      process.execPath,
      MAIN,
      ...withoutBackup(args),
    ];
    const {exitCode, stdout, stderr} = await this.run(command, rest);
    t.not(exitCode, 0, `regrow ${args.join(' ')} was not refused: ${stdout}`);
    t.is(stdout, '');
    const isNote = (line: string): boolean => /write-through is (off|sync|strict): /.test(line);
    const lines = stderr
      .trim()
      .split('\n')
      .filter((line) => !isNote(line));
    t.is(lines.length, 1, stderr);
    t.true(lines[0]?.startsWith('regrow: '), stderr);
    return lines[0]?.slice('regrow: '.length) ?? '';
  }

  async status(t: ExecutionContext, name: string): Promise<VolumeStatus> {
    return JSON.parse(await this.ok(t, 'status', name, '--json')) as VolumeStatus;
  }

  /**
   * Serves with nbdkit on a UNIX socket; the URI. `args`: plugin and its parameters, filters first.
   */
  async serve(...args: string[]): Promise<string> {
    return (await this.serveOn(this.path(`nbd${this.#servers.length}.sock`), ...args)).uri;
  }

  /** The same for a backup that is written to. */
  async serveWritable(...args: string[]): Promise<string> {
    return (await this.serveOn(this.path(`nbd${this.#servers.length}.sock`), WRITABLE, ...args))
      .uri;
  }

  /** {@link WRITABLE} as the first argument: clients may write. */
  async serveOn(socket: string, ...args: string[]): Promise<{uri: string; server: ChildProcess}> {
    rmSync(socket, {force: true});
    const log = openSync(`${socket}.log`, 'a');
    const stdio = ['ignore', 'ignore', log] as const;
    const flags =
      args[0] === WRITABLE ? NBDKIT_FLAGS.filter((flag) => flag !== '-r') : NBDKIT_FLAGS;
    const rest = args.filter((arg) => arg !== WRITABLE);
    const server = spawn('nbdkit', [...flags, '-U', socket, ...rest], {stdio: [...stdio]});
    closeSync(log);
    this.#servers.push(server);
    for (let i = 0; i < 500 && !existsSync(socket); i++) await sleep(10);
    if (!existsSync(socket)) throw new Error(`nbdkit ${args.join(' ')} did not start`);
    return {uri: `nbd+unix:///?socket=${socket}`, server};
  }

  /** Runs a program until the test ends. */
  background(command: string, ...args: string[]): ChildProcess {
    const child = spawn(command, args, {stdio: 'ignore'});
    this.#servers.push(child);
    return child;
  }

  /** Runs a tool that must succeed. */
  tool(command: string, ...args: string[]): string {
    const {status, stdout, stderr, error} = spawnSync(command, args, {encoding: 'utf8'});
    if (status === 0) return stdout;
    throw new Error(`${command} ${args.join(' ')}: ${stderr} ${error?.message ?? ''}`);
  }

  /** Mounts at a folder of the lab, which is unmounted at the end; the folder. */
  mount(device: string, name: string, ...options: string[]): string {
    const folder = this.path(name);
    mkdirSync(folder, {recursive: true});
    this.tool('mount', ...options, device, folder);
    this.#mounts.push(folder);
    return folder;
  }

  /** Has a folder unmounted at the end that something else mounts. */
  willUnmount(folder: string): void {
    this.#mounts.push(folder);
  }

  /** A loop device of a file, let go at the end. */
  loop(file: string, ...options: string[]): string {
    const device = this.tool('losetup', '-f', '--show', ...options, file).trim();
    this.#loops.push(device);
    return device;
  }

  /** Process ids of this lab's daemons. */
  daemons(): number[] {
    return this.#processes(/^regrow daemon |^[^\0]*node\0[^\0]*\/daemon\.js/);
  }

  /** Process ids of the supervisors of this lab's daemons. */
  supervisors(): number[] {
    return this.#processes(/regrow-launcher\0--supervise\0/);
  }

  /** Kills the daemons of this lab for good: their supervisors first, which would start others. */
  killAll(): void {
    for (const pid of [...this.supervisors(), ...this.daemons()]) {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // It ended meanwhile.
      }
    }
  }

  /** The daemon of a volume and its supervisor. */
  async pids(t: ExecutionContext, name: string): Promise<{daemon: number; supervisor: number}> {
    const {pid} = await this.status(t, name);
    const parent = /^PPid:\s*(\d+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1];
    return {daemon: pid, supervisor: Number(parent)};
  }

  /** Kills a volume's daemon and, before it, the supervisor that would start another. */
  async kill(t: ExecutionContext, name: string): Promise<void> {
    const {daemon, supervisor} = await this.pids(t, name);
    process.kill(supervisor, 'SIGKILL');
    process.kill(daemon, 'SIGKILL');
  }

  #processes(pattern: RegExp): number[] {
    const pids: number[] = [];
    for (const entry of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
      try {
        const environment = readFileSync(`/proc/${entry}/environ`, 'utf8').split('\0');
        const command = readFileSync(`/proc/${entry}/cmdline`, 'utf8');
        const isOurs = environment.includes(`REGROW_STATE_DIR=${this.stateDir}`);
        if (isOurs && pattern.test(command)) pids.push(Number(entry));
      } catch {
        // It ended meanwhile.
      }
    }
    return pids;
  }

  /** Returns when no daemon and no supervisor of this lab is left, or when the time is over. */
  async noDaemon(ms: number): Promise<void> {
    const left = (): number => this.daemons().length + this.supervisors().length;
    for (let waited = 0; waited < ms && left() > 0; waited += 20) await sleep(20);
  }

  async #tearDown(): Promise<void> {
    const quiet = (command: string, ...args: string[]): void => {
      spawnSync(command, args, {stdio: 'ignore', timeout: 20_000});
    };
    for (const folder of this.#mounts.reverse()) quiet('umount', folder);
    for (const name of this.#names()) await this.regrow('detach', name, '--force');
    this.killAll();
    this.#abortConnections();
    for (const folder of this.#mounts) quiet('umount', '-l', folder);
    for (const device of this.#loops) quiet('losetup', '-d', device);
    for (const name of this.#names()) quiet('umount', '-l', join(this.runDir, name));
    for (const line of this.tool('losetup', '-nO', 'NAME,BACK-FILE').split('\n')) {
      if (line.includes(this.folder)) quiet('losetup', '-d', line.split(/\s/)[0] ?? '');
    }
    for (const server of this.#servers) server.kill('SIGKILL');
    rmSync(this.folder, {recursive: true, force: true});
  }

  /**
   * Ends the FUSE connections of this lab. A daemon killed while one of its own threads waited for
   * its own answer would else stay in the kernel for ever, and the loop driver with it.
   */
  #abortConnections(): void {
    const mounts = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .filter((line) => line.includes(`${this.runDir}/`) && line.includes('fuse.regrow'));
    if (mounts.length === 0) return;
    const folder = this.path('fusectl');
    mkdirSync(folder, {recursive: true});
    this.tool('mount', '-t', 'fusectl', 'none', folder);
    for (const line of mounts) {
      const connection = /^\d+ \d+ 0:(\d+) /.exec(line)?.[1] ?? '';
      const file = join(folder, connection, 'abort');
      if (existsSync(file)) writeFileSync(file, '1');
    }
    this.tool('umount', folder);
  }

  #names(): string[] {
    const names = [this.stateDir, this.runDir].flatMap((folder) => {
      return existsSync(folder) ? readdirSync(folder) : [];
    });
    return [...new Set(names.map((name) => name.replace(/\.sock$/, '')))];
  }
}

export const MIB = 1024 * 1024;

/** A source of random bytes; its path. */
export function makeSource(lab: AttachLab, mebibytes = 4, name = 'source'): string {
  writeFileSync(lab.path(name), randomBytes(mebibytes * MIB));
  return lab.path(name);
}

/** A first attach that must be refused, and must leave nothing; its sentence. */
export async function refusedFirst(
  t: ExecutionContext,
  lab: AttachLab,
  ...args: string[]
): Promise<string> {
  const sentence = await lab.refused(t, 'attach', ...args);
  t.deepEqual(existsSync(lab.stateDir) ? readdirSync(lab.stateDir) : [], []);
  t.deepEqual(existsSync(lab.runDir) ? readdirSync(lab.runDir) : [], []);
  return sentence;
}

/** A first attach that says nothing of write-through leaves the source as it is. */
function withoutBackup(args: string[]): string[] {
  const isFirst = args[0] === 'attach' && args[2] !== undefined && !args[2].startsWith('-');
  const isSaid = args.some((arg) => arg === '--write-through' || arg === '--backup');
  return isFirst && !isSaid ? [...args, '--write-through', 'off'] : args;
}
