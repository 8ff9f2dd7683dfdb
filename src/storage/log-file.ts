/**
 * The daemon's log: a file that stays below a bound and never makes anyone wait.
 *
 * Lines are queued and written by one asynchronous write at a time. If the disk is slower than the
 * events, lines are dropped and their number is logged; if the file grows above its bound, its
 * older half goes. The file is opened once: it can still be written when its folder is hidden under
 * another mount. Never throws; a log that cannot be written is no reason to stop a volume.
 */
import {close, fstatSync, ftruncate, openSync, read, write} from 'node:fs';
import {promisify} from 'node:util';
import type {Log, LogFields, LogLevel} from '../base/environment.js';

const writeAt = promisify(write);
const readAt = promisify(read);
const truncate = promisify(ftruncate);
const closeFile = promisify(close);

/** A longer file loses its older half. */
const FILE_BYTES_MAX = 1024 * 1024;
/** Lines that wait for the disk; more are dropped. */
const QUEUED_LINES_MAX = 1000;
/** Longer lines are cut. */
const LINE_CHARACTERS_MAX = 8192;

export class LogFile {
  readonly #fd: number;
  #size: number;
  #queue: string[] = [];
  #dropped = 0;
  #writing: Promise<void> | undefined;
  #isClosed = false;

  /** Opens or makes the file, 0600; blocks for as long as that takes. */
  constructor(path: string) {
    this.#fd = openSync(path, 'a+', 0o600);
    this.#size = fstatSync(this.#fd).size;
  }

  /** Takes a line; fields follow it as JSON. `at`: wall time in ms. */
  add(at: number, level: LogLevel, message: string, fields?: LogFields): void {
    if (this.#isClosed) return;
    if (this.#queue.length >= QUEUED_LINES_MAX) {
      this.#dropped++;
      return;
    }
    const rest = fields === undefined ? '' : ` ${JSON.stringify(fields)}`;
    const line = `${new Date(at).toISOString()} ${level} ${message.replaceAll('\n', ' ')}${rest}`;
    this.#queue.push(line.slice(0, LINE_CHARACTERS_MAX));
    this.#writing ??= this.#drain();
  }

  /** Writes what is queued, then closes. Lines that come later are lost. */
  async close(): Promise<void> {
    if (this.#isClosed) return;
    this.#isClosed = true;
    await this.#writing;
    await closeFile(this.#fd).catch(() => {});
  }

  async #drain(): Promise<void> {
    // One turn later, so that lines of one moment share a write.
    await Promise.resolve();
    while (this.#queue.length > 0) {
      if (this.#dropped > 0) this.#queue.push(`(${this.#dropped} lines dropped)`);
      this.#dropped = 0;
      const text = Buffer.from(`${this.#queue.join('\n')}\n`);
      this.#queue = [];
      try {
        await writeAt(this.#fd, text, 0, text.length, null);
        this.#size += text.length;
        if (this.#size > FILE_BYTES_MAX) await this.#halve();
      } catch {
        // A full disk under the state: the volume goes on, its log does not.
      }
    }
    this.#writing = undefined;
  }

  /** Keeps the younger half. A crash in between loses log lines, nothing else. */
  async #halve(): Promise<void> {
    const kept = Buffer.alloc(FILE_BYTES_MAX / 2);
    const {bytesRead} = await readAt(this.#fd, kept, 0, kept.length, this.#size - kept.length);
    await truncate(this.#fd, 0);
    const start = kept.indexOf(10) + 1;
    await writeAt(this.#fd, kept, start, bytesRead - start, null);
    this.#size = bytesRead - start;
  }
}

/** A Log that keeps lines in memory until there is a file for them. */
export class EarlyLog {
  #lines: {at: number; level: LogLevel; message: string; fields: LogFields | undefined}[] = [];
  #file: LogFile | undefined;
  readonly #now: () => number;

  constructor(now: () => number) {
    this.#now = now;
  }

  readonly log: Log = (level, message, fields) => {
    const at = this.#now();
    if (this.#file) this.#file.add(at, level, message, fields);
    else this.#lines.push({at, level, message, fields});
  };

  /** From now on lines go to `file`, those kept so far first. */
  continueIn(file: LogFile): void {
    this.#file = file;
    for (const {at, level, message, fields} of this.#lines) file.add(at, level, message, fields);
    this.#lines = [];
  }

  async close(): Promise<void> {
    await this.#file?.close();
    this.#file = undefined;
  }
}
