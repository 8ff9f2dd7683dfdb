/** The figures of a run: samples by table, column and contestant; a table shows their medians. */

export interface Column {
  readonly id: string;
  readonly title: string;
  readonly unit: 'IOPS' | 'MB/s' | 's' | 'ms' | 'µs' | 'MiB';
}

export interface Table {
  readonly id: string;
  readonly title: string;
  /** What a reader must know to judge the figures. */
  readonly note: string;
  readonly columns: readonly Column[];
}

/** Rates are better when larger; times and memory when smaller. */
export function isMoreBetter(unit: Column['unit']): boolean {
  return unit === 'IOPS' || unit === 'MB/s';
}

export class Results {
  /** Column id → contestant → samples. */
  readonly samples: Record<string, Record<string, number[]>> = {};
  readonly failures: string[] = [];

  add(column: string, contestant: string, value: number): void {
    ((this.samples[column] ??= {})[contestant] ??= []).push(value);
  }

  /** Runs a measurement; a failure is noted and the run goes on. */
  async attempt(what: string, measure: () => Promise<void>): Promise<void> {
    try {
      await measure();
    } catch (error) {
      this.failures.push(`${what}: ${error instanceof Error ? error.message : String(error)}`);
      process.stderr.write(`bench: ${this.failures.at(-1)}\n`);
    }
  }

  median(column: string, contestant: string): number | undefined {
    const sorted = [...(this.samples[column]?.[contestant] ?? [])].sort((a, b) => a - b);
    if (sorted.length === 0) return undefined;
    const middle = Math.floor(sorted.length / 2);
    const upper = sorted[middle] ?? 0;
    return sorted.length % 2 === 1 ? upper : (upper + (sorted[middle - 1] ?? 0)) / 2;
  }

  /** How many times better `contestant` is than `peer`; undefined where one was not measured. */
  advantage(column: Column, contestant: string, peer: string): number | undefined {
    const [mine, theirs] = [this.median(column.id, contestant), this.median(column.id, peer)];
    if (mine === undefined || theirs === undefined || mine === 0 || theirs === 0) return undefined;
    return isMoreBetter(column.unit) ? mine / theirs : theirs / mine;
  }
}
