/**
 * The n-th storage call fails, for n = 1, 2, 3 … until none is hit: no wrong bytes, errors reach
 * the guest, the mode goes the one way of STYLE 6.4, and after a restart with healthy disks all is
 * well.
 */
import test from 'ava';
import {assert} from '../../src/base/assert.js';
import {ERRNO, toErrno, type ErrnoCode} from '../../src/base/errors.js';
import {Prng} from '../../src/base/prng.js';
import {KiB} from '../../src/base/units.js';
import type {VolumeMode} from '../../src/volume/report.js';
import {Guest} from '../support/simulation/guest.js';
import type {StorageOp} from '../support/simulation/volatile-storage.js';
import {World} from '../support/simulation/world.js';
import {randomConfig} from '../support/simulation/world-config.js';

const MODES: readonly VolumeMode[] = ['read-write', 'read-only', 'failed'];
/** More calls than any of these runs makes; reaching it means that the loop never ends. */
const CALLS_MAX = 2000;

interface Hit {
  storage: string;
  op: StorageOp;
}

function newWorld(seed: number): World {
  const prng = new Prng(seed);
  const config = randomConfig(prng);
  const geometry = {size: 12 * 4 * KiB, blockSize: 4 * KiB};
  const map = {logBytes: 4 * KiB, intentCountMax: 2, maskCountMax: 16};
  const content = {...config.content, size: geometry.size};
  const backup = {...config.backup, mode: 'sync' as const, hasErrors: false};
  return new World(
    {...config, geometry, content, tuning: {map, commitIntervalMs: 30}, mapLimits: map, backup},
    prng,
  );
}

/** Makes the n-th storage call from now on fail once; says which it was once it was hit. */
function failNth(world: World, n: number, code: ErrnoCode): {hit: Hit | undefined} {
  const state: {hit: Hit | undefined} = {hit: undefined};
  let calls = 0;
  world.storageFault = (storage, op) => {
    calls++;
    if (calls !== n) return undefined;
    state.hit = {storage, op};
    return code;
  };
  return state;
}

/**
 * The same requests each time; the n-th storage call of theirs fails. Undefined: there was none.
 */
async function workWithFailure(seed: number, n: number, code: ErrnoCode): Promise<Hit | undefined> {
  const world = newWorld(seed);
  await world.create();
  const {prng, oracle, scheduler, trace, volume, life, always} = world;
  if (!volume) throw new Error('the volume is open');
  const state = failNth(world, n, code);
  const allowed: number[] = [ERRNO[code], ERRNO.EIO, ERRNO.EROFS];
  const guest = new Guest({
    prng,
    oracle,
    scheduler,
    trace,
    blockSize: 4 * KiB,
    hotBlocks: 2,
    mayFail: (error) => state.hit !== undefined && allowed.includes(toErrno(error)),
  });
  let mode: VolumeMode = 'read-write';
  for (let step = 0; step < 500; step++) {
    if (step === 350) volume.setHydration({mode: 'full'});
    const weights = {read: 3, write: 6, zeroes: 1, discard: 1, flush: 2};
    if (guest.inFlight.size < 5) guest.send(volume, life, prng.weighted(weights));
    scheduler.after(prng.below(30) / 10, always, () => undefined);
    await scheduler.step();
    if (guest.failure !== undefined) throw guest.failure;
    volume.selfCheck();
    assert(
      MODES.indexOf(volume.mode) >= MODES.indexOf(mode),
      'a volume never gets a better mode back',
    );
    mode = volume.mode;
  }
  await settle(world, guest);
  if (state.hit) await checkMode(world, state.hit);
  world.storageFault = undefined;
  await recoverAndRead(world);
  return state.hit;
}

/** Lets everything that was begun come to its end. */
async function settle({scheduler, always}: World, guest: Guest): Promise<void> {
  const passed = new Promise<void>((resolve) => {
    scheduler.after(500, always, resolve);
  });
  await scheduler.run(passed);
  assert(guest.inFlight.size === 0, 'I5: every request is answered');
  if (guest.failure !== undefined) throw guest.failure;
}

/** What the failure of this call must have made of the volume. */
async function checkMode(world: World, {storage, op}: Hit): Promise<void> {
  const {volume, scheduler} = world;
  if (!volume) return;
  const isFinal = op === 'sync' || (storage === 'map' && op === 'write');
  const isHarmless = storage === 'store' && !isFinal;
  if (isHarmless)
    assert(volume.mode === 'read-write', `${op} of the store costs one request, not the volume`);
  if (!isFinal) return;
  assert(
    volume.mode !== 'read-write',
    `after a failed ${op} of the ${storage} nothing is written any more`,
  );
  const error: unknown = await scheduler.run(
    volume.write(0, Buffer.alloc(512)).catch((thrown: unknown) => thrown),
  );
  assert(
    toErrno(error) === ERRNO.EROFS || volume.mode === 'failed',
    'a write in read-only mode gets EROFS',
  );
  const flush: unknown = await scheduler.run(volume.flush().catch((thrown: unknown) => thrown));
  assert(toErrno(flush) === ERRNO.EIO, 'a flush that cannot be kept gets EIO');
}

async function recoverAndRead(world: World): Promise<void> {
  world.crash({kind: 'process death'});
  const volume = await world.open();
  if (!volume) throw new Error('the volume opens after a failure');
  const everything = Buffer.alloc(volume.size);
  await world.scheduler.run(volume.read(0, everything));
  world.oracle.check(0, everything);
  world.life.isAlive = false;
}

for (const [seed, code] of [
  [1, 'EIO'],
  [2, 'ENOSPC'],
  [3, 'EIO'],
] as const) {
  test(`any storage call fails with ${code}, no byte is wrong (workload ${seed})`, async (t) => {
    const hits = new Set<string>();
    let n = 1;
    for (; n < CALLS_MAX; n++) {
      const hit = await workWithFailure(seed, n, code);
      if (!hit) break;
      hits.add(`${hit.storage} ${hit.op}`);
    }
    t.true(n > 20 && n < CALLS_MAX);
    t.log(`${n - 1} calls failed in turn: ${[...hits].sort().join(', ')}`);
    t.true(hits.has('store sync') && hits.has('map write') && hits.has('store write'));
  });
}

test('any call fails while a volume opens: opening says so, the next one succeeds', async (t) => {
  const base = newWorld(7);
  await base.create();
  const {volume, scheduler, oracle} = base;
  if (!volume) throw new Error('the volume is open');
  const value = oracle.beginWrite(0, 4096, 0);
  await scheduler.run(volume.writeZeroes(0, 4096, {fua: true}));
  oracle.acknowledge(value, true);
  let n = 1;
  for (; n < CALLS_MAX; n++) {
    const branch = base.branch({kind: 'process death'}, new Prng(n));
    const state = failNth(branch, n, 'EIO');
    const error: unknown = await branch.open().catch((thrown: unknown) => thrown);
    if (!state.hit) break;
    t.is(toErrno(error), ERRNO.EIO, `call ${n}, ${state.hit.op}, makes opening fail`);
    branch.storageFault = undefined;
    await recoverAndRead(branch);
  }
  t.true(n > 5 && n < CALLS_MAX);
});
