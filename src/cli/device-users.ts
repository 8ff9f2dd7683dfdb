/**
 * Who uses a block device: mounted file systems, swap, other block devices on it (LVM, crypt,
 * RAID), its partitions included. The command line asks, not the daemon: it lives in the namespace
 * where users mount.
 */
import {basename} from 'node:path';
import {namesAt, textAt} from '../storage/files.js';

export interface DeviceUsers {
  mountpoints: string[];
  /** Devices made on top of it, `dm-0`, and swap, as words. */
  others: string[];
}

function linesAt(path: string): string[] {
  return (textAt(path) ?? '').split('\n');
}

/** Octal escapes of mountinfo and swaps: `\040` is a blank. */
export function unescapePath(text: string): string {
  const character = (_: string, octal: string): string => String.fromCharCode(parseInt(octal, 8));
  return text.replace(/\\([0-7]{3})/g, character);
}

/** The mount points, in a mountinfo's lines, of the devices with these `major:minor` numbers. */
export function mountpointsOf(
  mountinfo: readonly string[],
  numbers: ReadonlySet<string>,
): string[] {
  return mountinfo
    .map((line) => line.split(' '))
    .filter((fields) => numbers.has(fields[2] ?? ''))
    .map((fields) => unescapePath(fields[4] ?? ''));
}

/** Where the device of a dead daemon is still mounted: one whose loop lies over this file. */
export function deadMountpoints(disk: string): string[] {
  const loops = namesAt('/sys/block').filter((name) => {
    return textAt(`/sys/block/${name}/loop/backing_file`)?.trim() === disk;
  });
  return loops.flatMap((name) => deviceUsers(`/dev/${name}`).mountpoints);
}

/** `device`: `/dev/loop3`. */
export function deviceUsers(device: string): DeviceUsers {
  const name = basename(device);
  const top = `/sys/block/${name}`;
  const partitions = namesAt(top).filter((entry) => entry.startsWith(name));
  const folders = [top, ...partitions.map((partition) => `${top}/${partition}`)];
  const numbers = new Set(folders.map((folder) => (linesAt(`${folder}/dev`)[0] ?? '').trim()));
  numbers.delete('');
  const paths = new Set([name, ...partitions].map((each) => `/dev/${each}`));
  const swaps = linesAt('/proc/swaps')
    .map((line) => unescapePath(line.split(/\s/)[0] ?? ''))
    .filter((path) => paths.has(path));
  return {
    mountpoints: mountpointsOf(linesAt('/proc/self/mountinfo'), numbers),
    others: [
      ...folders.flatMap((folder) => namesAt(`${folder}/holders`)).map((name) => `/dev/${name}`),
      ...swaps.map((path) => `swap on ${path}`),
    ],
  };
}
