/** What a person reads of a status. */
import test from 'ava';
import {
  drawPicture,
  hydrationText,
  percentLocal,
  progressText,
  renderStatus,
  sourceText,
  statusLine,
} from '../../../src/cli/render-status.js';
import type {VolumeStatus} from '../../../src/control/status.js';

const LOOK = {unicode: true, dim: String, alarm: String};
const NOW = 1_000_000_000;

function status(changes: Partial<VolumeStatus> = {}): VolumeStatus {
  return {
    name: 'vol0',
    state: 'attached',
    device: '/dev/loop3',
    mountpoint: '/run/regrow/vol0',
    pid: 7,
    version: '0.1.0',
    startedAt: NOW - 65_000,
    uptimeMs: 65_000,
    store: {path: '/dev/sdb', identity: 'disk x'},
    takeOver: {
      isPossible: true,
      problem: null,
      count: 0,
      lastAt: null,
      lastPauseMs: null,
      lastDeath: null,
      isIoFlusher: true,
      unlockedBuffers: 0,
    },
    source: {
      name: 'nbd://backup/vol0',
      state: 'connected',
      since: NOW - 1000,
      waiters: 0,
      attempts: 0,
    },
    options: {
      transport: 'auto',
      blockSize: 65_536,
      sectorSize: 512,
      readOnly: false,
      writeThrough: 'off',
      backup: null,
      resyncRate: null,
      hydrate: 'background',
      rate: null,
      onSourceLoss: 'wait',
      ioTimeoutMs: 60_000,
      mount: null,
    },
    witnesses: 8,
    errors: [],
    memory: {resident: 1, heapUsed: 1, external: 1},
    size: 2 ** 30,
    blockSize: 65_536,
    mode: 'read-write',
    modeReason: undefined,
    blocks: {absent: 8192, partial: 0, copied: 8000, overwritten: 150, zeroed: 42},
    isHydrated: false,
    picture: [0, 0.2, 0.5, 0.9, 1],
    counters: {
      reads: 10,
      writes: 20,
      zeroings: 0,
      flushes: 3,
      readBytes: 1024,
      writtenBytes: 2048,
      fetchedForRequests: 1,
      fetchedAhead: 2,
      fetchedInBackground: 1021,
      installedBlocks: 0,
      droppedBlocks: 0,
      zeroBlocks: 0,
      commits: 0,
      checkpoints: 0,
      intentMarks: 0,
      storeErrors: 0,
      sourceErrors: 0,
    },
    hydration: {
      mode: 'background',
      rateLimit: 50 * 2 ** 20,
      state: 'running',
      remainingDataBytes: 300 * 2 ** 20,
      totalDataBytes: 600 * 2 ** 20,
      rate: 48 * 2 ** 20,
      etaMs: 6250,
      badRanges: [],
    },
    lastCommitAt: NOW,
    waitingForMasks: 0,
    storeErrors: [],
    replacement: undefined,
    protection: {
      mode: 'off',
      state: 'off',
      consistentAsOf: undefined,
      inconsistentSince: undefined,
      behindBlocks: 0,
      behindBytes: 0,
      unflushedBlocks: 0,
      link: {state: 'off', since: NOW, lastError: undefined},
      lastError: undefined,
      resync: {rateLimit: undefined, rate: 0, etaMs: undefined},
    },
    ...changes,
  };
}

test('the picture goes from nothing to all in five shades', (t) => {
  t.deepEqual(drawPicture([0, 0.01, 0.5, 0.99, 1], true), ['·░▒▓█']);
  t.deepEqual(drawPicture([0, 0.01, 0.5, 0.99, 1], false), ['.-+%#']);
  const rows = drawPicture(Array(256).fill(1) as number[], true);
  t.deepEqual(
    rows.map((row) => row.length),
    [64, 64, 64, 64],
  );
});

test('100 % is said only when nothing is missing', (t) => {
  const blocks = {absent: 1, partial: 0, copied: 9_999_999, overwritten: 0, zeroed: 0};
  t.is(percentLocal({blocks}), '99.9 %');
  t.is(percentLocal({blocks: {...blocks, absent: 0}}), '100.0 %');
});

test('hydration tells mode, pace, what is left and when it ends', (t) => {
  t.is(
    hydrationText(status()),
    'background, running, 48 MiB/s, at most 50 MiB/s, 300 MiB of 600 MiB of data to fetch, ' +
      'done in 6 s',
  );
  t.is(hydrationText(status({isHydrated: true})), 'complete: the store alone is the volume');
});

test('a source that is away says since when, who waits and why', (t) => {
  const source = {
    name: 'nbd://b/v',
    state: 'waiting' as const,
    since: NOW - 12_000,
    waiters: 3,
    attempts: 4,
    lastError: 'connection refused',
  };
  t.is(
    sourceText(status({source}), NOW),
    'nbd://b/v: away since 12 s, 3 requests wait, 4 attempts to reconnect, last error: ' +
      'connection refused',
  );
});

test('the whole is some ten lines with the last errors at the end', (t) => {
  const errors = [{at: NOW - 5000, message: 'it broke', count: 2}];
  const text = renderStatus(status({errors}), NOW, LOOK);
  const lines = text.split('\n');
  t.is(lines[0], 'vol0  /dev/loop3, 1 GiB, blocks of 64 KiB, read-write, up 1 min 5 s');
  t.is(lines[1], '  ·░▒▓█');
  t.is(
    lines[2],
    '  local     50.0 %, blocks: 8000 copied, 150 overwritten, 42 zeroed, 0 partial, ' +
      '8192 absent',
  );
  t.is(lines.at(-1), '  error     5 s ago, 2 times: it broke');
});

test('a mode other than read-write comes with its reason', (t) => {
  const text = renderStatus(status({mode: 'read-only', modeReason: 'the store failed'}), NOW, LOOK);
  t.true(text.includes('read-only because the store failed'));
});

test('a status that went over the wire reads the same', (t) => {
  const sent = JSON.parse(
    JSON.stringify(status(), (_, value: unknown) => (value === undefined ? null : value)),
  ) as VolumeStatus;
  t.is(renderStatus(sent, NOW, LOOK), renderStatus(status(), NOW, LOOK));
});

test('one line for logs, and one with a bar', (t) => {
  const line = 'vol0, 50.0 % local, background 48 MiB/s, source connected, done in 6 s';
  t.is(statusLine(status()), line);
  t.true(progressText(status()).startsWith('[############............] vol0, 50.0 % local'));
});

test('what a death of the daemon means is said, what is as it should be is not', (t) => {
  const said = (changes: Partial<VolumeStatus['takeOver']>): string =>
    renderStatus(status({takeOver: {...status().takeOver, ...changes}}), NOW, LOOK);
  t.notRegex(said({}), /daemon/);
  t.regex(said({isPossible: false, problem: 'its supervisor is gone'}), /its supervisor is gone/);
  const replaced = {count: 3, lastAt: NOW - 5000, lastPauseMs: 120, lastDeath: 'signal 9'};
  t.regex(said(replaced), /replaced 3 times, last 5 s ago \(signal 9\) after 120 ms/);
  t.regex(said({isIoFlusher: false}), /without CAP_SYS_RESOURCE/);
  t.regex(said({unlockedBuffers: 2}), /2 buffers are not locked/);
});
