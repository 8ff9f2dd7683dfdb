/**
 * Opens the source of a volume and sees that it is the right one.
 *
 * At a first attach it must answer. At a resume it is given a moment: if it comes and holds
 * something else, the resume is refused; if it stays away, the volume is attached all the same and
 * what is not local waits for it. Whenever it comes back later, witnesses are compared before
 * anybody gets a byte (I7).
 */
import type {Environment} from '../base/environment.js';
import {BlockError, messageOf, UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import {openSource, type OpenedSource} from '../source/open-source.js';
import type {Source} from '../source/source.js';
import type {AttachOptions} from './attach-options.js';
import type {StartContext} from './start-context.js';
import type {VolumeRecord} from './volume-record.js';
import {findMismatch, someOf, WITNESSES_AT_RECONNECT} from './witnesses.js';

/** How long a resume waits for a source that does not answer. */
const RESUME_WAIT_MS = 2000;
const RESUME_POLL_MS = 5;
/** How long connecting may take; a shorter --io-timeout goes before it. */
const CONNECT_MS_MAX = 10_000;

export interface SourceRequest {
  /** Starts the sentence of a refusal: `attach vol0`. */
  doing: string;
  text: string;
  options: AttachOptions;
  context: StartContext;
  /** Whether the source still holds a witness; writes that went through to it changed others. */
  isUntouched?: (offset: number) => boolean;
}

/** Of a first attach. `record` gives the witnesses, once there are some. */
export async function openFirstSource(
  request: SourceRequest,
  record: () => VolumeRecord | undefined,
): Promise<OpenedSource> {
  const {isUntouched} = request;
  return open(request, (source) => proveIdentity(source, record(), request.context, {isUntouched}));
}

/**
 * Of a resume: the one that was opened first (`known`), or another with the same content, which
 * must then be there to show it.
 */
export async function openKnownSource(
  request: SourceRequest,
  record: VolumeRecord,
  known: VolumeRecord,
): Promise<OpenedSource> {
  const {doing, context, text} = request;
  let isStarting = true;
  const prove = (source: Source): Promise<void> => {
    const count = isStarting ? Infinity : WITNESSES_AT_RECONNECT;
    return proveIdentity(source, record, context, {count, isUntouched: request.isUntouched});
  };
  const opened = await open(request, prove, record.sourceSize);
  const {clock} = context.environment;
  const deadline = clock.now() + RESUME_WAIT_MS;
  let health = opened.health();
  while (health.state === 'connecting' && clock.now() < deadline && !context.signal.aborted) {
    await clock.sleep(RESUME_POLL_MS);
    health = opened.health();
  }
  isStarting = false;
  if (health.state === 'connected') return opened;
  const reason = health.lastError ?? 'it does not answer';
  if (health.state === 'mismatch' || text !== known.source) {
    await opened.source.close();
    throw refusal(doing, reason);
  }
  context.link.note(`the source is away (${reason}); what is not local yet waits for it`);
  return opened;
}

/** Of a take-over: does not wait for it, and of a file goes on with its descriptor. */
export async function openSourceAgain(
  record: VolumeRecord,
  environment: Environment,
  fileFd: number | undefined,
  isUntouched: (offset: number) => boolean,
): Promise<OpenedSource> {
  const {source: text, sourceSize: resumeSize, options} = record;
  return openSource(text, {
    environment,
    timeouts: {connect: Math.min(CONNECT_MS_MAX, options.ioTimeoutMs)},
    onLoss: options.onSourceLoss,
    ioTimeout: options.ioTimeoutMs,
    verifyIdentity: (source) => proveIdentity(source, record, {environment}, {isUntouched}),
    ...{resumeSize, fileFd},
  });
}

async function open(
  {doing, text, options, context}: SourceRequest,
  verifyIdentity: (source: Source) => Promise<void>,
  resumeSize?: number,
): Promise<OpenedSource> {
  const {environment, link, signal} = context;
  const log: typeof environment.log = (level, message, fields) => {
    environment.log(level, message, fields);
    if (level === 'warning' && !signal.aborted) link.note(message);
  };
  try {
    return await openSource(text, {
      environment: {...environment, log},
      timeouts: {connect: Math.min(CONNECT_MS_MAX, options.ioTimeoutMs)},
      onLoss: options.onSourceLoss,
      ioTimeout: options.ioTimeoutMs,
      verifyIdentity,
      ...(resumeSize === undefined ? {} : {resumeSize}),
    });
  } catch (error) {
    throw refusal(doing, messageOf(error), error);
  }
}

function refusal(doing: string, reason: string, cause?: unknown): UserError {
  const exitCode = cause instanceof UserError ? cause.exitCode : 1;
  return new UserError(`cannot ${doing}: ${reason}`, {exitCode, cause});
}

/** Rejects unless `source` holds what the witnesses say, as many of them as `count`. */
async function proveIdentity(
  source: Source,
  record: VolumeRecord | undefined,
  {environment}: Pick<StartContext, 'environment'>,
  {
    count = WITNESSES_AT_RECONNECT,
    isUntouched = () => true,
  }: {count?: number; isUntouched?: ((offset: number) => boolean) | undefined} = {},
): Promise<void> {
  if (record === undefined) return;
  if (source.size !== record.sourceSize) {
    throw new BlockError(
      'ESTALE',
      `${source.name} has ${formatSize(source.size)} and the volume's source ` +
        `${formatSize(record.sourceSize)}, so it is another one; give the right source back`,
      {op: 'verify', isPermanent: true},
    );
  }
  const usable = record.witnesses.filter(({offset}) => isUntouched(offset));
  const mismatch = await findMismatch(source, someOf(usable, count, environment.random));
  if (mismatch === undefined) return;
  throw new BlockError(
    'ESTALE',
    `${source.name} is not the source this volume grows from: at byte ${mismatch.offset} it ` +
      'holds something else; give the right source back, or attach with the right one',
    {op: 'verify', isPermanent: true},
  );
}
