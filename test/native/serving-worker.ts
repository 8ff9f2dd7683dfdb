/**
 * Helper of fuse-session.test.ts: a worker thread that serves a mount and never answers a request.
 * Says `ready` once it serves and `asked` at the first request.
 */
import {parentPort, workerData} from 'node:worker_threads';

import {FuseSession, openFuse} from '../../src/native/fuse.js';

const connection = await openFuse({
  mountpoint: String(workerData),
  source: 'regrow:worker',
  namespace: -1,
  channels: 2,
  maxBackground: 16,
});
const disk = {node: 2, name: 'disk', mode: 0o600, size: 2 ** 20, isText: false, isHeld: false};
const session = new FuseSession(connection, 24, [disk]);
session.start(
  () => parentPort?.postMessage('asked'),
  () => undefined,
);
parentPort?.postMessage('ready');
