/**
 * Writes the tables that live in code into the documents that show them, between their markers:
 *
 *   node dist/scripts/render-tables.js          rewrites docs/*.md
 *
 * test/tidy.test.ts compares the same text, so a table in a document is never kept by hand.
 */
import {readFileSync, realpathSync, writeFileSync} from 'node:fs';
import {fileURLToPath} from 'node:url';

import {optionTableMarkdown} from '../src/control/attach-options.js';
import {SEEDED_BUGS} from '../src/base/seeded-bugs.js';
import {BLOCK_STATES, STATE_TABLE, type StateRow} from '../src/map/block-state.js';

type Cell = (row: StateRow) => string;

const STATE_COLUMNS: readonly [string, Cell][] = [
  ['code', (row) => String(row.code)],
  ['read', (row) => row.read],
  ['whole write', (row) => row.wholeWrite],
  [
    'part write',
    (row) => (row.partWriteFillsZeroes ? `zeroes around it, ${row.partWrite}` : row.partWrite),
  ],
  ['discard, zeroes', (row) => row.zeroing],
  ['fetch arriving', (row) => row.fetched ?? 'dropped'],
  ['zeroes settled', (row) => row.settled ?? '–'],
  ['unreadable', (row) => row.lost ?? '–'],
  ['local', (row) => (row.isLocal ? 'yes' : 'no')],
  ['intent mark before a write', (row) => row.writeNeedsIntent],
];

function stateTable(): string {
  const header = ['state', ...STATE_COLUMNS.map(([name]) => name)];
  const rows = BLOCK_STATES.map((state) => [
    state,
    ...STATE_COLUMNS.map(([, cell]) => cell(STATE_TABLE[state])),
  ]);
  return markdown([header, ...rows]);
}

function bugTable(): string {
  return markdown([
    ['bug', 'what it does'],
    ...Object.entries(SEEDED_BUGS).map(([name, what]) => [`\`${name}\``, what]),
  ]);
}

function markdown([header, ...rows]: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |`;
  const rule = `|${'---|'.repeat(header?.length ?? 0)}`;
  return [line(header ?? []), rule, ...rows.map(line)].join('\n');
}

/** Document, marker and table of everything rendered. */
export const RENDERED: readonly {file: string; marker: string; table: () => string}[] = [
  {file: 'docs/DESIGN.md', marker: 'block states', table: stateTable},
  {file: 'docs/DURABILITY.md', marker: 'seeded bugs', table: bugTable},
  {file: 'docs/DESIGN.md', marker: 'attach options', table: optionTableMarkdown},
];

/** A document with one table brought up to date; undefined where it lacks the markers. */
export function renderInto(text: string, marker: string, table: string): string | undefined {
  const begin = `<!-- table: ${marker} -->\n`;
  const end = '\n<!-- end -->';
  const start = text.indexOf(begin);
  const stop = text.indexOf(end, start);
  if (start < 0 || stop < 0) return undefined;
  return `${text.slice(0, start + begin.length)}\n${table}\n${text.slice(stop)}`;
}

function main(): void {
  for (const {file, marker, table} of RENDERED) {
    const text = renderInto(readFileSync(file, 'utf8'), marker, table());
    if (text === undefined) throw new Error(`${file} has no place for the table "${marker}"`);
    writeFileSync(file, text);
  }
}

const [, script] = process.argv;
if (script !== undefined && realpathSync(script) === fileURLToPath(import.meta.url)) main();
