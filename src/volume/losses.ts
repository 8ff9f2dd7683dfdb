/**
 * Blocks that the map on disk may call copied and that are absent since the store failed to read
 * them. Until a commit has made that durable, a write to one needs an intent mark like a write to a
 * copied block (I11): after a crash the disk would else vouch for bytes that are the guest's.
 */
export class Losses {
  readonly #fresh = new Set<number>();
  /** Those a commit has taken that is not durable yet. */
  readonly #taken = new Set<number>();
  /** 2: it is not known which blocks were lost; 1: a commit is under way that ends that. */
  #unknownFor = 0;

  get isEmpty(): boolean {
    return this.#unknownFor + this.#fresh.size + this.#taken.size === 0;
  }

  has(block: number): boolean {
    return this.#unknownFor > 0 || this.#fresh.has(block) || this.#taken.has(block);
  }

  add(block: number): void {
    this.#fresh.add(block);
  }

  /** Any absent block may have been lost by a daemon that died. */
  forget(): void {
    this.#unknownFor = 2;
  }

  /** A commit has taken the changes of the map. */
  taken(): void {
    if (this.#unknownFor === 2) this.#unknownFor = 1;
    for (const block of this.#fresh) this.#taken.add(block);
    this.#fresh.clear();
  }

  /** What it took is durable. */
  committed(): void {
    this.#taken.clear();
    if (this.#unknownFor === 1) this.#unknownFor = 0;
  }
}
