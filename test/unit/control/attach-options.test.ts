/** Which options may change on an attached and on a resumed volume. */
import test from 'ava';
import {
  changedOptions,
  DEFAULT_OPTIONS,
  OPTION_TABLE,
  type OptionName,
  optionTableMarkdown,
  type Values,
} from '../../../src/control/attach-options.js';

const CURRENT: Values = {
  ...DEFAULT_OPTIONS,
  blockSize: 65_536,
  source: 'nbd://backup/vol0',
  store: '/dev/sdb',
};
const OTHER: Record<OptionName, string | number | boolean> = {
  source: 'nbd://other/vol0',
  store: '/dev/sdc',
  transport: 'fuse',
  blockSize: 4096,
  sectorSize: 4096,
  readOnly: true,
  writeThrough: 'sync',
  backup: 'nbd://third/vol0',
  resyncRate: 2_097_152,
  hydrate: 'full',
  rate: 1_048_576,
  onSourceLoss: 'error',
  ioTimeoutMs: 5000,
  mount: '/srv',
};

for (const when of ['running', 'resumed'] as const) {
  for (const option of Object.keys(OPTION_TABLE) as OptionName[]) {
    test(`${option} on a ${when} volume is ${OPTION_TABLE[option][when]}`, (t) => {
      const given = {[option]: OTHER[option]};
      const change = (): OptionName[] => changedOptions('vol0', when, given, CURRENT);
      if (OPTION_TABLE[option][when] === 'applied') {
        t.deepEqual(change(), [option]);
      } else {
        const error = t.throws(change);
        t.true(error?.message.startsWith(`cannot attach vol0 with ${OPTION_TABLE[option].flag} `));
        t.true(error?.message.endsWith(OPTION_TABLE[option].because));
        t.true(OPTION_TABLE[option].because !== '');
      }
    });
  }
}

test('the same values are fine, whatever the table says', (t) => {
  t.deepEqual(changedOptions('vol0', 'running', CURRENT, CURRENT), []);
  t.deepEqual(changedOptions('vol0', 'resumed', CURRENT, CURRENT), []);
});

test('a refusal shows both values as they are written', (t) => {
  t.throws(() => changedOptions('vol0', 'resumed', {blockSize: 4096}, CURRENT), {
    message:
      'cannot attach vol0 with --block-size 4 KiB: it has 64 KiB, and the map is kept in blocks ' +
      'of that size',
  });
});

test('the table for the documents has a line for each option', (t) => {
  t.is(optionTableMarkdown().split('\n').length, Object.keys(OPTION_TABLE).length + 2);
});
