/**
 * Assertions stay on in production. A failed one is a programming error: it stops the smallest
 * thing that owns the suspect state (a volume goes to mode `failed` and writes nothing more).
 */

export class AssertionError extends Error {
  override readonly name = 'AssertionError';
}

/**
 * Throws {@link AssertionError} unless `condition` holds. Cite the invariant by number where there
 * is one.
 */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new AssertionError(message);
}

/** The end of an exhaustive `switch`: does not compile while a case is missing. */
export function unreachable(value: never): never {
  throw new AssertionError(`unreachable: ${String(value)}`);
}
