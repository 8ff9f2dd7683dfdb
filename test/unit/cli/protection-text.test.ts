/** What a person reads of a volume's backup: never more than is known (I8). */
import test from 'ava';
import {protectionText} from '../../../src/cli/protection-text.js';
import type {ProtectionReport} from '../../../src/volume/protection.js';

const NOW = Date.UTC(2026, 4, 17, 12, 0, 0);
const MINUTE = 60_000;

/** Of a volume whose backup has all and whose connection is up, but for `changes`. */
function said(changes: Partial<ProtectionReport>): string {
  const protection: ProtectionReport = {
    mode: 'sync',
    state: 'protected',
    consistentAsOf: NOW - MINUTE,
    inconsistentSince: undefined,
    behindBlocks: 0,
    behindBytes: 0,
    unflushedBlocks: 0,
    link: {state: 'connected', since: NOW - 3 * MINUTE, lastError: undefined},
    lastError: undefined,
    resync: {rateLimit: undefined, rate: 0, etaMs: undefined},
    ...changes,
  };
  return protectionText({protection}, NOW);
}

const BEHIND = {state: 'behind', behindBlocks: 12, behindBytes: 12 * 65_536} as const;

test('off: nothing is claimed, whatever was known before', (t) => {
  const off = 'write-through off: what is written stays in the store';
  t.is(said({mode: 'off', state: 'off'}), off);
  t.is(said({...BEHIND, mode: 'off', consistentAsOf: undefined}), off);
});

test('protected: since when it is, and what no flush has covered', (t) => {
  const text = 'sync: protected, backup consistent as of 2026-05-17T11:59:00.000Z';
  t.is(said({}), text);
  t.is(said({mode: 'strict'}), text.replace('sync', 'strict'));
  t.is(said({unflushedBlocks: 3}), `${text}, 3 blocks sent and not yet flushed`);
});

test('behind: how much, and that the backup is an older state', (t) => {
  const behind = '12 blocks, 768 KiB behind';
  t.is(said(BEHIND), `sync: backup consistent as of 2026-05-17T11:59:00.000Z, ${behind}`);
  const first = 'the backup is as it was at the first attach';
  t.is(said({...BEHIND, consistentAsOf: undefined}), `sync: ${first}, ${behind}`);
  // As JSON brings it.
  t.is(said({...BEHIND, consistentAsOf: null as never}), `sync: ${first}, ${behind}`);
});

test('behind: why, if the connection or a request failed', (t) => {
  const lost = {state: 'waiting', since: NOW - 2 * MINUTE, lastError: 'nothing listens there'};
  t.regex(said({...BEHIND, link: lost}), /768 KiB behind, away since 2 min 0 s \(nothing listens/);
  t.regex(said({...BEHIND, link: {...lost, lastError: undefined}}), /, away since 2 min 0 s$/);
  t.regex(
    said({...BEHIND, link: {...lost, state: 'refused', lastError: 'another disk'}}),
    /, refused since 2 min 0 s \(another disk\)$/,
  );
  t.regex(said({...BEHIND, lastError: 'no space left'}), /behind, last error: no space left$/);
  // What ended the connection says more than the request that met its end.
  t.notRegex(said({...BEHIND, link: lost, lastError: 'it was lost'}), /it was lost/);
});

test('protected, and away: what was flushed is still there', (t) => {
  const link = {state: 'connecting', since: NOW - 5000, lastError: undefined};
  t.is(
    said({link}),
    'sync: protected, backup consistent as of 2026-05-17T11:59:00.000Z, away since 5 s',
  );
});

test('resync: no state of the volume until it ends', (t) => {
  const resync = {...BEHIND, state: 'resync', inconsistentSince: NOW - 10_000} as const;
  const head =
    'sync: resync: inconsistent since 2026-05-17T11:59:50.000Z, 12 blocks, 768 KiB behind';
  t.is(said(resync), `${head}, 0 B/s`);
  t.is(
    said({...resync, resync: {rateLimit: undefined, rate: 2 ** 20, etaMs: 90_000}}),
    `${head}, 1 MiB/s, done in 1 min 30 s`,
  );
  t.notRegex(said(resync), /protected|consistent as of/);
});
