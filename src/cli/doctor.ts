/**
 * `regrow doctor`: checks whether this computer has what regrow needs, each check one line: what it
 * is, how it stands, and if it is not well what to do. Exit code 1 if something needed is missing.
 */
import {createRequire} from 'node:module';
import {release} from 'node:os';
import {fileURLToPath} from 'node:url';
import {messageOf} from '../base/errors.js';
import {runParent, stateParent} from '../control/paths.js';
import {accessProblem, exists, textAt} from '../storage/files.js';
import {isUnicode, print, printJson} from './terminal.js';

export interface Check {
  name: string;
  /** `poor`: it works, but not as well as it could. */
  verdict: 'good' | 'poor' | 'missing';
  /** How it stands, and what to do where it is not good. */
  detail: string;
}

const NODE_NEEDED = [20, 19] as const;
const BUILD = fileURLToPath(new URL('../../../build/Release/', import.meta.url));
/** Tools that attach and the checks of a store call. */
const TOOLS = {
  blkid: 'util-linux',
  mount: 'mount',
  umount: 'mount',
} as const;

export function doctor({json}: {json: boolean}): number {
  const checks = [
    checkPrivileges(),
    checkNode(process.versions.node),
    checkAddon(),
    checkLauncher(),
    checkFuse(),
    checkLoop(),
    checkKernel(release()),
    ...checkTimeouts(),
    ...Object.entries(TOOLS).map(([tool, packageName]) => checkTool(tool, packageName)),
    ...checkFolders(),
  ];
  if (json) printJson(checks);
  else for (const check of checks) print(renderCheck(check, isUnicode()));
  return checks.some(({verdict}) => verdict === 'missing') ? 1 : 0;
}

export function renderCheck({name, verdict, detail}: Check, unicode: boolean): string {
  const plain = {good: 'ok', poor: '!', missing: 'NO'};
  const marks = unicode ? {good: '✔', poor: '!', missing: '✘'} : plain;
  return `${marks[verdict].padEnd(2)} ${name.padEnd(16)} ${detail}`;
}

function checkPrivileges(): Check {
  const uid = process.getuid?.();
  if (uid !== 0) {
    return {name: 'privileges', verdict: 'missing', detail: 'attach needs root; run it with sudo'};
  }
  const bits = /^CapEff:\s*([0-9a-f]+)/m.exec(textAt('/proc/self/status') ?? '')?.[1] ?? '0';
  const all = BigInt(`0x${bits}`);
  const has = (capability: number): boolean => (all / 2n ** BigInt(capability)) % 2n === 1n;
  if (!has(21)) {
    const detail = 'CAP_SYS_ADMIN is missing, so nothing can be mounted; give it to this container';
    return {name: 'privileges', verdict: 'missing', detail};
  }
  if (!has(24)) {
    const detail = 'CAP_SYS_RESOURCE is missing: short of memory the daemon may wait for itself';
    return {name: 'privileges', verdict: 'poor', detail};
  }
  const detail = 'root, with CAP_SYS_ADMIN and CAP_SYS_RESOURCE';
  return {name: 'privileges', verdict: 'good', detail};
}

export function checkNode(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const isNew = major > NODE_NEEDED[0] || (major === NODE_NEEDED[0] && minor >= NODE_NEEDED[1]);
  const detail = isNew
    ? version
    : `${version} is too old; install Node.js ${NODE_NEEDED.join('.')} or newer`;
  return {name: 'node', verdict: isNew ? 'good' : 'missing', detail};
}

/** Loading the addon also shows whether libnbd is there. */
function checkAddon(): Check {
  const path = `${BUILD}regrow.node`;
  if (!exists(path)) {
    return {name: 'addon', verdict: 'missing', detail: `${path} does not exist; run npm run build`};
  }
  try {
    createRequire(import.meta.url)(path);
    return {name: 'addon', verdict: 'good', detail: `${path}, with libnbd`};
  } catch (error) {
    const detail = `${messageOf(error)}; install libnbd0 and run npm run build`;
    return {name: 'addon', verdict: 'missing', detail};
  }
}

function checkLauncher(): Check {
  const path = `${BUILD}regrow-launcher`;
  const problem = accessProblem(path, 'execute');
  if (problem === undefined) return {name: 'launcher', verdict: 'good', detail: path};
  return {name: 'launcher', verdict: 'missing', detail: `${problem}; run npm run build`};
}

function checkDevice(name: string, path: string, module: string): Check {
  if (!exists(path)) {
    return {name, verdict: 'missing', detail: `${path} does not exist; run modprobe ${module}`};
  }
  const problem = accessProblem(path, 'read and write');
  if (problem === undefined) return {name, verdict: 'good', detail: path};
  return {name, verdict: 'missing', detail: `${problem}; run it with sudo`};
}

function checkFuse(): Check {
  return checkDevice('fuse', '/dev/fuse', 'fuse');
}

function checkLoop(): Check {
  return checkDevice('loop', '/dev/loop-control', 'loop');
}

/** Loop devices that can be set up in one step, on files with direct I/O, came with 5.8. */
export function checkKernel(version: string): Check {
  const [major = 0, minor = 0] = version.split('.').map(Number);
  const isNew = major > 5 || (major === 5 && minor >= 8);
  const detail = isNew ? version : `${version} is older than 5.8; use a newer kernel`;
  return {name: 'kernel', verdict: isNew ? 'good' : 'missing', detail};
}

/** A time-out for FUSE requests cuts the device off while it waits for its source. */
function checkTimeouts(): Check[] {
  const names = ['default_request_timeout', 'max_request_timeout'];
  const set = names.filter((name) => Number(textAt(`/proc/sys/fs/fuse/${name}`) ?? 0) > 0);
  if (set.length === 0) {
    const detail = 'none: a volume may wait for its source';
    return [{name: 'fuse time-outs', verdict: 'good', detail}];
  }
  const detail =
    `${set.map((name) => `fs.fuse.${name}`).join(' and ')} would cut a waiting volume off for ` +
    `good; ` +
    'set it to 0 with sysctl';
  return [{name: 'fuse time-outs', verdict: 'poor', detail}];
}

function checkTool(tool: string, packageName: string): Check {
  const folders = (process.env['PATH'] ?? '').split(':').concat('/usr/sbin', '/sbin');
  const path = folders.map((folder) => `${folder}/${tool}`).find((file) => exists(file));
  const detail = path ?? `not found; install the package ${packageName}`;
  return {name: tool, verdict: path === undefined ? 'missing' : 'good', detail};
}

/** The folder of the state must survive a reboot; a RAM disk does not. */
function checkFolders(): Check[] {
  const folders = [
    ['state', stateParent()],
    ['run', runParent()],
  ] as const;
  return folders.map(([name, folder]) => {
    if (!exists(folder)) return {name, verdict: 'good', detail: `${folder}, made by attach`};
    const problem = accessProblem(folder, 'read and write');
    if (problem === undefined) return {name, verdict: 'good', detail: folder};
    return {name, verdict: 'missing', detail: `${problem}; run it with sudo`};
  });
}
