/** The backup of a run: a file of random bytes, served near, far away, or through a narrow link. */
import {rmSync} from 'node:fs';
import {nbdkit, type Export, type Lab} from './lab.js';

const MiB = 1024 * 1024;

export const DELAY = ['--filter=delay'];
export const DELAY_OPTIONS = ['delay-read=10ms', 'delay-extents=10ms'];

/** Files that lie in the page cache, so that the disk is no part of what is measured. */
export class Backup {
  readonly #lab: Lab;
  readonly file: string;
  readonly size: number;

  private constructor(lab: Lab, file: string, size: number) {
    this.#lab = lab;
    this.file = file;
    this.size = size;
  }

  /** Random data: nothing of it can be skipped as zeroes. */
  static async make(lab: Lab, size: number): Promise<Backup> {
    const file = lab.fresh('backup');
    await lab.run(
      'dd',
      'if=/dev/urandom',
      `of=${file}`,
      'bs=1M',
      `count=${size / MiB}`,
      'status=none',
    );
    return new Backup(lab, file, size);
  }

  near(): Promise<Export> {
    return nbdkit(this.#lab, this.size, ['--readonly', 'file', this.file]);
  }

  far(): Promise<Export> {
    return nbdkit(this.#lab, this.size, [
      '--readonly',
      ...DELAY,
      'file',
      this.file,
      ...DELAY_OPTIONS,
    ]);
  }

  limited(): Promise<Export> {
    return nbdkit(this.#lab, this.size, [
      '--readonly',
      '--filter=rate',
      'file',
      this.file,
      'rate=1G',
    ]);
  }

  remove(): void {
    rmSync(this.file, {force: true});
  }
}
