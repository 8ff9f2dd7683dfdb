/** The log stays below its bound and never throws. */
import {mkdtempSync, readFileSync, rmSync, statSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import test, {type ExecutionContext} from 'ava';
import {LogFile, EarlyLog} from '../../../src/storage/log-file.js';

function logFile(t: ExecutionContext): string {
  const folder = mkdtempSync(join(tmpdir(), 'regrow-log-'));
  t.teardown(() => rmSync(folder, {recursive: true}));
  return join(folder, 'daemon.log');
}

test('lines have time, level, message and fields', async (t) => {
  const path = logFile(t);
  const log = new LogFile(path);
  log.add(0, 'info', 'two\nlines', {count: 1});
  await log.close();
  t.is(readFileSync(path, 'utf8'), '1970-01-01T00:00:00.000Z info two lines {"count":1}\n');
  t.is(statSync(path).mode & 0o777, 0o600);
});

test('what was logged before there was a file comes first', async (t) => {
  const path = logFile(t);
  const early = new EarlyLog(() => 0);
  early.log('info', 'first');
  early.continueIn(new LogFile(path));
  early.log('info', 'second');
  await early.close();
  t.regex(readFileSync(path, 'utf8'), /first\n.*second\n$/);
});

test('a flood drops lines and says how many, the file stays below its bound', async (t) => {
  const path = logFile(t);
  const log = new LogFile(path);
  for (let round = 0; round < 20; round++) {
    for (let i = 0; i < 1500; i++) log.add(0, 'error', 'x'.repeat(100));
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await log.close();
  const text = readFileSync(path, 'utf8');
  t.true(text.length <= 1024 * 1024 + 200_000, String(text.length));
  t.regex(text, /\(500 lines dropped\)/);
  t.true(text.split('\n').every((line) => /^(1970|\(|$)/.test(line)));
});

test('lines that come after the end are no error', async (t) => {
  const log = new LogFile(logFile(t));
  await log.close();
  log.add(0, 'info', 'late');
  await log.close();
  t.pass();
});
