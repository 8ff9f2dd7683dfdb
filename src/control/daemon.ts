/**
 * The daemon of one volume: started by `attach` through the launcher, which gave it a session and a
 * mount namespace of its own, and its supervisor. It attaches the volume, or takes it over from a
 * daemon that died, says so, and then serves until it is detached.
 *
 * Once it is ready nothing is opened by path on the way of a request, all code is loaded, and the
 * log does not block: whatever it might wait for could lie on the volume itself.
 *
 *   SIGTERM  flush at once, end when nobody uses the device any more (running-volume.ts)
 *   SIGINT, SIGHUP  ignored: they are meant for whoever typed
 *   an exception nobody caught  is logged and shown by `status`; the device stays for its users
 */
import type {Socket} from 'node:net';
import type {Log} from '../base/environment.js';
import {messageOf, UserError} from '../base/errors.js';
import {peerCredentials} from '../native/host.js';
import {createSharedMemory, SharedMemory} from '../native/memory.js';
import {redirectStandardError} from '../storage/files.js';
import {EarlyLog, type LogFile} from '../storage/log-file.js';
import {controlHandlers} from './control-handlers.js';
import {ControlServer} from './control-server.js';
import {volumePaths, type VolumePaths} from './paths.js';
import {RecentErrors} from './recent-errors.js';
import {StoreReplacer} from './replace-store.js';
import {StartLink} from './start-link.js';
import {startVolume, type StartedVolume} from './start-volume.js';
import {generationOf} from './store-generation.js';
import {Succession} from './succession.js';
import {Supervisor, type Death} from './supervisor.js';
import {systemClock, systemEnvironment} from './system-environment.js';
import {takeOver} from './take-over.js';
import {Undo} from './undo.js';

const early = new EarlyLog(() => systemClock.wallTime());
const errors = new RecentErrors();
const log: Log = (level, message, fields) => {
  early.log(level, message, fields);
  if (level === 'error') errors.add(message, systemClock.wallTime());
};
const supervisor = Supervisor.find(process.env);
const memory = openMemory();
const environment = systemEnvironment(log, memory);
const succession = new Succession(supervisor, memory, log);

/** That of the daemon before, where there was one. */
function openMemory(): SharedMemory {
  const left = supervisor?.inherited.get('memory');
  return left === undefined ? createSharedMemory() : SharedMemory.adopt(left);
}

/** The user at the other end of a connection; undefined if that cannot be told. */
function peerUserId(socket: Socket): number | undefined {
  const handle = (socket as unknown as {_handle?: {fd?: unknown}})._handle;
  const fd = handle?.fd;
  return typeof fd === 'number' && fd >= 0 ? peerCredentials(fd).uid : undefined;
}

async function end(code: number): Promise<never> {
  await early.close();
  process.exit(code);
}

interface Service {
  server: ControlServer;
  /** Ends the process, once the device has gone. */
  finish(): Promise<void>;
}

/** Serves the control socket from the moment it listens until the end. */
function serve({running, volume, directory}: StartedVolume): Service {
  const {record} = running;
  const save = (): Promise<void> => running.save();
  const replacer = new StoreReplacer({record, directory, volume, save, succession});
  // The socket goes first: whoever finds none may attach at once, and needs the lock for that.
  const release = async (): Promise<void> => {
    server.stopListening();
    await directory.close();
  };
  const finish = async (): Promise<void> => {
    await release();
    await server.close();
    await end(0);
  };
  const server = new ControlServer({
    log: environment.log,
    peerUserId,
    handlers: controlHandlers({
      name: running.name,
      volume,
      running,
      replacer,
      now: () => environment.clock.now(),
      onGone: async () => {
        await release();
        setImmediate(() => void finish());
      },
    }),
  });
  return {server, finish};
}

/** What ends a daemon besides `detach`. */
function watch({running, device}: StartedVolume, finish: () => Promise<void>): void {
  const finishAnyway = (error: unknown): Promise<void> => {
    environment.log('error', messageOf(error));
    return finish();
  };
  process.removeAllListeners('SIGTERM');
  process.on('SIGTERM', () => void running.stopWhenUnused().then(finish, finishAnyway));
  void device.ended.then(async (isDetached) => {
    if (!isDetached) await running.endWithoutDevice().then(finish, finishAnyway);
  });
}

