import {Buffer} from 'node:buffer';
import test from 'ava';
import {BlockError, type ErrnoCode} from '../../../src/base/errors.js';
import {
  ResilientSource,
  type LosableSource,
  type ResilientSourceOptions,
} from '../../../src/source/resilient-source.js';
import type {Source} from '../../../src/source/source.js';
import {virtualTime, type VirtualTime} from '../../support/virtual-time.js';

const SIZE = 4096;

/** A server that can go away and come back as the same disk or another. */
class FakeServer {
  isUp = true;
  size = SIZE;
  content = 1;
  opens = 0;
  closes = 0;
  /** When not empty, the next reads fail so while the connection lives. */
  failures: ErrnoCode[] = [];
  #dropAll: (() => void)[] = [];

  /** Every connection is lost. */
  crash(): void {
    this.isUp = false;
    for (const drop of this.#dropAll.splice(0)) drop();
  }

  open = async (): Promise<LosableSource> => {
    this.opens++;
    if (!this.isUp) throw gone('ECONNREFUSED');
    let isLost = false;
    let drop: (error: Error) => void = () => undefined;
    const lost = new Promise<Error>((resolve) => {
      drop = resolve;
    });
    this.#dropAll.push(() => {
      isLost = true;
      drop(gone('ENOTCONN'));
    });
    const answer = (): void => {
      if (isLost) throw gone('ENOTCONN');
      const failure = this.failures.shift();
      if (failure !== undefined) throw gone(failure);
    };
    return {
      name: 'fake',
      size: this.size,
      lost,
      read: async (_offset, buffer) => {
        answer();
        buffer.fill(this.content);
      },
      extents: async (offset, length) => {
        answer();
        return [{offset, length, isZero: false}];
      },
      close: async () => {
        this.closes++;
      },
    };
  };
}

function gone(code: ErrnoCode): BlockError {
  return new BlockError(code, `the fake server says ${code}`, {op: 'read'});
}

interface Fixture {
  time: VirtualTime;
  server: FakeServer;
  source: ResilientSource;
  read: (signal?: AbortSignal) => Promise<number | undefined>;
}

async function fixture(options: Partial<ResilientSourceOptions> = {}): Promise<Fixture> {
  const time = virtualTime();
  const server = new FakeServer();
  const {environment} = time;
  const source = await ResilientSource.open({open: server.open, environment, ...options});
  const read = async (signal?: AbortSignal): Promise<number | undefined> => {
    const buffer = Buffer.alloc(8, 0xee);
    await source.read(0, buffer, signal === undefined ? {} : {signal});
    return buffer[7];
  };
  return {time, server, source, read};
}

/** Lets virtual time pass. */
async function pass({scheduler, environment}: VirtualTime, ms: number): Promise<void> {
  await scheduler.run(environment.clock.sleep(ms));
}

test('requests that come while the source is away wait and all end when it is back', async (t) => {
  const {time, server, source, read} = await fixture();
  server.crash();
  const reads = Promise.all([read(), read(), read()]);
  await pass(time, 60_000);
  t.is(source.health().state, 'waiting');
  t.is(source.health().waiters, 3);
  t.true(source.health().attempts > 3);
  t.regex(source.health().lastError ?? '', /ECONNREFUSED/);
  server.isUp = true;
  t.deepEqual(await time.scheduler.run(reads), [1, 1, 1]);
  t.like(source.health(), {state: 'connected', waiters: 0, attempts: 0});
  await source.close();
});

test('a loss is noticed and mended although nobody reads', async (t) => {
  const {time, server, source} = await fixture();
  server.crash();
  server.isUp = true;
  await pass(time, 1000);
  t.is(source.health().state, 'connected');
  t.is(server.opens, 2);
  t.is(server.closes, 1);
  await source.close();
  t.is(server.closes, 2);
});

test('attempts come less and less often, at most every ten seconds', async (t) => {
  const {time, server, source} = await fixture();
  server.crash();
  await pass(time, 1000);
  const early = server.opens;
  t.true(early >= 4 && early <= 8, String(early));
  await pass(time, 100_000);
  const late = server.opens - early;
  t.true(late >= 10 && late <= 30, String(late));
  await source.close();
});

