/**
 * Which sectors of partial blocks are the guest's: a bounded side table, a mask for each partial
 * block.
 *
 * A slot lies in memory from the environment: the block's number plus one as a double (0: free),
 * then a bit a sector. The index from block to slot is derived. A mask's only way is to grow; its
 * block leaves the table when it stops being partial. Masks changed since the last commit ride the
 * next one.
 *
 * The table is bounded because it is committed with the map: whoever would make a block partial
 * takes a place first (reserve), before its data goes anywhere, and waits, visibly, where there is
 * none.
 */
import {assert} from '../base/assert.js';
import {areAllSet, endOfBitRun, isBitSet, setBits} from '../base/bits.js';
import {Budget} from '../base/budget.js';
import type {Environment, Memory} from '../base/environment.js';
import {alignUp} from '../base/units.js';
import type {Geometry} from './geometry.js';

/** Partial blocks there may be at once, and bytes their masks may take together. */
export const MASK_COUNT_MAX = 4096;
const MASK_BYTES_MAX = 1024 * 1024;

/** A copy of a mask, as a commit writes it. */
export interface MaskImage {
  block: number;
  mask: Uint8Array;
}

/** A run of sectors [start, end) of a block, in or out of its mask. */
export interface MaskRun {
  start: number;
  end: number;
  isMasked: boolean;
}

/** How many masks a volume may have. */
export function maskCountMax(geometry: Geometry, wanted = MASK_COUNT_MAX): number {
  return Math.max(16, Math.min(wanted, Math.floor(MASK_BYTES_MAX / maskBytes(geometry))));
}

/** Bytes of a mask: a multiple of 8. */
export function maskBytes(geometry: Geometry): number {
  return alignUp(geometry.sectorsPerBlock, 64) / 8;
}

export class MaskTable {
  readonly capacity: number;
  readonly #geometry: Geometry;
  readonly #slotBytes: number;
  readonly #memory: Memory;
  /** The numbers in it: a block plus one, or 0. A store to one is whole or not at all. */
  readonly #numbers: Float64Array;
  readonly #slots = new Map<number, number>();
  readonly #freeSlots: number[] = [];
  readonly #changed = new Set<number>();
  /** Places taken by masks and by writes on their way to one. */
  readonly #places: Budget;

