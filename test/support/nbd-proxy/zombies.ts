/**
 * Changes that outlive their connection: a server still works on what an old socket brought while
 * the client has connected again and changed the same bytes anew.
 */
import type {Ledger} from './ledger.js';
import {overlap, type Change} from './write-cache.js';

interface Zombie {
  readonly change: Change;
  readonly owner: number;
  readonly timer: NodeJS.Timeout;
  /** Its bytes were changed since its connection ended. */
  isOvertaken: boolean;
}

export class Zombies {
  readonly #ledger: Ledger;
  readonly #apply: (change: Change, owner: number) => Promise<void>;
  readonly #waiting = new Set<Zombie>();
  #landing = 0;

  /** `apply` does not reject. */
  constructor(ledger: Ledger, apply: (change: Change, owner: number) => Promise<void>) {
    this.#ledger = ledger;
    this.#apply = apply;
  }

  /** Those that have not landed. */
  get count(): number {
    return this.#waiting.size + this.#landing;
  }

  /** Lets a change land in `ms`. */
  raise(change: Change, owner: number, ms: number): void {
    this.#ledger.add('zombies', {connection: owner, offset: change.offset, length: change.length});
    const timer = setTimeout(() => void this.#land(zombie), ms);
    const zombie: Zombie = {change, owner, timer, isOvertaken: false};
    this.#waiting.add(zombie);
  }

  /** A change of a living connection happened. */
  note(change: Change): void {
    for (const zombie of this.#waiting) {
      if (overlap(zombie.change, change)) zombie.isOvertaken = true;
    }
  }

  async landAll(): Promise<void> {
    await Promise.all([...this.#waiting].map((zombie) => this.#land(zombie)));
  }

  /** None will land any more. */
  clear(): void {
    for (const {timer} of this.#waiting) clearTimeout(timer);
    this.#waiting.clear();
  }

  async #land(zombie: Zombie): Promise<void> {
    const {change, owner} = zombie;
    clearTimeout(zombie.timer);
    this.#waiting.delete(zombie);
    this.#landing++;
    await this.#apply(change, owner);
    this.#landing--;
    const details = {connection: owner, offset: change.offset, length: change.length};
    this.#ledger.add('zombiesLanded', details);
    if (zombie.isOvertaken) this.#ledger.add('zombiesOverNewer', details);
  }
}
