/**
 * An NBD server for tests that does what networks and lying or crashing servers do. It stands
 * between any client and a backend, which may be memory, a file or a real server:
 *
 *   client ══ Session (delay, order, cut, silence, errors) ── WriteCache (volatile) ── Backend
 *                                          └── Zombies ──────────┘
 *
 *   const proxy = await NbdProxy.start({backend: new MemoryBackend(MiB), seed: 7});
 *   proxy.faults.set({delayMs: 5, reorder: true, volatile: true});
 *   … a client at proxy.uri …
 *   await proxy.powerLoss({downMs: 100});
 *   t.deepEqual(proxy.missing('held', 'lost', 'reordered'), []);
 *
 * To judge a client that claims "in sync": after `powerLoss` the backend holds what really was
 * durable, the hardest question; after `settle` it holds what a reader would see.
 *
 * With no fault switched on it is an honest server: nothing is held back. Each fault is described
 * where it is set (nbd-proxy/faults.ts), each count where it is declared (nbd-proxy/ledger.ts).
 * Chances come from the seed, one generator a connection and a request; timing does not.
 *
 * The protocol: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md
 */
import {mkdtemp, rm} from 'node:fs/promises';
import type {Socket} from 'node:net';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import {assert} from '../../src/base/assert.js';
import {Prng} from '../../src/base/prng.js';
import {RangeLock} from '../../src/base/range-lock.js';
import type {Backend} from './nbd-proxy/backend.js';
import {Faults} from './nbd-proxy/faults.js';
import {Ledger, type Count, type LedgerEntry} from './nbd-proxy/ledger.js';
import {Listeners} from './nbd-proxy/listeners.js';
import {Session, type Death, type Shared} from './nbd-proxy/session.js';
import {Shuffle} from './nbd-proxy/shuffle.js';
import {WriteCache, type Change, type Fate} from './nbd-proxy/write-cache.js';
import {Zombies} from './nbd-proxy/zombies.js';

export {FileBackend, MemoryBackend, type Backend} from './nbd-proxy/backend.js';
export {ServerBackend} from './nbd-proxy/server-backend.js';

export interface NbdProxyOptions {
  /** Stays open when the proxy closes. */
  backend: Backend;
  /** A whole number; print it when a test fails. */
  seed: number;
  /** Hears of everything that is counted, as it happens. */
  log?: (entry: LedgerEntry) => void;
  /** NBD_FLAG_CAN_MULTI_CONN: a flush covers the changes of all connections. @default false */
  canMultiConn?: boolean;
  /** @default false */
  readOnly?: boolean;
  /** Beside ''. @default '' */
  exportName?: string;
  /** Bytes; told to clients, not enforced. @default 1 */
  minimumBlock?: number;
}

export interface OutageOptions {
  /** No connection is taken for this long. @default 0 */
  downMs?: number;
  /** Connections are taken and closed at once rather than refused. @default false */
  hangUp?: boolean;
}

const SETTLE_POLL_MS = 2;

export class NbdProxy {
  readonly faults = new Faults();
  readonly #ledger: Ledger;
  readonly #folder: string;
  readonly #prng: Prng;
  readonly #listeners: Listeners;
  readonly #shared: Shared;
  /** With those whose connection ended and whose requests are still being served. */
  readonly #sessions = new Set<Session>();
  #connections = 0;
  /** That have not ended: no connection is taken. */
  #outages = 0;
  /** Outages until connections are taken again. */
  #restarts = 0;
  #isClosed = false;

