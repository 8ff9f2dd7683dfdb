/**
 * The methods of the control socket, for a volume that is attached. Checks what came over the wire.
 */
import {UserError} from '../base/errors.js';
import type {WriteThroughMode} from '../volume/protection.js';
import type {StoreIdentity} from '../storage/identity.js';
import type {HydrationMode} from '../volume/report.js';
import type {Volume} from '../volume/volume.js';
import {OPTION_TABLE, type GivenOptions} from './attach-options.js';
import type {Handlers} from './control-server.js';
import type {
  AttachParams,
  HydrateParams,
  ReplaceStoreParams,
  WriteThroughParams,
} from './protocol.js';
import type {StoreReplacer} from './replace-store.js';
import type {RunningVolume} from './running-volume.js';

const HYDRATION_MODES: readonly HydrationMode[] = ['off', 'background', 'full'];
const WRITE_THROUGH_MODES: readonly WriteThroughMode[] = ['off', 'sync', 'strict'];
/** Progress of a verify is sent at most this often. */
const PROGRESS_MS = 200;
/** Time for an answer to leave before the daemon kills itself. */
const ANSWER_MS = 20;

export interface HandlerParts {
  name: string;
  volume: Volume;
  running: RunningVolume;
  replacer: StoreReplacer;
  now: () => number;
  /** Called when a detach has taken the device away, before it is answered. */
  onGone: () => Promise<void>;
}

/** As a crash would: a planned restart takes no way of its own that nothing else exercises. */
function killItself(): void {
  process.kill(process.pid, 'SIGKILL');
}

export function controlHandlers(parts: HandlerParts): Handlers {
  const {name, volume, running, replacer, now, onGone} = parts;
  return {
    ping: () => ({name, pid: process.pid}),
    status: () => running.status(),
    attach: (params) => running.attachAgain(attachParams(params)),
    hydrate: (params) => running.hydrate(hydrateParams(params)),
    'write-through': (params) => running.writeThrough(writeThroughParams(params)),
    wait: async (params, {progress, signal}) => {
      const {until} = asObject(params);
      if (until === 'hydrated') await running.whenHydrated(progress, signal);
      else if (until === 'in sync') await running.whenInSync(progress, signal);
      else throw wrong('wait takes until: "hydrated" or "in sync"');
      return running.status();
    },
    verify: async (_, {progress, signal}) => {
      let lastAt = -Infinity;
      return volume.verify({
        signal,
        onProgress: (checkedBytes, totalBytes) => {
          if (now() - lastAt < PROGRESS_MS) return;
          lastAt = now();
          progress({checkedBytes, totalBytes});
        },
      });
    },
    'replace-store': (params, {progress}) => {
      let lastAt = -Infinity;
      return replacer.replace(replaceStoreParams(params), (report) => {
        if (now() - lastAt < PROGRESS_MS) return;
        lastAt = now();
        progress(report);
      });
    },
    restart: async () => {
      running.checkRestart();
      // An upgraded daemon may not know this one's memory: then the map file must have it all.
      await volume.flush();
      const result = running.checkRestart();
      setTimeout(killItself, ANSWER_MS);
      return result;
    },
    detach: async (params) => {
      try {
        return await running.detach(asObject(params ?? {})['force'] === true);
      } finally {
        if (running.isGone) await onGone();
      }
    },
  };
}

function wrong(message: string): UserError {
  return new UserError(`the request is not understood: ${message}`, {exitCode: 2});
}

function asObject(params: unknown): Record<string, unknown> {
  if (typeof params !== 'object' || params === null || Array.isArray(params)) {
    throw wrong('params is no object');
  }
  return params as Record<string, unknown>;
}

function isRate(rate: unknown): rate is number | null {
  return rate === null || (typeof rate === 'number' && Number.isSafeInteger(rate) && rate > 0);
}

export function hydrateParams(params: unknown): HydrateParams {
  const {mode, rate} = asObject(params);
  const known = HYDRATION_MODES.find((each) => each === mode);
  if (known === undefined) throw wrong('hydrate takes mode: off, background or full');
  if (rate === undefined) return {mode: known};
  if (!isRate(rate)) throw wrong('hydrate takes rate: bytes a second above 0, or null');
  return {mode: known, rate};
}

export function writeThroughParams(params: unknown): WriteThroughParams {
  const {mode, rate} = asObject(params);
  const known = WRITE_THROUGH_MODES.find((each) => each === mode);
  if (known === undefined) throw wrong('write-through takes mode: off, sync or strict');
  if (rate === undefined) return {mode: known};
  if (!isRate(rate)) throw wrong('write-through takes rate: bytes a second above 0, or null');
  return {mode: known, rate};
}

export function replaceStoreParams(params: unknown): ReplaceStoreParams {
  const {path, via, identity, isForced} = asObject(params);
  if (typeof path !== 'string' || typeof via !== 'string' || !/^\/proc\/\d+\/fd\/\d+$/.test(via))
    throw wrong('replace-store takes a path and a descriptor of it');
  if (typeof isForced !== 'boolean') throw wrong('replace-store takes isForced: true or false');
  return {path, via, identity: asObject(identity) as unknown as StoreIdentity, isForced};
}

export function attachParams(params: unknown): AttachParams {
  const {source, store, given} = asObject(params);
  for (const text of [source, store]) {
    if (text !== undefined && text !== null && typeof text !== 'string') {
      throw wrong('attach takes source and store as text');
    }
  }
  const options = asObject(given);
  for (const [key, value] of Object.entries(options)) {
    if (!Object.hasOwn(OPTION_TABLE, key)) {
      throw wrong(`attach has no option ${JSON.stringify(key)}`);
    }
    if (typeof value === 'object' && value !== null) throw wrong(`${key} is no plain value`);
  }
  if (options['hydrate'] !== undefined || options['rate'] !== undefined) {
    hydrateParams({mode: options['hydrate'] ?? 'off', rate: options['rate']});
  }
  const {writeThrough, resyncRate} = options;
  if (writeThrough !== undefined || resyncRate !== undefined) {
    writeThroughParams({mode: writeThrough ?? 'off', rate: resyncRate});
  }
  return {
    given: options as GivenOptions,
    ...(typeof source === 'string' ? {source} : {}),
    ...(typeof store === 'string' ? {store} : {}),
  };
}
