/** Command lines and what they mean. */
import test from 'ava';
import {UserError} from '../../../src/base/errors.js';
import {parseArguments} from '../../../src/cli/program.js';
import type {Call} from '../../../src/cli/call.js';

const parse = (line: string): Call | undefined => parseArguments('1.2.3', line.split(' '));

test('attach takes what was written and nothing else', (t) => {
  t.deepEqual(parse('attach nbd://backup/vol0 vol0 --store /dev/sdb'), {
    command: 'attach',
    name: 'vol0',
    source: 'nbd://backup/vol0',
    store: '/dev/sdb',
    given: {},
    overwriteStore: false,
    json: false,
  });
});

test('attach with a name alone resumes', (t) => {
  t.deepEqual(parse('attach vol0 --rate none'), {
    command: 'attach',
    name: 'vol0',
    source: undefined,
    store: undefined,
    given: {rate: null},
    overwriteStore: false,
    json: false,
  });
});

test('every option of attach', (t) => {
  const call = parse(
    'attach /img vol0 --store /s --transport fuse --block-size 128K --write-through off ' +
      '--hydrate full --rate 50M --on-source-loss error --io-timeout 5m --mount /srv ' +
      '--read-only --overwrite-store --sector-size 4096 --json',
  );
  t.deepEqual(call, {
    command: 'attach',
    name: 'vol0',
    source: '/img',
    store: '/s',
    overwriteStore: true,
    json: true,
    given: {
      transport: 'fuse',
      blockSize: 131_072,
      writeThrough: 'off',
      hydrate: 'full',
      rate: 52_428_800,
      onSourceLoss: 'error',
      ioTimeoutMs: 300_000,
      mount: '/srv',
      readOnly: true,
      sectorSize: 4096,
    },
  });
});

test('the other commands', (t) => {
  t.deepEqual(parse('list --json'), {command: 'list', json: true});
  t.deepEqual(parse('status vol0 --watch'), {
    command: 'status',
    name: 'vol0',
    json: false,
    watch: true,
  });
  t.deepEqual(parse('status'), {command: 'status', name: undefined, json: false, watch: false});
  t.deepEqual(parse('hydrate vol0 background'), {
    command: 'hydrate',
    name: 'vol0',
    mode: 'background',
    rate: undefined,
  });
  t.deepEqual(parse('hydrate vol0 full --rate 1M/s'), {
    command: 'hydrate',
    name: 'vol0',
    mode: 'full',
    rate: 1_048_576,
  });
  t.deepEqual(parse('wait vol0 --hydrated'), {
    command: 'wait',
    name: 'vol0',
    until: 'hydrated',
  });
  t.deepEqual(parse('verify vol0'), {command: 'verify', name: 'vol0', json: false});
  t.deepEqual(parse('detach vol0 --force'), {
    command: 'detach',
    name: 'vol0',
    force: true,
    json: false,
  });
  t.deepEqual(parse('forget vol0'), {command: 'forget', name: 'vol0', force: false});
  t.deepEqual(parse('doctor'), {command: 'doctor', json: false});
});

const WRONG: Record<string, RegExp> = {
  'attach a b --store /s --write-through maybe':
    /^--write-through "maybe" makes no sense: .* strict$/,
  'attach a b --store /s --block-size huge': /^--block-size "huge" makes no sense: it takes a size/,
  'attach a b --store /s --sector-size 1024': /one of 512, 4096$/,
  'attach a b --store /s --rate fast': /^--rate "fast" makes no sense/,
  'attach a b --store /s --io-timeout soon': /^--io-timeout "soon" makes no sense/,
  'attach a b --store /s --io-timeout 0': /a time such as 60s/,
  'attach a b --store /s --transport ublk': /one of auto, fuse$/,
  'attach a b --store /s --hydrate lots': /one of off, background, full$/,
  'attach a b --shop /s': /^unknown option '--shop'.*--help/,
  attach: /^missing required argument 'source'/,
  'hydrate vol0': /^missing required argument 'mode'/,
  'hydrate vol0 lots': /one of off, background, full$/,
  'wait vol0 --in-sync --hydrated': /one at a time/,
  'detach a b': /^too many arguments for 'detach'/,
  atach: /^unknown command 'atach'.*attach/,
};
for (const [line, message] of Object.entries(WRONG)) {
  test(`regrow ${line}: refused in a sentence, exit code 2`, (t) => {
    const error = t.throws(() => parse(line), {instanceOf: UserError, message});
    t.is((error as UserError).exitCode, 2);
    t.false(error?.message.includes('\n'));
  });
}
