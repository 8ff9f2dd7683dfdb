/**
 * A source in memory that answers a read only when the test says so, and keeps a list of what was
 * asked. Its bytes say where they come from: see {@link sourceByte}.
 */
import type {Source, SourceExtent} from '../../src/source/source.js';

/** The byte at an offset: never zero, different in neighbouring sectors. */
export function sourceByte(offset: number): number {
  return 1 + (Math.floor(offset / 512) % 200);
}

export interface HeldRead {
  offset: number;
  length: number;
  priority: string;
  answer(): void;
  fail(error: Error): void;
}

export class HeldSource implements Source {
  readonly name = 'held source';
  readonly size: number;
  /** Reads not answered yet, oldest first; empty where `isOpen`. */
  readonly held: HeldRead[] = [];
  /** Every read so far as [offset, length]. */
  readonly reads: [number, number][] = [];
  /** Answers at once. */
  isOpen: boolean;
  /** Ranges [start, end) that read zero and are known to. */
  zeroes: [number, number][] = [];

  constructor(size: number, isOpen = true) {
    this.size = size;
    this.isOpen = isOpen;
  }

  read(offset: number, buffer: Uint8Array, options: {priority?: string} = {}): Promise<void> {
    this.reads.push([offset, buffer.length]);
    if (this.isOpen) {
      this.#fill(offset, buffer);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      this.held.push({
        offset,
        length: buffer.length,
        priority: options.priority ?? 'foreground',
        answer: () => {
          this.#fill(offset, buffer);
          resolve();
        },
        fail: reject,
      });
    });
  }

  async extents(offset: number, length: number): Promise<SourceExtent[]> {
    const cuts = [offset, ...this.zeroes.flat(), offset + length]
      .filter((cut) => cut >= offset && cut <= offset + length)
      .sort((a, b) => a - b);
    return cuts.slice(1).flatMap((end, index) => {
      const start = cuts[index] ?? end;
      return start === end
        ? []
        : [{offset: start, length: end - start, isZero: this.#isZero(start)}];
    });
  }

  async close(): Promise<void> {
    for (const read of this.held.splice(0)) read.fail(new Error('closed'));
  }

  #isZero(offset: number): boolean {
    return this.zeroes.some(([start, end]) => start <= offset && offset < end);
  }

  #fill(offset: number, buffer: Uint8Array): void {
    for (let at = 0; at < buffer.length; at += 512) {
      const value = this.#isZero(offset + at) ? 0 : sourceByte(offset + at);
      buffer.fill(value, at, at + 512);
    }
  }
}
