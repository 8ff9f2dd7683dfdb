/**
 * What the kernel tests share: run a program without blocking this thread (which serves the device
 * the program waits for), and a device that counts what arrives.
 */
import {execFile} from 'node:child_process';
import {readFile} from 'node:fs/promises';
import {promisify} from 'node:util';

import type {ExecutionContext} from 'ava';

import {attachDevice} from '../../src/device/attach-device.js';
import type {AttachedDevice, AttachOptions, BlockHandlers} from '../../src/device/attach-device.js';
import type {BlockDevice} from '../../src/device/block-device.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';

const execute = promisify(execFile);

/** Standard output of a program; rejects with its standard error where it fails. */
export async function run(program: string, ...args: string[]): Promise<string> {
  const {stdout} = await execute(program, args, {maxBuffer: 64 * 2 ** 20});
  return stdout;
}

/** Standard output of a shell script. */
export function shell(script: string): Promise<string> {
  return run('sh', '-ec', script);
}

/** Standard error of a program that must fail; undefined where it did not. */
export async function failure(program: string, ...args: string[]): Promise<string | undefined> {
  try {
    await execute(program, args);
    return undefined;
  } catch (error) {
    return error instanceof Error && 'stderr' in error ? String(error.stderr) : String(error);
  }
}

/** A memory device that says what arrived, as text: `write 4096+512`. */
export class CountingDevice extends MemoryDevice {
  readonly calls: string[] = [];

  override async read(offset: number, buffer: Buffer): Promise<void> {
    this.calls.push(`read ${offset}+${buffer.length}`);
    return super.read(offset, buffer);
  }

  override async write(offset: number, buffer: Buffer): Promise<void> {
    this.calls.push(`write ${offset}+${buffer.length}`);
    return super.write(offset, buffer);
  }

  override async writeZeroes(offset: number, length: number): Promise<void> {
    this.calls.push(`zeroes ${offset}+${length}`);
    return super.writeZeroes(offset, length);
  }

  override async flush(): Promise<void> {
    this.calls.push('flush');
    return super.flush();
  }

  /** How many calls of a kind arrived since the last look, which forgets them all. */
  take(kind: string): number {
    const count = this.calls.filter((call) => call.startsWith(kind)).length;
    this.calls.length = 0;
    return count;
  }
}

/** Attaches for one test; the device goes at its end whatever happens. */
export async function attachFor(
  t: ExecutionContext,
  handlers: BlockHandlers,
  options: AttachOptions = {},
): Promise<AttachedDevice> {
  const device = await attachDevice(handlers, options);
  t.teardown(() => device.detach({force: true}));
  return device;
}

/** A queue or loop attribute of the device, as sysfs shows it. */
export async function sysfs(device: AttachedDevice, attribute: string): Promise<string> {
  const text = await readFile(
    `/sys/block/${device.path.slice('/dev/'.length)}/${attribute}`,
    'utf8',
  );
  return text.trim();
}

/** Content of a range, read through the device's own interface. */
export async function contentOf(
  device: BlockDevice,
  offset: number,
  length: number,
): Promise<Buffer> {
  const buffer = Buffer.alloc(length);
  await device.read(offset, buffer);
  return buffer;
}
