/**
 * A second tree with the same compiled tests, whose addon is built with sanitizers. The addon
 * reports what it finds by ending the process, which fails the test file.
 */
import {execFileSync} from 'node:child_process';
import {cpSync, mkdtempSync, readFileSync, realpathSync, rmSync, symlinkSync} from 'node:fs';
import {join} from 'node:path';
import {runChild} from './child.js';

/** What the build needs of the tree; the rest is not copied. */
const COPIED = ['native', 'binding.gyp', 'package.json', 'kernel.config.js', 'dist'];

export interface SanitizedTree extends Disposable {
  readonly path: string;
  /** Environment under which Node loads the addon. */
  readonly environment: Record<string, string>;
}

/** Builds it; throws with the compiler's last lines where that fails. */
export async function buildSanitizedTree(root: string): Promise<SanitizedTree> {
  const path = mkdtempSync('/var/tmp/regrow-sanitized-');
  const tree = {
    path,
    environment: sanitizerEnvironment(),
    [Symbol.dispose]: () => rmSync(path, {recursive: true, force: true}),
  };
  try {
    for (const name of COPIED) cpSync(join(root, name), join(path, name), {recursive: true});
    symlinkSync(join(root, 'node_modules'), join(path, 'node_modules'));
    const headers = headerOption(root);
    await gyp(path, ['configure', ...headers, '--', '-Dsanitize=address,undefined']);
    await gyp(path, ['build', '-j', '2', ...headers]);
    return tree;
  } catch (error) {
    tree[Symbol.dispose]();
    throw error;
  }
}

async function gyp(cwd: string, args: readonly string[]): Promise<void> {
  const lines: string[] = [];
  const program = join(cwd, 'node_modules/.bin/node-gyp');
  const code = await runChild(program, args, {
    cwd,
    minutesMax: 10,
    onLine: (line) => lines.push(line),
  });
  if (code !== 0) throw new Error(`node-gyp ${args[0]} failed:\n${lines.slice(-30).join('\n')}`);
}

/** The headers that the ordinary build used. */
function headerOption(root: string): string[] {
  const config = readFileSync(join(root, 'build/config.gypi'), 'utf8');
  const nodedir = /"nodedir": "([^"]+)"/.exec(config)?.[1];
  return nodedir === undefined ? [] : [`--nodedir=${nodedir}`];
}

function sanitizerEnvironment(): Record<string, string> {
  const library = execFileSync('g++', ['-print-file-name=libasan.so'], {encoding: 'utf8'}).trim();
  return {
    LD_PRELOAD: realpathSync(library),
    // Node never frees all it has, so leaks would be all its own.
    ASAN_OPTIONS: 'detect_leaks=0:abort_on_error=1:detect_stack_use_after_return=0',
    UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
  };
}
