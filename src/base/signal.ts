/** Wakes all who wait; a wake with nobody waiting is kept for the next wait (one, not many). */
export class Signal {
  #waiting: (() => void)[] = [];
  #isPending = false;

  fire(): void {
    if (this.#waiting.length === 0) {
      this.#isPending = true;
      return;
    }
    const waiting = this.#waiting;
    this.#waiting = [];
    for (const wake of waiting) wake();
  }

  async wait(): Promise<void> {
    if (this.#isPending) {
      this.#isPending = false;
      return;
    }
    await new Promise<void>((wake) => this.#waiting.push(wake));
  }
}
