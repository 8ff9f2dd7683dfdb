/**
 * A serial test that attaches volumes for real, skipped with the reason where this machine cannot.
 */
import {existsSync} from 'node:fs';
import test, {type ExecutionContext} from 'ava';
import {AttachLab} from './attach-lab.js';
import {hasPrograms} from './requires.js';

const REASONS: readonly (string | false)[] = [
  process.getuid?.() !== 0 && 'needs root',
  !existsSync('/dev/fuse') && 'no /dev/fuse',
  !existsSync('/dev/loop-control') && 'no /dev/loop-control',
  !hasPrograms('nbdkit', 'mkfs.ext4', 'losetup') && 'nbdkit, mkfs.ext4 or losetup not installed',
];

export function attachTest(
  title: string,
  body: (t: ExecutionContext, lab: AttachLab) => Promise<void>,
): void {
  const reason = REASONS.find((each) => each !== false);
  if (reason !== undefined) {
    test.skip(`${title} (skipped: ${reason})`, (t) => t.pass());
    return;
  }
  test.serial(title, async (t) => {
    t.timeout(120_000);
    await body(t, AttachLab.create(t));
  });
}
