import {Buffer} from 'node:buffer';
import {createHash} from 'node:crypto';
import {mkdir, readFile, stat, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import test from 'ava';
import {UserError} from '../../../src/base/errors.js';
import {FileSource} from '../../../src/source/file-source.js';
import {openSource} from '../../../src/source/open-source.js';
import {freePort} from '../../support/nbd-server.js';
import {realEnvironment, type LogLine} from '../../support/real-environment.js';
import {temporaryDirectory} from '../../support/temporary.js';

const environment = realEnvironment();

test('a path is opened as a file, rounded up to whole sectors', async (t) => {
  const path = join(await temporaryDirectory(t), 'image');
  await writeFile(path, Buffer.alloc(1000, 7));
  const opened = await openSource(path, {environment});
  t.is(opened.source.size, 1024);
  t.is(opened.exactSize, 1000);
  t.is(opened.text, path);
  t.is(opened.health().state, 'connected');
  const buffer = Buffer.alloc(1024, 0xee);
  await opened.source.read(0, buffer);
  t.is(buffer[999], 7);
  t.is(buffer[1000], 0);
  await opened.source.close();
});

test('each text that cannot be a source is refused in one sentence that names it', async (t) => {
  const folder = await temporaryDirectory(t);
  const file = async (name: string, content: string | Buffer): Promise<string> => {
    await writeFile(join(folder, name), content);
    return join(folder, name);
  };
  await mkdir(join(folder, 'folder'));
  const cases: [string, RegExp][] = [
    ['', /is empty/],
    ['a\0b', /zero byte/],
    ['http://server/disk.img', /does not know http:\/\//],
    [join(folder, 'none'), /does not exist; check the path/],
    [join(folder, 'folder'), /neither a regular file nor a block device/],
    ['/dev/null', /neither a regular file nor a block device/],
    [await file('empty', ''), /it is empty/],
    [await file('disk.gz', Buffer.from([0x1f, 0x8b, 8, 0, 0, 0, 0, 0])), /compressed by gzip/],
    ['nbd://', /names no host/],
  ];
  for (const [text, message] of cases) {
    const error = await t.throwsAsync(
      openSource(text, {environment}),
      {instanceOf: UserError, message},
      text,
    );
    t.false(error.message.includes('\n'));
  }
});

test('a qcow2 image is recognised', async (t) => {
  const path = join(await temporaryDirectory(t), 'disk.qcow2');
  await writeFile(path, Buffer.from([0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3, 0, 0]));
  await t.throwsAsync(openSource(path, {environment}), {
    message: /qcow2 image, not a raw one; serve it/,
  });
});

test('a server that is not there is a sentence, and on resume something to wait for', async (t) => {
  const uri = `nbd://127.0.0.1:${await freePort()}/disk`;
  await t.throwsAsync(openSource(uri, {environment}), {
    instanceOf: UserError,
    message: /connecting to nbd:\/\/127.0.0.1:\d+\/disk: nothing listens there/,
  });
  const {source, health} = await openSource(uri, {environment, resumeSize: 5000});
  t.is(source.size, 5120);
  t.not(health().state, 'connected');
  const reading = source.read(0, Buffer.alloc(10));
  await source.close();
  await t.throwsAsync(reading, {code: 'ESHUTDOWN'});
});

test('a file of another size is not resumed from', async (t) => {
  const path = join(await temporaryDirectory(t), 'image');
  await writeFile(path, Buffer.alloc(1000, 7));
  await t.throwsAsync(openSource(path, {environment, resumeSize: 2000}), {
    message: /2000 bytes and is 1000/,
  });
});

test('reading in the clear over the network is warned of, loopback is not', async (t) => {
  const lines: LogLine[] = [];
  const loud = realEnvironment(lines);
  const open = (uri: string): Promise<unknown> =>
    openSource(uri, {environment: loud, timeouts: {connect: 100}}).catch(() => undefined);
  await open(`nbd://127.0.0.1:${await freePort()}/`);
  t.deepEqual(lines, []);
  await open('nbd://192.0.2.1/');
  t.is(lines[0]?.level, 'warning');
  t.regex(lines[0]?.message ?? '', /in the clear/);
});

test('a file source is never written, and cannot be (I10)', async (t) => {
  const path = join(await temporaryDirectory(t), 'image');
  await writeFile(path, Buffer.alloc(100_000, 7));
  const sum = async (): Promise<string> =>
    createHash('sha256')
      .update(await readFile(path))
      .digest('hex');
  const before = {sum: await sum(), changed: (await stat(path)).mtimeMs};
  const source = await FileSource.open(path);
  await source.read(0, Buffer.alloc(100_000));
  await source.extents(0, 100_000);
  const flags = await readFile('/proc/self/fdinfo/' + (await descriptorOf(path)), 'utf8');
  t.regex(flags, /flags:\s+0?\d*0\n/, 'opened with O_RDONLY');
  await source.close();
  t.deepEqual({sum: await sum(), changed: (await stat(path)).mtimeMs}, before);
});

/** The number under which this process has a file open. */
async function descriptorOf(path: string): Promise<string> {
  const {readdir, readlink} = await import('node:fs/promises');
  for (const number of await readdir('/proc/self/fd')) {
    if ((await readlink(`/proc/self/fd/${number}`).catch(() => '')) === path) return number;
  }
  throw new Error(`${path} is not open`);
}
