/**
 * The last things that went wrong, for `status`: a ring of 16. An error that repeats itself counts
 * up instead of pushing the others out.
 */
export interface RecentError {
  /** Wall time in ms when it was last seen. */
  at: number;
  message: string;
  /** How often it has come so far. */
  count: number;
}

const KEPT = 16;

export class RecentErrors {
  readonly #ring: RecentError[] = [];

  add(message: string, at: number): void {
    const known = this.#ring.findIndex((entry) => entry.message === message);
    const count = known === -1 ? 0 : (this.#ring.splice(known, 1)[0]?.count ?? 0);
    this.#ring.push({at, message, count: count + 1});
    if (this.#ring.length > KEPT) this.#ring.shift();
  }

  /** The oldest first. */
  list(): RecentError[] {
    return this.#ring.map((entry) => ({...entry}));
  }
}
