/**
 * Many requests at once over several connections, through all faults that a server may have without
 * lying: delay, reordering, cuts, refusals, failures, a volatile cache and power losses. The oracle
 * says which bytes each read and each power loss may give.
 */
import test from 'ava';
import {Prng} from '../../src/base/prng.js';
import {KiB, SECTOR} from '../../src/base/units.js';
import {NbdConnection} from '../../src/native/nbd.js';
import {parseNbdUri} from '../../src/source/nbd-uri.js';
import {MemoryBackend, NbdProxy} from '../support/nbd-proxy.js';
import type {Count} from '../support/nbd-proxy/ledger.js';
import {Oracle} from '../support/oracle.js';
import {stamp, ZERO} from '../support/stamps.js';

const SEEDS = 12;
const LIVES = 4;
const REQUESTS = 120;
const SIZE = 64 * KiB;
const CONNECTIONS = 3;
const DEPTH = 12;

const WANTED: readonly Count[] = [
  'delayed',
  'reordered',
  'repliesReordered',
  'errors',
  'cutReceiving',
  'cutBefore',
  'cutAfter',
  'cutReplying',
  'kept',
  'torn',
  'lost',
  'lostInFlight',
];

/** A client that connects again whenever a connection is lost. */
class Client {
  readonly oracle = new Oracle(SIZE, () => ZERO);
  /** Nothing is asked of the server that comes after a power loss before the oracle knows of it. */
  isPaused = false;
  readonly #uri: string;
  readonly #prng: Prng;
  readonly #connections: (Promise<NbdConnection> | undefined)[] = [];
  #value = ZERO;

  constructor(uri: string, prng: Prng) {
    this.#uri = uri;
    this.#prng = prng;
  }

  /** One request of its own choice; resolves when it is answered, or never will be. */
  async request(): Promise<void> {
    const index = this.#prng.below(CONNECTIONS);
    const kind = this.#prng.weighted({write: 8, fua: 1, zero: 1, read: 4, flush: 2});
    const first = this.#prng.below(SIZE / SECTOR);
    const count = this.#prng.between(1, Math.min(12, SIZE / SECTOR - first));
    const [offset, length] = [first * SECTOR, count * SECTOR];
    const connection = await this.#connection(index);
    if (this.isPaused) return;
    if (kind === 'flush') {
      const began = this.oracle.beginFlush();
      if (await isDone(connection.flush())) this.oracle.acknowledgeFlush(began);
    } else if (kind === 'read') {
      const read = this.oracle.beginRead(offset, length);
      const buffer = Buffer.alloc(length);
      const isRead = await isDone(connection.read(offset, buffer));
      this.oracle.endRead(read, isRead ? buffer : undefined);
    } else {
      const value = kind === 'zero' ? ZERO : ++this.#value;
      const write = this.oracle.beginWrite(offset, length, value);
      const buffer = Buffer.alloc(length);
      stamp(buffer, offset, value);
      const fua = kind === 'fua';
      const call =
        kind === 'zero' ? connection.zero(offset, length) : connection.write(offset, buffer, {fua});
      if (await isDone(call)) this.oracle.acknowledge(write, fua);
      else this.oracle.fail(write);
    }
  }

  async close(): Promise<void> {
    for (const connection of this.#connections) await (await connection)?.close();
  }

  async #connection(index: number): Promise<NbdConnection> {
    this.#connections[index] ??= this.#connect(index);
    return await this.#connections[index];
  }

  async #connect(index: number): Promise<NbdConnection> {
    for (;;) {
      try {
        const connection = await NbdConnection.connect('proxy', parseNbdUri(this.#uri).target);
        void connection.ended.then(() => (this.#connections[index] = undefined));
        return connection;
      } catch {
        await new Promise((resolve) => setTimeout(resolve, 2));
      }
    }
  }
}

async function isDone(call: Promise<void>): Promise<boolean> {
  return await call.then(
    () => true,
    () => false,
  );
}

async function runOne(seed: number, happened: Map<Count, number>): Promise<void> {
  const backend = new MemoryBackend(SIZE);
  const proxy = await NbdProxy.start({backend, seed, canMultiConn: true});
  const client = new Client(proxy.uri, new Prng(seed));
  const {oracle} = client;
  proxy.faults.set({delayMs: 2, reorder: true, volatile: true, cutProbability: 0.03, downMs: 5});
  proxy.fail(['write', 'zero'], 'EIO', {probability: 0.02, effect: 'part'});
  proxy.fail('flush', 'EIO', {probability: 0.1});
  try {
    for (let life = 0; life < LIVES; life++) {
      let left = REQUESTS;
      const work = async (): Promise<void> => {
        while (left-- > 0) await client.request();
      };
      const workers = Promise.all(Array.from({length: DEPTH}, work));
      while (left > REQUESTS / 4) await new Promise((resolve) => setTimeout(resolve, 1));
      left = 0;
      client.isPaused = true;
      await proxy.powerLoss();
      await workers;
      oracle.crash('power cut');
      client.isPaused = false;
      oracle.check(0, backend.bytes);
    }
    for (const name of WANTED) happened.set(name, (happened.get(name) ?? 0) + proxy.counts[name]);
  } finally {
    await client.close();
    await proxy.close();
  }
}

test('every read and every power loss gives what a server without lies may give', async (t) => {
  const happened = new Map<Count, number>();
  for (let seed = 1; seed <= SEEDS; seed++) {
    await t.notThrowsAsync(runOne(seed, happened), `seed ${seed}`);
  }
  for (const name of WANTED) t.true((happened.get(name) ?? 0) > 0, name);
});
