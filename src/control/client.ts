/**
 * The command line's end of the control socket. One connection a command; a lost connection fails
 * whatever still waits for an answer.
 */
import {connect, type Socket} from 'node:net';
import {UserError} from '../base/errors.js';
import {
  encodeLine,
  LineDecoder,
  parseAnswer,
  type Answer,
  type Method,
  type MethodTypes,
} from './protocol.js';

interface Waiting {
  resolve: (result: unknown) => void;
  reject: (error: Error) => void;
  progress: ((value: unknown) => void) | undefined;
}

export class ControlClient {
  readonly #socket: Socket;
  readonly #lines = new LineDecoder();
  readonly #waiting = new Map<number, Waiting>();
  #nextId = 1;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', (error) => this.#fail(error.message));
    socket.on('close', () => this.#fail('it closed the connection'));
  }

  /** Connects to a daemon's socket; undefined where none listens. */
  static async connect(path: string): Promise<ControlClient | undefined> {
    const socket = connect(path);
    try {
      await new Promise<void>((resolve, reject) => {
        socket.once('connect', resolve);
        socket.once('error', reject);
      });
    } catch (error) {
      socket.destroy();
      const {code, message} = error as NodeJS.ErrnoException;
      if (code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTDIR') return undefined;
      if (code === 'EACCES' || code === 'EPERM') {
        throw new UserError(
          `cannot reach the daemon at ${path}: only the user who attached the volume may; run ` +
            `this with sudo`,
          {cause: error},
        );
      }
      throw new UserError(`cannot reach the daemon at ${path}: ${message}; see \`regrow doctor\``, {
        cause: error,
      });
    }
    socket.removeAllListeners('error');
    return new ControlClient(socket);
  }

  /** Sends one request and gives its result; the daemon's errors come as UserErrors. */
  async call<M extends Method>(
    method: M,
    params?: MethodTypes[M]['params'],
    onProgress?: (value: MethodTypes[M]['progress']) => void,
  ): Promise<MethodTypes[M]['result']> {
    const id = this.#nextId++;
    const result = new Promise<unknown>((resolve, reject) => {
      const progress = onProgress as ((value: unknown) => void) | undefined;
      this.#waiting.set(id, {resolve, reject, progress});
    });
    this.#socket.write(encodeLine({id, method, params}));
    return (await result) as MethodTypes[M]['result'];
  }

  close(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) this.#settle(parseAnswer(line));
    } catch (error) {
      this.#fail(`it answered what cannot be understood (${(error as Error).message})`);
      this.#socket.destroy();
    }
  }

  #settle(answer: Answer): void {
    if (answer.id === null) {
      if ('error' in answer) this.#fail(answer.error.message);
      return;
    }
    const waiting = this.#waiting.get(answer.id);
    if (waiting === undefined) return;
    if ('progress' in answer) {
      waiting.progress?.(answer.progress);
      return;
    }
    this.#waiting.delete(answer.id);
    if ('result' in answer) waiting.resolve(answer.result);
    else waiting.reject(new UserError(answer.error.message, {exitCode: answer.error.exitCode}));
  }

  #fail(reason: string): void {
    for (const waiting of this.#waiting.values()) {
      waiting.reject(
        new UserError(`the daemon gave no answer: ${reason}; its log says more (regrow doctor)`),
      );
    }
    this.#waiting.clear();
  }
}
