/**
 * Every way in which an NBD server cannot be used is told apart from the others, in one sentence.
 */
import {createServer, type AddressInfo, type Socket} from 'node:net';
import {join} from 'node:path';
import type {ExecutionContext} from 'ava';
import test from 'ava';
import {BlockError} from '../../src/base/errors.js';
import {NbdConnection, type NbdFacts} from '../../src/native/nbd.js';
import {parseNbdUri} from '../../src/source/nbd-uri.js';
import {freePort, startNbdkit, startQemuNbd} from '../support/nbd-server.js';
import {testRequiring} from '../support/requires.js';
import {temporaryDirectory} from '../support/temporary.js';
import {makeCertificates, makeKeyFile} from '../support/tls-material.js';
import {makeImage} from './source.contract.js';

async function facts(uri: string, connect = 10_000): Promise<NbdFacts> {
  const {name, target} = parseNbdUri(uri);
  const connection = await NbdConnection.connect(name, target, {connect});
  const {facts: result} = connection;
  await connection.close();
  return result;
}

async function refusal(t: ExecutionContext, uri: string, connect?: number): Promise<BlockError> {
  return await t.throwsAsync(facts(uri, connect), {instanceOf: BlockError});
}

/** A TCP server that is none of NBD. */
async function listener(t: ExecutionContext, answer: (socket: Socket) => void): Promise<string> {
  const server = createServer((socket) => {
    socket.on('error', () => undefined);
    answer(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return `nbd://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}

test('a port where nothing listens', async (t) => {
  const error = await refusal(t, `nbd://127.0.0.1:${await freePort()}/`);
  t.is(error.code, 'ECONNREFUSED');
  t.regex(error.message, /nothing listens there/);
});

test('a host that does not exist', async (t) => {
  const error = await refusal(t, 'nbd://no-such-host.invalid/');
  t.regex(error.message, /host no-such-host.invalid is not found/);
});

test('an address that swallows everything', async (t) => {
  const error = await refusal(t, 'nbd://192.0.2.1/', 200);
  // A machine without a network, or behind a proxy that refuses, says so at once.
  const codes = ['ETIMEDOUT', 'ENETUNREACH', 'EHOSTUNREACH', 'ECONNREFUSED'];
  t.true(codes.includes(error.code), error.message);
});

test('a socket that is not there', async (t) => {
  const path = join(await temporaryDirectory(t), 'none');
  const error = await refusal(t, `nbd+unix:///?socket=${path}`);
  t.is(error.code, 'ENOENT');
  t.regex(error.message, /no such socket/);
});

test('a server that speaks something else', async (t) => {
  const uri = await listener(t, (socket) => void socket.end('HTTP/1.1 400 Bad Request\r\n\r\n'));
  const error = await refusal(t, uri);
  t.regex(error.message, /not an NBD server/);
});

test('a server that accepts and says nothing', async (t) => {
  const error = await refusal(t, await listener(t, () => undefined), 200);
  t.is(error.code, 'ETIMEDOUT');
  t.regex(error.message, /did not answer in time/);
});

test('a server that hangs up', async (t) => {
  const error = await refusal(t, await listener(t, (socket) => void socket.destroy()));
  t.is(error.code, 'ECONNRESET');
  t.regex(error.message, /hung up during the handshake/);
});

test('giving up while connecting', async (t) => {
  const {name, target} = parseNbdUri(await listener(t, () => undefined));
  const signal = AbortSignal.timeout(50);
  await t.throwsAsync(NbdConnection.connect(name, target, {}, signal), {code: 'ECANCELED'});
});

testRequiring(['qemu-nbd'], 'an export that the server does not have', async (t) => {
  const {path} = await makeImage(t);
  const server = await startQemuNbd(t, ['--read-only', '--shared=0', '--export-name=disk', path]);
  const error = await refusal(t, server.uri.replace('///', '///other'));
  t.is(error.code, 'ENOENT');
  t.regex(error.message, /no export named 'other'/);
  t.is((await facts(server.uri.replace('///', '///disk'))).size, 6 * 1024 * 1024);
});

testRequiring(
  ['nbdkit', 'certtool'],
  'TLS by certificates, right and wrong in each way',
  async (t) => {
    const [ours, foreign] = [await makeCertificates(t), await makeCertificates(t)];
    const tls = ['--tls=require', `--tls-certificates=${ours}`];
    const server = await startNbdkit(t, [...tls, 'memory', '1M'], {useTcp: true});
    const uri = (host: string, rest: string): string => `nbds://${host}:${server.port}/${rest}`;

    const good = await facts(uri('localhost', `?tls-certificates=${ours}`));
    t.true(good.isEncrypted);

    const clear = await refusal(t, server.uri);
    t.regex(clear.message, /requires TLS; use nbds/);
    const untrusted = await refusal(t, uri('localhost', `?tls-certificates=${foreign}`));
    t.is(untrusted.code, 'EACCES');
    t.regex(untrusted.message, /certificate is not trusted/);
    const empty = await temporaryDirectory(t);
    const unchecked = await refusal(t, uri('localhost', `?tls-certificates=${empty}`));
    t.regex(unchecked.message, /ca-cert.pem.*cannot be read/);
    const nothing = await refusal(t, uri('localhost', ''));
    t.regex(nothing.message, /give tls-certificates=DIR/);
    t.true((await facts(uri('localhost', '?tls-verify-peer=false'))).isEncrypted);
  },
);

testRequiring(
  ['nbdkit', 'certtool'],
  'a certificate for another host is not trusted',
  async (t) => {
    const folder = await makeCertificates(t);
    const tls = ['--tls=require', `--tls-certificates=${folder}`];
    const server = await startNbdkit(t, [...tls, 'memory', '1M'], {
      useTcp: true,
      address: '0.0.0.0',
    });
    const error = await refusal(t, `nbds://127.0.0.2:${server.port}/?tls-certificates=${folder}`);
    t.regex(error.message, /not trusted: it is not for 127.0.0.2/);
  },
);

testRequiring(
  ['nbdkit', 'certtool'],
  'a server without TLS is not spoken to when TLS is asked for',
  async (t) => {
    const folder = await makeCertificates(t);
    const server = await startNbdkit(t, ['memory', '1M'], {useTcp: true});
    const error = await refusal(t, `nbds://127.0.0.1:${server.port}/?tls-certificates=${folder}`);
    t.regex(error.message, /offers no TLS/);
  },
);

testRequiring(['nbdkit', 'psktool'], 'TLS by a pre-shared key, right and wrong', async (t) => {
  const [ours, foreign] = [await makeKeyFile(t, 'alice'), await makeKeyFile(t, 'alice')];
  const tls = ['--tls=require', `--tls-psk=${ours}`];
  const server = await startNbdkit(t, [...tls, 'memory', '1M'], {useTcp: true});
  const uri = (user: string, file: string): string =>
    `nbds://${user}@127.0.0.1:${server.port}/?tls-psk-file=${file}`;

  t.true((await facts(uri('alice', ours))).isEncrypted);
  const wrongKey = await refusal(t, uri('alice', foreign));
  t.regex(wrongKey.message, /does not take the key of alice/);
  const wrongUser = await refusal(t, uri('bob', ours));
  t.regex(wrongUser.message, /has no key for bob/);
  const noFile = await refusal(t, uri('alice', '/none'));
  t.regex(noFile.message, /\/none: No such file/);
});
