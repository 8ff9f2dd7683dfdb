/** Reads what `ava --tap` prints, line by line, and counts it. */

export interface Tally {
  passed: number;
  failed: number;
  /** Titles, with the file in front: `map-file › a torn page is noticed`. */
  skipped: string[];
}

export class TapReader {
  readonly tally: Tally = {passed: 0, failed: 0, skipped: []};
  readonly #show: (line: string) => void;
  #hasPlan = false;
  /** Inside the block of details under a failed test. */
  #isInDetails = false;
  #isShowing = false;

  /** `show` gets the lines that a person wants to see: failures with their details, and skips. */
  constructor(show: (line: string) => void) {
    this.#show = show;
  }

  /** Whether the runner came to its end. */
  get isWhole(): boolean {
    return this.#hasPlan;
  }

  /** Takes the next line; false if it is no result and no part of one. */
  line(text: string): boolean {
    if (this.#isInDetails) {
      if (this.#isShowing) this.#show(text);
      if (/^\s+\.\.\.$/.test(text)) this.#isInDetails = false;
      return true;
    }
    if (/^\s+---$/.test(text)) {
      this.#isInDetails = true;
      return true;
    }
    if (/^1\.\.\d+$/.test(text)) this.#hasPlan = true;
    const match = /^(not )?ok \d+ - (.*?)(?: # (SKIP|TODO)\b.*)?$/.exec(text);
    if (match) this.#result(match);
    return match !== null;
  }

  #result(match: RegExpExecArray): void {
    const [, not, title = '', directive] = match;
    this.#isShowing = false;
    if (directive !== undefined) {
      this.tally.skipped.push(title);
      this.#show(`  - skipped: ${title}`);
    } else if (not === undefined) {
      this.tally.passed += 1;
    } else {
      this.tally.failed += 1;
      this.#isShowing = true;
      this.#show(`  ✘ ${title}`);
    }
  }
}
