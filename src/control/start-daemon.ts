/**
 * The command line's side of a start: runs the launcher, which becomes the supervisor of the daemon
 * that it starts, tells that one what to attach (start-protocol.ts) and waits for the outcome.
 */
import {spawn, type ChildProcess} from 'node:child_process';
import type {Socket} from 'node:net';
import {fileURLToPath} from 'node:url';
import {UserError} from '../base/errors.js';
import {encodeLine, LineDecoder} from './protocol.js';
import {
  START_FD,
  type FromAttach,
  type FromDaemon,
  type ReadyReport,
  type StartRequest,
} from './start-protocol.js';

const LAUNCHER = fileURLToPath(new URL('../../../build/Release/regrow-launcher', import.meta.url));
const DAEMON = fileURLToPath(new URL('./daemon.js', import.meta.url));
const STDERR_BYTES_MAX = 64 * 1024;

export interface StartHandlers {
  onNote(message: string): void;
  /** Mounts the device; what it throws undoes the start and is thrown by `start`. */
  mount(device: string, directory: string, readOnly: boolean): Promise<void>;
}

/**
 * A daemon process that waits to be told what to attach. It is started before the command line has
 * even been understood, since loading its code takes as long as understanding; {@link abandon}
 * sends it away.
 */
export class DaemonProcess {
  readonly #child: ChildProcess;
  readonly #link: Socket;
  readonly #failed: Promise<never>;
  #lastWords = '';

  constructor() {
    this.#child = spawn(LAUNCHER, ['--supervise', process.execPath, DAEMON], {
      stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
    });
    this.#link = this.#child.stdio[START_FD] as Socket;
    this.#link.on('error', () => {});
    this.#child.stderr?.setEncoding('utf8').on('data', (part: string) => {
      if (this.#lastWords.length < STDERR_BYTES_MAX) this.#lastWords += part;
    });
    this.#failed = new Promise((_, reject) => {
      this.#child.once('error', (error) => reject(new DaemonGone(error.message)));
    });
    this.#failed.catch(() => {});
  }

  /** Lets it go without having told it anything, or after it has started. */
  abandon(): void {
    this.#link.destroy();
    this.#child.stderr?.destroy();
    this.#child.unref();
  }

  /** Resolves once its device is ready, and leaves it running. */
  async start(request: StartRequest, handlers: StartHandlers): Promise<ReadyReport> {
    try {
      send(this.#link, request);
      return await converse(this.#messages(), this.#link, handlers);
    } catch (error) {
      if (!(error instanceof DaemonGone)) throw error;
      const words = this.#lastWords.trim().replaceAll(/\s*\n\s*/g, ' ');
      const reason = [error.message, words].filter((part) => part !== '').join(': ');
      throw new UserError(
        `cannot attach ${request.name}: the daemon did not start (${reason}); see \`regrow ` +
          `doctor\``,
      );
    } finally {
      this.abandon();
    }
  }

  async *#messages(): AsyncGenerator<FromDaemon> {
    const lines = new LineDecoder();
    const chunks = this.#link[Symbol.asyncIterator]();
    for (;;) {
      const {value, done} = await Promise.race([chunks.next(), this.#failed]);
      if (done) break;
      for (const line of lines.push(value as Buffer)) yield JSON.parse(line) as FromDaemon;
    }
  }
}

class DaemonGone extends Error {}

function send(link: Socket, message: FromAttach): void {
  link.write(encodeLine(message));
}

async function converse(
  messages: AsyncIterable<FromDaemon>,
  link: Socket,
  handlers: StartHandlers,
): Promise<ReadyReport> {
  let mountError: unknown;
  for await (const message of messages) {
    switch (message.type) {
      case 'note':
        handlers.onNote(message.message);
        break;
      case 'device':
        try {
          await handlers.mount(message.device, message.directory, message.readOnly);
          send(link, {type: 'mounted'});
        } catch (error) {
          mountError = error;
          send(link, {type: 'not mounted'});
        }
        break;
      case 'ready': {
        const {type: _, ...report} = message;
        return report;
      }
      case 'failed':
        throw mountError ?? new UserError(message.message, {exitCode: message.exitCode});
    }
  }
  throw new DaemonGone('it ended without a word');
}
