/** Waiting for several things that share a buffer or a lock. */

/**
 * Resolves once all have; where some reject, rejects with the first of them, but only when none is
 * under way any more. Promise.all() rejects at once, while the others still use what they share.
 */
export async function settleAll(promises: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(promises);
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}
