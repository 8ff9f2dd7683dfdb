/** What the daemon takes over the wire: anything else is refused, nothing throws otherwise. */
import test from 'ava';
import fc from 'fast-check';
import {UserError} from '../../../src/base/errors.js';
import {attachParams, hydrateParams} from '../../../src/control/control-handlers.js';

test('hydrate takes a mode and perhaps a rate', (t) => {
  t.deepEqual(hydrateParams({mode: 'full'}), {mode: 'full'});
  t.deepEqual(hydrateParams({mode: 'off', rate: null}), {mode: 'off', rate: null});
  t.deepEqual(hydrateParams({mode: 'background', rate: 1000}), {mode: 'background', rate: 1000});
  for (const params of [
    undefined,
    {},
    {mode: 'lots'},
    {mode: 'full', rate: 0},
    {mode: 'full', rate: '1'},
  ]) {
    t.throws(() => hydrateParams(params), {instanceOf: UserError});
  }
});

test('attach takes known options with plain values', (t) => {
  t.deepEqual(attachParams({given: {rate: null}, source: null}), {given: {rate: null}});
  for (const params of [
    {},
    {given: {colour: 1}},
    {given: {rate: -1}},
    {given: {mount: {}}},
    {given: {}, source: 1},
  ]) {
    t.throws(() => attachParams(params), {instanceOf: UserError});
  }
});

test('whatever JSON can say is taken or refused', (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), (params) => {
      for (const parse of [hydrateParams, attachParams]) {
        try {
          parse(params);
        } catch (error) {
          if (!(error instanceof UserError)) return false;
        }
      }
      return true;
    }),
  );
  t.pass();
});
