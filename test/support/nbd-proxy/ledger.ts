/**
 * What the proxy did, counted and in order, so that a test can tell a fault that was survived from
 * one that never happened.
 */
const COUNTS = [
  // What clients did.
  'connections',
  'read',
  'write',
  'zero',
  'trim',
  'flush',
  'fua',
  'replies',
  'refused', // out of range, too long, read-only: the client's own mistakes
  // Faults of the way.
  'delayed',
  'reordered', // changes forwarded before an older one
  'repliesReordered',
  'silenced',
  'cutReceiving',
  'cutBefore',
  'cutAfter',
  'cutReplying',
  'cutAsked',
  'outages', // times at which no new connection was taken
  'hangUps', // connections taken and closed at once, in an outage
  // Faults of the server.
  'errors', // by a rule of `fail`
  'held', // changes answered and not landed
  'landed', // changes that reached the backend, in any way
  'evicted', // landed because the cache was full
  'powerLosses',
  'kept', // of the held ones, by a power loss
  'torn',
  'lost',
  'lostInFlight', // received, never done, never answered
  'zombies', // changes that outlived their connection
  'zombiesLanded',
  'zombiesOverNewer', // landed on bytes that were changed after their connection had ended
  'upstreamFailures', // errors of the backend itself
] as const;
export type Count = (typeof COUNTS)[number];

export interface LedgerEntry {
  /** Since the proxy started. */
  readonly ms: number;
  readonly what: Count;
  /** Of the connection, from 1; 0 for the proxy itself. */
  readonly connection: number;
  /** Bytes, of the request it concerns. */
  readonly offset?: number | undefined;
  readonly length?: number | undefined;
  readonly note?: string | undefined;
}

type Details = Omit<Partial<LedgerEntry>, 'ms' | 'what'>;

/** Older entries are forgotten; counts never are. */
const ENTRIES_MAX = 50_000;

export class Ledger {
  readonly counts = Object.fromEntries(COUNTS.map((name) => [name, 0])) as Record<Count, number>;
  entries: LedgerEntry[] = [];
  readonly #began = performance.now();
  readonly #listener: ((entry: LedgerEntry) => void) | undefined;

  constructor(listener?: (entry: LedgerEntry) => void) {
    this.#listener = listener;
  }

  add(what: Count, details: Details = {}): void {
    this.counts[what]++;
    const ms = Math.round(performance.now() - this.#began);
    const entry = {ms, what, connection: 0, ...details};
    this.entries.push(entry);
    if (this.entries.length > 2 * ENTRIES_MAX) this.entries = this.entries.slice(-ENTRIES_MAX);
    this.#listener?.(entry);
  }

  /** Those that never happened. */
  missing(...names: readonly Count[]): Count[] {
    return names.filter((name) => this.counts[name] === 0);
  }
}
