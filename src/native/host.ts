/**
 * The addon's host part: system calls that Node.js has no word for.
 *
 * Where a call takes a `namespace` it is the descriptor of the mount namespace in which the path is
 * meant, -1 for the current one. Failures are BlockErrors that name the call and the path.
 */
import {addon} from './addon.js';
import {addonPart, nativeCall} from './shape.js';

export interface FreeSpace {
  /** Bytes. */
  readonly total: number;
  readonly free: number;
  /** What is left to processes without privileges. */
  readonly available: number;
  /** Bytes the file system likes to be written at once. */
  readonly blockSize: number;
}

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

interface HostPart {
  makeDirectory(path: string, namespace: number): Promise<boolean>;
  removeDirectory(path: string, namespace: number): Promise<boolean>;
  removeDirectoryNow(path: string, namespace: number): boolean;
  openFile(path: string, namespace: number, flags: number): Promise<number>;
  lockFile(path: string, namespace: number): Promise<number>;
  freeSpace(path: string, namespace: number): Promise<FreeSpace>;
  closeDescriptor(descriptor: number): void;
  peerCredentials(descriptor: number): PeerCredentials;
  sendRecord(socket: number, text: string, descriptor: number): void;
  closeOnExec(descriptor: number): void;
  ioFlusher(wanted?: boolean): boolean;
}

const host = addonPart<HostPart>(addon, 'host', [
  'makeDirectory',
  'removeDirectory',
  'removeDirectoryNow',
  'openFile',
  'lockFile',
  'freeSpace',
  'closeDescriptor',
  'peerCredentials',
  'sendRecord',
  'closeOnExec',
  'ioFlusher',
]);

/** An exclusive lock that ends with this process at the latest. */
export class FileLock {
  #descriptor: number | undefined;

  constructor(descriptor: number) {
    this.#descriptor = descriptor;
  }

  /** May be called again. */
  release(): void {
    if (this.#descriptor !== undefined) host.closeDescriptor(this.#descriptor);
    this.#descriptor = undefined;
  }
}

/** Locks a file or directory; EAGAIN at once if another process (or lock of ours) holds it. */
export async function lockFile(path: string, namespace = -1): Promise<FileLock> {
  return new FileLock(await nativeCall(`locking ${path}`, host.lockFile(path, namespace)));
}

/** Makes a directory with mode 0700 if it is not there; true if it was made. */
export function makeDirectory(path: string, namespace = -1): Promise<boolean> {
  return nativeCall(`making directory ${path}`, host.makeDirectory(path, namespace));
}

/** Removes an empty directory; false if it was not there. */
export function removeDirectory(path: string, namespace = -1): Promise<boolean> {
  return nativeCall(`removing directory ${path}`, host.removeDirectory(path, namespace));
}

/** Blocking: for a process that is about to exit. False if it was not removed. */
export function removeDirectoryNow(path: string, namespace = -1): boolean {
  return host.removeDirectoryNow(path, namespace);
}

/** Opens with open(2) flags (close-on-exec is added); the caller owns the descriptor. */
export function openFile(path: string, flags: number, namespace = -1): Promise<number> {
  return nativeCall(`opening ${path}`, host.openFile(path, namespace, flags));
}

/** Closes a plain file or socket. A device may make its closer wait: do not use it for one. */
export function closeDescriptor(descriptor: number): void {
  host.closeDescriptor(descriptor);
}

/** What is left on the file system that holds `path`. */
export function freeSpace(path: string, namespace = -1): Promise<FreeSpace> {
  return nativeCall(`asking for free space at ${path}`, host.freeSpace(path, namespace));
}

/** Who connected to a UNIX socket, as the kernel knows it. Throws where it is no such socket. */
export function peerCredentials(descriptor: number): PeerCredentials {
  return host.peerCredentials(descriptor);
}

/** Sends 64 bytes of text over a UNIX socket, with a copy of a descriptor unless it is -1. */
export function sendRecord(socket: number, text: string, descriptor = -1): void {
  host.sendRecord(socket, text, descriptor);
}

/** Keeps an inherited descriptor from this process's own children. */
export function closeOnExec(descriptor: number): void {
  host.closeOnExec(descriptor);
}

/** Whether memory reclaim by this thread avoids waiting for I/O (PR_SET_IO_FLUSHER). */
export function isIoFlusher(): boolean {
  return host.ioFlusher();
}

/** Makes this thread an I/O flusher or not; threads inherit it. EPERM without CAP_SYS_RESOURCE. */
export function setIoFlusher(wanted: boolean): void {
  host.ioFlusher(wanted);
}
