/**
 * The house rules as a test: import directions, sizes, banned calls, headers, invariants, links and
 * rendered tables. A rule that no check enforces does not hold for long.
 */
import {existsSync, readFileSync} from 'node:fs';
import {execFileSync} from 'node:child_process';
import path from 'node:path';

import test from 'ava';

import {RENDERED, renderInto} from '../scripts/render-tables.js';
import {SEEDED_BUGS} from '../src/base/seeded-bugs.js';

const COLUMNS_MAX = 100;
const FILE_LINES_MAX = 400;
const FUNCTION_LINES_MAX = 70;

/** Folders that each folder of src/ may import from, itself included. */
const MAY_IMPORT: Readonly<Record<string, readonly string[]>> = {
  base: ['base'],
  native: ['base', 'native'],
  storage: ['base', 'native', 'storage'],
  map: ['base', 'native/checksum.js', 'storage', 'map'],
  source: ['base', 'native', 'storage', 'source'],
  volume: ['base', 'storage', 'map', 'source', 'volume', 'device/block-device.js'],
  device: ['base', 'native', 'device'],
  wrap: ['base', 'device/block-device.js', 'wrap'],
  control: ['base', 'native', 'storage', 'map', 'source', 'volume', 'device', 'wrap', 'control'],
  cli: ['base', 'native', 'storage', 'map', 'source', 'volume', 'device', 'wrap', 'control', 'cli'],
};

