/** Each fault of NbdProxy really happens, is counted, and does what it says and nothing worse. */
import test from 'ava';
import fc from 'fast-check';
import {Prng} from '../../src/base/prng.js';
import {KiB, MiB, SECTOR} from '../../src/base/units.js';
import {isLoss} from '../../src/base/loss.js';
import {type NbdConnection} from '../../src/native/nbd.js';
import {MemoryBackend, NbdProxy} from '../support/nbd-proxy.js';
import {CUT_STAGES} from '../support/nbd-proxy/faults.js';
import {connect, startProxy, until} from '../support/nbd-proxy/test-tools.js';

const filled = (length: number, value: number): Buffer => Buffer.alloc(length, value);

async function byteAt(client: NbdConnection, offset: number): Promise<number> {
  const buffer = Buffer.alloc(1);
  await client.read(offset, buffer);
  return buffer.readUInt8();
}

/** What a promise rejects with as an errno's name; 'none' if it does not. */
async function failureOf(promise: Promise<unknown>): Promise<string> {
  return await promise.then(
    () => 'none',
    (error: unknown) => (isLoss(error) ? 'lost' : String((error as {code: string}).code)),
  );
}

test('held changes are read at once, and land with a flush or FUA only', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({volatile: true});
  const client = await connect(t, proxy.uri);
  await client.write(0, filled(8 * KiB, 1));
  await client.zero(4 * KiB, KiB);
  await client.write(1000, filled(100, 2));
  t.deepEqual([await byteAt(client, 0), await byteAt(client, 1050)], [1, 2]);
  t.deepEqual([await byteAt(client, 4 * KiB), await byteAt(client, 5 * KiB)], [0, 1]);
  t.true(backend.bytes.every((byte) => byte === 0));
  t.is(proxy.heldCount, 3);
  // A durable write on top takes along what lies under it, and nothing else.
  await client.write(1050, filled(10, 3), {fua: true});
  t.deepEqual([backend.bytes[1049], backend.bytes[1050], backend.bytes[0]], [2, 3, 1]);
  t.is(proxy.heldCount, 1);
  await client.flush();
  t.is(proxy.heldCount, 0);
  t.is(backend.bytes[4 * KiB], 0);
  t.deepEqual(proxy.missing('held', 'landed', 'fua', 'flush'), []);
});

/** One request of the property below, on whole sectors. */
type Step =
  | {kind: 'write' | 'fua' | 'zero'; sector: number; count: number}
  | {kind: 'flush'}
  | {kind: 'read'; sector: number};

const SECTORS = 24;
const place = {sector: fc.nat(SECTORS - 1), count: fc.integer({min: 1, max: 5})};
const step: fc.Arbitrary<Step> = fc.oneof(
  {weight: 6, arbitrary: fc.record({kind: fc.constant('write' as const), ...place})},
  {weight: 1, arbitrary: fc.record({kind: fc.constant('fua' as const), ...place})},
  {weight: 1, arbitrary: fc.record({kind: fc.constant('zero' as const), ...place})},
  {weight: 1, arbitrary: fc.record({kind: fc.constant('flush' as const)})},
  {weight: 1, arbitrary: fc.record({kind: fc.constant('read' as const), sector: place.sector})},
);

/** By sector: the values a power loss may leave, the latest last. */
class Expected {
  readonly #values = Array.from({length: SECTORS}, () => [0]);

  put(sector: number, value: number, isDurable: boolean): void {
    this.#values[sector] = isDurable ? [value] : [...(this.#values[sector] ?? []), value];
  }

  flush(): void {
    for (let sector = 0; sector < SECTORS; sector++) this.put(sector, this.latest(sector), true);
  }

  latest(sector: number): number {
    return this.#values[sector]?.at(-1) ?? 0;
  }

  allows(sector: number, value: number): boolean {
    return this.#values[sector]?.includes(value) ?? false;
  }
}

async function take(
  step: Step,
  value: number,
  client: NbdConnection,
  expected: Expected,
): Promise<void> {
  if (step.kind === 'flush') {
    await client.flush();
    expected.flush();
  } else if (step.kind === 'read') {
    const found = await byteAt(client, step.sector * SECTOR + 100);
    if (found !== expected.latest(step.sector)) throw new Error(`sector ${step.sector}: ${found}`);
  } else {
    const count = Math.min(step.count, SECTORS - step.sector);
    const [offset, length] = [step.sector * SECTOR, count * SECTOR];
    if (step.kind === 'zero') await client.zero(offset, length);
    else await client.write(offset, filled(length, value), {fua: step.kind === 'fua'});
    for (let at = step.sector; at < step.sector + count; at++) {
      expected.put(at, step.kind === 'zero' ? 0 : value, step.kind === 'fua');
    }
  }
}

