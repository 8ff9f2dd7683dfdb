/** Small questions to the kernel's text files and to blkid. None of them writes anything. */
import {execFile} from 'node:child_process';
import {readdir, readFile, realpath} from 'node:fs/promises';
import {basename, join} from 'node:path';

/** A child that takes longer is stuck on a sick device. */
const CHILD_TIMEOUT_MS = 15_000;

/** major and minor of a device number, whose bits are 12 minor, 12 major, 8 more of minor above. */
export function deviceNumbers(device: bigint): {major: number; minor: number} {
  const major = BigInt.asUintN(12, device / 2n ** 8n) + (device / 2n ** 44n) * 2n ** 12n;
  const minor = BigInt.asUintN(8, device) + BigInt.asUintN(24, device / 2n ** 20n) * 2n ** 8n;
  return {major: Number(major), minor: Number(minor)};
}

/** The real folder of a block device in /sys; undefined if there is none. */
export async function sysfsFolder(device: bigint): Promise<string | undefined> {
  const {major, minor} = deviceNumbers(device);
  return await realpath(`/sys/dev/block/${major}:${minor}`).catch(() => undefined);
}

/**
 * A text file's content without white space around it; undefined if absent, unreadable or empty.
 */
export async function readText(path: string): Promise<string | undefined> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text.trim() === '' ? undefined : text.trim();
}

/** Names in a folder; none if it is not there. */
export async function namesIn(path: string): Promise<string[]> {
  return await readdir(path).catch(() => []);
}

/** The sysfs folders of a disk and of its partitions (or of the partition alone). */
export async function withPartitions(folder: string): Promise<string[]> {
  const name = basename(folder);
  const partitions = (await namesIn(folder)).filter((entry) => entry.startsWith(name));
  return [folder, ...partitions.map((entry) => join(folder, entry))];
}

export interface Mount {
  /** major:minor of the file system. */
  device: string;
  mountPoint: string;
  /** What was mounted, as it was named. */
  source: string;
}

/** What is mounted in this mount namespace. */
export async function mounts(): Promise<Mount[]> {
  const table = await readFile('/proc/self/mountinfo', 'utf8');
  return table
    .trimEnd()
    .split('\n')
    .map((line) => {
      const [before = '', after = ''] = line.split(' - ');
      const fields = before.split(' ');
      return {
        device: fields[2] ?? '',
        mountPoint: unescape(fields[4] ?? ''),
        source: unescape(after.split(' ')[1] ?? ''),
      };
    });
}

/** The kernel writes a space as \040 and so on. */
function unescape(text: string): string {
  return text.replace(/\\([0-7]{3})/g, (_, octal: string) =>
    String.fromCharCode(parseInt(octal, 8)),
  );
}

export interface Probe {
  /** `found`: values holds what; `nothing`: the device looks empty; `failed`: nobody knows. */
  outcome: 'found' | 'nothing' | 'failed';
  /** By blkid's own names: TYPE, UUID, PTTYPE, LABEL, … */
  values: ReadonlyMap<string, string>;
  reason?: string;
}

/** What blkid recognises at the start of a file or device, read afresh and not from its cache. */
export async function probeContent(path: string): Promise<Probe> {
  return await new Promise((resolve) => {
    const options = {
      timeout: CHILD_TIMEOUT_MS,
      env: {PATH: '/usr/sbin:/sbin:/usr/bin:/bin', LC_ALL: 'C'},
    };
    execFile('blkid', ['--probe', '--output', 'export', path], options, (error, stdout, stderr) => {
      const values = parseExport(stdout);
      const code = error?.code;
      if (error === null) resolve({outcome: 'found', values});
      else if (Number(code) === 2 && stderr === '') resolve({outcome: 'nothing', values});
      // 8: contradictory signatures, which is anything but empty.
      else if (Number(code) === 8)
        resolve({
          outcome: 'found',
          values: new Map([['TYPE', 'several contradictory signatures']]),
        });
      else resolve({outcome: 'failed', values, reason: stderr.trim() || error.message});
    });
  });
}

function parseExport(text: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const line of text.split('\n')) {
    const cut = line.indexOf('=');
    if (cut > 0) values.set(line.slice(0, cut), line.slice(cut + 1));
  }
  return values;
}
