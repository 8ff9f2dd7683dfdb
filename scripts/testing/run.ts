/**
 * Runs all tests, or those whose file's path holds one of the words given, and ends with one line
 * that counts them: "N passed, N failed, N skipped". `scripts/test` compiles first and then runs
 * this.
 *
 *   scripts     shellcheck, where it is installed
 *   main        everything without a kernel device, in one run of ava
 *   sanitized   the tests of native code on an addon built with ASan and UBSan
 *   kernel      on real loop devices, one after the other
 */
import {existsSync, readdirSync, readFileSync} from 'node:fs';
import {join} from 'node:path';
import {fileURLToPath} from 'node:url';
import {runChild} from './child.js';
import {buildSanitizedTree} from './sanitized.js';
import {TapReader, type Tally} from './tap.js';

const ROOT = fileURLToPath(new URL('../../../', import.meta.url));

/**
 * What a complete machine skips, one title a line; `#` begins a comment, a final `*` matches all.
 */
const EXPECTED_SKIPS = join(ROOT, 'test/expected-skips.txt');

interface Suite {
  name: string;
  /** Arguments of ava. */
  args: readonly string[];
  minutesMax: number;
  cwd?: string;
  environment?: Record<string, string>;
}

function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

function testFiles(words: readonly string[]): string[] {
  return readdirSync(join(ROOT, 'dist/test'), {recursive: true, encoding: 'utf8'})
    .filter((path) => path.endsWith('.test.js'))
    .map((path) => `dist/test/${path}`)
    .filter((path) => words.length === 0 || words.some((word) => path.includes(word)))
    .sort();
}

function isKernelTest(path: string): boolean {
  return path.startsWith('dist/test/kernel/');
}

/** Touches the addon, needs no kernel device: what the sanitizers look at. */
function isNativeTest(path: string): boolean {
  return path.startsWith('dist/test/native/') || path.includes('/file-storage.');
}

async function runSuite(suite: Suite): Promise<Tally> {
  const startedAt = performance.now();
  const reader = new TapReader(print);
  const others: string[] = [];
  print(`${suite.name}:`);
  const cwd = suite.cwd ?? ROOT;
  const exitCode = await runChild(join(cwd, 'node_modules/.bin/ava'), ['--tap', ...suite.args], {
    ...suite,
    cwd,
    onLine: (line) => {
      if (!reader.line(line)) others.push(line);
    },
  });
  const {tally} = reader;
  if (exitCode !== 0 && (tally.failed === 0 || !reader.isWhole)) {
    tally.failed += 1;
    const why =
      exitCode === 124
        ? `was not done after ${suite.minutesMax} minutes`
        : `ended with ${exitCode}`;
    print(`  ✘ the run ${why}; its last lines:`);
    for (const line of others.slice(-60)) print(`    ${line}`);
  }
  if (tally.passed + tally.failed === 0) {
    tally.failed += 1;
    print('  ✘ no test ran');
  }
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1);
  print(`  ${countLine(tally)} in ${seconds} s`);
  return tally;
}

function countLine({passed, failed, skipped}: Tally): string {
  const skips = skipped.length > 0 ? `, ${skipped.length} skipped` : '';
  return `${passed} passed, ${failed} failed${skips}`;
}

async function checkScripts(): Promise<Tally> {
  const scripts = ['scripts', '.ci', 'scripts/bench']
    .filter((folder) => existsSync(join(ROOT, folder)))
    .flatMap((folder) => readdirSync(join(ROOT, folder)).map((name) => join(folder, name)))
    .filter((path) => isShell(path));
  const lines: string[] = [];
  const exitCode = await runChild('shellcheck', ['-x', '-P', 'SCRIPTDIR', ...scripts], {
    cwd: ROOT,
    minutesMax: 2,
    onLine: (line) => lines.push(line),
  });
  print('scripts:');
  if (exitCode === 127) {
    print('  - skipped: shellcheck is not installed');
    return {passed: 0, failed: 0, skipped: ['shellcheck']};
  }
  for (const line of lines) print(`  ${line}`);
  const failed = exitCode === 0 ? 0 : 1;
  print(`  shellcheck of ${scripts.length} scripts: ${failed === 0 ? 'clean' : 'not clean'}`);
  return {passed: 1 - failed, failed, skipped: []};
}

function isShell(path: string): boolean {
  if (path.endsWith('.sh')) return true;
  if (/\.\w+$/.test(path)) return false;
  try {
    return readFileSync(join(ROOT, path), 'utf8').startsWith('#!/usr/bin/env bash');
  } catch {
    return false;
  }
}

async function runSanitized(files: readonly string[]): Promise<Tally> {
  try {
    print('sanitized: building the addon with ASan and UBSan');
    using tree = await buildSanitizedTree(ROOT);
    return await runSuite({
      name: 'sanitized',
      args: ['--timeout=5m', ...files],
      minutesMax: 10,
      cwd: tree.path,
      environment: tree.environment,
    });
  } catch (error) {
    print(`  ✘ ${error instanceof Error ? error.message : String(error)}`);
    return {passed: 0, failed: 1, skipped: []};
  }
}

/** A test that is skipped without being expected to be is a failure: else it vanishes unseen. */
function unexpectedSkips(skipped: readonly string[]): string[] {
  const expected = readFileSync(EXPECTED_SKIPS, 'utf8')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !line.startsWith('#'));
  return skipped.filter(
    (title) =>
      !expected.some((line) =>
        line.endsWith('*') ? title.startsWith(line.slice(0, -1)) : title === line,
      ),
  );
}

async function main(words: readonly string[]): Promise<number> {
  const files = testFiles(words);
  const isAll = words.length === 0;
  if (files.length === 0) {
    print(`no test file's path holds ${words.join(' or ')}`);
    return 2;
  }
  const tallies: Tally[] = [];
  if (isAll) tallies.push(await checkScripts());
  const plain = files.filter((path) => !isKernelTest(path));
  if (plain.length > 0) {
    tallies.push(await runSuite({name: 'main', args: isAll ? [] : plain, minutesMax: 20}));
  }
  if (isAll) tallies.push(await runSanitized(files.filter(isNativeTest)));
  const kernel = files.filter(isKernelTest);
  if (kernel.length > 0) {
    const args = ['--config', 'kernel.config.js', ...(isAll ? [] : kernel)];
    tallies.push(await runSuite({name: 'kernel', args, minutesMax: 30}));
  }
  return summarise(tallies, isAll);
}

function summarise(tallies: readonly Tally[], isAll: boolean): number {
  const sum: Tally = {passed: 0, failed: 0, skipped: []};
  for (const {passed, failed, skipped} of tallies) {
    sum.passed += passed;
    sum.failed += failed;
    sum.skipped.push(...skipped);
  }
  if (isAll) {
    for (const title of unexpectedSkips(sum.skipped)) {
      print(`✘ skipped, and not in test/expected-skips.txt: ${title}`);
      sum.failed += 1;
    }
  }
  print(countLine(sum));
  return sum.failed === 0 ? 0 : 1;
}

process.exitCode = await main(process.argv.slice(2));
