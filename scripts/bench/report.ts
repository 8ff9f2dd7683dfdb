/** The figures as Markdown, and the goals of the project with what this run says of each. */
import {execFileSync} from 'node:child_process';
import {readFileSync} from 'node:fs';
import {cpus, release, totalmem} from 'node:os';
import {CONTESTANTS, REGROW, STORAGE_DAEMON} from './contestants.js';
import type {Column, Results, Table} from './results.js';
import {TABLES, type Plan} from './tables.js';

interface Goal {
  readonly id: string;
  readonly text: string;
  /** Undefined: nothing measured. Each part: the figure, and whether it is reached. */
  judge(results: Results): {figure: string; isReached: boolean}[] | undefined;
}

const columns = new Map(
  TABLES.flatMap((table) => table.columns).map((column) => [column.id, column]),
);

function column(id: string): Column {
  const found = columns.get(id);
  if (found === undefined) throw new Error(`there is no column ${id}`);
  return found;
}

/** `id` of regrow against a peer, at least `wanted` times as good. */
function against(
  results: Results,
  id: string,
  wanted: number,
  peer = STORAGE_DAEMON.name,
  ours = REGROW.name,
) {
  const advantage = results.advantage(column(id), ours, peer);
  const {title} = column(id);
  if (advantage === undefined) return {figure: `${title}: not measured`, isReached: false};
  return {
    figure: `${title} ${advantage.toFixed(2)}x ${peer} (goal ${wanted}x)`,
    isReached: advantage >= wanted,
  };
}

function below(results: Results, id: string, row: string, limit: number) {
  const value = results.median(id, row);
  const {title, unit} = column(id);
  if (value === undefined) return {figure: `${title}: not measured`, isReached: false};
  return {
    figure: `${title} ${value.toFixed(1)} ${unit} (goal ${limit})`,
    isReached: value <= limit,
  };
}

function share(results: Results, mode: string, wanted: number) {
  const [idle, busy] = [results.median('fgRate', 'idle'), results.median('fgRate', mode)];
  if (!idle || !busy) return {figure: `${mode}: not measured`, isReached: false};
  const part = busy / idle;
  return {figure: `${mode} ${part.toFixed(2)} of idle (goal ${wanted})`, isReached: part >= wanted};
}

/** The fastest of the peers in a column. */
function bestPeer(results: Results, id: string): string {
  const peers = CONTESTANTS.filter(({grows, name}) => grows && name !== REGROW.name);
  const better = (a: string, b: string): number => results.advantage(column(id), b, a) ?? 0;
  return peers.map(({name}) => name).sort((a, b) => better(a, b) - 1)[0] ?? STORAGE_DAEMON.name;
}

const GOALS: readonly Goal[] = [
  {
    id: 'G1',
    text: 'hot 4K reads against QSD FUSE, on threads (the raw-FUSE limit is not part of this run)',
    judge: (r) => [against(r, 'r4k1', 1.6), against(r, 'r4k16', 2.5)],
  },
  {id: 'G2', text: 'hot 128K', judge: (r) => [against(r, 'r128k', 1.3), against(r, 'w128k', 0.95)]},
  {
    id: 'G3',
    text: 'hot 4K writes',
    judge: (r) => [against(r, 'w4k1', 1.8), against(r, 'w4k16', 2.5)],
  },
  {
    id: 'G4',
    text: 'writes with write-through (sync) against QSD quorum, a flush each 32 writes',
    judge: (r) => [
      against(r, 't4k1', 1.5, 'QSD quorum', 'regrow sync'),
      against(r, 't4k16', 1.5, 'QSD quorum', 'regrow sync'),
      against(r, 't128k', 1.5, 'QSD quorum', 'regrow sync'),
    ],
  },
  {
    id: 'marks',
    text: 'a writer pays at most 5 % (sequential) and 15 % (random) for the intent marks',
    judge: (r) => [
      against(r, 'marksSequential', 0.95, 'without marks', 'with marks'),
      against(r, 'marksRandom', 0.85, 'without marks', 'with marks'),
    ],
  },
  {
    id: 'G5',
    text: 'cold sequential read',
    judge: (r) => [against(r, 'seq0', 3), against(r, 'seq10', 8, bestPeer(r, 'seq10'))],
  },
  {
    id: 'G6',
    text: 'cold 4K at 10 ms',
    judge: (r) => [
      against(r, 'cold1', 0.95, 'server'),
      against(r, 'cold16', 1, bestPeer(r, 'cold16')),
    ],
  },
  {
    id: 'G7',
    text: 'hydration against nbdcopy --flush',
    judge: (r) => [against(r, 'bulk0', 0.8, 'nbdcopy'), against(r, 'bulk10', 0.8, 'nbdcopy')],
  },
  {
    id: 'G8',
    text: 'foreground while hydrating',
    judge: (r) => [
      share(r, 'hydrating full', 0.5),
      share(r, 'hydrating background', 0.8),
      below(r, 'fgP99', 'hydrating full', 1000),
      below(r, 'fgP99', 'hydrating background', 400),
    ],
  },
  {
    id: 'G9',
    text: 'attach to ready, and ext4 on top at 10 ms',
    judge: (r) => [
      below(r, 'ready1g', 'regrow', 300),
      below(r, 'ready1t', 'regrow', 300),
      below(r, 'ready64t', 'regrow', 300),
      below(r, 'mount', 'regrow', 100),
    ],
  },
  {id: 'G10', text: 'merge of a shipped image (not built yet)', judge: () => undefined},
  {
    id: 'G11',
    text: 'memory of the daemon',
    judge: (r) => [below(r, 'rss', 'regrow', 96), below(r, 'rss64t', 'regrow', 96)],
  },
];

