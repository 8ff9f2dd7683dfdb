/** Backups that cannot be one, or must not: each in one sentence, before anything is written. */
import {copyFileSync, existsSync, linkSync, readFileSync, writeFileSync} from 'node:fs';
import {randomBytes} from 'node:crypto';
import type {ExecutionContext} from 'ava';
import {type AttachLab, makeSource, MIB, refusedFirst} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';
import {assertEqual, blocks, makeImage, putOk} from '../support/backup-lab.js';
import {hashOf} from '../support/ext4-image.js';
import {startNbdServer} from '../support/nbd-server.js';

const hashAt = (path: string): string => hashOf(readFileSync(path));

/** A first attach that says nothing of write-through; what it said besides the device. */
async function attachUnasked(t: ExecutionContext, lab: AttachLab, source: string): Promise<string> {
  const args = [lab.main, 'attach', source, 'vol0', '--store', lab.path('store')];
  const {exitCode, stderr} = await lab.run(process.execPath, args);
  t.is(exitCode, 0, stderr);
  return stderr;
}

attachTest('a read-only backup: refused if asked for, else off, and both said', async (t, lab) => {
  const image = makeSource(lab);
  const before = hashAt(image);
  const uri = await lab.serve('file', image);
  const store = lab.path('store');
  const sentence = await refusedFirst(
    t,
    lab,
    uri,
    'vol0',
    '--store',
    store,
    '--write-through',
    'sync',
  );
  t.regex(sentence, /^cannot attach vol0 with --write-through sync: the backup nbd.*: it is read/);
  t.regex(
    sentence,
    /-only; have its server take writes; name another with --backup, or use .* off$/,
  );
  t.false(existsSync(store));
  t.regex(
    await attachUnasked(t, lab, uri),
    /write-through is off: the backup nbd.* cannot be written .*: it is read-only; .*\n/,
  );
  t.regex(
    await lab.refused(t, 'write-through', 'vol0', 'sync'),
    /^cannot switch write-through of vol0 to sync: the .*-only; have its server take writes$/,
  );
  const {protection, options, device} = await lab.status(t, 'vol0');
  t.deepEqual([protection.mode, protection.state, options.writeThrough], ['off', 'off', 'off']);
  t.regex(await lab.ok(t, 'status', 'vol0'), /write-through off: what is written stays in the/);
  await putOk(t, lab, device ?? '', 3, blocks(1));
  await lab.ok(t, 'detach', 'vol0');
  // A resume does not try it again by itself.
  await lab.ok(t, 'attach', 'vol0');
  t.is((await lab.status(t, 'vol0')).protection.mode, 'off');
  t.is(hashAt(image), before);
});

attachTest('a server that cannot flush is no backup', async (t, lab) => {
  const image = makeSource(lab);
  const before = hashAt(image);
  const {uri} = await startNbdServer(t, [image]);
  const args = ['--store', lab.path('store'), '--write-through', 'strict'];
  const sentence = await refusedFirst(t, lab, uri, 'vol0', ...args);
  t.regex(sentence, /^cannot attach vol0 with --write-through strict: the backup nbd:.* no flush,/);
  t.regex(sentence, /could be called durable; switch that on there; name another with --backup/);
  t.regex(await attachUnasked(t, lab, uri), /write-through is off: .* the server has no flush, /);
  t.is(hashAt(image), before);
});

attachTest('a file as the source is written to only when asked for', async (t, lab) => {
  const image = makeSource(lab, 8);
  const before = hashAt(image);
  const store = lab.path('store');
  t.regex(
    await attachUnasked(t, lab, image),
    /write-through is off: a file or disk is written to only when asked for\n/,
  );
  const {device} = await lab.status(t, 'vol0');
  await putOk(t, lab, device ?? '', 2, blocks(1));
  t.is(hashAt(image), before);
  // What was written before counts as behind, and is sent.
  await lab.ok(t, 'write-through', 'vol0', 'sync');
  await putOk(t, lab, device ?? '', 5, blocks(2));
  await assertEqual(t, lab, image, store);
  t.deepEqual(readFileSync(image).subarray(2 * 65_536, 3 * 65_536), blocks(1));
  t.deepEqual(readFileSync(image).subarray(5 * 65_536, 6 * 65_536), blocks(2));
});

attachTest('a file as the source, asked for at the first attach', async (t, lab) => {
  const image = makeSource(lab, 8);
  const store = lab.path('store');
  const args = ['attach', image, 'vol0', '--store', store, '--write-through', 'sync'];
  const {exitCode, stdout, stderr} = await lab.regrow(...args);
  t.is(exitCode, 0, stderr);
  t.regex(
    stderr,
    /write-through is sync: what is written changes .*\/source as well; .* --write-through off\n/,
  );
  await putOk(t, lab, stdout.trim(), 7, blocks(3));
  await assertEqual(t, lab, image, store);
  t.deepEqual(readFileSync(image).subarray(7 * 65_536, 8 * 65_536), blocks(3));
});