  /** An empty table, until recovery fills it; `keepsMemory`: until adopt() does. */
  constructor(
    geometry: Geometry,
    environment: Environment,
    wantedCapacity?: number,
    keepsMemory = false,
  ) {
    this.#geometry = geometry;
    this.capacity = maskCountMax(geometry, wantedCapacity);
    this.#slotBytes = 8 + maskBytes(geometry);
    this.#memory = environment.allocate('masks', this.capacity * this.#slotBytes);
    const {buffer, byteOffset, length} = this.#memory.bytes;
    this.#numbers = new Float64Array(buffer, byteOffset, length / 8);
    this.#places = new Budget(this.capacity);
    if (keepsMemory) return;
    if (this.#memory.isInherited === true) this.#memory.release(0, length);
    for (let slot = this.capacity - 1; slot >= 0; slot--) this.#freeSlots.push(slot);
  }

  get count(): number {
    return this.#slots.size;
  }

  /** Writes that wait for a place. */
  get waiters(): number {
    return this.#places.waiters;
  }

  /** Whether places can be had at once; if so they are taken. */
  tryReserve(places: number): boolean {
    return this.#places.tryTake(places);
  }

  /** Waits for places and takes them, all at once. */
  reserve(places: number): Promise<void> {
    return this.#places.take(places);
  }

  /** Gives reserved places back unused. */
  unreserve(places: number): void {
    this.#places.give(places);
  }

  /**
   * Take-over: the masks as the memory of a daemon that died has them, all of them changed. Those
   * of blocks that are not partial are dropped: a write was cut short between map and mask. The
   * other way round cannot be, since a mask comes before its block's state and goes after it; a
   * text says where it is so all the same.
   */
  adopt(isPartial: (block: number) => boolean, partialCount: number): string | undefined {
    for (let slot = this.capacity - 1; slot >= 0; slot--) {
      const block = (this.#numbers[this.#numberAt(slot)] as number) - 1;
      if (block === -1 || !isPartial(block)) {
        this.#numbers[this.#numberAt(slot)] = 0;
        this.#freeSlots.push(slot);
        continue;
      }
      if (this.#slots.has(block) || !this.tryReserve(1)) return `block ${block} has two masks`;
      this.#slots.set(block, slot);
      this.#changed.add(block);
    }
    if (this.count === partialCount) return undefined;
    return `${partialCount} partial blocks have ${this.count} masks`;
  }

  /** Begins an empty mask in a reserved place. */
  add(block: number): void {
    assert(!this.#slots.has(block), `block ${block} has no mask yet`);
    const slot = this.#freeSlots.pop();
    assert(slot !== undefined, 'a reserved place is there');
    this.#maskAt(slot).fill(0);
    this.#numbers[this.#numberAt(slot)] = block + 1;
    this.#slots.set(block, slot);
  }

  /** Adds sectors [start, end) of a block; true once the mask is full. */
  grow(block: number, start: number, end: number): boolean {
    const mask = this.#mask(block);
    setBits(mask, start, end);
    this.#changed.add(block);
    return areAllSet(mask, this.#geometry.sectorsIn(block));
  }

  /** Forgets a block's mask, if it has one, and frees its place. */
  drop(block: number): void {
    const slot = this.#slots.get(block);
    if (slot === undefined) return;
    this.#numbers[this.#numberAt(slot)] = 0;
    this.#slots.delete(block);
    this.#changed.delete(block);
    this.#freeSlots.push(slot);
    this.#places.give(1);
  }

  /** Forgets all masks in blocks [start, end). */
  dropRange(start: number, end: number): void {
    if (end - start <= this.#slots.size) {
      for (let block = start; block < end; block++) this.drop(block);
    } else {
      for (const block of [...this.#slots.keys()])
        if (block >= start && block < end) this.drop(block);
    }
  }

  /** Sectors [start, end) of a partial block as runs in and out of its mask. */
  runs(block: number, start: number, end: number): MaskRun[] {
    const mask = this.#mask(block);
    const runs: MaskRun[] = [];
    for (let at = start; at < end;) {
      const runEnd = endOfBitRun(mask, at, end);
      runs.push({start: at, end: runEnd, isMasked: isBitSet(mask, at)});
      at = runEnd;
    }
    return runs;
  }

  /** All partial blocks, in no order. */
  blocks(): number[] {
    return [...this.#slots.keys()];
  }

  /** Copies of the masks that changed since the last call. */
  takeChanges(): MaskImage[] {
    const images = [...this.#changed].map((block) => this.#image(block));
    this.#changed.clear();
    return images;
  }

  /** Copies of all masks. */
  images(): MaskImage[] {
    return this.blocks().map((block) => this.#image(block));
  }

  /** Recovery: a mask as the disk has it. False where there is no room: the file is damaged. */
  restore({block, mask}: MaskImage): boolean {
    if (!this.#slots.has(block)) {
      if (!this.tryReserve(1)) return false;
      this.add(block);
    }
    this.#mask(block).set(mask);
    return true;
  }

  #image(block: number): MaskImage {
    return {block, mask: this.#mask(block).slice()};
  }

  #mask(block: number): Uint8Array {
    const slot = this.#slots.get(block);
    assert(slot !== undefined, `partial block ${block} has a mask`);
    return this.#maskAt(slot);
  }

  #maskAt(slot: number): Uint8Array {
    return this.#memory.bytes.subarray(slot * this.#slotBytes + 8, (slot + 1) * this.#slotBytes);
  }

  #numberAt(slot: number): number {
    return (slot * this.#slotBytes) / 8;
  }
}
