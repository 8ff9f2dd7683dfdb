/** The control socket holds out against whoever connects. */
import {connect, type Socket} from 'node:net';
import {mkdtempSync, rmSync, statSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {setTimeout as sleep} from 'node:timers/promises';
import test, {type ExecutionContext} from 'ava';
import {UserError} from '../../../src/base/errors.js';
import {ControlClient} from '../../../src/control/client.js';
import {ControlServer, type Handlers} from '../../../src/control/control-server.js';

interface Served {
  path: string;
  server: ControlServer;
  /** Resolves when a `wait` handler has seen its client go. */
  aborted: Promise<void>;
}

async function serve(
  t: ExecutionContext,
  userId: number | undefined = process.getuid?.(),
): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'regrow-control-'));
  t.teardown(() => rmSync(folder, {recursive: true}));
  let noteAborted = (): void => {};
  const aborted = new Promise<void>((resolve) => {
    noteAborted = resolve;
  });
  const refuse = (): never => {
    throw new UserError('no, and why', {exitCode: 2});
  };
  const handlers: Handlers = {
    ping: () => ({name: 'vol0', pid: 1}),
    status: () => ({text: 'x'.repeat(512 * 1024)}),
    attach: refuse,
    'write-through': refuse,
    hydrate: refuse,
    verify: () => {
      throw new Error('a bug');
    },
    'replace-store': refuse,
    restart: refuse,
    detach: refuse,
    wait: async (_, {progress, signal}) => {
      progress({blocks: 1});
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => resolve()));
      noteAborted();
      return {};
    },
  };
  const server = new ControlServer({handlers, log: () => {}, peerUserId: () => userId});
  const path = join(folder, 'vol0.sock');
  await server.listen(path);
  t.teardown(() => server.close());
  return {path, server, aborted};
}

async function open(path: string): Promise<Socket> {
  const socket = connect(path);
  await new Promise((resolve) => socket.once('connect', resolve));
  socket.on('error', () => {});
  return socket;
}

async function readToEnd(socket: Socket): Promise<string> {
  let text = '';
  socket.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  await new Promise((resolve) => socket.once('close', resolve));
  return text;
}

async function client(t: ExecutionContext, path: string): Promise<ControlClient> {
  const connected = await ControlClient.connect(path);
  if (connected === undefined) throw new Error('nobody listens');
  t.teardown(() => connected.close());
  return connected;
}

test('the socket belongs to its owner alone', async (t) => {
  const {path} = await serve(t);
  t.is(statSync(path).mode & 0o777, 0o600);
});

test('a request gets its result, a refusal its sentence and exit code', async (t) => {
  const {path} = await serve(t);
  const connected = await client(t, path);
  t.deepEqual(await connected.call('ping'), {name: 'vol0', pid: 1});
  const error = await t.throwsAsync(connected.call('detach', {}), {instanceOf: UserError});
  t.is(error?.message, 'no, and why');
  t.is(error?.exitCode, 2);
});

test('an unexpected error is an answer too, and the server goes on', async (t) => {
  const {path} = await serve(t);
  const connected = await client(t, path);
  await t.throwsAsync(connected.call('verify'), {message: 'a bug'});
  t.is((await connected.call('ping')).pid, 1);
});

test('another user is turned away', async (t) => {
  const {path} = await serve(t, 4711);
  const socket = await open(path);
  socket.write('{"id":1,"method":"ping"}\n');
  t.is(await readToEnd(socket), '');
});

test('a peer that cannot be told is turned away', async (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'regrow-control-'));
  t.teardown(() => rmSync(folder, {recursive: true}));
  const nothing = {
    ping: () => ({}),
    status: () => ({}),
    attach: () => ({}),
    hydrate: () => ({}),
    'write-through': () => ({}),
  };
  const server = new ControlServer({
    handlers: {
      ...nothing,
      wait: () => ({}),
      verify: () => ({}),
      'replace-store': () => ({}),
      restart: () => ({}),
      detach: () => ({}),
    },
    log: () => {},
    peerUserId: () => undefined,
  });
  await server.listen(join(folder, 's'));
  t.teardown(() => server.close());
  t.is(await readToEnd(await open(join(folder, 's'))), '');
});

test('garbage is answered with an error and the end', async (t) => {
  const {path} = await serve(t);
  for (const garbage of ['GET / HTTP/1.0\r\n\r\n', '\u0000\u0001\n', '{"id":1}\n', '[[[[\n']) {
    const socket = await open(path);
    socket.write(garbage);
    const answer = JSON.parse(await readToEnd(socket)) as {id: unknown; error: {message: string}};
    t.is(answer.id, null);
    t.is(typeof answer.error.message, 'string');
  }
  t.is((await (await client(t, path)).call('ping')).pid, 1);
});

test('a line above the limit ends the connection', async (t) => {
  const {path} = await serve(t);
  const socket = await open(path);
  socket.write(Buffer.alloc(2 * 1024 * 1024, 'x'));
  t.regex(await readToEnd(socket), /longer than/);
});

test('a client that goes in mid-line or while it waits leaves nothing behind', async (t) => {
  const {path, aborted} = await serve(t);
  (await open(path)).end('{"id":1,"meth');
  const socket = await open(path);
  socket.write('{"id":1,"method":"wait","params":{"until":"hydrated"}}\n');
  await new Promise((resolve) => socket.once('data', resolve));
  socket.destroy();
  await aborted;
  t.is((await (await client(t, path)).call('ping')).pid, 1);
});

test('requests beyond the bound of a connection are refused, the others go on', async (t) => {
  const {path} = await serve(t);
  const socket = await open(path);
  for (let id = 1; id <= 17; id++) {
    socket.write(`{"id":${id},"method":"wait","params":{"until":"hydrated"}}\n`);
  }
  let text = '';
  socket.setEncoding('utf8').on('data', (part: string) => {
    text += part;
  });
  while (!text.includes('"error"')) await sleep(5);
  t.regex(text, /"id":17,"error"/);
  socket.destroy();
});

test('a client that never reads loses its connection, not the server', async (t) => {
  const {path} = await serve(t);
  const socket = await open(path);
  socket.pause();
  const closed = new Promise((resolve) => socket.once('close', resolve));
  for (let id = 1; id <= 40; id++) {
    socket.write(`{"id":${id},"method":"status"}\n`);
    await sleep(1);
  }
  socket.resume();
  await closed;
  t.is((await (await client(t, path)).call('ping')).pid, 1);
});

test('closing the server ends its connections', async (t) => {
  const {path, server} = await serve(t);
  const connected = await client(t, path);
  const waiting = connected.call('wait', {until: 'hydrated'});
  await Promise.all([t.throwsAsync(waiting), server.close()]);
  t.is(await ControlClient.connect(path), undefined);
});
