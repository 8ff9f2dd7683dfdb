/** What tests of and through the proxy need: one that ends with its test, a client, programs. */
import {execFile} from 'node:child_process';
import {promisify} from 'node:util';
import type {ExecutionContext} from 'ava';
import {NbdConnection, type NbdTimeouts} from '../../../src/native/nbd.js';
import {parseNbdUri} from '../../../src/source/nbd-uri.js';
import {NbdProxy, type NbdProxyOptions} from '../nbd-proxy.js';

/** A proxy that closes with the test. @default seed 1 */
export async function startProxy(
  t: ExecutionContext,
  options: Omit<NbdProxyOptions, 'seed'> & {seed?: number},
): Promise<NbdProxy> {
  const proxy = await NbdProxy.start({seed: 1, ...options});
  t.teardown(() => proxy.close());
  return proxy;
}

/** The addon's own client, closed with the test. */
export async function connect(
  t: ExecutionContext,
  uri: string,
  timeouts: NbdTimeouts = {},
): Promise<NbdConnection> {
  const client = await NbdConnection.connect('the proxy', parseNbdUri(uri).target, timeouts);
  t.teardown(() => client.close());
  return client;
}

/** Runs a program that must succeed; what it wrote. Rejects with its standard error. */
export async function run(program: string, ...args: readonly string[]): Promise<string> {
  const {stdout, stderr} = await promisify(execFile)(program, args, {timeout: 60_000});
  return stdout + stderr;
}

/** Polls until something holds; the test's own time-out ends a vain wait. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 2));
}
