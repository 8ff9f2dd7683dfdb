/**
 * NBD URIs, as the NBD project specifies them:
 *
 *   nbd://HOST[:PORT]/EXPORT             nbd+unix:///EXPORT?socket=PATH       in the clear
 *   nbds://[USER@]HOST[:PORT]/EXPORT     nbds+unix://[USER@]/EXPORT?socket=PATH            TLS
 *
 * HOST is a name, an IPv4 address or an IPv6 address in brackets; PORT is 10809 if left out; EXPORT
 * is everything behind the first slash, percent-decoded, and may be empty. TLS takes
 * tls-certificates=DIR (ca-cert.pem, and client-cert.pem with client-key.pem where the server wants
 * them) or tls-psk-file=FILE, in which USER's key is looked up; tls-verify-peer=false checks no
 * certificate.
 *
 * Paths become absolute here, since a daemon's folder is not that of the command which named them.
 */
import {resolve} from 'node:path';
import {UserError} from '../base/errors.js';
import type {NbdTarget} from '../native/nbd.js';

const DEFAULT_PORT = '10809';
/** The protocol's limit for a string. */
const MAX_EXPORT_BYTES = 4096;

const SHAPE = /^(nbds?)(\+[a-z]+)?:\/\/([^/?#]*)(\/[^?#]*)?(?:\?([^#]*))?$/i;
const AUTHORITY = /^(?:([^@]*)@)?(\[[0-9a-f:.%]+\]|[^:[\]@]*)(?::(\d*))?$/i;
const PARAMETERS = new Set(['socket', 'tls-certificates', 'tls-psk-file', 'tls-verify-peer']);

export interface NbdUri {
  readonly target: NbdTarget;
  /** Complete and with absolute paths; fit to be stored and parsed again. */
  readonly text: string;
  /** For people and logs: scheme, place and export only. */
  readonly name: string;
  /** In the clear to another computer. */
  readonly isExposed: boolean;
}

/** True if the text claims to be an NBD URI, valid or not. */
export function isNbdUri(text: string): boolean {
  return /^nbds?(\+[a-z]+)?:/i.test(text);
}

/** Throws a UserError that says what is wrong with the text. */
export function parseNbdUri(text: string): NbdUri {
  const match = SHAPE.exec(text);
  if (match === null) throw refuse(text, 'it is not of the form nbd://HOST[:PORT]/EXPORT');
  const [, scheme = '', transport = '', authority = '', path = '', query = ''] = match;
  const parameters = parseQuery(text, query);
  const tls = scheme.toLowerCase() === 'nbds';
  const place = parsePlace(text, transport.toLowerCase(), authority, parameters);
  const exportName = decode(text, path.slice(1));
  if (Buffer.byteLength(exportName) > MAX_EXPORT_BYTES)
    throw refuse(text, 'its export name is too long');
  return describe({...place, exportName, tls, ...parseTls(text, tls, place.username, parameters)});
}

type Place = Pick<NbdTarget, 'host' | 'port' | 'unixPath' | 'username'>;
type Tls = Pick<NbdTarget, 'certificates' | 'pskFile' | 'verifyPeer'>;

function parseQuery(text: string, query: string): ReadonlyMap<string, string> {
  const parameters = new Map<string, string>();
  for (const part of query.split('&')) {
    if (part === '') continue;
    const cut = part.indexOf('=');
    const key = cut < 0 ? part : part.slice(0, cut);
    if (!PARAMETERS.has(key)) {
      throw refuse(text, `it has no parameter '${key}'; there are ${[...PARAMETERS].join(', ')}`);
    }
    const value = cut < 0 ? '' : decode(text, part.slice(cut + 1));
    if (value === '') throw refuse(text, `its parameter ${key} has no value`);
    if (parameters.has(key)) throw refuse(text, `its parameter ${key} is given twice`);
    parameters.set(key, value);
  }
  return parameters;
}

function parsePlace(
  text: string,
  transport: string,
  authority: string,
  parameters: ReadonlyMap<string, string>,
): Place {
  const match = AUTHORITY.exec(authority);
  if (match === null)
    throw refuse(text, 'its host is malformed (an IPv6 address stands in brackets)');
  const [, user = '', hostText = '', port = ''] = match;
  if (user.includes(':'))
    throw refuse(text, 'a password has no place in it; use tls-psk-file=FILE');
  const username = decode(text, user);
  const host = decode(text, hostText.replace(/^\[(.*)\]$/, '$1'));
  const socket = parameters.get('socket');
  if (transport === '+unix') {
    if (socket === undefined) throw refuse(text, 'it names no socket; add ?socket=PATH');
    if (host !== '' || port !== '')
      throw refuse(text, 'a Unix socket has no host; use nbd+unix:///EXPORT');
    return {host: '', port: '', unixPath: resolve(socket), username};
  }
  if (transport !== '') throw refuse(text, `regrow does not speak NBD over ${transport.slice(1)}`);
  if (socket !== undefined) throw refuse(text, 'socket= belongs to nbd+unix://');
  if (host === '') throw refuse(text, 'it names no host');
  const number = port === '' ? Number(DEFAULT_PORT) : Number(port);
  if (number < 1 || number > 65_535) throw refuse(text, `there is no port ${port}`);
  return {host, port: String(number), unixPath: '', username};
}

function parseTls(
  text: string,
  tls: boolean,
  username: string,
  parameters: ReadonlyMap<string, string>,
): Tls {
  const certificates = parameters.get('tls-certificates');
  const pskFile = parameters.get('tls-psk-file');
  const verify = parameters.get('tls-verify-peer');
  const isTlsMeant = certificates !== undefined || pskFile !== undefined || verify !== undefined;
  if (!tls && (isTlsMeant || username !== '')) {
    throw refuse(text, 'it asks for TLS but begins with nbd; use nbds');
  }
  if (certificates !== undefined && pskFile !== undefined) {
    throw refuse(text, 'give tls-certificates or tls-psk-file, not both');
  }
  if (verify !== undefined && verify !== 'true' && verify !== 'false') {
    throw refuse(text, 'tls-verify-peer is true or false');
  }
  return {
    certificates: certificates === undefined ? '' : resolve(certificates),
    pskFile: pskFile === undefined ? '' : resolve(pskFile),
    verifyPeer: verify !== 'false',
  };
}

function describe(target: NbdTarget): NbdUri {
  const {host, port, unixPath, exportName, tls, username, certificates, pskFile, verifyPeer} =
    target;
  const scheme = `nbd${tls ? 's' : ''}${unixPath === '' ? '' : '+unix'}`;
  const user = username === '' ? '' : `${encodeURIComponent(username)}@`;
  const hostText = host.includes(':') ? `[${host}]` : host;
  const place = unixPath === '' ? hostText + (port === DEFAULT_PORT ? '' : `:${port}`) : '';
  const path = `/${encodePath(exportName)}`;
  const socket = unixPath === '' ? [] : [`socket=${encodePath(unixPath)}`];
  const rest = [
    ...(certificates === '' ? [] : [`tls-certificates=${encodePath(certificates)}`]),
    ...(pskFile === '' ? [] : [`tls-psk-file=${encodePath(pskFile)}`]),
    ...(tls && !verifyPeer ? ['tls-verify-peer=false'] : []),
  ];
  return {
    target,
    text: `${scheme}://${user}${place}${path}${queryOf([...socket, ...rest])}`,
    name: `${scheme}://${place}${path}${queryOf(socket)}`,
    isExposed: !tls && unixPath === '' && !isLoopback(host),
  };
}

function queryOf(parts: readonly string[]): string {
  return parts.length === 0 ? '' : `?${parts.join('&')}`;
}

/** Percent-encodes all but what reads well and is safe in a path or a value. */
function encodePath(text: string): string {
  return encodeURIComponent(text)
    .replaceAll('%2F', '/')
    .replaceAll('%3A', ':')
    .replaceAll('%40', '@');
}

function isLoopback(host: string): boolean {
  return /^(localhost|127(\.\d+){1,3}|::1|::ffff:127(\.\d+){3})$/i.test(host);
}

function decode(text: string, part: string): string {
  let decoded: string;
  try {
    decoded = decodeURIComponent(part);
  } catch {
    throw refuse(text, 'a % in it is not followed by two hexadecimal digits of UTF-8');
  }
  if (decoded.includes('\0')) throw refuse(text, 'a zero byte has no place in it');
  return decoded;
}

function refuse(text: string, reason: string): UserError {
  const shown = text.replace(/\/\/[^/?#]*@/, '//…@');
  return new UserError(`reading the NBD URI ${shown}: ${reason}`, {exitCode: 2});
}
