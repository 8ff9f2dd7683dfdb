/**
 * I3: what a volume finds in the memory of a daemon that died, and what it makes of memory that
 * cannot be right. The process is the same here; only the memory and the disks are handed on.
 */
import test, {type ExecutionContext} from 'ava';

import type {Environment, Memory} from '../../../src/base/environment.js';
import {BlockError} from '../../../src/base/errors.js';
import {mapFileSize, Volume} from '../../../src/volume/volume.js';
import {HeldSource, sourceByte} from '../../support/held-source.js';
import {MemoryStorage} from '../../support/memory-storage.js';
import {plainEnvironment} from '../../support/plain-environment.js';

const BLOCK = 16 * 1024;
const SIZE = 64 * BLOCK;
const GEOMETRY = {size: SIZE, blockSize: BLOCK};
const TUNING = {readAheadMax: 0, commitIntervalMs: 1e6};

/** A machine whose daemons come and go. */
class Machine {
  readonly store = new MemoryStorage(SIZE, 0xee, 'store');
  readonly mapFile = new MemoryStorage(mapFileSize(GEOMETRY), 0, 'map');
  readonly sections = new Map<string, Uint8Array>();
  readonly errors: string[] = [];
  readonly #t: ExecutionContext;

  constructor(t: ExecutionContext) {
    this.#t = t;
  }

  async create(): Promise<Volume> {
    return this.#keep(await Volume.create(this.#parts(), GEOMETRY, TUNING));
  }

  /** The daemon dies; the next one finds copies of its memory, changed by `change`. */
  async takeOver(last: Volume, change: () => void = () => undefined): Promise<Volume> {
    for (const [name, bytes] of this.sections) this.sections.set(name, bytes.slice());
    last.abandon();
    change();
    return this.#keep(await Volume.takeOver(this.#parts(), TUNING));
  }

  section(name: string): Uint8Array {
    const bytes = this.sections.get(name);
    if (bytes === undefined) throw new Error(`no section ${name}`);
    return bytes;
  }

  #keep(volume: Volume): Volume {
    this.#t.teardown(() => volume.close().catch(() => undefined));
    return volume;
  }

  #parts(): Parameters<typeof Volume.open>[0] {
    const allocate = (name: string, length: number): Memory => {
      const left = this.sections.get(name);
      const bytes = left?.length === length ? left : new Uint8Array(length);
      this.sections.set(name, bytes);
      const release = (offset: number, count: number): void => {
        bytes.fill(0, offset, offset + count);
      };
      return {bytes, release, isInherited: left?.length === length};
    };
    const log: Environment['log'] = (level, message) => {
      if (level === 'error') this.errors.push(message);
    };
    const environment = {...plainEnvironment(), allocate, log};
    const {store, mapFile} = this;
    return {store, mapFile, source: new HeldSource(SIZE), environment};
  }
}

async function contentOf(volume: Volume): Promise<Buffer> {
  const buffer = Buffer.alloc(SIZE);
  await volume.read(0, buffer);
  return buffer;
}

/** Whole blocks, parts of blocks and zeroes; nothing of it flushed. What must be read then. */
async function work(volume: Volume): Promise<Buffer> {
  const expected = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 512) expected.fill(sourceByte(at), at, at + 512);
  const write = async (offset: number, length: number, value: number): Promise<void> => {
    await volume.write(offset, Buffer.alloc(length, value));
    expected.fill(value, offset, offset + length);
  };
  await write(2 * BLOCK, 3 * BLOCK, 1);
  await write(7 * BLOCK + 512, 1024, 2);
  await volume.writeZeroes(9 * BLOCK, 2 * BLOCK);
  expected.fill(0, 9 * BLOCK, 11 * BLOCK);
  await write(10 * BLOCK + 4096, 512, 3);
  return expected;
}

test('I3: acknowledged writes that nobody flushed are there, also after a second death', async (t) => {
  const machine = new Machine(t);
  const first = await machine.create();
  const expected = await work(first);
  const second = await machine.takeOver(first);
  second.selfCheck();
  t.is(await second.stateAt(7 * BLOCK), 'partial');
  t.deepEqual(
    machine.errors.filter((each) => /memory/.test(each)),
    [],
  );
  t.is(Buffer.compare(await contentOf(second), expected), 0);
  const third = await machine.takeOver(second);
  t.is(Buffer.compare(await contentOf(third), expected), 0);
  await third.flush();
  const reopened = await Volume.open({
    ...{store: machine.store, mapFile: machine.mapFile, source: new HeldSource(SIZE)},
    environment: plainEnvironment(),
  });
  t.is(Buffer.compare(await contentOf(reopened), expected), 0, 'and its flush covers them');
  await reopened.close();
});

const DAMAGES: readonly {what: string; said: RegExp; change: (machine: Machine) => void}[] = [
  {
    what: 'a damaged header',
    said: /its header is damaged/,
    change: (machine) => machine.section('state').fill(0, 0, 4),
  },
  {
    what: 'another layout',
    said: /its layout has version 77/,
    change: (machine) => machine.section('state').fill(77, 4, 5),
  },
  {
    what: 'memory that was not complete',
    said: /it was not complete/,
    change: (machine) => machine.section('state').fill(0, 32, 33),
  },
  {
    what: 'another map file',
    said: /generation 9 of the map file/,
    change: (machine) => {
      new DataView(machine.section('state').buffer).setFloat64(24, 9, true);
    },
  },
  {
    what: 'an unknown kind of page',
    said: /page 0 is of the unknown kind 9/,
    change: (machine) => machine.section('map.kinds').fill(9),
  },
  {
    what: 'a partial block without a mask',
    said: /1 partial blocks have 0 masks/,
    change: (machine) => machine.section('masks').fill(0),
  },
];

for (const {what, said, change} of DAMAGES) {
  test(`${what} is not adopted: the map file is read, and the log says so`, async (t) => {
    const machine = new Machine(t);
    const first = await machine.create();
    await first.write(0, Buffer.alloc(BLOCK, 5));
    await first.write(20 * BLOCK + 512, Buffer.alloc(512, 5));
    await first.flush();
    await first.write(5 * BLOCK, Buffer.alloc(BLOCK, 6));
    const second = await machine.takeOver(first, () => change(machine));
    second.selfCheck();
    t.true(
      machine.errors.some((each) => said.test(each)),
      machine.errors.join('; '),
    );
    t.is(await second.stateAt(5 * BLOCK), 'absent');
    t.is((await contentOf(second))[0], 5, 'what was flushed is there');
  });
}

test('a volume that became read-only stays so, and says why', async (t) => {
  const machine = new Machine(t);
  const first = await machine.create();
  await first.write(0, Buffer.alloc(BLOCK, 5));
  machine.store.sync = () => Promise.reject(new BlockError('EIO', 'no more', {op: 'sync'}));
  await t.throwsAsync(first.flush());
  const second = await machine.takeOver(first);
  t.is(second.mode, 'read-only');
  t.regex(second.report().modeReason ?? '', /a commit failed: no more/);
  await t.throwsAsync(second.write(0, Buffer.alloc(512)), {message: /the volume is read-only/});
  t.is((await contentOf(second))[0], 5, 'acknowledged writes are still read');
});
