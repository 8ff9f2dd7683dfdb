/**
 * What befalls a backup while it is written through to: full, refused, silent, gone, another one,
 * or written to late by a connection that is dead. The guest goes on, nothing is lost, and it is
 * said.
 */
import {readFileSync} from 'node:fs';
import {setTimeout as sleep} from 'node:timers/promises';
import {makeSource, WRITABLE} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {
  assertEqual,
  attachThrough,
  blocks,
  makeImage,
  put,
  putOk,
  startProxy,
  until,
  untilWitnessed,
} from '../support/backup-lab.js';
import {hashOf} from '../support/ext4-image.js';
import {FileBackend} from '../support/nbd-proxy.js';
import {startNbdkit} from '../support/nbd-server.js';
import {makeKeyFile} from '../support/tls-material.js';

const BLOCK = 65_536;

attachTest('I8: a full backup, sync: no error, behind, later equal', async (t, lab) => {
  const image = makeImage(lab);
  const proxy = await startProxy(t, await FileBackend.open(image));
  const device = await attachThrough(t, lab, proxy.uri);
  await putOk(t, lab, device, 0, blocks(1, 4));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  proxy.fail(['write', 'zero'], 'ENOSPC');
  await putOk(t, lab, device, 2, blocks(2, 4));
  await putOk(t, lab, device, 100, blocks(3, 16));
  const {protection} = await until(t, lab, (status) => status.protection.behindBlocks === 20);
  // Once the resync has tried, the backup may hold parts of later writes.
  t.not(protection.state, 'protected');
  t.is(protection.link.state, 'connected');
  t.regex(protection.lastError ?? '', /no space|ENOSPC|full/i);
  const text = await lab.ok(t, 'status', 'vol0');
  t.regex(text, /20 blocks, 1\.25 MiB behind.*, last error: .*(no space|ENOSPC|full)/i);
  t.true(proxy.counts.errors > 0);
  proxy.heal();
  await assertEqual(t, lab, image, lab.path('store'));
});

attachTest('I8: a full backup, strict: the write fails and nothing is lost', async (t, lab) => {
  const image = makeImage(lab);
  const proxy = await startProxy(t, await FileBackend.open(image));
  const device = await attachThrough(t, lab, proxy.uri, 'strict');
  await putOk(t, lab, device, 0, blocks(1, 4));
  proxy.fail(['write', 'zero'], 'ENOSPC');
  const failed = await put(lab, device, 2, blocks(2), 'notrunc');
  t.is(failed.exitCode, 1);
  t.regex(failed.stderr, /error writing .*: (No space left on device|Input\/output error)/);
  // What was acknowledged is there, and reads go on.
  const {exitCode} = await lab.run('dd', [
    `if=${device}`,
    `of=${lab.path('local')}`,
    'bs=64k',
    'count=2',
    'iflag=direct',
    'status=none',
  ]);
  t.is(exitCode, 0);
  lab.same(t, readFileSync(lab.path('local')), blocks(1, 2));
  lab.same(t, readFileSync(image).subarray(0, 4 * BLOCK), blocks(1, 4));
  proxy.heal();
  await putOk(t, lab, device, 2, blocks(4));
  await putOk(t, lab, device, 60, blocks(5));
  await assertEqual(t, lab, image, lab.path('store'));
  lab.same(t, readFileSync(image).subarray(2 * BLOCK, 3 * BLOCK), blocks(4));
});

