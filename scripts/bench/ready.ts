/** From the command to a device, for volumes of all sizes, and a file system mounted on it. */
import {OFF, regrow, sparseFile, REGROW, STORAGE_DAEMON, type Running} from './contestants.js';
import {DELAY, DELAY_OPTIONS} from './backup.js';
import {loopOn, nbdkit, timed, type Lab, type Undo} from './lab.js';
import type {Results} from './results.js';
import type {Plan} from './tables.js';

const MiB = 1024 * 1024;
const GiB = 1024 * MiB;
const TiB = 1024 * GiB;

const READY_SIZES = {ready1g: GiB, ready1t: TiB, ready64t: 64 * TiB} as const;

export async function measureReady(lab: Lab, plan: Plan, results: Results): Promise<void> {
  const {folder, stop} = await makeXfs(lab);
  for (const [id, size] of Object.entries(READY_SIZES)) {
    const source = await nbdkit(lab, size, ['--readonly', 'memory', String(size)]);
    for (let round = 0; round < plan.rounds; round++) {
      await results.attempt(`regrow, ${id}`, async () => {
        const store = `${folder}/store-${id}-${round}`;
        const args = ['attach', source.uri, `ready${round}`, '--store', store, ...OFF];
        const ms = await timed(() => regrow(lab, ...args));
        results.add(id, 'regrow', ms);
        if (id === 'ready64t') {
          const status = JSON.parse(await regrow(lab, 'status', `ready${round}`, '--json')) as {
            memory: {resident: number};
          };
          results.add('rss64t', 'regrow', status.memory.resident / MiB);
        }
        await regrow(lab, 'detach', `ready${round}`);
        await regrow(lab, 'forget', `ready${round}`, '--force');
      });
      await results.attempt(`QSD FUSE, ${id}`, async () => {
        let daemon: Running | undefined;
        results.add(
          id,
          STORAGE_DAEMON.name,
          await timed(async () => (daemon = await STORAGE_DAEMON.start(lab, source))),
        );
        await daemon?.stop();
      });
    }
    await source.stop();
  }
  await stop();
  await measureMount(lab, plan, results);
}

/** An XFS of its own: ext4 ends at 16 TiB for one file. */
async function makeXfs(lab: Lab): Promise<{folder: string; stop: Undo}> {
  const image = sparseFile(lab.fresh('xfs'), 2 * GiB);
  await lab.run('mkfs.xfs', '-q', image);
  const {device, stop: stopLoop} = await loopOn(lab, image, false);
  const folder = lab.fresh('mounted');
  await lab.run('mkdir', folder);
  await lab.run('mount', device, folder);
  const unmount = lab.undoLater(async () => void (await lab.run('umount', folder)));
  return {
    folder,
    stop: async () => {
      await unmount();
      await stopLoop();
    },
  };
}

async function measureMount(lab: Lab, plan: Plan, results: Results): Promise<void> {
  const file = sparseFile(lab.fresh('ext4'), GiB);
  await lab.run('mkfs.ext4', '-q', '-F', file);
  const source = await nbdkit(lab, GiB, ['--readonly', ...DELAY, 'file', file, ...DELAY_OPTIONS]);
  const folder = lab.fresh('mounted');
  await lab.run('mkdir', folder);
  for (let round = 0; round < plan.rounds; round++) {
    for (const contestant of [STORAGE_DAEMON, REGROW]) {
      await results.attempt(`${contestant.name}, mount`, async () => {
        const {target, stop} = await contestant.start(lab, source);
        try {
          if (!('device' in target)) return;
          results.add(
            'mount',
            contestant.name,
            await timed(() => lab.run('mount', target.device, folder)),
          );
          await lab.run('umount', folder);
        } finally {
          await stop();
        }
      });
    }
  }
  await source.stop();
}