attachTest('a backup that is too small, or that is the store', async (t, lab) => {
  const uri = await lab.serve('file', makeSource(lab, 8));
  const small = makeSource(lab, 4, 'small');
  const before = hashAt(small);
  const store = lab.path('store');
  t.regex(
    await refusedFirst(
      t,
      lab,
      uri,
      'vol0',
      '--store',
      store,
      '--backup',
      await lab.serveWritable('file', small),
    ),
    /^cannot attach vol0 with --backup: the .* has 4 MiB, the volume 8 MiB, so .* too small; name/,
  );
  t.false(existsSync(store));
  t.is(hashAt(small), before);
  writeFileSync(store, '');
  linkSync(store, lab.path('other-name'));
  for (const backup of [store, lab.path('other-name')]) {
    t.is(
      await refusedFirst(t, lab, uri, 'vol0', '--store', store, '--backup', backup),
      `cannot attach vol0: backup and store are the same, ${store}; name another --backup`,
    );
  }
  t.is(readFileSync(store).length, 0);
});

attachTest('a backup that does not exist, or is away, at the first attach', async (t, lab) => {
  const uri = await lab.serve('file', makeSource(lab));
  const store = lab.path('store');
  for (const [backup, reason] of [
    [lab.path('none'), /: the backup .*\/none cannot be written through to: .*/],
    ['nbd://127.0.0.1:1/backup', /: .*nbd:\/\/127\.0\.0\.1:1\/backup: nothing listens/],
  ] as const) {
    const sentence = await refusedFirst(t, lab, uri, 'vol0', '--store', store, '--backup', backup);
    t.regex(sentence, /^cannot attach vol0 with --backup: .*--write-through off$/);
    t.regex(sentence, reason);
  }
  t.false(existsSync(store));
  t.false(existsSync(lab.path('none')));
});

attachTest('I7: a backup of other content is refused before any write', async (t, lab) => {
  const uri = await lab.serve('file', makeSource(lab, 8));
  const other = makeSource(lab, 8, 'other');
  const before = hashAt(other);
  const store = lab.path('store');
  const otherUri = await lab.serveWritable('file', other);
  t.regex(
    await refusedFirst(t, lab, uri, 'vol0', '--store', store, '--backup', otherUri),
    /^cannot attach vol0: the backup does not hold what the source holds, at byte \d+ they differ;/,
  );
  t.is(hashAt(other), before);
  t.false(existsSync(store));
});

attachTest('I8: another backup is written to, and the source is not', async (t, lab) => {
  const image = makeImage(lab, 'image', 16);
  const copy = lab.path('copy');
  copyFileSync(image, copy);
  const before = hashAt(image);
  const [uri, backup] = [await lab.serve('file', image), await lab.serveWritable('file', copy)];
  const store = lab.path('store');
  const device = await lab.ok(t, 'attach', uri, 'vol0', '--store', store, '--backup', backup);
  // Whole blocks, parts of blocks that are absent, data over a hole, and zeroes over data.
  await putOk(t, lab, device, 1, randomBytes(3 * 65_536));
  await putOk(t, lab, device, 40, randomBytes(4096));
  await putOk(t, lab, device, 20, randomBytes(65_536 + 512));
  lab.tool('blkdiscard', '-o', String(4 * MIB + 4096), '-l', String(MIB), device);
  t.is((await lab.status(t, 'vol0')).options.backup, backup);
  await assertEqual(t, lab, copy, store);
  t.not(hashAt(copy), before);
  t.is(hashAt(image), before);
});

attachTest('without CAP_SYS_RESOURCE a volume works and says what it lacks', async (t, lab) => {
  const bare = ['--bounding-set', '-sys_resource', process.execPath, lab.main];
  const image = makeSource(lab);
  const through = ['--store', lab.path('store'), '--write-through', 'sync'];
  const attached = await lab.run('setpriv', [...bare, 'attach', image, 'vol0', ...through]);
  t.is(attached.exitCode, 0, attached.stderr);
  t.false((await lab.status(t, 'vol0')).takeOver.isIoFlusher);
  t.regex(
    await lab.ok(t, 'status', 'vol0'),
    /without CAP_SYS_RESOURCE it is no I\/O flusher: scarce memory may make it wait/,
  );
  t.regex(
    (await lab.run('setpriv', [...bare, 'doctor'])).stdout,
    /privileges +CAP_SYS_RESOURCE is missing: short of memory the daemon may wait for itself/,
  );
  await putOk(t, lab, attached.stdout.trim(), 1, blocks(4));
  await assertEqual(t, lab, image, lab.path('store'));
});
