/**
 * A volume's status as a person reads it: a picture of the map, and in words what it does. Pure.
 */
import {formatDuration, formatSize} from '../base/units.js';
import {localShare, type VolumeStatus} from '../control/status.js';
import {protectionText} from './protection-text.js';

export interface Look {
  /** Whether block characters can be shown. */
  unicode: boolean;
  dim: (text: string) => string;
  alarm: (text: string) => string;
}

/** From nothing local to all local. */
const SHADES = {unicode: '·░▒▓█', ascii: '.-+%#'} as const;
const PICTURE_WIDTH = 64;

/** The picture: each character a part of the volume, by the share of it that is local. */
export function drawPicture(shares: readonly number[], unicode: boolean): string[] {
  const shades = [...SHADES[unicode ? 'unicode' : 'ascii']];
  const characters = shares.map((share) => {
    if (share >= 1) return shades[4];
    return shades[share <= 0 ? 0 : share < 1 / 3 ? 1 : share < 2 / 3 ? 2 : 3];
  });
  const lines: string[] = [];
  for (let start = 0; start < characters.length; start += PICTURE_WIDTH) {
    lines.push(characters.slice(start, start + PICTURE_WIDTH).join(''));
  }
  return lines;
}

/** `63.2 %`; never says 100 before it is. */
export function percentLocal(status: Pick<VolumeStatus, 'blocks'>): string {
  return `${(Math.floor(localShare(status) * 1000) / 10).toFixed(1)} %`;
}

/** What hydration does, in words. */
export function hydrationText({hydration, isHydrated}: VolumeStatus): string {
  if (isHydrated) return 'complete: the store alone is the volume';
  const parts = [hydration.mode === 'off' ? 'off' : `${hydration.mode}, ${hydration.state}`];
  if (hydration.mode !== 'off') parts.push(`${formatSize(hydration.rate)}/s`);
  if (typeof hydration.rateLimit === 'number') {
    parts.push(`at most ${formatSize(hydration.rateLimit)}/s`);
  }
  if (typeof hydration.remainingDataBytes === 'number') {
    const total = hydration.totalDataBytes;
    const ofAll = typeof total === 'number' ? ` of ${formatSize(total)}` : '';
    parts.push(`${formatSize(hydration.remainingDataBytes)}${ofAll} of data to fetch`);
  }
  if (typeof hydration.etaMs === 'number') parts.push(`done in ${formatDuration(hydration.etaMs)}`);
  if (hydration.badRanges.length > 0) {
    parts.push(`${hydration.badRanges.length} ranges could not be fetched yet`);
  }
  return parts.join(', ');
}

/** How the source is, in words. */
export function sourceText({source}: VolumeStatus, now: number): string {
  const since = formatDuration(now - source.since);
  const words: Record<VolumeStatus['source']['state'], string> = {
    connected: 'connected',
    connecting: `connecting since ${since}`,
    waiting: `away since ${since}`,
    mismatch: `refused since ${since}: its content is not this volume's`,
    closed: 'closed',
  };
  const parts = [words[source.state]];
  if (source.waiters > 0) parts.push(`${source.waiters} requests wait`);
  if (source.attempts > 0) parts.push(`${source.attempts} attempts to reconnect`);
  if (source.lastError && source.state !== 'connected') {
    parts.push(`last error: ${source.lastError}`);
  }
  return `${source.name}: ${parts.join(', ')}`;
}

function requestsText({counters}: VolumeStatus): string {
  const fetched =
    counters.fetchedForRequests + counters.fetchedAhead + counters.fetchedInBackground;
  return (
    `${counters.reads} reads (${formatSize(counters.readBytes)}), ${counters.writes} writes ` +
    `(${formatSize(counters.writtenBytes)}), ${counters.flushes} flushes; ` +
    `${formatSize(fetched)} fetched`
  );
}

