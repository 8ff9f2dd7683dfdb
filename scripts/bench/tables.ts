/** What is measured, as tables: their columns, and what a reader must know to judge the figures. */
import type {Table} from './results.js';

export interface Plan {
  readonly rounds: number;
  /** Bytes of the volume for hot and for cold jobs. */
  readonly hotSize: number;
  readonly coldSize: number;
  /** Of one fio job. */
  readonly seconds: number;
}

export const TABLES: readonly Table[] = [
  {
    id: 'hot',
    title: 'Hot blocks (already local)',
    note:
      'fio, direct I/O on the device or on the NBD socket; 128K: queue depth 8; ' +
      'p50 and p99 of the first column.',
    columns: [
      {id: 'r4k1', title: '4K read QD1', unit: 'IOPS'},
      {id: 'r4k16', title: '4K read QD16', unit: 'IOPS'},
      {id: 'r128k', title: '128K read', unit: 'MB/s'},
      {id: 'w128k', title: '128K write', unit: 'MB/s'},
      {id: 'w4k1', title: '4K write QD1', unit: 'IOPS'},
      {id: 'w4k16', title: '4K write QD16', unit: 'IOPS'},
      {id: 'p50', title: 'QD1 p50', unit: 'µs'},
      {id: 'p99', title: 'QD1 p99', unit: 'µs'},
    ],
  },
  {
    id: 'through',
    title: 'Writes that go to a store and to a backup',
    note:
      'fio, direct I/O, a flush each 32 writes; the backup is nbdkit on a Unix socket. QSD quorum: ' +
      'one daemon, a local file and the backup, both must answer.',
    columns: [
      {id: 't4k1', title: '4K write QD1', unit: 'IOPS'},
      {id: 't4k16', title: '4K write QD16', unit: 'IOPS'},
      {id: 't128k', title: '128K write', unit: 'MB/s'},
    ],
  },
  {
    id: 'marks',
    title: 'What the intent marks cost a writer',
    note:
      'The production volume in one process, eight writers of 4 KiB over 1 GiB, a flush each 32 ' +
      'writes, a backup that takes everything at once: with marks, and with them switched off.',
    columns: [
      {id: 'marksSequential', title: 'sequential', unit: 'IOPS'},
      {id: 'marksRandom', title: 'random', unit: 'IOPS'},
    ],
  },
  {
    id: 'cold',
    title: 'Cold blocks',
    note:
      'The backup is nbdkit on a Unix socket, as it is or with 10 ms before each answer. ' +
      'Sequential: 1 MiB, queue depth 1. 4K: random, at multiples of 64 KiB, of which about one ' +
      'in ten comes up twice. "server" is that NBD server alone.',
    columns: [
      {id: 'seq0', title: 'sequential', unit: 'MB/s'},
      {id: 'seq10', title: 'sequential at 10 ms', unit: 'MB/s'},
      {id: 'cold1', title: '4K QD1 at 10 ms, p50', unit: 'ms'},
      {id: 'cold16', title: '4K QD16 at 10 ms', unit: 'IOPS'},
    ],
  },
  {
    id: 'bulk',
    title: 'Whole volume made local and durable',
    note:
      'nbdcopy: `nbdcopy --flush` to a file. QSD FUSE: read from end to end with copy-on-read. ' +
      'regrow: `hydrate full` until `wait --hydrated` returns.',
    columns: [
      {id: 'bulk0', title: 'hydrated', unit: 's'},
      {id: 'bulk10', title: 'hydrated at 10 ms', unit: 's'},
    ],
  },
  {
    id: 'foreground',
    title: 'Hot 4K reads, QD1, while the rest is fetched',
    note: 'regrow only; from a server held to 1 Gbit/s, so that there is something left to fetch.',
    columns: [
      {id: 'fgRate', title: 'reads', unit: 'IOPS'},
      {id: 'fgP99', title: 'p99', unit: 'µs'},
    ],
  },
  {
    id: 'ready',
    title: 'From the command to a device',
    note:
      'Sparse volumes of nothing; the store is a sparse file on XFS. ' +
      'ext4: 1 GiB, backup at 10 ms, `mount` alone, after the device is there.',
    columns: [
      {id: 'ready1g', title: '1 GiB', unit: 'ms'},
      {id: 'ready1t', title: '1 TiB', unit: 'ms'},
      {id: 'ready64t', title: '64 TiB', unit: 'ms'},
      {id: 'mount', title: 'ext4 mounted at 10 ms', unit: 'ms'},
    ],
  },
  {
    id: 'memory',
    title: 'Memory of the daemon',
    note: 'Resident after the hot jobs, and with 64 TiB attached.',
    columns: [
      {id: 'rss', title: 'hot jobs', unit: 'MiB'},
      {id: 'rss64t', title: '64 TiB', unit: 'MiB'},
    ],
  },
];
