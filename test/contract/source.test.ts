/** Every source joins the contract, each NBD server there is with it. */
import {execFile, spawnSync} from 'node:child_process';
import {promisify} from 'node:util';
import {realEnvironment} from '../support/real-environment.js';
import {FileSource} from '../../src/source/file-source.js';
import {NbdSource} from '../../src/source/nbd-source.js';
import {parseNbdUri} from '../../src/source/nbd-uri.js';
import {openSource} from '../../src/source/open-source.js';
import {PaddedSource} from '../../src/source/padded-source.js';
import {startNbdkit, startNbdServer, startQemuNbd} from '../support/nbd-server.js';
import {hasPrograms} from '../support/requires.js';
import {sourceContract} from './source.contract.js';

const run = promisify(execFile);
const environment = realEnvironment();

sourceContract('file', (_t, image) => FileSource.open(image.path));

sourceContract(
  'padded file',
  async (_t, image) => new PaddedSource(await FileSource.open(image.path)),
);

const hasLoop = hasPrograms('losetup') && spawnSync('losetup', ['--find']).status === 0;

sourceContract(
  'block device',
  async (t, image) => {
    const {stdout} = await run('losetup', ['--find', '--show', '--read-only', image.path]);
    t.teardown(() => run('losetup', ['--detach', stdout.trim()]));
    return await FileSource.open(stdout.trim());
  },
  {isAvailable: hasLoop},
);

sourceContract(
  'nbdkit',
  async (t, image) => {
    const server = await startNbdkit(t, ['--readonly', 'file', image.path]);
    return await NbdSource.open(parseNbdUri(server.uri));
  },
  {isAvailable: hasPrograms('nbdkit')},
);

sourceContract(
  'nbdkit with 4 KiB blocks',
  async (t, image) => {
    const policy = ['--filter=blocksize-policy', 'file', image.path];
    const limits = [
      'blocksize-minimum=4096',
      'blocksize-maximum=64K',
      'blocksize-error-policy=error',
    ];
    const server = await startNbdkit(t, ['--readonly', ...policy, ...limits], {useTcp: true});
    return await NbdSource.open(parseNbdUri(server.uri));
  },
  {isAvailable: hasPrograms('nbdkit')},
);

sourceContract(
  'nbdkit without structured replies',
  async (t, image) => {
    const server = await startNbdkit(t, ['--readonly', '--no-sr', 'file', image.path]);
    return await NbdSource.open(parseNbdUri(server.uri));
  },
  {isAvailable: hasPrograms('nbdkit')},
);

sourceContract(
  'qemu-nbd for one client',
  async (t, image) => {
    const server = await startQemuNbd(t, ['--read-only', image.path], {useTcp: true});
    return await NbdSource.open(parseNbdUri(server.uri));
  },
  {isAvailable: hasPrograms('qemu-nbd')},
);

sourceContract(
  'qemu-nbd for eight clients',
  async (t, image) => {
    const server = await startQemuNbd(t, [
      '--read-only',
      '--shared=8',
      '--export-name=disk',
      image.path,
    ]);
    return await NbdSource.open(parseNbdUri(server.uri.replace('///', '///disk')));
  },
  {isAvailable: hasPrograms('qemu-nbd')},
);

sourceContract(
  'nbd-server',
  async (t, image) => {
    const server = await startNbdServer(t, [image.path, '-r']);
    return await NbdSource.open(parseNbdUri(server.uri));
  },
  {isAvailable: hasPrograms('nbd-server')},
);

sourceContract(
  'opened by its URI',
  async (t, image) => {
    const server = await startNbdkit(t, ['--readonly', 'file', image.path]);
    return (await openSource(server.uri, {environment})).source;
  },
  {isAvailable: hasPrograms('nbdkit')},
);
