/** Names, paths, source texts, the undo list and the ring of errors. */
import test from 'ava';
import {readFileSync} from 'node:fs';
import {isVolumeName, checkVolumeName} from '../../../src/control/paths.js';
import {RecentErrors} from '../../../src/control/recent-errors.js';
import {absoluteSource} from '../../../src/control/source-text.js';
import {Undo} from '../../../src/control/undo.js';
import {VERSION} from '../../../src/control/version.js';

test('names of volumes', (t) => {
  const good = ['a', '0', 'vol0', 'a.b_c-d', 'x'.repeat(63)];
  for (const name of good) t.true(isVolumeName(name), name);
  const bad = ['', '.', '..', '-a', '.a', '_a', 'A', 'a/b', 'ä', 'a b', 'a\n', 'x'.repeat(64)];
  for (const name of bad) {
    t.false(isVolumeName(name), name);
  }
});

test('a malformed name is a wrong call, told in one sentence', (t) => {
  t.throws(() => checkVolumeName('attach', '../etc'), {
    message: /^cannot attach "\.\.\/etc": a volume's name has 1 to 63 characters/,
  });
});

test('the version is that of package.json', (t) => {
  const text = readFileSync(new URL('../../../../package.json', import.meta.url), 'utf8');
  t.is((JSON.parse(text) as {version: string}).version, VERSION);
});

test('sources become independent of the folder they were typed in', (t) => {
  const here = process.cwd();
  t.is(absoluteSource('disk.img'), `${here}/disk.img`);
  t.is(absoluteSource('/dev/sdb'), '/dev/sdb');
  t.is(absoluteSource('nbd://host:10810/vol0'), 'nbd://host:10810/vol0');
  t.is(absoluteSource('nbd+unix:///vol0?socket=run/s'), `nbd+unix:///vol0?socket=${here}/run/s`);
  t.is(absoluteSource('nbd+unix:///?socket=/run/s'), 'nbd+unix:///?socket=/run/s');
  t.is(absoluteSource('nbds://u@h/?tls-psk-file=k'), `nbds://u@h/?tls-psk-file=${here}/k`);
});

test('steps are undone the youngest first, all of them, and failures are told', async (t) => {
  const undo = new Undo();
  const order: string[] = [];
  undo.add('remove a', () => void order.push('a'));
  undo.add('remove b', () => {
    throw new Error('it is busy');
  });
  undo.add('remove c', async () => void order.push('c'));
  t.deepEqual(await undo.run(), ['could not remove b: it is busy']);
  t.deepEqual(order, ['c', 'a']);
  t.deepEqual(await undo.run(), []);
});

test('a start that succeeded undoes nothing', async (t) => {
  const undo = new Undo();
  undo.add('x', () => t.fail());
  undo.drop();
  t.deepEqual(await undo.run(), []);
});

test('the ring keeps the last 16 errors and counts what repeats', (t) => {
  const errors = new RecentErrors();
  for (let i = 0; i < 20; i++) errors.add(`error ${i}`, i);
  errors.add('error 10', 100);
  const kept = errors.list();
  t.is(kept.length, 16);
  t.is(kept[0]?.message, 'error 4');
  t.deepEqual(kept.at(-1), {at: 100, message: 'error 10', count: 2});
});
