/**
 * A Unix socket and a loopback port that can be closed and opened again at the same places. While
 * closed, connecting is refused at both (ECONNREFUSED), as where a server has died.
 */
import {once} from 'node:events';
import {rename, rm} from 'node:fs/promises';
import {createServer, type AddressInfo, type Server, type Socket} from 'node:net';
import {setTimeout as sleep} from 'node:timers/promises';
import {Mutex} from '../../../src/base/mutex.js';

/** Somebody else may have got the port meanwhile, as an outgoing connection's. */
const PORT_TRIES = 200;
const PORT_RETRY_MS = 25;

export class Listeners {
  /** Of the Unix socket. */
  readonly path: string;
  /** Known once it was open. */
  port = 0;
  readonly #onSocket: (socket: Socket) => void;
  readonly #mutex = new Mutex();
  #servers: Server[] = [];

  constructor(path: string, onSocket: (socket: Socket) => void) {
    this.path = path;
    this.#onSocket = onSocket;
  }

  async open(): Promise<void> {
    await this.#mutex.run(async () => {
      if (this.#servers.length > 0) return;
      const unix = createServer(this.#onSocket);
      // Node removes the socket it made when it closes, but not one that has another name now: what
      // is left refuses connections.
      unix.listen(`${this.path}~`);
      await once(unix, 'listening');
      await rename(`${this.path}~`, this.path);
      this.#servers = [unix, await this.#openPort()];
    });
  }

  /** Connections that are open stay open. */
  async close(): Promise<void> {
    await this.#mutex.run(async () => {
      for (const server of this.#servers.splice(0)) server.close();
    });
  }

  /** Closes for ever. */
  async remove(): Promise<void> {
    await this.close();
    await rm(this.path, {force: true});
  }

  async #openPort(): Promise<Server> {
    for (let left = PORT_TRIES; ; left--) {
      const server = createServer({noDelay: true}, this.#onSocket);
      try {
        server.listen(this.port, '127.0.0.1');
        await once(server, 'listening');
        this.port = (server.address() as AddressInfo).port;
        return server;
      } catch (error) {
        if (left === 0) throw error;
        await sleep(PORT_RETRY_MS);
      }
    }
  }
}