export function renderReport(results: Results, plan: Plan): string {
  const measured = TABLES.filter(({columns: all}) =>
    all.some(({id}) => results.samples[id] !== undefined),
  );
  return [
    '# Benchmarks',
    '',
    'Written by `sudo scripts/bench/run`; not kept by hand. Contestants take turns inside each',
    'round, so only ratios inside one run count: between runs a figure moves by up to two times.',
    '',
    ...describeRun(plan),
    '',
    ...measured.flatMap((table) => [...renderTable(results, table), '']),
    '## Who is measured',
    '',
    '| | transport | cache | fsync |',
    '|---|---|---|---|',
    ...CONTESTANTS.map(
      ({name, transport, cache, fsync}) => `| ${name} | ${transport} | ${cache} | ${fsync} |`,
    ),
    '',
    'No job asks for fsync unless its title says durable: writes count when they are answered.',
    'QSD is qemu-storage-daemon with a qcow2 overlay and copy-on-read. Backups lie in the page',
    'cache of the same machine, and their servers use the same cores.',
    '',
    ...renderGoals(results),
    ...(results.failures.length === 0
      ? []
      : [
          '',
          '## What failed in this run',
          '',
          ...results.failures.map((line) => `- ${withoutPaths(line)}`),
        ]),
    '',
  ].join('\n');
}

function describeRun(plan: Plan): string[] {
  const model = cpus()[0]?.model.trim() ?? 'unknown CPU';
  const memory = Math.round(totalmem() / 2 ** 30);
  const system =
    /^PRETTY_NAME="(.*)"/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? 'Linux';
  return [
    `- machine: ${cpus().length} cores (${model}), ${memory} GiB, ${system}, kernel ${release()}`,
    `- versions: ${versions().join(', ')}, Node.js ${process.versions.node}`,
    `- plan: medians of ${plan.rounds} rounds, ${plan.seconds} s a job, ` +
      `hot volume ${plan.hotSize / 2 ** 20} MiB, ` +
      `cold volume ${plan.coldSize / 2 ** 20} MiB`,
  ];
}

function versions(): string[] {
  return ['fio', 'nbdkit', 'nbdcopy', 'qemu-storage-daemon'].map((program) => {
    try {
      const text = execFileSync(program, ['--version'], {encoding: 'utf8'});
      return `${program} ${/\d+(\.\d+)+/.exec(text)?.[0] ?? '?'}`;
    } catch {
      return `${program} not installed`;
    }
  });
}

function renderTable(results: Results, {title, note, columns: all}: Table): string[] {
  const rows = new Set(all.flatMap(({id}) => Object.keys(results.samples[id] ?? {})));
  return [
    `## ${title}`,
    '',
    note,
    '',
    `| | ${all.map((each) => `${each.title}, ${each.unit}`).join(' | ')} |`,
    `|---|${all.map(() => '--:|').join('')}`,
    ...[...rows].map(
      (row) => `| ${row} | ${all.map((each) => renderCell(results, each, row)).join(' | ')} |`,
    ),
  ];
}

/** The median; for regrow also how many times better it is than the direct peer. */
function renderCell(results: Results, each: Column, row: string): string {
  const value = results.median(each.id, row);
  if (value === undefined) return '–';
  const advantage =
    row === REGROW.name ? results.advantage(each, row, STORAGE_DAEMON.name) : undefined;
  const ratio = advantage === undefined ? '' : ` (${advantage.toFixed(2)}x)`;
  return `${renderValue(value, each.unit)}${ratio}`;
}

function renderValue(value: number, unit: Column['unit']): string {
  if (unit === 'IOPS' && value >= 1000) return `${(value / 1000).toFixed(1)}k`;
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}

function renderGoals(results: Results): string[] {
  const lines = GOALS.map(({id, text, judge}) => {
    const parts = judge(results);
    if (parts === undefined) return `| ${id} | ${text} | – | – |`;
    const verdict = parts.every(({isReached}) => isReached)
      ? 'reached'
      : parts.some(({isReached}) => isReached)
        ? 'in part'
        : 'not reached';
    return `| ${id} | ${text} | ${parts.map(({figure}) => figure).join('; ')} | ${verdict} |`;
  });
  return [
    '## Goals',
    '',
    'Ratios say how many times better regrow is; below 1 it is worse.',
    '',
    '| | what | this run | |',
    '|---|---|---|---|',
    ...lines,
  ];
}

/** A failure in one line that says nothing of the machine's folders: the last part of each path. */
function withoutPaths(failure: string): string {
  return failure.replaceAll('\n', ' ').replace(/(?:\/[\w.-]+)+\/([\w.-]+)/g, '$1');
}