attachTest('I8: a backup that takes the key no more, until it does again', async (t, lab) => {
  const image = makeImage(lab);
  const [ours, foreign] = [await makeKeyFile(t, 'alice'), await makeKeyFile(t, 'alice')];
  const served = (key: string): string[] => [
    ...['--threads', '1', '--tls=require', `--tls-psk=${key}`],
    ...['file', image],
  ];
  const server = await startNbdkit(t, served(ours), {useTcp: true});
  const uri = `nbds://alice@127.0.0.1:${server.port}/?tls-psk-file=${ours}`;
  const device = await attachThrough(t, lab, uri);
  await putOk(t, lab, device, 0, blocks(1));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  await server.restart(served(foreign));
  await putOk(t, lab, device, 0, blocks(2));
  await putOk(t, lab, device, 1, blocks(3));
  const {protection} = await until(t, lab, ({protection: {link}}) => {
    return link.state !== 'connected' && /TLS/.test(link.lastError ?? '');
  });
  t.is(protection.behindBlocks, 2);
  t.is(protection.state, 'behind');
  const text = await lab.ok(t, 'status', 'vol0');
  t.regex(text, /2 blocks, 128 KiB behind.*, (away|refused) since .* \(.*TLS.* key of alice/);
  t.false(text.includes(readFileSync(ours, 'utf8').trim().split(':')[1] ?? ''), 'no secret');
  await server.restart(served(ours));
  await assertEqual(t, lab, image, lab.path('store'));
});

attachTest('I8: a backlog outlives a detach and waits for its backup', async (t, lab) => {
  const image = makeImage(lab);
  const socket = lab.path('s.sock');
  const {uri, server} = await lab.serveOn(socket, WRITABLE, 'file', image);
  const device = await attachThrough(t, lab, uri);
  await untilWitnessed(t, lab);
  server.kill('SIGKILL');
  await putOk(t, lab, device, 0, blocks(1, 3));
  await putOk(t, lab, device, 500, blocks(2));
  const detached = await lab.regrow('detach', 'vol0');
  t.is(detached.exitCode, 0, detached.stderr);
  t.regex(
    detached.stderr,
    /4 blocks are not on the backup yet; they are sent once vol0 is attached again/,
  );
  const {exitCode, stdout, stderr} = await lab.regrow('attach', 'vol0');
  t.is(exitCode, 0, stderr);
  const {protection} = await lab.status(t, 'vol0');
  t.deepEqual([protection.state, protection.behindBlocks], ['behind', 4]);
  t.not(protection.link.state, 'connected');
  t.truthy(protection.link.lastError);
  await putOk(t, lab, stdout.trim(), 501, blocks(3));
  t.is((await lab.status(t, 'vol0')).protection.behindBlocks, 5);
  t.regex(await lab.ok(t, 'status', 'vol0'), /5 blocks, 320 KiB behind, away since/);
  await lab.serveOn(socket, WRITABLE, 'file', image);
  await assertEqual(t, lab, image, lab.path('store'));
});

attachTest('I7: other content at the address of the backup is not written to', async (t, lab) => {
  const image = makeImage(lab);
  const other = makeSource(lab, 64, 'other');
  const before = hashOf(readFileSync(other));
  const socket = lab.path('s.sock');
  const first = await lab.serveOn(socket, WRITABLE, 'file', image);
  const device = await attachThrough(t, lab, first.uri);
  await untilWitnessed(t, lab);
  await putOk(t, lab, device, 0, blocks(1));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  first.server.kill('SIGKILL');
  const wrong = await lab.serveOn(socket, WRITABLE, 'file', other);
  await putOk(t, lab, device, 1, blocks(2));
  const {protection} = await until(t, lab, ({protection: {link}}) => link.state === 'refused');
  t.deepEqual([protection.state, protection.behindBlocks], ['behind', 1]);
  t.regex(
    await lab.ok(t, 'status', 'vol0'),
    /refused since .* is not this volume's backup: at byte \d+ it holds something else; nothing is/,
  );
  await putOk(t, lab, device, 2, blocks(3));
  // The same over a detach.
  await lab.ok(t, 'detach', 'vol0');
  t.regex(await lab.refused(t, 'attach', 'vol0'), /is not the source this volume grows from/);
  t.is(hashOf(readFileSync(other)), before);
  wrong.server.kill('SIGKILL');
  await lab.serveOn(socket, WRITABLE, 'file', image);
  await lab.ok(t, 'attach', 'vol0');
  await assertEqual(t, lab, image, lab.path('store'));
  t.is(hashOf(readFileSync(other)), before);
});

attachTest('I8: strict over a backup that dies: what was answered is there', async (t, lab) => {
  const image = makeImage(lab);
  const socket = lab.path('s.sock');
  const {uri, server} = await lab.serveOn(socket, WRITABLE, 'file', image);
  const device = await attachThrough(t, lab, uri, 'strict');
  const answered = new Map<number, number>();
  const failures: string[] = [];
  let isOver = false;
  // Each its own blocks, one after the other, whole and again with another stamp.
  const writer = async (which: number): Promise<void> => {
    for (let round = 0; !isOver; round++) {
      const block = which * 100 + (round % 24) * 4;
      const stamp = 1 + ((round * 4 + which) % 255);
      answered.delete(block);
      // Without a flush: strict means that the answer of the write is enough.
      const {exitCode, stderr} = await put(lab, device, block, blocks(stamp, 3), 'notrunc');
      if (exitCode === 0) answered.set(block, stamp);
      else failures.push(stderr);
    }
  };
  const writers = [0, 1, 2, 3].map(writer);
  await sleep(1000);
  server.kill('SIGKILL');
  for (const end = performance.now() + 10_000; failures.length < 8 && performance.now() < end;) {
    await sleep(20);
  }
  isOver = true;
  await Promise.all(writers);
  t.true(answered.size > 20, `${answered.size} answered`);
  t.true(failures.length >= 8);
  for (const failure of failures) t.regex(failure, /Input\/output error/);
  const there = readFileSync(image);
  for (const [block, stamp] of answered) {
    lab.same(t, there.subarray(block * BLOCK, (block + 3) * BLOCK), blocks(stamp, 3));
    const local = lab.path('local');
    const read = ['bs=64k', `skip=${block}`, 'count=3', 'iflag=direct', 'status=none'];
    t.is((await lab.run('dd', [`if=${device}`, `of=${local}`, ...read])).exitCode, 0);
    lab.same(t, readFileSync(local), blocks(stamp, 3));
  }
  t.regex(await lab.ok(t, 'status', 'vol0'), /strict: .*away since/);
  await lab.serveOn(socket, WRITABLE, 'file', image);
  await until(t, lab, ({protection}) => protection.link.state === 'connected');
  // Writes work at once; a flush, which promises what the resync has yet to bring, only after it.
  const written = await put(lab, device, 900, blocks(9), 'notrunc');
  t.is(written.exitCode, 0, written.stderr);
  lab.same(t, readFileSync(image).subarray(900 * BLOCK, 901 * BLOCK), blocks(9));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  await putOk(t, lab, device, 901, blocks(10));
  await assertEqual(t, lab, image, lab.path('store'));
});

attachTest('I8: a silent backup holds a flush up for seconds only', async (t, lab) => {
  const image = makeImage(lab);
  const proxy = await startProxy(t, await FileBackend.open(image));
  const device = await attachThrough(t, lab, proxy.uri);
  await putOk(t, lab, device, 0, blocks(1));
  await lab.ok(t, 'wait', 'vol0', '--in-sync');
  proxy.faults.set({silent: true});
  const began = performance.now();
  await putOk(t, lab, device, 0, blocks(2, 8));
  const ms = performance.now() - began;
  t.log(`the write and its flush took ${Math.round(ms)} ms`);
  t.true(ms < 15_000);
  const {protection} = await lab.status(t, 'vol0');
  t.deepEqual([protection.state, protection.behindBlocks], ['behind', 8]);
  t.regex(protection.link.lastError ?? '', /was not answered in time/);
  // Later ones do not wait again.
  const again = performance.now();
  await putOk(t, lab, device, 100, blocks(3));
  t.true(performance.now() - again < 4000);
  proxy.faults.set({silent: false});
  await assertEqual(t, lab, image, lab.path('store'));
  t.deepEqual(proxy.missing('silenced'), []);
});

for (const {title, isLate} of [
  {title: 'before its block is sent again', isLate: false},
  {title: 'over what was sent in its place', isLate: true},
]) {
  attachTest(`I8: a dead connection's write lands ${title}`, async (t, lab) => {
    const image = makeImage(lab);
    let isHunting = false;
    let dead = 0;
    const proxy = await startProxy(t, await FileBackend.open(image), {
      log: ({what, connection, offset}) => {
        // The newer bytes are there, and neither answered nor flushed.
        if (!isHunting || what !== 'landed' || connection <= dead || offset !== 0) return;
        isHunting = false;
        void proxy.landZombies();
      },
    });
    const device = await attachThrough(t, lab, proxy.uri);
    await putOk(t, lab, device, 0, blocks(1));
    await lab.ok(t, 'wait', 'vol0', '--in-sync');
    proxy.faults.set({silent: true, zombieMs: 600_000, zombieProbability: 1});
    const before = proxy.counts.write;
    const old = put(lab, device, 0, blocks(2));
    while (proxy.counts.write === before) await sleep(5);
    dead = proxy.counts.connections;
    await proxy.cut();
    proxy.faults.set({silent: false});
    t.is((await old).exitCode, 0);
    while (proxy.zombieCount === 0) await sleep(5);
    await putOk(t, lab, device, 0, blocks(3));
    await until(t, lab, ({protection}) => protection.link.state === 'connected');
    t.true((await lab.status(t, 'vol0')).protection.behindBlocks > 0);
    lab.same(t, readFileSync(image).subarray(0, BLOCK), blocks(1));
    if (isLate) isHunting = true;
    else await proxy.landZombies();
    await lab.ok(t, 'wait', 'vol0', '--in-sync');
    t.deepEqual(proxy.missing('zombies', 'zombiesLanded'), []);
    t.is(proxy.counts.zombiesOverNewer > 0, isLate);
    t.is(proxy.zombieCount, 0);
    await proxy.powerLoss({fate: 'drop'});
    await assertEqual(t, lab, image, lab.path('store'));
    lab.same(t, readFileSync(image).subarray(0, BLOCK), blocks(3));
  });
}
