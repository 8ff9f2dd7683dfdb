/**
 * What a user names as a source, opened: an NBD URI, or the path of a raw image or block device.
 * Every text that cannot be opened gives one sentence that says why and what to do (UserError).
 */
import {resolve} from 'node:path';
import type {Environment} from '../base/environment.js';
import {BlockError, UserError} from '../base/errors.js';
import type {NbdTimeouts} from '../native/nbd.js';
import {FileSource} from './file-source.js';
import {NbdSource} from './nbd-source.js';
import {isNbdUri, parseNbdUri, type NbdUri} from './nbd-uri.js';
import {PaddedSource} from './padded-source.js';
import {ResilientSource} from './resilient-source.js';
import type {Source, SourceHealth} from './source.js';

export interface OpenSourceOptions {
  environment: Pick<Environment, 'clock' | 'random' | 'log'>;
  /** NBD connections to try for. @default 4 */
  connections?: number;
  timeouts?: NbdTimeouts;
  /** What requests do while the source is away. @default 'wait' */
  onLoss?: 'wait' | 'error';
  /** ms, with onLoss 'error'. @default 60000 */
  ioTimeout?: number;
  /** See resilient-source.ts; for a file it runs once, at open. */
  verifyIdentity?: (source: Source) => Promise<void>;
  /** Bytes the size is rounded up to. @default 512 */
  sectorSize?: number;
  /**
   * Set on resume, to the exactSize of before: an NBD server may be away then, and requests wait
   * for it.
   */
  resumeSize?: number;
  /** Descriptor of a file source that was opened, and proved to be the right one, before. */
  fileFd?: number | undefined;
}

export interface OpenedSource {
  /** Its size is a multiple of sectorSize. */
  source: Source;
  /** Bytes that the file or export really has. */
  exactSize: number;
  /** Fit to be stored and opened again: an NBD URI or an absolute path. */
  text: string;
  health: () => SourceHealth;
  /** Of a file: its descriptor. */
  fileFd?: number;
}

export async function openSource(text: string, options: OpenSourceOptions): Promise<OpenedSource> {
  if (text.trim() === '') throw usage(text, 'it is empty');
  if (text.includes('\0')) throw usage(text, 'it contains a zero byte');
  if (isNbdUri(text)) return await openNbd(parseNbdUri(text), options);
  const scheme = /^([a-z][a-z0-9+.-]*):\/\//i.exec(text)?.[1];
  if (scheme !== undefined) {
    throw usage(
      text,
      `regrow does not know ${scheme}://; give an NBD URI, or serve it with nbdkit and give that`,
    );
  }
  return await openFile(resolve(text), options);
}

async function openNbd(uri: NbdUri, options: OpenSourceOptions): Promise<OpenedSource> {
  const {environment, connections, timeouts, verifyIdentity, onLoss, ioTimeout, resumeSize} =
    options;
  const {log} = environment;
  if (uri.isExposed) {
    log('warning', 'the source is read in the clear over the network; use nbds:// to encrypt it', {
      source: uri.name,
    });
  }
  if (uri.target.tls && !uri.target.verifyPeer) {
    log('warning', 'the server of the source is not checked: anyone could answer in its place', {
      source: uri.name,
    });
  }
  const nbdOptions = {
    log,
    ...(connections === undefined ? {} : {connections}),
    ...(timeouts === undefined ? {} : {timeouts}),
  };
  const open = (signal: AbortSignal): Promise<NbdSource> =>
    NbdSource.open(uri, {...nbdOptions, signal});
  const resilientOptions = {
    open,
    environment,
    ...(verifyIdentity === undefined ? {} : {verifyIdentity}),
    ...(onLoss === undefined ? {} : {onLoss}),
    ...(ioTimeout === undefined ? {} : {ioTimeout}),
  };
  const source =
    resumeSize === undefined
      ? await firstOpen(uri, () => ResilientSource.open(resilientOptions))
      : ResilientSource.resume(uri.name, resumeSize, resilientOptions);
  return {...padded(source, options), text: uri.text, health: () => source.health()};
}

async function firstOpen(
  uri: NbdUri,
  open: () => Promise<ResilientSource>,
): Promise<ResilientSource> {
  let source: ResilientSource;
  try {
    source = await open();
  } catch (error) {
    if (!(error instanceof BlockError)) throw error;
    throw new UserError(`opening the source: ${error.message}`, {cause: error});
  }
  if (source.size > 0) return source;
  await source.close();
  throw new UserError(`opening the source ${uri.name}: it is empty`);
}

async function openFile(path: string, options: OpenSourceOptions): Promise<OpenedSource> {
  const {fileFd} = options;
  const source = await (fileFd === undefined
    ? FileSource.open(path)
    : FileSource.adopt(fileFd, path));
  try {
    if (options.resumeSize !== undefined && source.size !== options.resumeSize) {
      throw new UserError(
        `opening the source ${path}: its size was ${options.resumeSize} bytes and is ` +
          `${source.size} now, so it is not the one this volume grows from`,
      );
    }
    if (fileFd === undefined) await options.verifyIdentity?.(source);
  } catch (error) {
    await source.close();
    throw error;
  }
  const since = options.environment.clock.wallTime();
  const health = (): SourceHealth => ({state: 'connected', since, waiters: 0, attempts: 0});
  return {...padded(source, options), text: path, health, fileFd: source.fd};
}

function padded(
  source: Source,
  {sectorSize}: OpenSourceOptions,
): Pick<OpenedSource, 'source' | 'exactSize'> {
  return {source: new PaddedSource(source, sectorSize), exactSize: source.size};
}

function usage(text: string, reason: string): UserError {
  return new UserError(`opening the source '${text}': ${reason}`, {exitCode: 2});
}
