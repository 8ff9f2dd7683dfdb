/** One fio job on a block device or an NBD export, bounded in time; what came out of it. */
import type {Lab} from './lab.js';

export interface FioJob {
  readonly rw: 'read' | 'write' | 'randread' | 'randwrite';
  /** Bytes. */
  readonly blockSize: number;
  readonly depth: number;
  /** Bytes from the start that are used. */
  readonly size: number;
  /** Fractions are fine here; fio itself would read 0.5 as no limit at all. */
  readonly seconds: number;
  /** Go round again until the time is over. @default true */
  readonly repeats?: boolean;
  /** Offsets are multiples of this many bytes. @default blockSize */
  readonly align?: number;
  /** Flush after so many writes. */
  readonly fsync?: number;
}

export type Target = {readonly device: string} | {readonly uri: string};

export interface FioResult {
  readonly bytesPerSecond: number;
  readonly iops: number;
  /** Microseconds from submission to completion. */
  readonly p50: number;
  readonly p99: number;
}

interface FioSide {
  bw_bytes: number;
  iops: number;
  clat_ns: {percentile?: Record<string, number>};
}

let seed = 1;

export async function fio(lab: Lab, target: Target, job: FioJob): Promise<FioResult> {
  seed += 1;
  const isBlockDevice = 'device' in target;
  const where = isBlockDevice
    ? ['--ioengine=libaio', '--direct=1', `--filename=${target.device}`]
    : ['--ioengine=nbd', `--uri=${target.uri}`];
  const output = await lab.run(
    'fio',
    '--name=bench',
    '--output-format=json',
    ...where,
    `--rw=${job.rw}`,
    `--bs=${job.blockSize}`,
    `--iodepth=${job.depth}`,
    `--size=${job.size}`,
    `--blockalign=${job.align ?? job.blockSize}`,
    `--runtime=${Math.round(job.seconds * 1000)}ms`,
    `--randseed=${seed}`,
    ...(job.fsync === undefined ? [] : [`--fsync=${job.fsync}`]),
    '--allrandrepeat=0',
    '--randrepeat=0',
    ...(job.repeats === false ? [] : ['--time_based', '--ramp_time=300ms']),
  );
  const report = JSON.parse(output.slice(output.indexOf('{'))) as {
    jobs: {error: number; read: FioSide; write: FioSide}[];
  };
  const first = report.jobs[0];
  if (first === undefined || first.error !== 0) throw new Error(`fio failed with ${first?.error}`);
  const side = job.rw.endsWith('read') ? first.read : first.write;
  const percentile = side.clat_ns.percentile ?? {};
  return {
    bytesPerSecond: side.bw_bytes,
    iops: side.iops,
    p50: (percentile['50.000000'] ?? 0) / 1000,
    p99: (percentile['99.000000'] ?? 0) / 1000,
  };
}
