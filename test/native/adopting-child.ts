/**
 * Helper of takeover.test.ts: serves the FUSE connection whose descriptors it inherited as 3 and 4.
 * `hold` never answers a request; `answer` asks for what was left unanswered and fills reads with
 * 42. Prints one line at the first request.
 */
import {FuseSession, resendFuse} from '../../src/native/fuse.js';

const [order] = process.argv.slice(2);
const connection = {channels: [3, 4], kernelMinor: 40, hasResend: true};
const disk = {node: 2, name: 'disk', mode: 0o600, size: 2 ** 20, isText: false, isHeld: false};
const session = new FuseSession(connection, 24, [disk]);
if (order === 'answer') resendFuse(connection);
session.start(
  (request) => {
    process.stdout.write('asked\n');
    if (order === 'hold') return;
    request.buffer.fill(42);
    session.complete(request.tag, request.length);
  },
  () => undefined,
);
