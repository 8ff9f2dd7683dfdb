/**
 * Blocks that the map on disk may call copied and that are absent since the store failed to read
 * them. Until a commit has made that durable, a write to one needs an intent mark like a write to a
 * copied block (I11): after a crash the disk would else vouch for bytes that are the guest's.
 */
export class Losses {
  readonly #fresh = new Set<number>();
  /** Those a commit has taken that is not durable yet. */
  readonly #taken = new Set<number>();

  get isEmpty(): boolean {
    return this.#fresh.size + this.#taken.size === 0;
  }

  has(block: number): boolean {
    return this.#fresh.has(block) || this.#taken.has(block);
  }

  add(block: number): void {
    this.#fresh.add(block);
  }

  /** A commit has taken the changes of the map. */
  taken(): void {
    for (const block of this.#fresh) this.#taken.add(block);
    this.#fresh.clear();
  }

  /** What it took is durable. */
  committed(): void {
    this.#taken.clear();
  }
}
