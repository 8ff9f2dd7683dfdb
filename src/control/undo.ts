/**
 * What a start has done so far and how each step is undone. A step registers its undoing right
 * after it was done; when a later one fails, `run` undoes all of them, the youngest first. Once the
 * start has succeeded the list is dropped.
 */
import {messageOf} from '../base/errors.js';

export class Undo {
  readonly #steps: {what: string; step: () => Promise<void> | void}[] = [];

  /** `what` completes the sentence "could not …": `remove the store file /x`. */
  add(what: string, step: () => Promise<void> | void): void {
    this.#steps.push({what, step});
  }

  /** Forgets everything: what was done stays. */
  drop(): void {
    this.#steps.length = 0;
  }

  /**
   * Undoes all steps, whatever fails meanwhile; gives a sentence for each that could not be undone.
   */
  async run(): Promise<string[]> {
    const failures: string[] = [];
    for (let entry = this.#steps.pop(); entry !== undefined; entry = this.#steps.pop()) {
      try {
        await entry.step();
      } catch (error) {
        failures.push(`could not ${entry.what}: ${messageOf(error)}`);
      }
    }
    return failures;
  }
}
