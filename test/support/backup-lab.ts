/**
 * Volumes that write through: an image as source and backup, the servers and the proxy it is
 * behind, a load, and the judgement. A proxy lives in the test's own process, so whatever may wait
 * for it runs as a child that is awaited, never by a call that blocks.
 */
import {type ChildProcess, spawn} from 'node:child_process';
import {truncateSync, writeFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import type {ExecutionContext} from 'ava';
import type {VolumeStatus} from '../../src/control/status.js';
import {MIB, type AttachLab, type Outcome} from './attach-lab.js';
import {NbdProxy, type Backend, type NbdProxyOptions} from './nbd-proxy.js';
import {startNbdServer} from './nbd-server.js';

const BLOCK = 65_536;

/** Random bytes in every other MiB. */
export function makeImage(lab: AttachLab, name = 'image', mebibytes = 64): string {
  const path = lab.path(name);
  writeFileSync(path, '');
  truncateSync(path, mebibytes * MIB);
  lab.tool(
    'sh',
    '-c',
    `for i in $(seq 0 2 ${mebibytes - 1}); do dd if=/dev/urandom of=${path} bs=1M count=1 seek=$i ` +
      'conv=notrunc status=none; done',
  );
  return path;
}

type Serve = (lab: AttachLab, image: string, t: ExecutionContext) => Promise<string>;

/** Real servers that take writes and flushes; each gives its URI. */
export const SERVERS: Readonly<Record<string, Serve>> = {
  nbdkit: (lab, image) => lab.serveWritable('file', image),
  'qemu-nbd': async (lab, image) => {
    const socket = lab.path('qemu-nbd.sock');
    const flags = ['--persistent', '--shared', '8', '--format', 'raw'];
    lab.background('qemu-nbd', '--socket', socket, ...flags, image);
    return answering(lab, `nbd+unix:///?socket=${socket}`);
  },
  'nbd-server': async (_lab, image, t) => (await startNbdServer(t, [image], {hasFlush: true})).uri,
};

async function answering(lab: AttachLab, uri: string): Promise<string> {
  for (let tries = 0; tries < 100; tries++) {
    if ((await lab.run('nbdinfo', ['--size', uri])).exitCode === 0) return uri;
    await sleep(50);
  }
  throw new Error(`nothing answers at ${uri}`);
}

/** A proxy that ends with the test, and its backend with it. */
export async function startProxy(
  t: ExecutionContext,
  backend: Backend,
  options: Partial<NbdProxyOptions> = {},
): Promise<NbdProxy> {
  const proxy = await NbdProxy.start({backend, seed: 7, canMultiConn: true, ...options});
  t.teardown(async () => {
    await proxy.close();
    await backend.close();
  });
  return proxy;
}

/** fio's own verification beside ours: it reads back what it wrote. */
export function fioArguments(device: string, seconds: number, ...more: string[]): string[] {
  return [
    '--name=writer',
    `--filename=${device}`,
    '--ioengine=libaio',
    '--direct=1',
    '--iodepth=8',
    '--rw=randrw',
    '--bsrange=512-128k',
    '--fsync=40',
    '--verify=crc32c',
    '--verify_backlog=64',
    '--verify_fatal=1',
    '--verify_state_save=0',
    '--time_based',
    `--runtime=${seconds}`,
    ...more,
  ];
}

export function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.on('close', resolve));
}

/** fio in the background, ended with the test; its exit code. */
export function startFio(
  t: ExecutionContext,
  lab: AttachLab,
  ...args: Parameters<typeof fioArguments>
): Promise<number | null> {
  const fio = spawn('fio', fioArguments(...args), {stdio: 'ignore', cwd: lab.folder});
  t.teardown(() => fio.kill('SIGKILL'));
  return exitOf(fio);
}

/** Attaches `vol0` with write-through `mode`; its device. */
export function attachThrough(
  t: ExecutionContext,
  lab: AttachLab,
  uri: string,
  mode: 'sync' | 'strict' = 'sync',
): Promise<string> {
  const store = lab.path('store');
  return lab.ok(t, 'attach', uri, 'vol0', '--store', store, '--write-through', mode);
}

/** Writes past the page cache and flushes, in a process of its own, which may fail. */
export function put(
  lab: AttachLab,
  device: string,
  block: number,
  bytes: Uint8Array,
  conversions: 'notrunc,fsync' | 'notrunc' = 'notrunc,fsync',
): Promise<Outcome> {
  const piece = lab.path(`piece${block}`);
  writeFileSync(piece, bytes);
  const place = [`of=${device}`, 'bs=64k', `seek=${block}`, `conv=${conversions}`, 'oflag=direct'];
  return lab.run('dd', [`if=${piece}`, ...place, 'status=none']);
}

/** Such a write that must succeed. */
export async function putOk(t: ExecutionContext, ...args: Parameters<typeof put>): Promise<void> {
  const {exitCode, stderr} = await put(...args);
  t.is(exitCode, 0, stderr);
}

/** Waits, for seconds, until the status of `vol0` is as wanted. */
export async function until(
  t: ExecutionContext,
  lab: AttachLab,
  isWanted: (status: VolumeStatus) => boolean,
): Promise<VolumeStatus> {
  let status = await lab.status(t, 'vol0');
  for (const end = performance.now() + 30_000; !isWanted(status) && performance.now() < end;) {
    await sleep(100);
    status = await lab.status(t, 'vol0');
  }
  t.true(isWanted(status), JSON.stringify(status.protection));
  return status;
}

/** Some of its blocks are known: what stands behind an address can be told from another. */
export async function untilWitnessed(t: ExecutionContext, lab: AttachLab): Promise<void> {
  await until(t, lab, ({witnesses}) => witnesses > 0);
}

/** In sync, hydrated, detached: store and backup are one. */
export async function assertEqual(
  t: ExecutionContext,
  lab: AttachLab,
  image: string,
  store: string,
): Promise<void> {
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  const {protection} = await lab.status(t, 'vol0');
  t.is(protection.state, 'protected');
  t.is(protection.behindBlocks, 0);
  await lab.ok(t, 'hydrate', 'vol0', 'full');
  await lab.ok(t, 'wait', 'vol0', '--hydrated');
  await lab.ok(t, 'detach', 'vol0');
  const {exitCode, stdout} = await lab.run('cmp', [image, store]);
  t.is(exitCode, 0, stdout);
}

/** `count` blocks of bytes that `stamp` tells apart. */
export function blocks(stamp: number, count = 1): Buffer {
  return Buffer.alloc(count * BLOCK, stamp);
}
