import test from 'ava';

import {
  BLOCK_STATES,
  isLoss,
  isTransition,
  STATE_TABLE,
  stateName,
  stateRow,
  type StateCode,
} from '../../../src/map/block-state.js';

const CODES = [0, 1, 2, 3, 4] as const satisfies readonly StateCode[];

/** Every state that can be reached from one by any number of the table's transitions. */
function reachable(from: StateCode): Set<StateCode> {
  const seen = new Set<StateCode>([from]);
  for (const state of seen) for (const next of CODES) if (isTransition(state, next)) seen.add(next);
  return seen;
}

test('codes are the places in the list, so that a number on disk has one meaning', (t) => {
  for (const [place, state] of BLOCK_STATES.entries()) {
    const code = CODES[place] as StateCode;
    t.is(STATE_TABLE[state].code, code);
    t.is(stateName(code), state);
    t.is(stateRow(code), STATE_TABLE[state]);
  }
});

test('I1: from overwritten and zeroed no way leads back to absent, partial or copied', (t) => {
  for (const state of ['overwritten', 'zeroed'] as const) {
    const names = [...reachable(STATE_TABLE[state].code)].map(stateName).sort();
    t.deepEqual(names, ['overwritten', 'zeroed']);
  }
});

test('I1: only a copied block may be lost to an unreadable store, since the source has it', (t) => {
  t.deepEqual(CODES.filter(isLoss).map(stateName), ['copied']);
  for (const state of BLOCK_STATES)
    t.is(STATE_TABLE[state].lost, state === 'copied' ? 'absent' : undefined);
});

test('I4: a fetch changes absent and partial blocks only, and a partial one keeps the guest’s sectors', (t) => {
  const changing = BLOCK_STATES.filter((state) => STATE_TABLE[state].fetched !== undefined);
  t.deepEqual(changing, ['absent', 'partial']);
  t.is(STATE_TABLE.partial.fetched, 'overwritten');
});

test('whatever a whole write or a zeroing meets, it decides the block', (t) => {
  for (const state of BLOCK_STATES) {
    t.is(STATE_TABLE[state].wholeWrite, 'overwritten');
    t.is(STATE_TABLE[state].zeroing, 'zeroed');
  }
});

test('no state turns to absent, and only a fetch makes a block copied', (t) => {
  for (const from of CODES) {
    if (stateName(from) !== 'absent') t.false(isTransition(from, STATE_TABLE.absent.code));
    const canBeCopied = isTransition(from, STATE_TABLE.copied.code);
    t.is(canBeCopied, stateName(from) === 'absent' || stateName(from) === 'copied');
  }
});
