/** Skips a test, with the reason, where what it needs is not on this machine. */
import {accessSync, constants} from 'node:fs';
import {delimiter, join} from 'node:path';
import test, {type ExecutionContext} from 'ava';

type Body = (t: ExecutionContext) => void | Promise<void>;

/** True if every program is found along PATH (with the system folders that PATH often lacks). */
export function hasPrograms(...programs: readonly string[]): boolean {
  return missingPrograms(programs).length === 0;
}

/** `test`, or `test.skip` with the reason in the title, depending on what is installed. */
export function testRequiring(programs: readonly string[], title: string, body: Body): void {
  const missing = missingPrograms(programs);
  if (missing.length === 0) test(title, body);
  else test.skip(`${title} (skipped: ${missing.join(', ')} not installed)`, body);
}

function missingPrograms(programs: readonly string[]): string[] {
  const folders = [...(process.env['PATH'] ?? '').split(delimiter), '/usr/sbin', '/sbin'];
  return programs.filter(
    (program) => !folders.some((folder) => isExecutable(join(folder, program))),
  );
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}
