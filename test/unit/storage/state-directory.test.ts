import {mkdir, readdir, stat, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import test from 'ava';
import {UserError} from '../../../src/base/errors.js';
import {StateDirectory} from '../../../src/storage/state-directory.js';
import {temporaryDirectory} from '../../support/temporary.js';

test('what was written is read back, whole and replaced as a whole', async (t) => {
  const path = join(await temporaryDirectory(t), 'a', 'b');
  const state = await StateDirectory.open(path);
  await state.writeJson('volume.json', {size: 1});
  await state.writeJson('volume.json', {size: 2});
  t.deepEqual(await state.readJson('volume.json'), {size: 2});
  t.deepEqual(await state.list(), ['volume.json']);
  t.is((await stat(path)).mode & 0o777, 0o700);
  t.is((await stat(join(path, 'volume.json'))).mode & 0o777, 0o600);
  await state.close();
});

test('a file that is not there is undefined, one that is damaged an error', async (t) => {
  const path = await temporaryDirectory(t);
  const state = await StateDirectory.open(path);
  t.is(await state.readJson('volume.json'), undefined);
  await writeFile(join(path, 'volume.json'), '{"size":');
  await t.throwsAsync(state.readJson('volume.json'), {code: 'EIO', message: /damaged/});
  await state.remove('volume.json');
  await state.remove('volume.json');
  t.is(await state.readJson('volume.json'), undefined);
  await state.close();
});

test('only one process owns a state directory; readers need not own it', async (t) => {
  const path = await temporaryDirectory(t);
  const owner = await StateDirectory.open(path);
  await t.throwsAsync(StateDirectory.open(path), {instanceOf: UserError, message: /owns it/});
  const reader = await StateDirectory.open(path, {isExclusive: false});
  await owner.writeJson('a', 1);
  t.is(await reader.readJson('a'), 1);
  await reader.close();
  await owner.close();
  const next = await StateDirectory.open(path);
  await next.close();
});

test('concurrent replacements of one file leave the last of them', async (t) => {
  const state = await StateDirectory.open(await temporaryDirectory(t));
  await Promise.all(Array.from({length: 20}, (_, index) => state.writeJson('a', index)));
  t.is(await state.readJson('a'), 19);
  await state.close();
});

test('what a crash left half done is removed at open', async (t) => {
  const path = await temporaryDirectory(t);
  await writeFile(join(path, 'a.tmp'), '{');
  const state = await StateDirectory.open(path);
  t.deepEqual(await state.list(), []);
  t.deepEqual(await readdir(path), ['lock']);
  await state.close();
});

test('without create a missing directory is an error that names it', async (t) => {
  const path = join(await temporaryDirectory(t), 'none');
  await t.throwsAsync(StateDirectory.open(path, {create: false}), {
    code: 'ENOENT',
    message: /none/,
  });
  await mkdir(path);
  const state = await StateDirectory.open(path, {create: false});
  t.throws(() => state.pathOf('../a'));
  t.throws(() => state.pathOf('lock'));
  await state.close();
});
