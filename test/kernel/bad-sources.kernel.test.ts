/** Sources on bad days: what attach refuses, each in one sentence that says what to do. */
import {existsSync, mkdirSync, readFileSync, truncateSync, writeFileSync} from 'node:fs';
import {createServer} from 'node:net';
import {setTimeout as sleep} from 'node:timers/promises';
import {makeSource, MIB, refusedFirst} from '../support/attach-lab.js';
import {attachTest} from '../support/attach-test.js';

attachTest('a source that does not exist', async (t, lab) => {
  t.regex(
    await refusedFirst(t, lab, lab.path('none'), 'vol0', '--store', lab.path('store')),
    /^cannot attach vol0: opening the source .*\/none: it does not exist; check the path$/,
  );
  t.false(existsSync(lab.path('store')));
});

attachTest('a source that refuses the connection', async (t, lab) => {
  t.regex(
    await refusedFirst(t, lab, 'nbd://127.0.0.1:1/vol0', 'vol0', '--store', lab.path('store')),
    /^cannot attach vol0: opening the source: .*nbd:\/\/127\.0\.0\.1:1\/vol0: nothing listens/,
  );
});

attachTest('a source without the export', async (t, lab) => {
  const source = makeSource(lab);
  const socket = lab.path('q.sock');
  lab.background('qemu-nbd', '-r', '-t', '-k', socket, '-x', 'right', '-f', 'raw', source);
  for (let i = 0; i < 200 && !existsSync(socket); i++) await sleep(20);
  t.regex(
    await refusedFirst(
      t,
      lab,
      `nbd+unix:///wrong?socket=${socket}`,
      'vol0',
      '--store',
      lab.path('store'),
    ),
    /^cannot attach vol0: opening the source: .* the server has no export named 'wrong'; nbdinfo/,
  );
});

attachTest('a source that has no TLS though it was asked for', async (t, lab) => {
  mkdirSync(lab.path('tls'));
  lab.tool(
    'openssl',
    'req',
    '-x509',
    '-newkey',
    'rsa:2048',
    '-nodes',
    '-subj',
    '/CN=nobody',
    '-keyout',
    lab.path('tls', 'key.pem'),
    '-out',
    lab.path('tls', 'ca-cert.pem'),
  );
  const uri = await lab.serve('file', makeSource(lab));
  t.regex(
    await refusedFirst(
      t,
      lab,
      `${uri.replace('nbd+unix', 'nbds+unix')}&tls-certificates=${lab.path('tls')}`,
      'vol0',
      '--store',
      lab.path('store'),
    ),
    /^cannot attach vol0: opening the source: .*: the server offers no TLS; set it up there,/,
  );
});

attachTest('a source that accepts and never answers', async (t, lab) => {
  const socket = lab.path('silent.sock');
  const server = createServer(() => {}).listen(socket);
  t.teardown(() => server.close());
  const startedAt = performance.now();
  t.regex(
    await refusedFirst(
      t,
      lab,
      `nbd+unix:///?socket=${socket}`,
      'vol0',
      '--store',
      lab.path('store'),
      '--io-timeout',
      '1s',
    ),
    /^cannot attach vol0: .*silent.*: it accepted the connection but did not answer in time/,
  );
  t.true(performance.now() - startedAt < 30_000);
});

attachTest('a source of another size at a resume', async (t, lab) => {
  const source = makeSource(lab);
  await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  await lab.ok(t, 'detach', 'vol0');
  truncateSync(source, 5 * MIB);
  t.regex(
    await lab.refused(t, 'attach', 'vol0'),
    /^cannot attach vol0: .*\/source: its size was 4194304 bytes and is 5242880 now, so it is not/,
  );
});

attachTest('a source of another content at a resume', async (t, lab) => {
  const source = makeSource(lab);
  await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  for (let i = 0; i < 100 && (await lab.status(t, 'vol0')).witnesses === 0; i++) await sleep(20);
  await lab.ok(t, 'detach', 'vol0');
  const before = readFileSync(lab.path('store'));
  makeSource(lab);
  t.regex(
    await lab.refused(t, 'attach', 'vol0'),
    /^cannot attach vol0: .*\/source.* is not the source/,
  );
  lab.same(t, readFileSync(lab.path('store')), before);
});

attachTest('another source of the same content at a resume is fine', async (t, lab) => {
  const source = makeSource(lab);
  await lab.ok(t, 'attach', source, 'vol0', '--store', lab.path('store'));
  for (let i = 0; i < 100 && (await lab.status(t, 'vol0')).witnesses === 0; i++) await sleep(20);
  await lab.ok(t, 'detach', 'vol0');
  writeFileSync(lab.path('copy'), readFileSync(source));
  const device = await lab.ok(t, 'attach', lab.path('copy'), 'vol0', '--store', lab.path('store'));
  lab.same(t, readFileSync(device), readFileSync(source));
});