test('a power loss takes unflushed changes only, each sector whole', async (t) => {
  const happened = {kept: 0, torn: 0, lost: 0};
  const property = fc.asyncProperty(
    fc.array(fc.array(step, {minLength: 1, maxLength: 25}), {minLength: 1, maxLength: 3}),
    fc.nat(),
    async (lives, seed) => {
      const backend = new MemoryBackend(SECTORS * SECTOR);
      const proxy = await NbdProxy.start({backend, seed});
      proxy.faults.set({volatile: true});
      let expected = new Expected();
      let value = 0;
      try {
        for (const life of lives) {
          const client = await connect(t, proxy.uri);
          for (const one of life) await take(one, ++value, client, expected);
          await proxy.powerLoss();
          const survived = new Expected();
          for (let sector = 0; sector < SECTORS; sector++) {
            const bytes = backend.bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR);
            const found = bytes.readUInt8(0);
            if (!bytes.equals(filled(SECTOR, found))) throw new Error(`sector ${sector} is torn`);
            if (!expected.allows(sector, found)) throw new Error(`sector ${sector}: ${found}`);
            survived.put(sector, found, true);
          }
          expected = survived;
        }
      } finally {
        await proxy.close();
      }
      for (const name of ['kept', 'torn', 'lost'] as const) happened[name] += proxy.counts[name];
    },
  );
  await fc.assert(property, {numRuns: 150});
  t.true(Math.min(happened.kept, happened.torn, happened.lost) > 20, JSON.stringify(happened));
});

test('a flush covers all connections if they share a cache, else only its own', async (t) => {
  for (const canMultiConn of [true, false]) {
    const backend = new MemoryBackend(MiB);
    const proxy = await startProxy(t, {backend, canMultiConn});
    proxy.faults.set({volatile: true});
    const [one, two] = [await connect(t, proxy.uri), await connect(t, proxy.tcpUri)];
    t.is(one.facts.canMultiConn, canMultiConn);
    await one.write(0, filled(4096, 1));
    await two.write(4096, filled(4096, 2));
    t.is(await byteAt(two, 0), 1);
    await two.flush();
    await proxy.powerLoss({fate: 'drop'});
    t.deepEqual([backend.bytes[0], backend.bytes[4096]], [canMultiConn ? 1 : 0, 2]);
    t.is(proxy.counts.lost, canMultiConn ? 0 : 1);
  }
});

test('a zombie write lands late, over newer data that was flushed', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  const old = await connect(t, proxy.uri);
  await old.write(0, filled(4096, 1));
  // Taken and not done when the connection dies.
  proxy.faults.set({silent: true, zombieMs: 600_000, zombieProbability: 1});
  const stuck = failureOf(old.write(0, filled(4096, 2)));
  await until(() => proxy.counts.silenced === 1);
  await proxy.cut();
  t.is(await stuck, 'lost');
  proxy.faults.set({silent: false});
  const young = await connect(t, proxy.uri);
  await young.write(0, filled(4096, 3));
  await young.flush();
  t.is(await byteAt(young, 0), 3);
  await proxy.landZombies();
  t.is(await byteAt(young, 0), 2);
  t.deepEqual(proxy.missing('zombies', 'zombiesLanded', 'zombiesOverNewer'), []);
});

test('a zombie lands by itself, too, and settling waits for it', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({cutProbability: 1, cutStages: ['before'], zombieMs: 50, zombieProbability: 1});
  const client = await connect(t, proxy.uri);
  t.is(await failureOf(client.write(0, filled(512, 1))), 'lost');
  await until(() => proxy.counts.zombies === 1);
  await proxy.settle();
  t.is(backend.bytes[0], 1);
  t.deepEqual(proxy.missing('zombiesLanded', 'cutBefore'), []);
  t.is(proxy.counts.zombiesOverNewer, 0);
});

