/**
 * Write-through while the daemon dies, alone and with its supervisor, through servers of every kind
 * behind a bad way, and under a user who switches it off and on. Afterwards the backup has what the
 * volume has, and had it when regrow said so.
 */
import {randomInt} from 'node:crypto';
import {setTimeout as sleep} from 'node:timers/promises';
import {attachTest} from '../support/attach-test.js';
import {
  assertEqual,
  attachThrough,
  blocks,
  makeImage,
  put,
  putOk,
  SERVERS,
  startFio,
  startProxy,
  until,
} from '../support/backup-lab.js';
import {FileBackend, ServerBackend} from '../support/nbd-proxy.js';

attachTest('I8: five take-overs under fio, through a slow and forgetful backup', async (t, lab) => {
  const image = makeImage(lab);
  const proxy = await startProxy(t, await FileBackend.open(image));
  const device = await attachThrough(t, lab, proxy.uri);
  proxy.faults.set({delayMs: 3, reorder: true, volatile: true});
  const fio = startFio(t, lab, device, 7);
  for (let death = 1; death <= 5; death++) {
    await sleep(randomInt(200, 900));
    process.kill((await lab.pids(t, 'vol0')).daemon, 'SIGKILL');
    // What no flush had covered is in no other memory than the one that is taken over.
    if (death % 2 === 1) await proxy.powerLoss({fate: 'drop'});
    await until(t, lab, ({takeOver}) => takeOver.count === death);
  }
  t.is(await fio, 0, 'fio saw no error and read what it wrote');
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  t.deepEqual(proxy.missing('held', 'delayed', 'reordered', 'lost'), []);
  await proxy.powerLoss({fate: 'drop'});
  const {takeOver} = await lab.status(t, 'vol0');
  t.deepEqual([takeOver.count, takeOver.isPossible], [5, true]);
  await assertEqual(t, lab, image, lab.path('store'));
});

for (const [name, serve] of Object.entries(SERVERS)) {
  attachTest(`I8: ${name} behind a way that delays, reorders and breaks`, async (t, lab) => {
    const image = makeImage(lab);
    const backend = await ServerBackend.connect(await serve(lab, image, t));
    const proxy = await startProxy(t, backend);
    const device = await attachThrough(t, lab, proxy.uri);
    proxy.faults.set({delayMs: 3, reorder: true});
    const fio = startFio(t, lab, device, 4);
    for (let round = 0; round < 2; round++) {
      await sleep(1200);
      await proxy.cut({downMs: 200});
    }
    t.is(await fio, 0, 'fio saw no error and read what it wrote');
    proxy.faults.clear();
    await assertEqual(t, lab, image, lab.path('store'));
    t.deepEqual(proxy.missing('delayed', 'reordered', 'cutAsked', 'flush'), []);
    t.is(proxy.counts.upstreamFailures, 0);
  });
}

attachTest('off and on again under load: each state is said as it is', async (t, lab) => {
  const image = makeImage(lab);
  const uri = await lab.serveWritable('file', image);
  const device = await attachThrough(t, lab, uri);
  await putOk(t, lab, device, 0, blocks(1));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  const inSync = (await lab.status(t, 'vol0')).protection;
  t.deepEqual([inSync.mode, inSync.state, inSync.unflushedBlocks], ['sync', 'protected', 0]);
  t.is(typeof inSync.consistentAsOf, 'number');
  t.regex(await lab.ok(t, 'status', 'vol0'), /sync: protected, backup consistent as of 20/);

  const fio = startFio(t, lab, device, 5, '--offset=1m');
  await sleep(800);
  const off = await lab.regrow('write-through', 'vol0', 'off');
  t.is(off.exitCode, 0, off.stderr);
  t.regex(off.stderr, /vol0: write-through off: what is written stays in the store\n/);
  const {protection} = await lab.status(t, 'vol0');
  t.deepEqual([protection.mode, protection.state, protection.link.state], ['off', 'off', 'off']);
  t.regex(await lab.refused(t, 'wait', 'vol0', '--in-sync'), /write-through is off, so no write/);
  await sleep(800);
  const on = await lab.regrow('write-through', 'vol0', 'sync', '--rate', '1M');
  t.is(on.exitCode, 0, on.stderr);
  const slow = await until(t, lab, (status) => status.protection.state === 'resync');
  t.is(typeof slow.protection.inconsistentSince, 'number');
  t.true(slow.protection.behindBlocks > 0);
  t.is(slow.protection.resync.rateLimit, 2 ** 20);
  t.regex(
    await lab.ok(t, 'status', 'vol0'),
    /sync: resync: inconsistent since 20\S+, \d+ blocks, .* behind, .*B\/s/,
  );
  t.is(await fio, 0);
  // What is behind is still so over a detach, and is sent in the end.
  const detached = await lab.regrow('detach', 'vol0');
  t.is(detached.exitCode, 0, detached.stderr);
  t.regex(detached.stderr, /\d+ blocks are not on the backup yet; they are sent once vol0 is/);
  await lab.ok(t, 'attach', 'vol0', '--resync-rate', 'none');
  await assertEqual(t, lab, image, lab.path('store'));
});

attachTest('I8: off and on again while writes are under way to the backup', async (t, lab) => {
  const image = makeImage(lab);
  const proxy = await startProxy(t, await FileBackend.open(image));
  const device = await attachThrough(t, lab, proxy.uri);
  proxy.faults.set({delayMs: 20, reorder: true, volatile: true});
  const fio = startFio(t, lab, device, 4);
  for (let round = 0; round < 3; round++) {
    await sleep(500);
    await lab.ok(t, 'write-through', 'vol0', 'off');
    await lab.ok(t, 'write-through', 'vol0', 'sync');
  }
  t.is(await fio, 0);
  const last = await put(lab, device, 4, blocks(7));
  t.is(last.exitCode, 0, last.stderr);
  proxy.faults.set({delayMs: 0});
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  await proxy.powerLoss({fate: 'drop'});
  t.deepEqual(proxy.missing('held', 'reordered'), []);
  await assertEqual(t, lab, image, lab.path('store'));
});
