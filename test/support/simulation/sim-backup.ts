/**
 * The backup of the simulation: a server with a disk of its own (volatile-storage.ts) behind a link
 * that is slow, cut, or away, and a power supply that fails.
 *
 *   daemon ──(delay)──▶ server: disk ──(delay)──▶ daemon
 *
 * Fault model:
 * - a cut connection answers nothing more; of what was on its way each request is lost, or reaches
 *   the disk up to ZOMBIE_MAX_MS later, over what the next connection has sent by then;
 * - requests of one connection are carried out in any order;
 * - a power cut of the server leaves what its disk had made durable, and cuts all connections.
 */
import {BlockError, type ErrnoCode} from '../../../src/base/errors.js';
import type {Prng} from '../../../src/base/prng.js';
import type {BackupTarget} from '../../../src/source/backup-target.js';
import type {CutMode} from '../../../src/wrap/cut.js';
import type {Life, Scheduler} from './scheduler.js';
import {VolatileStorage, type StorageTools} from './volatile-storage.js';

/** Milliseconds after a cut within which a request of the dead connection may still land. */
export const ZOMBIE_MAX_MS = 20;

export interface SimBackupTools {
  readonly scheduler: Scheduler;
  readonly prng: Prng;
  /** Milliseconds one way. */
  readonly latency: () => number;
  readonly disk: (life: Life) => StorageTools;
  readonly fault: (op: string) => ErrnoCode | undefined;
  readonly note: (what: string) => void;
}

export class SimBackup {
  disk: VolatileStorage;
  isAway = false;
  powerCuts = 0;
  cuts = 0;
  readonly #tools: SimBackupTools;
  /** The server's; ends with its power. */
  #life: Life = {isAlive: true};
  readonly #connections = new Set<SimTarget>();

  constructor(
    size: number,
    background: (at: number, bytes: Uint8Array) => void,
    tools: SimBackupTools,
  ) {
    this.#tools = tools;
    this.disk = new VolatileStorage({name: 'backup', size, background}, tools.disk(this.#life));
  }

  get life(): Life {
    return this.#life;
  }

  /** A new connection for a daemon that lives as long as `owner`. */
  async open(owner: Life): Promise<BackupTarget> {
    await this.#delay(owner);
    if (this.isAway) throw lossOf('connecting');
    const target = new SimTarget(this, this.#tools, owner);
    this.#connections.add(target);
    return target;
  }

  forget(target: SimTarget): void {
    this.#connections.delete(target);
  }

  /** Cuts every connection. */
  cut(): void {
    this.cuts++;
    this.#tools.note('backup: link cut');
    for (const target of [...this.#connections]) target.cut();
  }

  /** The server loses power and is back at once. */
  losePower(mode?: CutMode): void {
    this.powerCuts++;
    this.#tools.note('backup: power cut');
    this.#life.isAlive = false;
    this.#life = {isAlive: true};
    for (const target of [...this.#connections]) target.cut();
    this.disk = this.disk.afterPowerCut(this.#tools.disk(this.#life), this.#tools.prng, mode);
  }

  /** What the disk would hold after a power cut now. */
  survivors(mode: CutMode): VolatileStorage {
    return this.disk.afterPowerCut(
      this.#tools.disk({isAlive: true}),
      this.#tools.prng.fork(),
      mode,
    );
  }

  /** Begins as the other is now. */
  takeOver(other: SimBackup): void {
    this.disk = other.disk.afterProcessDeath(this.#tools.disk(this.#life), this.#tools.prng);
    this.isAway = other.isAway;
  }

  #delay(life: Life): Promise<void> {
    const {scheduler, latency} = this.#tools;
    return new Promise((resolve) => void scheduler.after(latency(), life, resolve));
  }
}

function lossOf(op: string): BlockError {
  return new BlockError('ENOTCONN', `${op}: the link to the backup is cut`, {op});
}

/** One connection. */
class SimTarget implements BackupTarget {
  readonly name = 'simulated backup';
  readonly size: number;
  readonly lost: Promise<BlockError>;
  readonly #backup: SimBackup;
  readonly #tools: SimBackupTools;
  readonly #owner: Life;
  readonly #waiting = new Set<(error: BlockError) => void>();
  #isCut = false;
  #resolveLost: (error: BlockError) => void = () => undefined;

  constructor(backup: SimBackup, tools: SimBackupTools, owner: Life) {
    this.size = backup.disk.size;
    this.#backup = backup;
    this.#tools = tools;
    this.#owner = owner;
    this.lost = new Promise((resolve) => {
      this.#resolveLost = resolve;
    });
  }

  read(offset: number, buffer: Uint8Array): Promise<void> {
    return this.#request('read', (disk) => disk.read(offset, buffer));
  }

  write(offset: number, bytes: Uint8Array): Promise<void> {
    const copy = bytes.slice();
    return this.#request('write', (disk) => disk.write(offset, copy));
  }

  zero(offset: number, length: number): Promise<void> {
    return this.#request('zero', (disk) => disk.zero(offset, length));
  }

  flush(): Promise<void> {
    return this.#request('flush', (disk) => disk.sync());
  }

  async close(): Promise<void> {
    this.#backup.forget(this);
    this.cut();
  }

  cut(): void {
    if (this.#isCut) return;
    this.#isCut = true;
    this.#backup.forget(this);
    const error = lossOf('waiting');
    for (const fail of [...this.#waiting]) fail(error);
    // Who is told first, the requests or the listener, is a matter of chance in real life too.
    this.#tools.scheduler.after(this.#tools.latency(), this.#owner, () => this.#resolveLost(error));
  }

  #request(op: string, carryOut: (disk: VolatileStorage) => Promise<void>): Promise<void> {
    if (this.#isCut) return Promise.reject(lossOf(op));
    return new Promise((resolve, reject) => {
      const fail = (error: BlockError): void => {
        this.#waiting.delete(fail);
        reject(error);
      };
      this.#waiting.add(fail);
      const answer = (settle: () => void): void => {
        this.#later(this.#tools.latency(), this.#owner, () => {
          if (!this.#waiting.delete(fail)) return;
          settle();
        });
      };
      this.#arrive(op, carryOut).then(
        () => answer(resolve),
        (error: unknown) => answer(() => reject(error as Error)),
      );
    });
  }

  /** The request's way to the server; after a cut it is lost there, or late. */
  async #arrive(op: string, carryOut: (disk: VolatileStorage) => Promise<void>): Promise<void> {
    const {prng, latency, fault} = this.#tools;
    const {life} = this.#backup;
    await new Promise<void>((resolve) => this.#later(latency(), life, resolve));
    if (this.#isCut) {
      if (op === 'read' || op === 'flush' || prng.chance(1, 2)) return;
      const delay = prng.fraction() * ZOMBIE_MAX_MS;
      await new Promise<void>((resolve) => this.#later(delay, life, resolve));
      this.#tools.note(`backup: a late ${op} lands`);
    }
    const code = fault(op);
    if (code) throw new BlockError(code, `${op} of the backup failed on purpose`, {op});
    await carryOut(this.#backup.disk);
  }

  #later(delay: number, life: Life, action: () => void): void {
    this.#tools.scheduler.after(delay, life, action);
  }
}
