/**
 * A real NBD server for one test, on a Unix socket in the test's own folder or on a loopback port.
 * It is killed when the test ends, and with it when this process dies (nbdkit --exit-with-parent;
 * the others at the exit hook).
 */
import {spawn, type ChildProcess} from 'node:child_process';
import {access, readFile, rm, writeFile} from 'node:fs/promises';
import {connect, createServer, type AddressInfo} from 'node:net';
import {join} from 'node:path';
import type {ExecutionContext} from 'ava';
import {temporaryDirectory} from './temporary.js';

const START_TIMEOUT_MS = 10_000;

export interface NbdServer {
  /** Of its default export, without TLS; a test adds what it needs. */
  readonly uri: string;
  readonly port: number;
  readonly socket: string;
  /** SIGKILL; resolves when the process is gone. */
  kill(): Promise<void>;
  /** Stops answering without closing anything, as a pulled cable does. */
  freeze(): Promise<void>;
  thaw(): void;
  /** Starts it again at the same place; `replacement`: with other arguments. */
  restart(replacement?: readonly string[]): Promise<void>;
}

interface Place {
  socket: string;
  port: number;
  useTcp: boolean;
  /** Where it listens, of nbdkit. */
  address: string;
}

type CommandOf = (place: Place, rest: readonly string[]) => string[];

export interface ServerOptions {
  /** On a loopback port rather than a socket. @default false */
  useTcp?: boolean;
  /** @default '127.0.0.1' */
  address?: string;
}

const nbdkitCommand: CommandOf = ({socket, port, useTcp, address}, rest) => [
  'nbdkit',
  '--foreground',
  '--exit-with-parent',
  ...(useTcp ? ['--ipaddr', address, '--port', String(port)] : ['--unix', socket]),
  ...rest,
];

const qemuCommand: CommandOf = ({socket, port, useTcp}, rest) => [
  'qemu-nbd',
  '--persistent',
  '--format',
  'raw',
  ...(useTcp ? ['--bind', '127.0.0.1', '--port', String(port)] : ['--socket', socket]),
  ...rest,
];

/** nbdkit with the given plugin and filter arguments. */
export async function startNbdkit(
  t: ExecutionContext,
  rest: readonly string[],
  options: ServerOptions = {},
): Promise<NbdServer> {
  return await start(t, nbdkitCommand, rest, options);
}

/** qemu-nbd over a raw image: options, then the path. */
export async function startQemuNbd(
  t: ExecutionContext,
  rest: readonly string[],
  options: ServerOptions = {},
): Promise<NbdServer> {
  return await start(t, qemuCommand, rest, options);
}

/**
 * nbd-server over a raw image: the path, then options; on a loopback port. It puts itself into the
 * background. `hasFlush`: it offers NBD_CMD_FLUSH, which it does only for an export of its
 * configuration file; `rest` is the path alone then.
 */
export async function startNbdServer(
  t: ExecutionContext,
  rest: readonly string[],
  {hasFlush = false}: {hasFlush?: boolean} = {},
): Promise<{uri: string}> {
  const folder = await temporaryDirectory(t);
  const [pidFile, configuration] = [join(folder, 'pid'), join(folder, 'config')];
  const port = await freePort();
  // The system's own configuration makes it another user, who may not read the test's files.
  const generic = '[generic]\n';
  const offered = `listenaddr = 127.0.0.1\nport = ${port}\n[disk]\nexportname = ${rest[0] ?? ''}\n`;
  await writeFile(configuration, hasFlush ? `${generic}${offered}flush = true\n` : generic);
  const place = hasFlush ? [] : [`127.0.0.1:${port}`, ...rest];
  const child = spawn('nbd-server', [...place, '-p', pidFile, '-C', configuration], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  await ready(child, {socket: '', port, useTcp: true}, {isForking: true});
  // Its whole process group: it forks one process a client, and those do not always end with it.
  t.teardown(async () =>
    process.kill(-(await groupOf(await readFile(pidFile, 'utf8'))), 'SIGKILL'),
  );
  return {uri: `nbd://127.0.0.1:${port}${hasFlush ? '/disk' : ''}`};
}

async function groupOf(pid: string): Promise<number> {
  const status = await readFile(`/proc/${pid.trim()}/stat`, 'utf8');
  // pid (name) state parent group …
  return Number(status.slice(status.lastIndexOf(')')).split(' ')[3]);
}

async function start(
  t: ExecutionContext,
  commandOf: CommandOf,
  rest: readonly string[],
  options: ServerOptions,
): Promise<NbdServer> {
  const socket = join(await temporaryDirectory(t), 'nbd.sock');
  const {useTcp = false, address = '127.0.0.1'} = options;
  const port = useTcp ? await freePort() : 0;
  const place = {socket, port, useTcp, address};
  let child: ChildProcess;
  const run = async (args: readonly string[]): Promise<void> => {
    const [program = '', ...argv] = commandOf(place, args);
    // One that was killed left its socket behind, and would not bind to it again.
    await rm(socket, {force: true});
    child = spawn(program, argv, {stdio: ['ignore', 'ignore', 'pipe']});
    await ready(child, place);
  };
  const stop = async (): Promise<void> => {
    if (child.exitCode !== null || child.signalCode !== null) return;
    const gone = new Promise((resolve) => child.once('exit', resolve));
    child.kill('SIGKILL');
    await gone;
  };
  const atExit = (): boolean => child.kill('SIGKILL');
  process.setMaxListeners(0);
  process.once('exit', atExit);
  t.teardown(async () => {
    process.off('exit', atExit);
    await stop();
  });
  await run(rest);
  return {
    uri: useTcp ? `nbd://127.0.0.1:${port}` : `nbd+unix:///?socket=${socket}`,
    port,
    socket,
    kill: stop,
    freeze: async () => {
      child.kill('SIGSTOP');
      // The signal stops its threads a moment later.
      while (!/\) T /.test(await readFile(`/proc/${child.pid}/stat`, 'utf8'))) continue;
    },
    thaw: () => void child.kill('SIGCONT'),
    restart: async (replacement = rest) => {
      await stop();
      await run(replacement);
    },
  };
}

/** Waits until something listens there; says what the server said if it does not come up. */
async function ready(
  child: ChildProcess,
  place: Omit<Place, 'address'>,
  options: {isForking?: boolean} = {},
): Promise<void> {
  let said = '';
  child.stderr?.setEncoding('utf8').on('data', (text: string) => {
    said += text;
  });
  let failure: Error | undefined;
  child.once('error', (error) => {
    failure = error;
  });
  const deadline = performance.now() + START_TIMEOUT_MS;
  while (performance.now() < deadline && failure === undefined) {
    if (child.exitCode !== null && options.isForking !== true) break;
    if (place.useTcp ? await listens(place.port) : await exists(place.socket)) return;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  child.kill('SIGKILL');
  throw new Error(`the NBD server did not start: ${failure?.message ?? said}`);
}

/** A port's listener is looked for in the kernel's table: a connection would count as a client. */
async function listens(port: number): Promise<boolean> {
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  const tables = await Promise.all(
    ['/proc/net/tcp', '/proc/net/tcp6'].map((path) => readFile(path, 'utf8').catch(() => '')),
  );
  return tables.some((table) => new RegExp(`:${hex} [0-9A-F]+:0000 0A `).test(table));
}

async function exists(socket: string): Promise<boolean> {
  try {
    await access(socket);
  } catch {
    return false;
  }
  return await new Promise((resolve) => {
    const probe = connect(socket, () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', () => resolve(false));
  });
}

/** A loopback port that nobody listens on now. */
export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const {port} = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return port;
}
