/**
 * The control socket of a daemon: takes requests (protocol.ts) and answers them.
 *
 * Whoever may open the socket may still be slow, silent, gone in mid-line or mad, and must never
 * hold up the volume. So everything is bounded: connections, requests in flight per connection,
 * bytes of a line, bytes waiting to be sent, seconds for a line to be completed. What exceeds a
 * bound loses its connection; progress is simply left out while a client is slow.
 */
import {setMaxListeners} from 'node:events';
import {createServer, type Server, type Socket} from 'node:net';
import {assert} from '../base/assert.js';
import {messageOf, UserError} from '../base/errors.js';
import type {Log} from '../base/environment.js';
import {removeNow} from '../storage/files.js';
import {
  encodeLine,
  LineDecoder,
  parseRequest,
  ProtocolError,
  type ErrorBody,
  type Method,
  type Request,
} from './protocol.js';

/** More at once are closed on arrival. */
const CONNECTIONS_MAX = 64;
/** More from one connection are answered with an error. */
const REQUESTS_MAX = 16;
/** A client that lets this much wait for it loses its connection. */
const UNSENT_BYTES_MAX = 4 * 1024 * 1024;
/** A connection without any request in flight is closed after this long. */
const IDLE_MS_MAX = 30_000;

export interface RequestContext {
  /** Tells the client how far it is; dropped while the client is slow. */
  progress(value: object): void;
  /** Aborted when the client has gone or the server closes. */
  readonly signal: AbortSignal;
}

export type Handler = (params: unknown, context: RequestContext) => Promise<object> | object;
export type Handlers = Readonly<Record<Method, Handler>>;

export interface ControlServerOptions {
  handlers: Handlers;
  log: Log;
  /** The user id at the other end of a connection; undefined if it cannot be told. */
  peerUserId: (socket: Socket) => number | undefined;
}

export class ControlServer {
  readonly #options: ControlServerOptions;
  readonly #connections = new Set<Connection>();
  readonly #server: Server;
  #adoptedPath: string | undefined;
  /** Resolves when every connection has ended; set once nobody may connect any more. */
  #closed: Promise<void> | undefined;

  constructor(options: ControlServerOptions) {
    this.#options = options;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** Goes on with a socket that listens already. */
  async adopt(fd: number, path: string): Promise<void> {
    this.#adoptedPath = path;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({fd}, resolve);
    });
    this.#server.removeAllListeners('error');
    this.#server.on('error', (error) => {
      this.#options.log('error', `the control socket failed: ${error.message}`);
    });
  }

  /** The descriptor that listens, for a later adopt(). */
  get fd(): number {
    const handle = (this.#server as unknown as {_handle?: {fd?: unknown} | null})._handle;
    const fd = handle?.fd;
    assert(typeof fd === 'number' && fd >= 0, 'the control socket listens');
    return fd;
  }

  /** Creates the socket, which nobody but its owner may open. The path must be free. */
  async listen(path: string): Promise<void> {
    const umask = process.umask(0o177);
    try {
      await new Promise<void>((resolve, reject) => {
        this.#server.once('error', reject);
        this.#server.listen(path, () => {
          this.#server.off('error', reject);
          resolve();
        });
      });
    } finally {
      process.umask(umask);
    }
    this.#server.on('error', (error) => {
      this.#options.log('error', `the control socket failed: ${error.message}`);
    });
  }

  /** Removes the socket, at once; connections stay. May be called again. */
  stopListening(): void {
    // A socket that was made here goes with its server.
    if (this.#adoptedPath !== undefined && this.#closed === undefined) removeNow(this.#adoptedPath);
    this.#closed ??= new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  /** Removes the socket, lets answers that are on their way out, then drops every connection. */
  async close(): Promise<void> {
    this.stopListening();
    await Promise.all([...this.#connections].map((connection) => connection.finish()));
    await this.#closed;
  }

  #accept(socket: Socket): void {
    const peer = this.#options.peerUserId(socket);
    const isOwner = peer === 0 || (peer !== undefined && peer === process.getuid?.());
    if (!isOwner || this.#connections.size >= CONNECTIONS_MAX) {
      this.#options.log('warning', 'a connection to the control socket was refused', {
        peer,
        connections: this.#connections.size,
      });
      socket.on('error', () => {});
      socket.destroy();
      return;
    }
    const connection = new Connection(socket, this.#options);
    this.#connections.add(connection);
    socket.on('close', () => this.#connections.delete(connection));
  }
}

/** One client. */
class Connection {
  readonly #socket: Socket;
  readonly #handlers: Handlers;
  readonly #log: Log;
  readonly #lines = new LineDecoder();
  readonly #gone = new AbortController();
  #inFlight = 0;

  constructor(socket: Socket, options: ControlServerOptions) {
    this.#socket = socket;
    this.#handlers = options.handlers;
    this.#log = options.log;
    setMaxListeners(2 * REQUESTS_MAX, this.#gone.signal);
    socket.setTimeout(IDLE_MS_MAX, () => {
      if (this.#inFlight === 0) socket.destroy();
    });
    socket.on('data', (chunk: Buffer) => this.#receive(chunk));
    socket.on('error', () => socket.destroy());
    socket.on('close', () => this.#gone.abort());
  }

  /** Sends what is still waiting to be sent, at most for a second, then closes. */
  async finish(): Promise<void> {
    const socket = this.#socket;
    if (socket.destroyed) return;
    const closed = new Promise<void>((resolve) => socket.once('close', () => resolve()));
    const timer = setTimeout(() => socket.destroy(), 1000);
    socket.end(() => socket.destroy());
    await closed;
    clearTimeout(timer);
  }

  #receive(chunk: Buffer): void {
    try {
      for (const line of this.#lines.push(chunk)) this.#start(parseRequest(line));
    } catch (error) {
      if (!(error instanceof ProtocolError)) throw error;
      this.#log('warning', `the control socket got what is no request: ${error.message}`);
      this.#send({id: null, error: {message: error.message, exitCode: 1}});
      this.#socket.removeAllListeners('data');
      this.#socket.resume();
      this.#socket.end();
    }
  }

  #start(request: Request): void {
    if (this.#inFlight >= REQUESTS_MAX) {
      const message = `more than ${REQUESTS_MAX} requests are in flight on this connection`;
      this.#send({id: request.id, error: {message, exitCode: 1}});
      return;
    }
    this.#inFlight++;
    void this.#run(request).finally(() => {
      this.#inFlight--;
    });
  }

  async #run({id, method, params}: Request): Promise<void> {
    try {
      const context: RequestContext = {
        signal: this.#gone.signal,
        progress: (value) => {
          if (!this.#socket.writableNeedDrain) this.#send({id, progress: value});
        },
      };
      const result = await this.#handlers[method](params, context);
      this.#send({id, result});
    } catch (error) {
      if (!(error instanceof UserError) && !this.#gone.signal.aborted) {
        this.#log('error', `${method} failed: ${messageOf(error)}`, {
          stack: error instanceof Error ? error.stack : undefined,
        });
      }
      this.#send({id, error: errorBody(error)});
    }
  }

  #send(answer: object): void {
    if (this.#socket.destroyed || !this.#socket.writable) return;
    this.#socket.write(encodeLine(answer));
    if (this.#socket.writableLength > UNSENT_BYTES_MAX) this.#socket.destroy();
  }
}

/** An error as it goes over the wire. */
export function errorBody(error: unknown): ErrorBody {
  return {message: messageOf(error), exitCode: error instanceof UserError ? error.exitCode : 1};
}
