/**
 * Hot and cold blocks, hydration, and reads during it. Contestants take turns inside each round, so
 * that the machine's moods hit all.
 */
import {rmSync} from 'node:fs';
import {Backup} from './backup.js';
import {CONTESTANTS, REGROW, regrow, startRegrow} from './contestants.js';
import type {Contestant, Running} from './contestants.js';
import {fio, type FioJob} from './fio.js';
import {timed, type Export, type Lab} from './lab.js';
import type {Results} from './results.js';
import type {Plan} from './tables.js';

const KiB = 1024;
const MiB = 1024 * KiB;

function hotJobs({hotSize: size, seconds}: Plan): Record<string, FioJob> {
  const small = {blockSize: 4 * KiB, size, seconds};
  const large = {blockSize: 128 * KiB, depth: 8, size, seconds};
  return {
    r4k1: {...small, rw: 'randread', depth: 1},
    r4k16: {...small, rw: 'randread', depth: 16},
    r128k: {...large, rw: 'read'},
    w128k: {...large, rw: 'write'},
    w4k1: {...small, rw: 'randwrite', depth: 1},
    w4k16: {...small, rw: 'randwrite', depth: 16},
  };
}

export async function measureHot(lab: Lab, plan: Plan, results: Results): Promise<void> {
  const backup = await Backup.make(lab, plan.hotSize);
  const source = await backup.near();
  const running = new Map<Contestant, Running>();
  for (const contestant of CONTESTANTS) {
    if (!contestant.writes) continue;
    await results.attempt(`${contestant.name}, hot`, async () => {
      const started = await contestant.start(lab, source);
      await started.hydrate();
      running.set(contestant, started);
    });
  }
  for (let round = 0; round < plan.rounds; round++) {
    for (const [id, job] of Object.entries(hotJobs(plan))) {
      for (const [{name}, {target}] of running) {
        await results.attempt(`${name}, ${id}`, async () => {
          const {iops, bytesPerSecond, p50, p99} = await fio(lab, target, job);
          results.add(id, name, job.blockSize === 4 * KiB ? iops : bytesPerSecond / 1e6);
          if (id !== 'r4k1') return;
          results.add('p50', name, p50);
          results.add('p99', name, p99);
        });
      }
    }
  }
  for (const [{name}, {memory, pid, stop}] of running) {
    if (pid !== 0) results.add('rss', name, memory() / MiB);
    await stop();
  }
  await source.stop();
  backup.remove();
}

function coldJobs({coldSize: size, seconds}: Plan): Record<string, FioJob> {
  const sequential: FioJob = {
    rw: 'read',
    blockSize: MiB,
    depth: 1,
    size,
    seconds: 2 * seconds,
    repeats: false,
  };
  const random = {
    rw: 'randread',
    blockSize: 4 * KiB,
    align: 64 * KiB,
    size,
    repeats: false,
  } as const;
  return {
    seq0: sequential,
    seq10: sequential,
    cold1: {...random, depth: 1, seconds},
    cold16: {...random, depth: 16, seconds},
  };
}

export async function measureCold(lab: Lab, plan: Plan, results: Results): Promise<void> {
  const backup = await Backup.make(lab, plan.coldSize);
  const [near, far] = [await backup.near(), await backup.far()];
  const growing = CONTESTANTS.filter(({grows}) => grows);
  for (let round = 0; round < plan.rounds; round++) {
    for (const [id, job] of Object.entries(coldJobs(plan))) {
      const source = id === 'seq0' ? near : far;
      const take = async (name: string, target: Running['target']): Promise<void> => {
        const {iops, bytesPerSecond, p50} = await fio(lab, target, job);
        results.add(
          id,
          name,
          id === 'cold1' ? p50 / 1000 : id === 'cold16' ? iops : bytesPerSecond / 1e6,
        );
      };
      await results.attempt(`server, ${id}`, () => take('server', {uri: source.uri}));
      for (const contestant of growing) {
        await results.attempt(`${contestant.name}, ${id}`, async () => {
          const {target, stop} = await contestant.start(lab, source);
          try {
            await take(contestant.name, target);
          } finally {
            await stop();
          }
        });
      }
    }
  }
  await measureBulk(lab, plan, results, {near, far});
  await measureForeground(lab, plan, results, backup);
  await near.stop();
  await far.stop();
  backup.remove();
}

async function measureBulk(
  lab: Lab,
  plan: Plan,
  results: Results,
  {near, far}: {near: Export; far: Export},
): Promise<void> {
  for (let round = 0; round < plan.rounds; round++) {
    for (const [id, source] of [
      ['bulk0', near],
      ['bulk10', far],
    ] as const) {
      await results.attempt(`nbdcopy, ${id}`, async () => {
        const file = lab.fresh('copy');
        const ms = await timed(() => lab.run('nbdcopy', '--flush', source.uri, file));
        results.add(id, 'nbdcopy', ms / 1000);
        rmSync(file);
      });
      for (const contestant of CONTESTANTS) {
        // At 10 ms the peers that copy while they are read take a minute and more: once is enough.
        const isSlow = id === 'bulk10' && contestant !== REGROW;
        if (!contestant.grows || contestant.name === 'nbdkit cache' || (isSlow && round > 0))
          continue;
        await results.attempt(`${contestant.name}, ${id}`, async () => {
          const {hydrate, stop} = await contestant.start(lab, source);
          try {
            results.add(id, contestant.name, (await timed(hydrate)) / 1000);
          } finally {
            await stop();
          }
        });
      }
    }
  }
}

async function measureForeground(
  lab: Lab,
  plan: Plan,
  results: Results,
  backup: Backup,
): Promise<void> {
  const source = await backup.limited();
  const hot = Math.min(32 * MiB, backup.size / 4);
  const job: FioJob = {rw: 'randread', blockSize: 4 * KiB, depth: 1, size: hot, seconds: 1};
  for (let round = 0; round < plan.rounds; round++) {
    for (const mode of ['off', 'background', 'full']) {
      await results.attempt(`regrow, reads with hydration ${mode}`, async () => {
        const {name, target, stop} = await startRegrow(lab, source);
        try {
          if (!('device' in target)) return;
          await lab.run(
            'dd',
            `if=${target.device}`,
            'of=/dev/null',
            'bs=1M',
            `count=${hot / MiB}`,
            'iflag=direct',
            'status=none',
          );
          await regrow(lab, 'hydrate', name, mode);
          const {iops, p99} = await fio(lab, target, job);
          const status = JSON.parse(await regrow(lab, 'status', name, '--json')) as {
            isHydrated: boolean;
          };
          if (mode !== 'off' && status.isHydrated)
            throw new Error('hydration was done before the reads were');
          const row = mode === 'off' ? 'idle' : `hydrating ${mode}`;
          results.add('fgRate', row, iops);
          results.add('fgP99', row, p99);
        } finally {
          await stop();
        }
      });
    }
  }
  await source.stop();
}