test('no zombie outlives a power loss', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({delayMs: 60_000, zombieMs: 60_000, zombieProbability: 1});
  const client = await connect(t, proxy.uri);
  const stuck = [failureOf(client.write(0, filled(512, 1))), failureOf(client.zero(0, 512))];
  await until(() => proxy.counts.delayed >= 1);
  await proxy.cut();
  t.deepEqual(await Promise.all(stuck), ['lost', 'lost']);
  await until(() => proxy.zombieCount === 2);
  await proxy.powerLoss();
  t.is(proxy.zombieCount, 0);
  await proxy.settle();
  t.is(backend.bytes[0], 0);
});

test('what a cut left on its way is taken by a power loss', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  const settings = {zombieMs: 60_000, zombieProbability: 1};
  proxy.faults.set({reorder: true, reorderHoldMs: 200, ...settings});
  const client = await connect(t, proxy.uri);
  const stuck = failureOf(client.write(0, filled(512, 1)));
  await until(() => proxy.counts.write === 1);
  await Promise.all([proxy.cut(), proxy.powerLoss()]);
  t.is(await stuck, 'lost');
  await until(() => proxy.counts.lostInFlight + proxy.counts.zombies === 1);
  t.is(proxy.counts.zombies, 0);
});

for (const stage of CUT_STAGES) {
  test(`a connection is cut: ${stage}`, async (t) => {
    const backend = new MemoryBackend(MiB);
    const proxy = await startProxy(t, {backend});
    proxy.faults.set({cutProbability: 1, cutStages: [stage], downMs: 20});
    const client = await connect(t, proxy.tcpUri);
    t.is(await failureOf(client.write(0, filled(64 * KiB, 1))), 'lost');
    const name = `cut${stage[0]?.toUpperCase()}${stage.slice(1)}` as 'cutBefore';
    t.deepEqual(proxy.missing(name, 'outages'), []);
    await proxy.settle();
    t.is(backend.bytes[0], stage === 'receiving' || stage === 'before' ? 0 : 1);
    proxy.faults.clear();
    const again = await connect(t, proxy.tcpUri);
    t.is(await failureOf(again.write(0, filled(64 * KiB, 2))), 'none');
  });
}

test('while it is down connections are refused or hung up, then taken again', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  for (const hangUp of [false, true]) {
    const client = await connect(t, proxy.uri);
    const down = proxy.cut({downMs: 300, hangUp});
    t.not(await client.ended, undefined);
    for (const uri of [proxy.uri, proxy.tcpUri]) {
      const failure = await t.throwsAsync<Error & {code: string}>(connect(t, uri));
      if (!hangUp) t.is(failure?.code, 'ECONNREFUSED');
    }
    await down;
    for (const uri of [proxy.uri, proxy.tcpUri]) t.is((await connect(t, uri)).facts.size, MiB);
  }
  t.is(proxy.counts.hangUps, 2);
});

test('requests fail by range, by number, and with part of their effect', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  const client = await connect(t, proxy.uri);
  proxy.fail(['write', 'zero'], 'ENOSPC', {offset: 512 * KiB, length: 64 * KiB});
  const fails = (offset: number): Promise<string> =>
    failureOf(client.write(offset, filled(64 * KiB, 1)));
  t.deepEqual(
    [
      await fails(448 * KiB),
      await fails(449 * KiB),
      await fails(575 * KiB),
      await fails(576 * KiB),
    ],
    ['none', 'ENOSPC', 'ENOSPC', 'none'],
  );
  t.is(await failureOf(client.zero(512 * KiB, 1)), 'ENOSPC');
  proxy.heal('write');
  proxy.fail('write', 'EPERM', {times: 2});
  t.deepEqual([await fails(0), await fails(0), await fails(0)], ['EPERM', 'EPERM', 'none']);
  proxy.fail('write', 'EIO', {effect: 'part'});
  t.is(await failureOf(client.write(0, filled(64 * KiB, 2))), 'EIO');
  t.true(backend.bytes.includes(2) && backend.bytes.includes(1));
  proxy.heal();
  proxy.fail('write', 'EIO', {probability: 0.5});
  const outcomes = new Set<string>();
  for (let count = 0; count < 40; count++) outcomes.add(await fails(0));
  t.deepEqual([...outcomes].sort(), ['EIO', 'none']);
  t.true(proxy.counts.errors > 6);
});

