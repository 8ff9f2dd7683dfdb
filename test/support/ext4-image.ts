/** A small ext4 image of real files, and what must be in it. */
import {createHash, randomBytes} from 'node:crypto';
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs';
import {join} from 'node:path';
import type {AttachLab} from './attach-lab.js';

export interface Ext4Image {
  path: string;
  /** Name of each file and the SHA-256 of its content. */
  files: ReadonlyMap<string, string>;
}

export function hashOf(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

/** An image of `mebibytes` MiB in the lab, a quarter of it files of random bytes. */
export function makeExt4Image(lab: AttachLab, mebibytes = 32): Ext4Image {
  const folder = lab.path('files');
  mkdirSync(folder);
  const files = new Map<string, string>();
  const count = 16;
  for (let i = 0; i < count; i++) {
    const bytes = randomBytes(Math.floor((mebibytes * 1024 * 1024) / 4 / count) + i * 777);
    writeFileSync(join(folder, `file${i}`), bytes);
    files.set(`file${i}`, hashOf(bytes));
  }
  const path = lab.path('image.ext4');
  lab.tool('truncate', '-s', `${mebibytes}M`, path);
  lab.tool('mkfs.ext4', '-q', '-F', '-d', folder, path);
  return {path, files};
}

/** Names of files in `folder` whose content is not as in the image. */
export function wrongFiles(folder: string, {files}: Ext4Image): string[] {
  return [...files]
    .filter(([name, hash]) => hashOf(readFileSync(join(folder, name))) !== hash)
    .map(([name]) => name);
}
