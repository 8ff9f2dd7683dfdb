/** Words to a person: everything but results goes to stderr, each message one line. */
import {nullForUndefined} from '../control/protocol.js';

/** One line on stderr that starts with the program's name. */
export function say(sentence: string): void {
  process.stderr.write(`regrow: ${sentence}\n`);
}

/** A result: one line on stdout. */
export function print(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** A result for programs: undefined fields become null, so that names are stable. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value, nullForUndefined, 2));
}

/** Whether the terminal's character set has the block characters. */
export function isUnicode(environment: NodeJS.ProcessEnv = process.env): boolean {
  const locale = environment['LC_ALL'] || environment['LC_CTYPE'] || environment['LANG'] || '';
  return /utf-?8/i.test(locale);
}

/**
 * A line on a terminal that each call replaces; without a terminal, a line at most every ten
 * seconds.
 */
export class ProgressLine {
  #lastAt = -Infinity;
  #isOpen = false;

  show(text: string): void {
    const now = performance.now();
    if (process.stderr.isTTY) {
      if (now - this.#lastAt < 100) return;
      process.stderr.write(`\r\u001B[2K${text.slice(0, (process.stderr.columns ?? 80) - 1)}`);
      this.#isOpen = true;
    } else {
      if (now - this.#lastAt < 10_000) return;
      process.stderr.write(`${text}\n`);
    }
    this.#lastAt = now;
  }

  /** Ends the line; call it before anything else is written. */
  end(): void {
    if (this.#isOpen) process.stderr.write('\r\u001B[2K');
    this.#isOpen = false;
  }
}
