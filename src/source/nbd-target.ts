/**
 * An NBD export as the backup that writes go through to: one connection, which carries all writes
 * and flushes. So a flush covers every write answered before, whether or not the server promises
 * CAN_MULTI_CONN (NBD protocol, "Ordering of messages and writes").
 */
import {BlockError} from '../base/errors.js';
import {alignDown, alignUp, assertRange, MiB} from '../base/units.js';
import {NbdConnection, type NbdTimeouts} from '../native/nbd.js';
import type {BackupTarget} from './backup-target.js';
import type {NbdUri} from './nbd-uri.js';

/** Bytes of one command; what every server takes unless it says less. */
const WRITE_MAX = 32 * MiB;
const ZERO_MAX = 128 * MiB;
/** Commands of one long zeroing in flight at once. */
const ZERO_DEPTH = 4;

export class NbdBackupTarget implements BackupTarget {
  readonly name: string;
  readonly size: number;
  readonly lost: Promise<BlockError>;
  readonly #connection: NbdConnection;
  readonly #alignment: number;
  readonly #writeMax: number;
  #canZero: boolean;

  private constructor(connection: NbdConnection) {
    const {facts, name} = connection;
    this.#connection = connection;
    this.name = name;
    this.size = facts.size;
    this.#alignment = Math.max(1, facts.minimumBlock);
    this.#writeMax = facts.maximumBlock > 0 ? Math.min(facts.maximumBlock, WRITE_MAX) : WRITE_MAX;
    this.#canZero = facts.canZero;
    this.lost = new Promise((resolve) => {
      void connection.ended.then((error) => error && resolve(error));
    });
  }

  /**
   * Rejects with a BlockError: a loss (base/loss.ts) where there is no connection, EROFS where the
   * export cannot be a backup.
   */
  static async open(
    uri: NbdUri,
    {timeouts = {}, signal}: {timeouts?: NbdTimeouts; signal?: AbortSignal} = {},
  ): Promise<NbdBackupTarget> {
    const connection = await NbdConnection.connect(uri.name, uri.target, timeouts, signal);
    const {isReadOnly, canFlush} = connection.facts;
    const problem = isReadOnly
      ? 'it is read-only; have its server take writes'
      : canFlush
        ? undefined
        : 'the server has no flush, so nothing written there could be called durable; switch that ' +
          'on there';
    if (problem === undefined) return new NbdBackupTarget(connection);
    await connection.close();
    throw new BlockError(
      'EROFS',
      `the backup ${uri.name} cannot be written through to: ${problem}`,
      {
        op: 'open',
        isPermanent: true,
      },
    );
  }

  async read(offset: number, buffer: Uint8Array): Promise<void> {
    assertRange(offset, buffer.byteLength, this.size);
    const {start, end} = this.#aligned(offset, buffer.byteLength);
    const around = new Uint8Array(end - start);
    for (let at = start; at < end; at += this.#writeMax) {
      const length = Math.min(this.#writeMax, end - at);
      await this.#connection.read(at, around.subarray(at - start, at - start + length));
    }
    buffer.set(around.subarray(offset - start, offset - start + buffer.byteLength));
  }

  async write(offset: number, bytes: Uint8Array): Promise<void> {
    assertRange(offset, bytes.byteLength, this.size);
    const {start, end} = this.#aligned(offset, bytes.byteLength);
    let whole = bytes;
    if (end - start > bytes.byteLength) {
      // The server takes larger units only: the rest of them is written as it is there.
      whole = new Uint8Array(end - start);
      await this.read(start, whole);
      whole.set(bytes, offset - start);
    }
    for (let at = start; at < end; at += this.#writeMax) {
      const length = Math.min(this.#writeMax, end - at);
      await this.#connection.write(at, whole.subarray(at - start, at - start + length));
    }
  }

  async zero(offset: number, length: number): Promise<void> {
    assertRange(offset, length, this.size);
    const {start, end} = this.#aligned(offset, length);
    const isAligned = start === offset && end === offset + length;
    if (!isAligned || !this.#canZero) return this.#writeZeroes(offset, length);
    for (let at = start; at < end; at += ZERO_MAX * ZERO_DEPTH) {
      const pieces: Promise<void>[] = [];
      for (let from = at; from < Math.min(end, at + ZERO_MAX * ZERO_DEPTH); from += ZERO_MAX) {
        pieces.push(this.#zeroPiece(from, Math.min(ZERO_MAX, end - from)));
      }
      await Promise.all(pieces);
    }
  }

  async flush(): Promise<void> {
    await this.#connection.flush();
  }

  async close(): Promise<void> {
    await this.#connection.close();
  }

  async #zeroPiece(offset: number, length: number): Promise<void> {
    try {
      await this.#connection.zero(offset, length, {mayTrim: true});
    } catch (error) {
      const code = error instanceof BlockError ? error.code : undefined;
      if (code !== 'EOPNOTSUPP' && code !== 'EINVAL') throw error;
      // It offered the command and does not carry it out: bytes do the same.
      this.#canZero = code === 'EINVAL';
      await this.#writeZeroes(offset, length);
    }
  }

  async #writeZeroes(offset: number, length: number): Promise<void> {
    const zeroes = new Uint8Array(Math.min(length, MiB));
    for (let at = offset; at < offset + length; at += zeroes.length) {
      await this.write(at, zeroes.subarray(0, Math.min(zeroes.length, offset + length - at)));
    }
  }

  #aligned(offset: number, length: number): {start: number; end: number} {
    const start = alignDown(offset, this.#alignment);
    return {start, end: Math.min(alignUp(offset + length, this.#alignment), this.size)};
  }
}
