/**
 * The first section of in-core state, `state`: what the other sections are about, whether a daemon
 * that takes over may believe them, and how well the volume was.
 *
 *   0   magic u32 "GRCS", version u32 of all sections' layout
 *   8   f64 volume size, u32 block size, u32 masks there may be
 *   24  f64 generation of the map file that the memory belongs to
 *   32  u8 1: whole, may be adopted; u8 mode: 0 read-write, 1 read-only, 2 failed; u16 bytes of the
 *       reason, UTF-8, which begins at 64
 *
 * Each field is one store; what it promises is true before it is stored.
 */
import type {Environment} from '../base/environment.js';
import type {Geometry} from './geometry.js';
import type {MapLimits} from './map-layout.js';

const MAGIC = 0x5343_5247; // "GRCS"
/** Raised whenever a section means something else than before: the memory is not adopted then. */
const VERSION = 2;
const BYTES = 4096;
const LIVE_AT = 32;
const MODE_AT = 33;
const REASON_LENGTH_AT = 34;
const REASON_AT = 64;

export class CoreState {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  readonly #doubles: Float64Array;
  /** Why the memory that was found may not be adopted; undefined if it may. */
  readonly problem: string | undefined;
  readonly isInherited: boolean;

  constructor(environment: Environment, geometry: Geometry, limits: MapLimits, generation: number) {
    const memory = environment.allocate('state', BYTES);
    const {bytes} = memory;
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, BYTES);
    this.#doubles = new Float64Array(bytes.buffer, bytes.byteOffset, BYTES / 8);
    this.isInherited = memory.isInherited === true;
    const isLeft = environment.bugs.has('memory-not-adopted');
    this.problem = isLeft ? 'it is left alone' : this.#problem(geometry, limits, generation);
  }

  /** New memory: nobody may adopt it before goLive(). */
  begin(geometry: Geometry, limits: MapLimits): void {
    this.#bytes[LIVE_AT] = 0;
    this.#view.setUint32(0, MAGIC, true);
    this.#view.setUint32(4, VERSION, true);
    this.#doubles[1] = geometry.size;
    this.#view.setUint32(16, geometry.blockSize, true);
    this.#view.setUint32(20, limits.maskCountMax, true);
    this.#bytes[MODE_AT] = 0;
  }

  /** All sections are whole from now on, and belong to the map file at this generation. */
  goLive(generation: number): void {
    this.setGeneration(generation);
    this.#bytes[LIVE_AT] = 1;
  }

  /** The memory is about to belong to another map file: until goLive() nobody may adopt it. */
  suspend(): void {
    this.#bytes[LIVE_AT] = 0;
  }

  /** After each checkpoint. */
  setGeneration(generation: number): void {
    this.#doubles[3] = generation;
  }

  get mode(): number {
    return this.#bytes[MODE_AT] as number;
  }

  get modeReason(): string {
    const length = Math.min(this.#view.getUint16(REASON_LENGTH_AT, true), BYTES - REASON_AT);
    return new TextDecoder().decode(this.#bytes.slice(REASON_AT, REASON_AT + length));
  }

  /** A mode worse than before: who takes over must not write where this daemon would not. */
  setMode(mode: number, reason: string): void {
    const text = new TextEncoder().encode(reason).subarray(0, BYTES - REASON_AT);
    this.#view.setUint16(REASON_LENGTH_AT, 0, true);
    this.#bytes.set(text, REASON_AT);
    this.#view.setUint16(REASON_LENGTH_AT, text.length, true);
    this.#bytes[MODE_AT] = mode;
  }

  /** A checkpoint may have become durable whose generation was not noted any more. */
  #problem(geometry: Geometry, limits: MapLimits, generation: number): string | undefined {
    const at = (offset: number): number => this.#view.getUint32(offset, true);
    const noted = this.#doubles[3] as number;
    if (!this.isInherited) return 'there is none';
    if (at(0) !== MAGIC) return 'its header is damaged';
    if (at(4) !== VERSION) return `its layout has version ${at(4)}, this program knows ${VERSION}`;
    if (this.#bytes[LIVE_AT] !== 1) return 'it was not complete';
    if (this.#doubles[1] !== geometry.size || at(16) !== geometry.blockSize) {
      return 'it is of a volume of another shape';
    }
    if (at(20) !== limits.maskCountMax) return 'it has room for another number of masks';
    if (generation === noted || generation === noted + 1) return undefined;
    return `it belongs to generation ${noted} of the map file, which is at ${generation}`;
  }
}
