/**
 * Why there is no connection to an NBD server, in words that tell a person what to do. libnbd names
 * most causes only in its messages; this is the one place that reads them. What it does not know it
 * passes on as it is.
 */
import {BlockError, errnoCode, type ErrnoCode} from '../base/errors.js';
import type {NbdTarget} from './nbd.js';

interface Cause {
  code: ErrnoCode;
  /** What is wrong and what to do about it. */
  reason: string;
  /** Trying again cannot help until a person changed something. */
  isPermanent?: boolean;
}

/** First match wins. `pattern` is what libnbd or native/nbd_connection.cc says. */
const CAUSES: readonly {pattern: RegExp; cause: (target: NbdTarget) => Cause}[] = [
  {
    pattern: /getaddrinfo/,
    cause: ({host}) => ({
      code: 'EHOSTUNREACH',
      reason: `the host ${host} is not found; check its name`,
    }),
  },
  {
    pattern: /server refused TLS/,
    cause: () => ({
      code: 'EACCES',
      isPermanent: true,
      reason:
        'the server offers no TLS; set it up there, or use nbd:// if the network may be trusted',
    }),
  },
  {
    pattern: /server requires TLS/,
    cause: () => ({
      code: 'EACCES',
      isPermanent: true,
      reason: 'the server requires TLS; use nbds:// instead of nbd://',
    }),
  },
  {
    pattern: /certificate verification/,
    cause: ({host, certificates}) => ({
      code: 'EACCES',
      isPermanent: true,
      reason:
        `the server's certificate is not trusted: it is not for ${host || 'this socket'}, has ` +
        `expired, or was not issued by the authority in ${certificates}/ca-cert.pem`,
    }),
  },
  {
    pattern: /no readable CA certificate/,
    cause: ({certificates}) => ({
      code: 'ENOENT',
      isPermanent: true,
      reason:
        certificates === ''
          ? 'there is no CA certificate to check the server by; ' +
            'give tls-certificates=DIR with a ca-cert.pem'
          : `${certificates}/ca-cert.pem, by which the server is checked, cannot be read`,
    }),
  },
  {
    pattern: /was not found in PSK file/,
    cause: ({username, pskFile}) => ({
      code: 'EACCES',
      isPermanent: true,
      reason:
        `${pskFile} has no key for ${username || 'this user'}; ` +
        'name one of its users as nbds://USER@HOST',
    }),
  },
  {pattern: /gnutls/, cause: tlsFailure},
  {
    pattern: /no export named/,
    cause: ({exportName}) => ({
      code: 'ENOENT',
      isPermanent: true,
      reason: `the server has no export named '${exportName}'; nbdinfo --list shows those it has`,
    }),
  },
  {
    pattern: /expected NBD magic|magic/,
    cause: () => ({
      code: 'EINVAL',
      isPermanent: true,
      reason: 'what answers there is not an NBD server; check the port',
    }),
  },
  {
    pattern: /handshake timeout/,
    cause: () => ({
      code: 'ETIMEDOUT',
      reason: 'it accepted the connection but did not answer in time',
    }),
  },
  {
    pattern: /connect timeout/,
    cause: () => ({
      code: 'ETIMEDOUT',
      reason: 'nothing answers there; check the address and any firewall between',
    }),
  },
];

/** Those known by errno alone. */
const CAUSE_BY_CODE: Partial<Record<ErrnoCode, string>> = {
  ECONNREFUSED: 'nothing listens there; start the server or check the port',
  EHOSTUNREACH: 'the host cannot be reached; check the network',
  ENETUNREACH: 'there is no route to its network; check the network',
  EACCES: 'permission is denied',
  ENOENT: 'there is no such socket; start the server or check the path',
};

/** The error of a connection that never became ready. `errno` is positive. */
export function connectError(
  name: string,
  target: NbdTarget,
  errno: number,
  message: string,
): BlockError {
  const {code, reason, isPermanent} = causeOf(target, errno, message);
  const details = {op: 'connect', cause: new Error(message), isPermanent: isPermanent ?? false};
  return new BlockError(code, `connecting to ${name}: ${reason} (${code})`, details);
}

function causeOf(target: NbdTarget, errno: number, message: string): Cause {
  const known = CAUSES.find(({pattern}) => pattern.test(message));
  if (known !== undefined) return known.cause(target);
  const code = errnoCode(errno);
  const reason = CAUSE_BY_CODE[code];
  const isFile = /\bopen: /.test(message);
  if (reason !== undefined && !isFile) return {code, reason};
  if (code === 'ENOTCONN' || code === 'ECONNRESET' || code === 'EPIPE') {
    return {
      code: 'ECONNRESET',
      reason:
        'the server hung up during the handshake, as some do when they have no such export or ' +
        'admit no further client',
    };
  }
  return {code, reason: message.replace(/^nbd_\w+: /, '')};
}

function tlsFailure({pskFile, username}: NbdTarget): Cause {
  const reason =
    pskFile === ''
      ? 'TLS failed: the server refused the client certificate, or wants a pre-shared key'
      : `TLS failed: the server does not take the key of ${username || 'this user'} in ${pskFile}`;
  return {code: 'EACCES', reason, isPermanent: true};
}
