/** Filling large arrays with a short pattern, quicker than element by element. */

/** Copies the first `count` elements over all the rest of the array, the last copy cut short. */
export function repeatFirst(array: Uint8Array | Uint16Array, count: number): void {
  for (let done = count; done < array.length; done *= 2) {
    array.copyWithin(done, 0, Math.min(done, array.length - done));
  }
}