test('coming back and dying before an answer does not reset the back-off', async (t) => {
  const {time, server, source} = await fixture();
  for (let index = 0; index < 12; index++) {
    server.crash();
    server.isUp = true;
    await pass(time, 11_000);
  }
  t.is(source.health().state, 'connected');
  server.crash();
  server.isUp = true;
  await pass(time, 4000);
  t.not(source.health().state, 'connected');
  await source.close();
});

test('nothing is answered before identity is proved, or by another disk (I7)', async (t) => {
  let isProved = false;
  const {time, server, source, read} = await fixture({
    verifyIdentity: async (candidate: Source) => {
      const buffer = Buffer.alloc(1);
      await candidate.read(0, buffer);
      if (buffer[0] !== 1) throw new Error('block 0 has other content');
      isProved = true;
    },
  });
  server.crash();
  isProved = false;
  const waiting = read();
  server.content = 2;
  server.isUp = true;
  await pass(time, 30_000);
  t.like(source.health(), {state: 'mismatch', waiters: 1});
  t.regex(source.health().lastError ?? '', /other content/);
  t.false(isProved);
  server.content = 1;
  t.is(await time.scheduler.run(waiting), 1);
  t.true(isProved);
  await source.close();
});

test('a source that comes back with another size is not used', async (t) => {
  const {time, server, source, read} = await fixture();
  server.crash();
  server.size = 2 * SIZE;
  server.isUp = true;
  const waiting = read();
  await pass(time, 5000);
  t.is(source.health().state, 'mismatch');
  t.regex(source.health().lastError ?? '', /4096 bytes and is 8192/);
  server.size = SIZE;
  t.is(await time.scheduler.run(waiting), 1);
  await source.close();
});

test('with onLoss error each request waits ioTimeout, then fails with EIO', async (t) => {
  const {time, server, source, read} = await fixture({onLoss: 'error', ioTimeout: 5000});
  server.crash();
  const start = time.scheduler.now;
  const error = await t.throwsAsync(time.scheduler.run(read()), {code: 'EIO'});
  t.regex(error.message, /ECONNREFUSED/);
  t.is(time.scheduler.now - start, 5000);
  t.is(source.health().waiters, 0);
  server.isUp = true;
  await pass(time, 20_000);
  t.is(await read(), 1);
  await source.close();
});

test('an error while the connection lives is passed on; nothing is tried again', async (t) => {
  const {server, source, read} = await fixture();
  server.failures = ['EIO'];
  await t.throwsAsync(read(), {code: 'EIO'});
  t.is(await read(), 1);
  t.is(server.opens, 1);
  t.is(source.health().state, 'connected');
  await source.close();
});

test('an aborted request stops waiting at once; the others go on', async (t) => {
  const {time, server, source, read} = await fixture();
  server.crash();
  const controller = new AbortController();
  const aborted = read(controller.signal);
  const other = read();
  await pass(time, 1000);
  controller.abort();
  await t.throwsAsync(time.scheduler.run(aborted), {code: 'ECANCELED'});
  t.is(source.health().waiters, 1);
  server.isUp = true;
  t.is(await time.scheduler.run(other), 1);
  await source.close();
});

test('close rejects what waits with ESHUTDOWN, and every request after it', async (t) => {
  const {time, server, source, read} = await fixture();
  server.crash();
  const waiting = read();
  await pass(time, 1000);
  const closing = source.close();
  await t.throwsAsync(time.scheduler.run(waiting), {code: 'ESHUTDOWN'});
  await time.scheduler.run(closing);
  await t.throwsAsync(read(), {code: 'ESHUTDOWN'});
  const {opens} = server;
  await pass(time, 100_000);
  t.is(server.opens, opens);
  t.is(source.health().state, 'closed');
});

test("what a first open fails with is the caller's to report", async (t) => {
  const server = new FakeServer();
  server.isUp = false;
  const {environment} = virtualTime();
  await t.throwsAsync(ResilientSource.open({open: server.open, environment}), {
    code: 'ECONNREFUSED',
  });
  t.is(server.opens, 1);
});

test('resume starts without the source and answers once it is there', async (t) => {
  const {scheduler, environment} = virtualTime();
  const server = new FakeServer();
  server.isUp = false;
  const source = ResilientSource.resume('fake', SIZE, {open: server.open, environment});
  const buffer = Buffer.alloc(4);
  const reading = source.read(8, buffer);
  await scheduler.run(environment.clock.sleep(3000));
  t.is(source.health().waiters, 1);
  server.isUp = true;
  await scheduler.run(reading);
  t.is(buffer[0], 1);
  await source.close();
});
