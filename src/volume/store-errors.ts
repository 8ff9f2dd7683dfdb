/** Where the store failed and what was done about it, for `status`: bounded, neighbours as one. */
import type {Environment} from '../base/environment.js';
import type {StoreErrorReport} from './report.js';

/** Places kept; the oldest go first. */
const LISTED_MAX = 64;

export class StoreErrors {
  readonly #environment: Pick<Environment, 'clock' | 'log'>;
  readonly #list: StoreErrorReport[] = [];

  constructor(environment: Pick<Environment, 'clock' | 'log'>) {
    this.#environment = environment;
  }

  note(offset: number, length: number, done: StoreErrorReport['done']): void {
    const {clock, log} = this.#environment;
    const level = done === 'lost' || done === 'not written' ? 'error' : 'warning';
    const at = clock.wallTime();
    log(level, 'the store failed', {offset, length, done});
    const end = offset + length;
    const known = this.#list.find(
      (one) => one.done === done && one.offset <= end && offset <= one.offset + one.length,
    );
    if (known === undefined) {
      this.#list.push({offset, length, at, count: 1, done});
      if (this.#list.length > LISTED_MAX) this.#list.shift();
      return;
    }
    const stop = Math.max(end, known.offset + known.length);
    known.offset = Math.min(known.offset, offset);
    known.length = stop - known.offset;
    known.at = at;
    known.count++;
  }

  list(): StoreErrorReport[] {
    return this.#list.map((one) => ({...one}));
  }
}
