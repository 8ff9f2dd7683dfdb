/** The last things that happened, cheap to record, put into words only when something failed. */

/** Entries kept unless more are asked for; older ones are forgotten. */
const TRACE_MAX = 400;

export class Trace {
  readonly #entries: [time: number, what: string, ...details: (string | number)[]][] = [];
  readonly #limit: number;
  #next = 0;

  /** @default 400 entries */
  constructor(limit = TRACE_MAX) {
    this.#limit = limit;
  }

  add(time: number, what: string, ...details: (string | number)[]): void {
    this.#entries[this.#next % this.#limit] = [time, what, ...details];
    this.#next++;
  }

  /** The last `count` entries, oldest first, a line each. */
  last(count = Math.min(60, this.#limit)): string {
    const lines: string[] = [];
    const first = Math.max(0, this.#next - Math.min(count, this.#limit));
    for (let index = first; index < this.#next; index++) {
      const [time, what, ...details] = this.#entries[index % this.#limit] ?? [0, ''];
      lines.push(`${time.toFixed(3).padStart(12)} ms  ${what} ${details.join(' ')}`);
    }
    return lines.join('\n');
  }
}