/** What may not stand in src/, why not, and the files where it is at home. */
const BANNED: readonly {pattern: RegExp; instead: string; except: readonly string[]}[] = [
  {
    pattern: /\bDate\.now\(|\bnew Date\(\)|\bperformance\.now\(/,
    instead: 'environment.clock',
    except: ['src/control/system-environment.ts', 'src/cli/'],
  },
  {
    pattern: /\bMath\.random\(/,
    instead: 'environment.random',
    except: ['src/control/system-environment.ts'],
  },
  {
    pattern: /\bset(Timeout|Interval)\(/,
    instead: 'environment.clock.sleep',
    except: ['src/control/', 'src/cli/', 'src/device/', 'src/native/'],
  },
  {pattern: /\bconsole\./, instead: 'environment.log or process.stdout', except: []},
  {pattern: /\bas any\b|: any\b|<any>/, instead: 'unknown and a check', except: []},
  {pattern: /\b(TODO|FIXME|XXX)\b/, instead: 'doing it', except: []},
  {
    pattern: /<<|>>>|\s>>\s|\s\|\s0\b|\)\s&\s\w|\s\^\s/,
    instead: 'base/ (bit operators end at 2^31)',
    except: ['src/base/', 'src/native/'],
  },
  {
    pattern: /from 'node:fs/,
    instead: 'storage/',
    except: ['src/storage/'],
  },
];

/** Invariants that this stage keeps: each is cited in src/ and claimed by a test's title. */
const KEPT = ['I1', 'I2', 'I3', 'I4', 'I5', 'I6', 'I7', 'I8', 'I9', 'I10', 'I11', 'I13'];

const FILES = execFileSync('git', ['ls-files', '--cached', '--others', '--exclude-standard'], {
  encoding: 'utf8',
})
  .split('\n')
  .filter((file) => file !== '' && existsSync(file));
const SOURCES = FILES.filter((file) => file.startsWith('src/') && file.endsWith('.ts'));
const TESTS = FILES.filter((file) => file.startsWith('test/') && file.endsWith('.ts'));
const NATIVE = FILES.filter((file) => file.startsWith('native/'));
const DOCUMENTS = FILES.filter((file) => file.endsWith('.md'));
const CODE = [
  ...SOURCES,
  ...TESTS,
  ...NATIVE,
  ...FILES.filter((file) => /^scripts\/.*\.ts$/.test(file)),
];

const textOf = (file: string): string => readFileSync(file, 'utf8');
const linesOf = (file: string): string[] => textOf(file).split('\n');

/** A line of code without its strings and comments. */
function bare(line: string): string {
  const code = line.replace(
    /'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\/(?![/*])(?:[^/\\\n]|\\.)+\/[a-z]*/g,
    "''",
  );
  return /^\s*(\*|\/\*|\/\/)/.test(code) ? '' : code.replace(/\/\/.*$|\/\*.*?\*\//g, '');
}

test('imports go downward only, and device and volume meet at block-device.ts', (t) => {
  const wrong: string[] = [];
  for (const file of SOURCES) {
    const folder = file.split('/')[1] ?? '';
    const allowed = MAY_IMPORT[folder];
    if (allowed === undefined) {
      if (file !== 'src/index.ts') wrong.push(`${file} lies in no folder of the house`);
      continue;
    }
    for (const match of textOf(file).matchAll(/(?:from|import\()\s*'(\.[^']+)'/g)) {
      const target = path.posix
        .join(path.posix.dirname(file), match[1] ?? '')
        .replace(/^src\//, '');
      const isAllowed = allowed.some((name) => target === name || target.startsWith(`${name}/`));
      if (!isAllowed) wrong.push(`${file} imports ${target}`);
    }
  }
  t.deepEqual(wrong, []);
});

test('banned calls stand only where they are at home', (t) => {
  const wrong: string[] = [];
  for (const file of SOURCES) {
    for (const [index, line] of linesOf(file).entries()) {
      const code = /^(import |} from )/.test(line) ? line : bare(line);
      for (const {pattern, instead, except} of BANNED) {
        if (except.some((home) => file.startsWith(home)) || !pattern.test(code)) continue;
        wrong.push(`${file}:${index + 1}: use ${instead}: ${line.trim()}`);
      }
    }
  }
  t.deepEqual(wrong, []);
});

test('files and lines keep to their size', (t) => {
  const wrong: string[] = [];
  for (const file of CODE) {
    const lines = linesOf(file);
    if (lines.length > FILE_LINES_MAX + 1) wrong.push(`${file} has ${lines.length} lines`);
    for (const [index, line] of lines.entries()) {
      const columns = [...line].length;
      const isLink = /https?:\/\/\S{60,}/.test(line);
      // What is too long for a line only by one text (a message, a title) is left whole.
      const isOneText = line.replace(/'[^']*'|`[^`]*`/g, '').length <= 60;
      if (columns > COLUMNS_MAX && !isLink && !isOneText)
        wrong.push(`${file}:${index + 1}: ${columns} columns`);
    }
  }
  t.deepEqual(wrong, []);
});

test('functions keep to their size', (t) => {
  const start = /^(\s*)(?!if\b|for\b|while\b|switch\b|return\b|else\b)[\w#~].*\)[^;]*\{$/;
  const wrong: string[] = [];
  for (const file of [...SOURCES, ...NATIVE]) {
    const lines = linesOf(file);
    for (const [index, line] of lines.entries()) {
      const indent = start.exec(line)?.[1];
      if (indent === undefined || /^\s*(class|interface|namespace|struct)\b/.test(line)) continue;
      const end = lines.findIndex((other, at) => at > index && other.startsWith(`${indent}}`));
      const length = end < 0 ? 0 : end - index + 1;
      if (length > FUNCTION_LINES_MAX) wrong.push(`${file}:${index + 1}: ${length} lines`);
    }
  }
  t.deepEqual(wrong, []);
});

test('every source file begins by saying what it is', (t) => {
  const wrong = [...SOURCES, ...NATIVE.filter((name) => /\.(h|cc)$/.test(name))].filter((file) => {
    const isCoveredByHeader = file.endsWith('.cc') && existsSync(file.replace(/\.cc$/, '.h'));
    return !isCoveredByHeader && !/^(\/\*\*|\/\/)/.test(textOf(file).replace(/^#!.*\n/, ''));
  });
  t.deepEqual(wrong, []);
});

test('every source file is used by another, or is an entry', (t) => {
  const entries = ['src/index.ts', 'src/cli/main.ts', 'src/control/daemon.ts'];
  const everything = CODE.map(textOf).join('\n');
  const unused = SOURCES.filter((file) => {
    const name = path.posix.basename(file, '.ts');
    return !entries.includes(file) && !everything.includes(`/${name}.js'`);
  });
  t.deepEqual(unused, []);
});

test('every invariant of this stage is cited in the code and claimed by a test', (t) => {
  const code = SOURCES.map(textOf).join('\n');
  const titles = TESTS.flatMap((file) =>
    linesOf(file).filter((line) => /\bI\d+\b/.test(line)),
  ).join('\n');
  for (const invariant of KEPT) {
    const pattern = new RegExp(`\\b${invariant}\\b`);
    t.regex(code, pattern, `${invariant} is cited in src/`);
    t.regex(titles, pattern, `${invariant} is claimed by a test`);
    t.regex(textOf('docs/INVARIANTS.md'), pattern);
  }
});

test('tables in documents are those of the code', (t) => {
  for (const {file, marker, table} of RENDERED) {
    const text = textOf(file);
    const isCurrent = renderInto(text, marker, table()) === text;
    t.true(isCurrent, `${file}: run node dist/scripts/render-tables.js`);
  }
  for (const bug of Object.keys(SEEDED_BUGS)) {
    t.true(
      SOURCES.some((file) => textOf(file).includes(`bugs.has('${bug}')`)),
      `${bug} is in the code`,
    );
  }
});

test('links and named files in documents exist', (t) => {
  for (const file of DOCUMENTS) {
    const text = textOf(file);
    for (const match of text.matchAll(/\]\((?!https?:|#|mailto:)([^)#\s]+)/g)) {
      const target = path.posix.join(path.posix.dirname(file), match[1] ?? '');
      t.true(existsSync(target), `${file} links to ${target}`);
    }
    for (const match of text.matchAll(/`((?:src|test|native|docs|scripts)\/[\w./-]+\.\w+)`/g)) {
      t.true(existsSync(match[1] ?? ''), `${file} names ${match[1] ?? ''}`);
    }
    t.is(
      text.split('\n').filter((line) => /^# /.test(line)).length >= 1,
      true,
      `${file} has a title`,
    );
  }
});