/** Logs what nobody caught; the result rejects with the first such error. */
function catchBugs(): Promise<never> {
  return new Promise((_, reject) => {
    for (const event of ['uncaughtException', 'unhandledRejection']) {
      process.on(event, (error: unknown) => {
        const stack = error instanceof Error ? error.stack : undefined;
        environment.log('error', `a bug in regrow: ${messageOf(error)}`, {stack});
        reject(error);
      });
    }
  });
}

/** From here on another daemon goes on if this one dies. */
function arrange(started: StartedVolume, paths: VolumePaths, server: ControlServer): void {
  const {running, device, directory, store, mapFile, source, takeOvers} = started;
  const {startedAt, isResumed} = running;
  succession.arrange({
    ...{device, directory},
    generation: generationOf(running.record),
    storeFd: store.fd,
    mapFd: mapFile.fd,
    sourceFd: source.fileFd,
    controlFd: server.fd,
    handover: {paths, startedAt, isResumed, takeOvers},
  });
}

function ignoreSignals(): void {
  process.on('SIGINT', () => {});
  process.on('SIGHUP', () => {});
}

/** Attaches the volume that `attach` asks for. */
async function attach(crashed: Promise<never>): Promise<void> {
  const link = new StartLink();
  const undo = new Undo();
  const givenUp = new AbortController();
  const giveUp = (): void => givenUp.abort();
  link.signal.addEventListener('abort', giveUp);
  process.on('SIGTERM', giveUp);
  try {
    const request = await link.request();
    if (request === undefined) return await end(2);
    process.title = `regrow daemon ${request.name}`;
    const paths = volumePaths(request.name);
    const starting = startVolume(request, {
      ...{environment, errors, succession, link, undo},
      signal: givenUp.signal,
      onLogFile: (file) => early.continueIn(file),
    });
    const started = await Promise.race([starting, crashed]);
    const {server, finish} = serve(started);
    await server.listen(paths.socket).catch((error: unknown) => {
      throw new UserError(
        `cannot attach ${request.name}: its control socket ${paths.socket} cannot be opened ` +
          `(${messageOf(error)}); make the folder writable or choose another with REGROW_RUN_DIR`,
        {cause: error},
      );
    });
    undo.add('close the control socket', () => server.close());
    // Until now descriptor 2 was a pipe to attach, which tells of a crash at start.
    redirectStandardError(paths.logFile);
    process.chdir('/');
    watch(started, finish);
    undo.drop();
    arrange(started, paths, server);
    environment.log('info', 'attached', {device: started.device.path});
    await link.ready(started.running.ready());
    started.afterReady();
  } catch (error) {
    const stack = error instanceof Error ? error.stack : undefined;
    environment.log('error', messageOf(error), {stack});
    for (const failure of await undo.run()) link.note(failure);
    await link.failed(error);
    await end(1);
  }
}

/** Goes on with the volume of a daemon that died. If it cannot, the supervisor tries another. */
async function goOn(held: Supervisor, death: Death): Promise<void> {
  try {
    const context = {environment, errors, succession};
    const onLogFile = (file: LogFile): void => early.continueIn(file);
    const taken = await takeOver(held, death, memory, {...context, onLogFile});
    const {server, finish} = serve(taken);
    const {paths} = taken.running;
    await server.adopt(taken.controlFd, paths.socket);
    redirectStandardError(taken.directory.pathOf('daemon.log'));
    watch(taken, finish);
    arrange(taken, paths, server);
    const pauseMs = taken.takeOvers.lastPauseMs ?? 0;
    environment.log('info', 'taken over', {pauseMs, count: taken.takeOvers.count});
    taken.afterReady();
    if (taken.isDeviceGone()) await taken.running.endWithoutDevice().then(finish);
  } catch (error) {
    const stack = error instanceof Error ? error.stack : undefined;
    environment.log('error', `taking over failed: ${messageOf(error)}`, {stack});
    await end(1);
  }
}

ignoreSignals();
const crashed = catchBugs();
crashed.catch(() => {});
const death = supervisor?.death;
if (supervisor !== undefined && death !== undefined) await goOn(supervisor, death);
else await attach(crashed);
