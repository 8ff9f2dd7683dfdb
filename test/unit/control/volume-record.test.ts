/** volume.json: what is taken for damage. */
import test from 'ava';
import fc from 'fast-check';
import {DEFAULT_OPTIONS} from '../../../src/control/attach-options.js';
import {recordProblem} from '../../../src/control/volume-record.js';

const GOOD = {
  version: 1,
  name: 'vol0',
  createdAt: 1,
  source: '/img',
  sourceName: '/img',
  sourceSize: 1000,
  size: 1024,
  store: {path: '/store', identity: {kind: 'file'}},
  options: {...DEFAULT_OPTIONS, blockSize: 4096},
  witnesses: [{offset: 0, length: 4096, sha256: 'a'.repeat(64)}],
  protection: null,
  detached: null,
};

test('what was written is fine', (t) => {
  t.is(recordProblem(GOOD), undefined);
  t.is(recordProblem(JSON.parse(JSON.stringify(GOOD))), undefined);
});

const DAMAGE: Record<string, unknown> = {
  'no object': [],
  'another version': {...GOOD, version: 2},
  'no source': {...GOOD, source: undefined},
  'sizes that contradict each other': {...GOOD, size: 512},
  'a size that is no number': {...GOOD, size: '1024'},
  'an impossible block size': {...GOOD, options: {...GOOD.options, blockSize: 1000}},
  'a malformed protection': {...GOOD, protection: 'yes'},
  'no store': {...GOOD, store: {path: '/store'}},
  'a malformed witness': {...GOOD, witnesses: [{offset: -1, length: 1, sha256: 'a'.repeat(64)}]},
  'a witness without hash': {...GOOD, witnesses: [{offset: 0, length: 1, sha256: 'x'}]},
};
for (const [title, value] of Object.entries(DAMAGE)) {
  test(`${title} is damage`, (t) => t.is(typeof recordProblem(value), 'string'));
}

test('nothing that JSON can hold throws', (t) => {
  fc.assert(
    fc.property(fc.jsonValue(), fc.constantFrom(...Object.keys(GOOD)), (value, key) => {
      const problem = recordProblem({...GOOD, [key]: value});
      return problem === undefined || typeof problem === 'string';
    }),
  );
  t.pass();
});
