/** The daemon's side of the start (start-protocol.ts), over the socket it was started with. */
import {Socket} from 'node:net';
import {UserError} from '../base/errors.js';
import {errorBody} from './control-server.js';
import {encodeLine, LineDecoder} from './protocol.js';
import {
  START_FD,
  type FromAttach,
  type FromDaemon,
  type ReadyReport,
  type StartRequest,
} from './start-protocol.js';

export class StartLink {
  readonly #socket = new Socket({fd: START_FD, readable: true, writable: true});
  readonly #lines = new LineDecoder();
  readonly #messages: FromAttach[] = [];
  readonly #gone = new AbortController();
  #wake: (() => void) | undefined;

  constructor() {
    this.#socket.on('data', (chunk: Buffer) => {
      for (const line of this.#lines.push(chunk)) {
        this.#messages.push(JSON.parse(line) as FromAttach);
      }
      this.#wake?.();
    });
    this.#socket.on('error', () => this.#socket.destroy());
    this.#socket.on('close', () => {
      this.#gone.abort();
      this.#wake?.();
    });
  }

  /** Aborted when `attach` is gone: whatever was started is taken back. */
  get signal(): AbortSignal {
    return this.#gone.signal;
  }

  /** What to attach; undefined if nobody asked. */
  async request(): Promise<StartRequest | undefined> {
    const message = await this.#next();
    return message?.type === 'start' ? message : undefined;
  }

  /** A line for the person who waits. */
  note(message: string): void {
    this.#send({type: 'note', message});
  }

  /** Has the device mounted; throws unless it was. */
  async mount(device: string, directory: string, readOnly: boolean): Promise<void> {
    this.#send({type: 'device', device, directory, readOnly});
    const answer = await this.#next();
    if (answer?.type === 'mounted') return;
    throw new UserError(`the device was not mounted at ${directory}`);
  }

  /** The last word, after which the link is closed. */
  async ready(report: ReadyReport): Promise<void> {
    await this.#finish({type: 'ready', ...report});
  }

  async failed(error: unknown): Promise<void> {
    await this.#finish({type: 'failed', ...errorBody(error)});
  }

  async #next(): Promise<FromAttach | undefined> {
    while (this.#messages.length === 0 && !this.#gone.signal.aborted) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    return this.#messages.shift();
  }

  #send(message: FromDaemon): void {
    if (!this.#socket.destroyed) this.#socket.write(encodeLine(message));
  }

  async #finish(message: FromDaemon): Promise<void> {
    if (this.#socket.destroyed) return;
    await new Promise<void>((resolve) => {
      this.#socket.once('close', () => resolve());
      this.#socket.end(encodeLine(message), () => this.#socket.destroy());
    });
  }
}
