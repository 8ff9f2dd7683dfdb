/** Certificates and keys for one test, made by certtool and psktool. */
import {execFile} from 'node:child_process';
import {mkdir, writeFile} from 'node:fs/promises';
import {join} from 'node:path';
import {promisify} from 'node:util';
import type {ExecutionContext} from 'ava';
import {temporaryDirectory} from './temporary.js';

const run = promisify(execFile);

/** A folder with a certificate authority and a certificate for localhost and 127.0.0.1 by it. */
export async function makeCertificates(t: ExecutionContext): Promise<string> {
  const folder = join(await temporaryDirectory(t), 'tls');
  await mkdir(folder);
  const path = (name: string): string => join(folder, name);
  const certtool = async (...args: string[]): Promise<void> => void (await run('certtool', args));
  await writeFile(path('ca.info'), 'cn = Test\nca\ncert_signing_key\nexpiration_days = 2\n');
  await writeFile(
    path('server.info'),
    'cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\n' +
      'tls_www_server\nencryption_key\nsigning_key\nexpiration_days = 2\n',
  );
  for (const name of ['ca', 'server']) {
    await certtool('--generate-privkey', '--key-type=ecdsa', '--outfile', path(`${name}-key.pem`));
  }
  await certtool(
    '--generate-self-signed',
    '--load-privkey',
    path('ca-key.pem'),
    '--template',
    path('ca.info'),
    '--outfile',
    path('ca-cert.pem'),
  );
  await certtool(
    '--generate-certificate',
    '--load-ca-certificate',
    path('ca-cert.pem'),
    '--load-ca-privkey',
    path('ca-key.pem'),
    '--load-privkey',
    path('server-key.pem'),
    '--template',
    path('server.info'),
    '--outfile',
    path('server-cert.pem'),
  );
  return folder;
}

/** A file with a fresh key for `user`. */
export async function makeKeyFile(t: ExecutionContext, user: string): Promise<string> {
  const path = join(await temporaryDirectory(t), 'keys.psk');
  await run('psktool', ['--username', user, '--pskfile', path]);
  return path;
}
