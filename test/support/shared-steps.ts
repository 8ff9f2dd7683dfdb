/** The map of map-steps.ts in shared memory, made or adopted. */
import type {Environment, Memory} from '../../src/base/environment.js';
import {MaskTable} from '../../src/map/mask-table.js';
import {OverwriteMap} from '../../src/map/overwrite-map.js';
import {PARTIAL} from '../../src/map/block-state.js';
import type {SharedMemory} from '../../src/native/memory.js';
import {STEP_GEOMETRY, type StepTarget} from './map-steps.js';
import {plainEnvironment} from './plain-environment.js';

export interface SharedSteps {
  /** A text says why the memory cannot be adopted. */
  target: StepTarget | string;
  /** Steps begun, steps done. */
  journal: Float64Array;
}

function environmentOf(memory: SharedMemory): Environment {
  const allocate = (name: string, length: number): Memory => {
    const left = memory.find(name);
    return left === undefined ? memory.allocate(name, length) : {...left, isInherited: true};
  };
  return {...plainEnvironment(), allocate};
}

/** A new map of absent blocks in new memory. */
export function makeSteps(memory: SharedMemory): SharedSteps {
  const environment = environmentOf(memory);
  const map = new OverwriteMap(STEP_GEOMETRY, environment);
  const masks = new MaskTable(STEP_GEOMETRY, environment);
  return {target: {map, masks, durable: durableIn(environment)}, journal: journalIn(environment)};
}

/** The map as a process that died left it. */
export function openSteps(memory: SharedMemory): SharedSteps {
  const environment = environmentOf(memory);
  const journal = journalIn(environment);
  const map = OverwriteMap.adopt(STEP_GEOMETRY, environment, () => undefined);
  if (typeof map === 'string') return {target: map, journal};
  const masks = new MaskTable(STEP_GEOMETRY, environment, undefined, true);
  const problem = masks.adopt((block) => map.get(block) === PARTIAL, map.count(PARTIAL));
  return {target: problem ?? {map, masks, durable: durableIn(environment)}, journal};
}

function durableIn(environment: Environment): Uint8Array {
  return environment.allocate('durable', STEP_GEOMETRY.blockCount).bytes;
}

function journalIn(environment: Environment): Float64Array {
  const {buffer, byteOffset} = environment.allocate('journal', 16).bytes;
  return new Float64Array(buffer, byteOffset, 2);
}
