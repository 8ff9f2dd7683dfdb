/**
 * I3: the map as a daemon leaves it that is killed between any two stores to its memory. Every
 * store by index, fill and release is a moment at which the memory is copied, adopted, and compared
 * with what was before the change and what would have been after it. With real deaths, at moments
 * of chance: test/native/torn-memory.test.ts.
 */
import test from 'ava';

import type {Memory} from '../../../src/base/environment.js';
import {PARTIAL} from '../../../src/map/block-state.js';
import {MaskTable} from '../../../src/map/mask-table.js';
import {OverwriteMap} from '../../../src/map/overwrite-map.js';
import {
  differences,
  imageOf,
  STEP_GEOMETRY,
  step,
  type StepTarget,
} from '../../support/map-steps.js';
import {plainEnvironment} from '../../support/plain-environment.js';

const MASKS = 16;
const STEPS = 250;

/** An array that calls `before` ahead of each store. */
function watched(bytes: Uint8Array, before: () => void): Uint8Array {
  return new Proxy(bytes, {
    get: (target, key) => {
      const value: unknown = Reflect.get(target, key, target);
      if (typeof value !== 'function') return value;
      return (...values: unknown[]): unknown => {
        if (key === 'fill' || key === 'set') before();
        const result: unknown = Reflect.apply(value, target, values);
        return key === 'subarray' ? watched(result as Uint8Array, before) : result;
      };
    },
    set: (target, key, value) => {
      before();
      return Reflect.set(target, key, value, target);
    },
  });
}

interface Observed {
  target: StepTarget;
  sections: Map<string, Uint8Array>;
}

/** A map whose memory calls `before` ahead of each store. */
function observe(before: () => void): Observed {
  const sections = new Map<string, Uint8Array>();
  const allocate = (name: string, length: number): Memory => {
    const bytes = new Uint8Array(length);
    sections.set(name, bytes);
    const release = (offset: number, count: number): void => {
      before();
      bytes.fill(0, offset, offset + count);
    };
    return {bytes: watched(bytes, before), release};
  };
  const environment = {...plainEnvironment(), allocate};
  const map = new OverwriteMap(STEP_GEOMETRY, environment);
  const masks = new MaskTable(STEP_GEOMETRY, environment, MASKS);
  const durable = new Uint8Array(STEP_GEOMETRY.blockCount);
  return {target: {map, masks, durable}, sections};
}

/** What a daemon makes of copies of the memory; a text where it cannot use them. */
function adopt({target, sections}: Observed): StepTarget | string {
  const allocate = (name: string): Memory => {
    const bytes = (sections.get(name) ?? new Uint8Array()).slice();
    const release = (offset: number, count: number): void => {
      bytes.fill(0, offset, offset + count);
    };
    return {bytes, release, isInherited: true};
  };
  const environment = {...plainEnvironment(), allocate};
  const map = OverwriteMap.adopt(STEP_GEOMETRY, environment, () => undefined);
  if (typeof map === 'string') return map;
  const masks = new MaskTable(STEP_GEOMETRY, environment, MASKS, true);
  const problem = masks.adopt((block) => map.get(block) === PARTIAL, map.count(PARTIAL));
  return problem ?? {map, masks, durable: target.durable.slice()};
}

/** Steps, each of which is cut short before every store; gives the first thing that is wrong. */
function firstWrong(seed: number): {moments: number; wrong: string | undefined} {
  let copies: (StepTarget | string)[] | undefined;
  const observed: Observed = observe(() => {
    if (copies !== undefined) copies.push(adopt(observed));
  });
  const {target} = observed;
  let moments = 0;
  for (let index = 0; index < STEPS; index++) {
    const before = imageOf(target);
    copies = [];
    step(target, seed, index);
    const found = [...copies, adopt(observed)];
    copies = undefined;
    const after = imageOf(target);
    for (const [moment, copy] of found.entries()) {
      moments++;
      const wrong = typeof copy === 'string' ? copy : problemOf(copy, before, after);
      if (wrong !== undefined) return {moments, wrong: `step ${index}, store ${moment}: ${wrong}`};
    }
  }
  return {moments, wrong: undefined};
}

function problemOf(
  copy: StepTarget,
  before: ReturnType<typeof imageOf>,
  after: ReturnType<typeof imageOf>,
): string | undefined {
  copy.map.selfCheck();
  const [difference] = differences(copy, before, after);
  if (difference !== undefined) return difference;
  const {states} = imageOf(copy);
  for (const run of copy.map.takeChanges()) {
    copy.durable.fill(run.state, run.start, run.start + run.count);
  }
  const isSame = Buffer.compare(copy.durable, states) === 0;
  return isSame ? undefined : 'what counts as changed is not all that changed';
}

for (const seed of [1, 2, 3]) {
  test(`I3: cut short before any store, the map can be adopted (steps ${seed})`, (t) => {
    const {moments, wrong} = firstWrong(seed);
    t.is(wrong, undefined);
    t.true(moments > STEPS);
    t.log(`${moments} moments`);
  });
}
