/** A source that goes away, comes back, or comes back as another one, under a volume in use. */
import {spawn} from 'node:child_process';
import {randomBytes} from 'node:crypto';
import {closeSync, openSync, readFileSync, readSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import type {ExecutionContext} from 'ava';
import type {VolumeStatus} from '../../src/control/status.js';
import type {AttachLab, Outcome} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';

const MIB = 1024 * 1024;

/** Waits, for seconds at most, until the status is as wanted. */
async function until(
  t: ExecutionContext,
  lab: AttachLab,
  isWanted: (status: VolumeStatus) => boolean,
): Promise<VolumeStatus> {
  for (let i = 0; i < 100; i++) {
    const status = await lab.status(t, 'vol0');
    if (isWanted(status)) return status;
    await sleep(50);
  }
  return t.fail('the status never became as wanted') as never;
}

/** Reads a MiB of the device in a process of its own, so that nobody here waits for it. */
function readPart(lab: AttachLab, device: string, mebibyte: number): Promise<Outcome> {
  const part = lab.path(`part${mebibyte}`);
  return lab.run('dd', [
    `if=${device}`,
    `of=${part}`,
    'bs=1M',
    'count=1',
    `skip=${mebibyte}`,
    'iflag=direct',
    'status=none',
  ]);
}

attachTest('reads wait for a source that died, all are released at its return', async (t, lab) => {
  const bytes = randomBytes(16 * MIB);
  writeFileSync(lab.path('source'), bytes);
  const socket = lab.path('s.sock');
  const {uri, server} = await lab.serveOn(socket, 'file', lab.path('source'));
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  await until(t, lab, ({witnesses}) => witnesses > 0);

  server.kill('SIGKILL');
  const reads = [2, 7, 11].map((mebibyte) => readPart(lab, device, mebibyte));
  const waiting = await until(t, lab, ({source}) => {
    return source.state !== 'connected' && source.waiters >= 3;
  });
  t.truthy(waiting.source.lastError);

  await lab.serveOn(socket, 'file', lab.path('source'));
  for (const {exitCode, stderr} of await Promise.all(reads)) t.is(exitCode, 0, stderr);
  for (const mebibyte of [2, 7, 11]) {
    const expected = bytes.subarray(mebibyte * MIB, (mebibyte + 1) * MIB);
    lab.same(t, readFileSync(lab.path(`part${mebibyte}`)), expected);
  }
  t.is((await lab.status(t, 'vol0')).source.state, 'connected');
});

attachTest('--on-source-loss error: reads fail in time, writes do not', async (t, lab) => {
  writeFileSync(lab.path('source'), randomBytes(16 * MIB));
  const {uri, server} = await lab.serveOn(lab.path('s.sock'), 'file', lab.path('source'));
  const device = await lab.ok(
    t,
    'attach',
    uri,
    'vol0',
    '--store',
    lab.path('store'),
    '--on-source-loss',
    'error',
    '--io-timeout',
    '500ms',
  );
  server.kill('SIGKILL');
  const {exitCode, stderr} = await readPart(lab, device, 5);
  t.is(exitCode, 1);
  t.regex(stderr, /Input\/output error/);
  const written = await lab.run('dd', [
    'if=/dev/urandom',
    `of=${device}`,
    'bs=1M',
    'count=1',
    'oflag=direct',
    'status=none',
  ]);
  t.is(written.exitCode, 0, written.stderr);
  await lab.ok(t, 'detach', 'vol0');
});

attachTest('I7: other content behind the same address is not used', async (t, lab) => {
  const bytes = randomBytes(8 * MIB);
  writeFileSync(lab.path('source'), bytes);
  writeFileSync(lab.path('wrong'), randomBytes(8 * MIB));
  const socket = lab.path('s.sock');
  const first = await lab.serveOn(socket, 'file', lab.path('source'));
  const device = await lab.ok(t, 'attach', first.uri, 'vol0', '--store', lab.path('store'));
  await until(t, lab, ({witnesses}) => witnesses > 0);
  first.server.kill('SIGKILL');
  const read = readPart(lab, device, 6);
  const wrong = await lab.serveOn(socket, 'file', lab.path('wrong'));
  const {source} = await until(t, lab, (status) => status.source.state === 'mismatch');
  t.regex(source.lastError ?? '', /is not the source this volume grows from: at byte \d+ it holds/);

  wrong.server.kill('SIGKILL');
  await lab.serveOn(socket, 'file', lab.path('source'));
  t.is((await read).exitCode, 0);
  lab.same(t, readFileSync(lab.path('part6')), bytes.subarray(6 * MIB, 7 * MIB));
});

attachTest('a resume without its source gives what is local, the rest waits', async (t, lab) => {
  const bytes = randomBytes(8 * MIB);
  writeFileSync(lab.path('source'), bytes);
  const socket = lab.path('s.sock');
  const {uri, server} = await lab.serveOn(socket, 'file', lab.path('source'));
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  t.is((await readPart(lab, device, 0)).exitCode, 0);
  await until(t, lab, ({witnesses}) => witnesses > 0);
  await lab.ok(t, 'detach', 'vol0');
  server.kill('SIGKILL');

  const {exitCode, stdout, stderr} = await lab.regrow('attach', 'vol0');
  t.is(exitCode, 0, stderr);
  t.regex(stderr, /the source is away \(.*\); what is not local yet waits for it/);
  const again = stdout.trim();
  const head = Buffer.alloc(MIB / 2);
  const disk = openSync(again, 'r');
  readSync(disk, head);
  closeSync(disk);
  lab.same(t, head, bytes.subarray(0, head.length));
  const read = readPart(lab, again, 6);
  await until(t, lab, ({source}) => source.waiters > 0);
  await lab.serveOn(socket, 'file', lab.path('source'));
  t.is((await read).exitCode, 0);
});

attachTest('detach --force breaks off what waits for a source that is away', async (t, lab) => {
  writeFileSync(lab.path('source'), randomBytes(8 * MIB));
  const {uri, server} = await lab.serveOn(lab.path('s.sock'), 'file', lab.path('source'));
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', lab.path('store'));
  server.kill('SIGKILL');
  const reader = spawn('dd', [`if=${device}`, 'of=/dev/null', 'bs=1M'], {stdio: 'ignore'});
  const ended = new Promise<number | null>((resolve) => reader.on('close', resolve));
  await until(t, lab, ({source}) => source.waiters > 0);
  const sentence = await lab.refused(t, 'detach', 'vol0');
  t.regex(sentence, /^cannot detach vol0: \/dev\/loop\d+ is in use; /);
  await lab.ok(t, 'detach', 'vol0', '--force');
  t.not(await ended, 0);
});