  private constructor(options: NbdProxyOptions, folder: string) {
    const {backend, seed, canMultiConn = false, readOnly = false} = options;
    const {exportName = '', minimumBlock = 1} = options;
    this.#ledger = new Ledger(options.log);
    this.#folder = folder;
    this.#prng = new Prng(seed);
    this.#listeners = new Listeners(join(folder, 'nbd.sock'), (socket) => this.#take(socket));
    const ledger = this.#ledger;
    const cache = new WriteCache(backend, ledger);
    this.#shared = {
      served: {
        name: exportName,
        size: backend.size,
        isReadOnly: readOnly,
        canMultiConn,
        minimumBlock,
      },
      faults: this.faults,
      ledger,
      cache,
      zombies: new Zombies(ledger, (change, owner) => this.#landZombie(change, owner)),
      order: new RangeLock(),
      changeShuffle: new Shuffle(this.#prng.fork()),
      replyShuffle: new Shuffle(this.#prng.fork()),
      cut: (session) => this.#cutByChance(session),
    };
  }

  static async start(options: NbdProxyOptions): Promise<NbdProxy> {
    const proxy = new NbdProxy(options, await mkdtemp(join(tmpdir(), 'nbd-proxy-')));
    await proxy.#listeners.open();
    return proxy;
  }

  get socket(): string {
    return this.#listeners.path;
  }

  get port(): number {
    return this.#listeners.port;
  }

  get uri(): string {
    return `nbd+unix:///?socket=${this.socket}`;
  }

  get tcpUri(): string {
    return `nbd://127.0.0.1:${this.port}`;
  }

  /** How often each thing happened. */
  get counts(): Readonly<Record<Count, number>> {
    return this.#ledger.counts;
  }

  /** What happened, in order; the latest fifty thousand. */
  get log(): readonly LedgerEntry[] {
    return this.#ledger.entries;
  }

  /** Those that never happened: `t.deepEqual(proxy.missing('lost', 'cutAfter'), [])`. */
  missing(...names: readonly Count[]): Count[] {
    return this.#ledger.missing(...names);
  }

  /** Changes that were answered, and that a power loss would take. */
  get heldCount(): number {
    return this.#shared.cache.heldCount;
  }

  /** Zombies that have not landed yet. */
  get zombieCount(): number {
    return this.#shared.zombies.count;
  }

  /** Lets all zombies land now, without waiting for their time; resolves when they have. */
  async landZombies(): Promise<void> {
    await this.#shared.zombies.landAll();
  }

  /** Requests fail from now on: see {@link Faults.fail}. */
  fail(...args: Parameters<Faults['fail']>): void {
    this.faults.fail(...args);
  }

  /** They do not any more. */
  heal(...args: Parameters<Faults['heal']>): void {
    this.faults.heal(...args);
  }

  /**
   * The way breaks: all connections end, wherever their requests are. What the server was given
   * stays. Resolves when connections are taken again.
   */
  async cut(options: OutageOptions = {}): Promise<void> {
    this.#ledger.add('cutAsked');
    await this.#outage('cut', options);
  }

  /**
   * The server restarts and has forgotten what was not flushed: see {@link WriteCache.losePower}.
   * Zombies die with it. Resolves when connections are taken again.
   */
  async powerLoss(options: OutageOptions & {fate?: Fate} = {}): Promise<void> {
    this.#ledger.add('powerLosses');
    await this.#outage('power', options, async () => {
      this.#shared.zombies.clear();
      await this.#shared.cache.losePower(this.#prng.fork(), options.fate ?? 'random');
    });
  }

  /**
   * Waits until nothing is on its way, no zombie either, and lands what is held: now the backend
   * is what a client would read. Clients keep quiet meanwhile.
   */
  async settle(): Promise<void> {
    assert(!this.faults.now.silent, 'a silent proxy never settles');
    const {order, zombies, cache} = this.#shared;
    while (order.count > 0 || zombies.count > 0 || this.#restarts > 0) await sleep(SETTLE_POLL_MS);
    await cache.flush(undefined);
  }

  /** Ends all connections for ever. What is held is lost; `settle` before to keep it. */
  async close(): Promise<void> {
    this.#isClosed = true;
    this.#endAll('power');
    this.#shared.zombies.clear();
    await this.#listeners.remove();
    while (this.#sessions.size > 0 || this.#restarts > 0) await sleep(SETTLE_POLL_MS);
    await rm(this.#folder, {recursive: true, force: true});
  }

  #take(socket: Socket): void {
    if (this.#outages > 0 || this.#isClosed) {
      this.#ledger.add('hangUps');
      socket.on('error', () => undefined).destroy();
      return;
    }
    const id = ++this.#connections;
    this.#ledger.add('connections', {connection: id});
    const session = new Session(id, socket, this.#shared, this.#prng.fork());
    this.#sessions.add(session);
    void session.run().then(() => this.#sessions.delete(session));
  }

  async #outage(
    cause: Death,
    {downMs = 0, hangUp = false}: OutageOptions,
    meanwhile?: () => Promise<void>,
  ): Promise<void> {
    this.#outages++;
    this.#restarts++;
    this.#ledger.add('outages', {note: `${cause}, ${Math.round(downMs)} ms`});
    this.#endAll(cause);
    try {
      if (!hangUp) await this.#listeners.close();
      await meanwhile?.();
      if (downMs > 0) await sleep(downMs);
    } finally {
      this.#outages--;
      if (this.#outages === 0 && !this.#isClosed) await this.#listeners.open();
      this.#restarts--;
    }
  }

  #endAll(cause: Death): void {
    for (const session of this.#sessions) session.die(cause);
  }

  #cutByChance(session: Session): void {
    const {downMs} = this.faults.now;
    if (downMs === 0) session.die('cut');
    else void this.#outage('cut', {downMs: this.#prng.fraction() * downMs});
  }

  async #landZombie(change: Change, owner: number): Promise<void> {
    const {cache, ledger} = this.#shared;
    const held = cache.hold(change, owner);
    if (this.faults.now.volatile) return;
    await cache.land([held]).catch((error: unknown) => {
      ledger.add('upstreamFailures', {connection: owner, note: String(error)});
    });
  }
}
