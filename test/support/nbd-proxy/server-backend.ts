/**
 * A real NBD server as what stands behind the proxy, over one connection of the addon's client. A
 * lost connection fails the calls in flight, and is made anew as soon as the server takes it.
 */
import {NbdConnection} from '../../../src/native/nbd.js';
import {parseNbdUri} from '../../../src/source/nbd-uri.js';
import type {Backend} from './backend.js';

export class ServerBackend implements Backend {
  readonly size: number;
  readonly #uri: string;
  #connection: Promise<NbdConnection>;
  #isClosed = false;

  private constructor(uri: string, connection: NbdConnection) {
    this.size = connection.facts.size;
    this.#uri = uri;
    this.#connection = Promise.resolve(connection);
    this.#watch(connection);
  }

  static async connect(uri: string): Promise<ServerBackend> {
    return new ServerBackend(uri, await connectTo(uri));
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    await (await this.#connection).read(offset, buffer);
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    await (await this.#connection).write(offset, bytes);
  }

  async zero(offset: number, length: number, options: {mayTrim: boolean}): Promise<void> {
    const connection = await this.#connection;
    if (connection.facts.canZero) await connection.zero(offset, length, options);
    else await connection.write(offset, Buffer.alloc(length));
  }

  /** The addon's client has no trim of its own. */
  async trim(offset: number, length: number): Promise<void> {
    await this.zero(offset, length, {mayTrim: true});
  }

  async flush(): Promise<void> {
    const connection = await this.#connection;
    if (connection.facts.canFlush) await connection.flush();
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#connection.then(
      (connection) => connection.close(),
      () => undefined,
    );
  }

  #watch(connection: NbdConnection): void {
    void connection.ended.then(() => {
      if (!this.#isClosed) this.#reconnect();
    });
  }

  /** Calls made while it tries fail with its failure; it tries until the server is back. */
  #reconnect(): void {
    const attempt = connectTo(this.#uri);
    this.#connection = attempt;
    attempt.then(
      (connection) => {
        if (this.#isClosed) void connection.close();
        else this.#watch(connection);
      },
      () => {
        setTimeout(() => {
          if (!this.#isClosed) this.#reconnect();
        }, RETRY_MS).unref();
      },
    );
  }
}

const RETRY_MS = 50;

async function connectTo(uri: string): Promise<NbdConnection> {
  const {target} = parseNbdUri(uri);
  return await NbdConnection.connect(`the proxy's server`, target);
}