/** What a death of the daemon means, in words; undefined where there is nothing to say. */
export function takeOverText({takeOver}: VolumeStatus, now: number): string | undefined {
  const {problem, count, lastAt, lastPauseMs, lastDeath, isIoFlusher, unlockedBuffers} = takeOver;
  const parts: string[] = [];
  if (problem !== null) parts.push(`a death of it would end the device: ${problem}`);
  if (count > 0 && lastAt !== null) {
    const times = count === 1 ? 'replaced once' : `replaced ${count} times`;
    const ago = formatDuration(Math.max(0, now - lastAt));
    parts.push(`${times}, last ${ago} ago (${lastDeath ?? ''}) after ${lastPauseMs ?? 0} ms`);
  }
  if (!isIoFlusher) {
    parts.push('without CAP_SYS_RESOURCE it is no I/O flusher: scarce memory may make it wait');
  }
  if (unlockedBuffers > 0) {
    parts.push(`${unlockedBuffers} buffers are not locked in memory: a death may cost an error`);
  }
  return parts.length === 0 ? undefined : parts.join('; ');
}

/** The whole status, some ten lines. `now`: wall time in ms. */
export function renderStatus(status: VolumeStatus, now: number, look: Look): string {
  const {blocks} = status;
  const head = [
    status.device ?? 'no device yet',
    formatSize(status.size),
    `blocks of ${formatSize(status.blockSize)}`,
    status.mode,
    `up ${formatDuration(status.uptimeMs)}`,
  ];
  if (status.state === 'stopping') head.push('stops when it is no longer used');
  const lines = [`${status.name}  ${head.join(', ')}`];
  if (status.modeReason) lines.push(look.alarm(`  ${status.mode} because ${status.modeReason}`));
  for (const row of drawPicture(status.picture, look.unicode)) lines.push(`  ${row}`);
  const label = (name: string): string => look.dim(`  ${name.padEnd(10)}`);
  lines.push(
    `${label('local')}${percentLocal(status)}, blocks: ${blocks.copied} copied, ` +
      `${blocks.overwritten} overwritten, ${blocks.zeroed} zeroed, ${blocks.partial} partial, ` +
      `${blocks.absent} absent`,
    `${label('hydration')}${hydrationText(status)}`,
    `${label('source')}${sourceText(status, now)}`,
    `${label('backup')}${protectionText(status, now)}`,
    `${label('store')}${status.store.path}`,
    `${label('requests')}${requestsText(status)}`,
  );
  const takeOver = takeOverText(status, now);
  if (takeOver !== undefined) lines.push(`${label('daemon')}${takeOver}`);
  if (status.waitingForMasks > 0) {
    const count = status.waitingForMasks;
    lines.push(`${label('waiting')}${count} writes wait for room in the mask table`);
  }
  if (status.replacement) {
    const {copiedBytes, totalBytes} = status.replacement;
    const done = `${formatSize(copiedBytes)} of ${formatSize(totalBytes)} copied`;
    lines.push(`${label('replaced')}by another store: ${done}`);
  }
  for (const {offset, length, at, count, done} of status.storeErrors.slice(-5)) {
    const ago = formatDuration(now - at);
    const times = count > 1 ? `, ${count} times` : '';
    const place = `${formatSize(length)} at ${offset}`;
    lines.push(look.alarm(`  store      ${ago} ago${times}: ${place} failed: ${done}`));
  }
  for (const {at, message, count} of status.errors.slice(-5)) {
    const ago = formatDuration(now - at);
    const times = count > 1 ? `, ${count} times` : '';
    lines.push(look.alarm(`  error     ${ago} ago${times}: ${message}`));
  }
  return lines.join('\n');
}

/** One line, for `--watch` without a terminal. */
export function statusLine(status: VolumeStatus): string {
  const eta = status.hydration.etaMs;
  return [
    status.name,
    `${percentLocal(status)} local`,
    `${status.hydration.mode} ${formatSize(status.hydration.rate)}/s`,
    `source ${status.source.state}`,
    status.protection.mode === 'off'
      ? undefined
      : `backup ${status.protection.state}, ${status.protection.behindBlocks} blocks behind`,
    typeof eta === 'number' ? `done in ${formatDuration(eta)}` : undefined,
    status.mode === 'read-write' ? undefined : status.mode,
  ]
    .filter((part) => part !== undefined)
    .join(', ');
}

/** What `wait` shows meanwhile, with a bar. */
export function progressText(status: VolumeStatus): string {
  const filled = Math.floor(localShare(status) * 24);
  const bar = `[${'#'.repeat(filled)}${'.'.repeat(24 - filled)}]`;
  return `${bar} ${statusLine(status)}`;
}
