/**
 * The state of a block, as a table: what a read, a write, a zeroing and an arriving fetch do in
 * each state. The volume asks this table, the map asserts every change against it, and
 * docs/DESIGN.md prints it (scripts/render-tables.ts), so the three cannot drift apart.
 *
 * A state says where the truth about the block is:
 *
 *   absent       only at the source; what the store holds there is stale and never read
 *   partial      the guest's sectors, named by a mask, in the store; the rest only at the source
 *   copied       the store holds what the source holds
 *   overwritten  the store holds what the guest wrote; the source is stale for ever
 *   zeroed       zeroes, whatever the store or source hold; the source is stale for ever
 *
 * I1: overwritten and zeroed never turn back to absent or copied. I4: a fetch changes absent blocks
 * and the unmasked sectors of partial ones, nothing else. Two events are regrow's own: `settled`,
 * the zeroes of a zeroed block have been put into the store, so that the store alone is the volume;
 * and `lost`, the store cannot read a copied block any more, which the source still has. No other
 * way leads back, and only isLoss() knows it.
 */

export const BLOCK_STATES = ['absent', 'partial', 'copied', 'overwritten', 'zeroed'] as const;
export type BlockState = (typeof BLOCK_STATES)[number];

/** States as the numbers that stand in the map, in memory and on disk (docs/FORMATS.md). */
export const ABSENT = 0;
export const PARTIAL = 1;
export const COPIED = 2;
export const OVERWRITTEN = 3;
export const ZEROED = 4;
export type StateCode = 0 | 1 | 2 | 3 | 4;
export const STATE_COUNT = 5;

/** Where a read of a sector takes its bytes from. */
export type ReadFrom = 'source' | 'store' | 'zeroes' | 'mask decides';

export interface StateRow {
  readonly code: StateCode;
  readonly read: ReadFrom;
  /** The state after the guest wrote the whole block, or a part of it. */
  readonly wholeWrite: BlockState;
  readonly partWrite: BlockState;
  /** Whether a partial write must first put zeroes around itself into the store. */
  readonly partWriteFillsZeroes: boolean;
  /** The state after a discard or zeroing of the whole block; of a part it is a partial write. */
  readonly zeroing: BlockState;
  /** The state once fetched bytes are installed; undefined: they are dropped. */
  readonly fetched: BlockState | undefined;
  /**
   * The state once regrow itself has put the block's zeroes into the store; undefined: cannot
   * happen.
   */
  readonly settled: BlockState | undefined;
  /**
   * The state once the store has failed to read the block; undefined: it stays, since the source
   * does not have what is lost.
   */
  readonly lost: BlockState | undefined;
  /** Whether the store alone gives the block's bytes (what `hydrated` asks of every block). */
  readonly isLocal: boolean;
  /**
   * Whether a write in this state needs a durable intent mark for its region first (I11): wherever
   * the map on disk may still say *copied*. A zeroed block may have been copied at the last commit,
   * an absent one where it was lost since.
   */
  readonly writeNeedsIntent: 'no' | 'yes' | 'until committed' | 'until its loss is committed';
}

export const STATE_TABLE = {
  absent: {
    code: ABSENT,
    read: 'source',
    wholeWrite: 'overwritten',
    partWrite: 'partial',
    partWriteFillsZeroes: false,
    zeroing: 'zeroed',
    fetched: 'copied',
    settled: undefined,
    lost: undefined,
    isLocal: false,
    writeNeedsIntent: 'until its loss is committed',
  },
  partial: {
    code: PARTIAL,
    read: 'mask decides',
    wholeWrite: 'overwritten',
    partWrite: 'partial',
    partWriteFillsZeroes: false,
    zeroing: 'zeroed',
    fetched: 'overwritten',
    settled: undefined,
    lost: undefined,
    isLocal: false,
    writeNeedsIntent: 'no',
  },
  copied: {
    code: COPIED,
    read: 'store',
    wholeWrite: 'overwritten',
    partWrite: 'overwritten',
    partWriteFillsZeroes: false,
    zeroing: 'zeroed',
    fetched: undefined,
    settled: undefined,
    lost: 'absent',
    isLocal: true,
    writeNeedsIntent: 'yes',
  },
  overwritten: {
    code: OVERWRITTEN,
    read: 'store',
    wholeWrite: 'overwritten',
    partWrite: 'overwritten',
    partWriteFillsZeroes: false,
    zeroing: 'zeroed',
    fetched: undefined,
    settled: undefined,
    lost: undefined,
    isLocal: true,
    writeNeedsIntent: 'no',
  },
  zeroed: {
    code: ZEROED,
    read: 'zeroes',
    wholeWrite: 'overwritten',
    partWrite: 'overwritten',
    partWriteFillsZeroes: true,
    zeroing: 'zeroed',
    fetched: undefined,
    settled: 'overwritten',
    lost: undefined,
    isLocal: false,
    writeNeedsIntent: 'until committed',
  },
} as const satisfies Record<BlockState, StateRow>;

const ROWS: readonly StateRow[] = BLOCK_STATES.map((state) => STATE_TABLE[state]);

/** The row of a state code. */
export function stateRow(code: StateCode): StateRow {
  return ROWS[code] as StateRow;
}

export function stateName(code: StateCode): BlockState {
  return BLOCK_STATES[code] as BlockState;
}

/** For each state the states it may turn into; derived from the table, never kept by hand. */
const SUCCESSORS: readonly ReadonlySet<StateCode>[] = ROWS.map((row) => {
  const events = [row.wholeWrite, row.partWrite, row.zeroing, row.fetched, row.settled];
  return new Set(events.flatMap((next) => (next === undefined ? [] : [STATE_TABLE[next].code])));
});

/** Whether a block in this state may be given up as lost: it is absent then. */
export function isLoss(state: StateCode): boolean {
  return stateRow(state).lost === 'absent';
}

/** Whether the table knows a way from one state to the other; staying is always one. */
export function isTransition(from: StateCode, to: StateCode): boolean {
  return from === to || (SUCCESSORS[from]?.has(to) ?? false);
}