test('a failing flush covers nothing, or forgets what it could not write', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({volatile: true});
  const client = await connect(t, proxy.uri);
  for (let at = 0; at < 32; at++) await client.write(at * 4096, filled(4096, 1));
  proxy.fail('flush', 'EIO', {times: 1});
  t.is(await failureOf(client.flush()), 'EIO');
  t.is(proxy.heldCount, 32);
  proxy.fail('flush', 'EIO', {times: 1, effect: 'part'});
  t.is(await failureOf(client.flush()), 'EIO');
  t.is(proxy.heldCount, 0);
  t.is(await failureOf(client.flush()), 'none');
  const landed = Array.from({length: 32}, (_, at) => backend.bytes[at * 4096]);
  t.true(landed.includes(0) && landed.includes(1));
  t.is(landed.filter((byte) => byte === 0).length, proxy.counts.lost);
  t.is(proxy.counts.errors, 2);
});

test('silence is a time-out at the client, and its requests are never done', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  const client = await connect(t, proxy.uri, {io: 300});
  proxy.faults.set({silent: true});
  const write = client.write(0, filled(4096, 1));
  const read = client.read(0, Buffer.alloc(512));
  await t.throwsAsync(write, {code: 'ETIMEDOUT'});
  await t.throwsAsync(read, {code: 'ETIMEDOUT'});
  t.is(proxy.counts.silenced, 2);
  await until(() => proxy.counts.lostInFlight === 1);
  proxy.faults.set({silent: false});
  await proxy.settle();
  t.is(backend.bytes[0], 0);
});

test('a server that takes connections and says nothing is given up', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  proxy.faults.set({silentHandshake: true});
  const failure = await t.throwsAsync<Error & {code: string}>(
    connect(t, proxy.uri, {connect: 200}),
  );
  t.is(failure?.code, 'ETIMEDOUT');
  t.deepEqual(proxy.missing('silenced', 'connections'), []);
  proxy.faults.set({silentHandshake: false});
  t.is((await connect(t, proxy.uri)).facts.size, MiB);
});

test('silence that ends is but a delay', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  const client = await connect(t, proxy.uri);
  proxy.faults.set({silent: true});
  const write = client.write(0, filled(4096, 1));
  await until(() => proxy.counts.silenced === 1);
  proxy.faults.set({silent: false});
  await write;
  t.is(await byteAt(client, 0), 1);
});

test('changes that overlap keep their order, whatever is reordered', async (t) => {
  const backend = new MemoryBackend(MiB);
  const proxy = await startProxy(t, {backend});
  proxy.faults.set({delayMs: 4, reorder: true, reorderHoldMs: 5, volatile: true});
  const client = await connect(t, proxy.uri);
  const writes: Promise<void>[] = [];
  for (let value = 1; value <= 64; value++) {
    writes.push(client.write((value % 8) * 4096, filled(4096, value)));
  }
  await Promise.all(writes);
  await client.flush();
  const found = Array.from({length: 8}, (_, at) => backend.bytes[at * 4096]);
  t.deepEqual(found, [64, 57, 58, 59, 60, 61, 62, 63]);
  t.deepEqual(proxy.missing('reordered', 'repliesReordered', 'delayed'), []);
});

test('a trim may do nothing', async (t) => {
  const proxy = await startProxy(t, {backend: new MemoryBackend(MiB)});
  t.is(proxy.faults.plan('trim', 0, 512, new Prng(1)).doesTrim, true);
  proxy.faults.set({trim: 'ignore'});
  t.is(proxy.faults.plan('trim', 0, 512, new Prng(1)).doesTrim, false);
});

test('the same requests meet the same fate for the same seed', async (t) => {
  const fates: string[] = [];
  for (const seed of [11, 11, 12]) {
    const backend = new MemoryBackend(MiB);
    const proxy = await startProxy(t, {backend, seed});
    proxy.faults.set({volatile: true, cutProbability: 0.1, zombieMs: 5});
    proxy.fail('write', 'EIO', {probability: 0.2, effect: 'part'});
    const outcomes: string[] = [];
    for (let life = 0; life < 5; life++) {
      const client = await connect(t, proxy.uri);
      for (let value = 1; value <= 20; value++) {
        const outcome = await failureOf(client.write(value * 2048, filled(4096, value)));
        outcomes.push(outcome);
        if (outcome === 'lost') break;
      }
      await until(() => proxy.zombieCount === 0);
      await proxy.powerLoss();
    }
    fates.push(`${outcomes.join(' ')} ${backend.bytes.toString('base64')}`);
  }
  t.is(fates[0], fates[1]);
  t.not(fates[0], fates[2]);
});
