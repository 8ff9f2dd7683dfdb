import test from 'ava';
import fc from 'fast-check';
import {UserError} from '../../../src/base/errors.js';
import {isNbdUri, parseNbdUri} from '../../../src/source/nbd-uri.js';

const NOTHING = {
  host: '',
  port: '',
  unixPath: '',
  exportName: '',
  tls: false,
  certificates: '',
  pskFile: '',
  username: '',
  verifyPeer: true,
};

test('every form of a URI says where, what and how', (t) => {
  const cases: Record<string, object> = {
    'nbd://server': {host: 'server', port: '10809'},
    'nbd://server/': {host: 'server', port: '10809'},
    'nbd://server:99/disk': {host: 'server', port: '99', exportName: 'disk'},
    'NBD://server//a/b': {host: 'server', port: '10809', exportName: '/a/b'},
    'nbd://10.1.2.3/a%20b%3F': {host: '10.1.2.3', port: '10809', exportName: 'a b?'},
    'nbd://[fe80::1]:10810/x': {host: 'fe80::1', port: '10810', exportName: 'x'},
    'nbd+unix:///disk?socket=/run/nbd.sock': {unixPath: '/run/nbd.sock', exportName: 'disk'},
    'nbd+unix://?socket=/a%20b': {unixPath: '/a b'},
    'nbds://server/d?tls-certificates=/etc/tls': {
      host: 'server',
      port: '10809',
      exportName: 'd',
      tls: true,
      certificates: '/etc/tls',
    },
    'nbds://alice@server/?tls-psk-file=/k': {
      host: 'server',
      port: '10809',
      tls: true,
      username: 'alice',
      pskFile: '/k',
    },
    'nbds+unix://alice@/d?socket=/s&tls-psk-file=/k': {
      unixPath: '/s',
      exportName: 'd',
      tls: true,
      username: 'alice',
      pskFile: '/k',
    },
    'nbds://server/?tls-verify-peer=false': {
      host: 'server',
      port: '10809',
      tls: true,
      verifyPeer: false,
    },
  };
  for (const [text, expected] of Object.entries(cases)) {
    t.deepEqual(parseNbdUri(text).target, {...NOTHING, ...expected}, text);
  }
});

test('the stored text means the same, whatever the names', (t) => {
  fc.assert(
    fc.property(
      fc.string({unit: 'grapheme', maxLength: 40}).filter((name) => !name.includes('\0')),
      fc.string({minLength: 1, maxLength: 20}).filter((name) => !name.includes('\0')),
      (name, folder) => {
        const socket = encodeURIComponent(`/run/${folder}`);
        const first = parseNbdUri(`nbds+unix:///${encodeURIComponent(name)}?socket=${socket}`);
        const second = parseNbdUri(first.text);
        t.deepEqual(second, first);
        t.is(first.target.exportName, name);
      },
    ),
  );
});

test('names for people hold neither user nor files of keys', (t) => {
  const {name} = parseNbdUri('nbds://alice@[::1]:99/disk?tls-psk-file=/secret/key');
  t.is(name, 'nbds://[::1]:99/disk');
});

test('a relative path becomes absolute', (t) => {
  t.is(parseNbdUri('nbd+unix:///?socket=s').target.unixPath, `${process.cwd()}/s`);
});

test('only the clear to another computer is exposed', (t) => {
  const exposed = ['nbd://server/', 'nbd://10.0.0.1/', 'nbd://[fe80::1]/'];
  const safe = [
    'nbd://localhost/',
    'nbd://127.0.0.1/',
    'nbd://[::1]/',
    'nbds://server/',
    'nbd+unix:///?socket=/s',
  ];
  for (const text of exposed) t.true(parseNbdUri(text).isExposed, text);
  for (const text of safe) t.false(parseNbdUri(text).isExposed, text);
});

test('each bad URI is refused with its reason', (t) => {
  const cases: Record<string, RegExp> = {
    'nbd:server': /of the form/,
    'nbd://': /names no host/,
    'nbd://host:70000/': /no port 70000/,
    'nbd://host:0/': /no port 0/,
    'nbd://::1/': /brackets/,
    'nbd://host/a%zz': /hexadecimal/,
    'nbd://host/a%00b': /zero byte/,
    'nbd://host/?x=1': /no parameter 'x'/,
    'nbd://host/?socket=/s': /belongs to nbd\+unix/,
    'nbd+unix:///disk': /names no socket/,
    'nbd+unix://host/?socket=/s': /no host/,
    'nbd+unix:///?socket=': /has no value/,
    'nbd+unix:///?socket=/a&socket=/b': /given twice/,
    'nbd+vsock://2/': /over vsock/,
    'nbd://host/?tls-certificates=/d': /use nbds/,
    'nbd://user@host/': /use nbds/,
    'nbds://user:secret@host/': /password/,
    'nbds://h/?tls-certificates=/d&tls-psk-file=/f': /not both/,
    'nbds://h/?tls-verify-peer=no': /true or false/,
    'nbd://host/#part': /of the form/,
    [`nbd://host/${'x'.repeat(5000)}`]: /too long/,
  };
  for (const [text, message] of Object.entries(cases)) {
    const error = t.throws(() => parseNbdUri(text), {instanceOf: UserError, message}, text);
    t.is(error.exitCode, 2);
    t.notRegex(error.message, /secret/);
  }
});

test('any text is parsed or refused, never more', (t) => {
  fc.assert(
    fc.property(fc.string(), (rest) => {
      try {
        parseNbdUri(`nbd${rest}`);
      } catch (error) {
        t.true(error instanceof UserError);
      }
    }),
    {numRuns: 500},
  );
  t.true(isNbdUri('nbds+unix://'));
  t.false(isNbdUri('/dev/nbd0'));
});
