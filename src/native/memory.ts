/**
 * In-core state in a memfd: it lies outside the JavaScript heap, costs nothing where it was never
 * touched, and lives as long as any process holds the descriptor, so that a daemon's successor
 * finds it.
 *
 *   0      header: magic "regrowmf", layout version u32, section count u32, 0 up to byte 64, then
 *          entries of 64 bytes: name (UTF-8, zero-padded) 40, offset f64, length f64, 0 up to 64
 *   16 KiB sections, each beginning at a multiple of 4 KiB, in the order they were allocated
 *
 * Numbers are little-endian. An entry is complete before the count includes it, so a process that
 * dies between the two leaves a table that is valid without it. A section never moves and the memfd
 * never shrinks.
 */
import {assert} from '../base/assert.js';
import type {Memory} from '../base/environment.js';
import {BlockError} from '../base/errors.js';
import {alignUp, GiB} from '../base/units.js';
import {addon} from './addon.js';
import {systemError} from './native-error.js';

interface NativeMemoryApi {
  createMemfd(name: string): number;
  growMemfd(fd: number, size: number): void;
  memfdSize(fd: number): number;
  mapMemfd(fd: number, offset: number, length: number): ArrayBuffer;
  unmapMemfd(view: ArrayBuffer): void;
  punchMemfd(fd: number, offset: number, length: number): void;
  closeMemfd(fd: number): void;
}

const native = addon as NativeMemoryApi;

const MAGIC = 'regrowmf';
const LAYOUT_VERSION = 1;
const PAGE = 4096;
const HEADER_BYTES = 4 * PAGE;
const ENTRY_BYTES = 64;
const NAME_BYTES = 40;
/** 255: more sections than a volume has kinds of state many times over. */
const MAX_SECTIONS = HEADER_BYTES / ENTRY_BYTES - 1;
export const MAX_SECTION_BYTES = GiB;

interface Section {
  name: string;
  offset: number;
  length: number;
}

export class SharedMemory {
  /** Pass it to another process to let it adopt the memory; close() closes this one. */
  readonly fd: number;
  readonly #headerBuffer: ArrayBuffer;
  readonly #header: DataView;
  readonly #sections = new Map<string, Section>();
  readonly #views = new Map<string, ArrayBuffer>();
  #end = HEADER_BYTES;
  #isClosed = false;

  private constructor(fd: number) {
    this.fd = fd;
    this.#headerBuffer = native.mapMemfd(fd, 0, HEADER_BYTES);
    this.#header = new DataView(this.#headerBuffer);
  }

  /** New, empty memory. */
  static create(name = 'regrow-state'): SharedMemory {
    try {
      const fd = native.createMemfd(name);
      native.growMemfd(fd, HEADER_BYTES);
      const memory = new SharedMemory(fd);
      memory.#writeHeader();
      return memory;
    } catch (error) {
      throw systemError(error, 'creating shared memory', 'memory');
    }
  }

  /** The memory another process left behind `fd`, which belongs to this object from now on. */
  static adopt(fd: number): SharedMemory {
    let size = 0;
    try {
      size = native.memfdSize(fd);
    } catch (error) {
      throw systemError(error, 'adopting shared memory', 'memory');
    }
    if (size < HEADER_BYTES) throw unreadable('it is too short');
    const memory = new SharedMemory(fd);
    memory.#readHeader(size);
    return memory;
  }

  /** Names of the sections, in the order they were allocated. */
  get names(): string[] {
    return [...this.#sections.keys()];
  }

  /**
   * Zeroed memory of exactly `length` bytes, 1 byte to 1 GiB. `name`: at most 40 bytes of UTF-8,
   * not in use yet.
   */
  allocate(name: string, length: number): Memory {
    assert(!this.#isClosed, 'memory is allocated before it is closed');
    assert(Number.isInteger(length) && length > 0 && length <= MAX_SECTION_BYTES, 'a section fits');
    assert(!this.#sections.has(name), `section ${name} is allocated once`);
    assert(this.#sections.size < MAX_SECTIONS, 'the table has room for a section');
    const section = {name, offset: this.#end, length};
    try {
      native.growMemfd(this.fd, section.offset + alignUp(length, PAGE));
    } catch (error) {
      throw systemError(error, `allocating ${length} bytes of shared memory for ${name}`, 'memory');
    }
    this.#append(section);
    return this.#view(section);
  }

  /** A section as it stands, with what was written into it, or undefined. */
  find(name: string): Memory | undefined {
    const section = this.#sections.get(name);
    return section === undefined ? undefined : this.#view(section);
  }

  /**
   * Unmaps, so that every view becomes empty, and closes the descriptor. No I/O on a view may be in
   * flight. The memory lives on while another process has its descriptor.
   */
  close(): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    for (const view of this.#views.values()) native.unmapMemfd(view);
    native.unmapMemfd(this.#headerBuffer);
    native.closeMemfd(this.fd);
  }

  #view(section: Section): Memory {
    const known = this.#views.get(section.name);
    const view = known ?? native.mapMemfd(this.fd, section.offset, section.length);
    this.#views.set(section.name, view);
    const fd = this.fd;
    return {
      bytes: new Uint8Array(view),
      release(offset, length) {
        assert(
          offset >= 0 && length >= 0 && offset + length <= section.length,
          'release lies inside',
        );
        if (length > 0) native.punchMemfd(fd, section.offset + offset, length);
      },
    };
  }

  #append(section: Section): void {
    const index = this.#sections.size;
    const at = (index + 1) * ENTRY_BYTES;
    const name = new TextEncoder().encode(section.name);
    assert(name.length > 0 && name.length <= NAME_BYTES, 'a section name fits');
    const field = new Uint8Array(this.#headerBuffer, at, NAME_BYTES);
    field.fill(0);
    field.set(name);
    this.#header.setFloat64(at + NAME_BYTES, section.offset, true);
    this.#header.setFloat64(at + NAME_BYTES + 8, section.length, true);
    this.#header.setUint32(12, index + 1, true);
    this.#sections.set(section.name, section);
    this.#end = section.offset + alignUp(section.length, PAGE);
  }

  #writeHeader(): void {
    new Uint8Array(this.#headerBuffer, 0, 8).set(new TextEncoder().encode(MAGIC));
    this.#header.setUint32(8, LAYOUT_VERSION, true);
    this.#header.setUint32(12, 0, true);
  }

  #readHeader(size: number): void {
    const text = new TextDecoder();
    if (text.decode(new Uint8Array(this.#headerBuffer, 0, 8).slice()) !== MAGIC) {
      throw unreadable('it is not of this program');
    }
    const version = this.#header.getUint32(8, true);
    if (version !== LAYOUT_VERSION) throw unreadable(`its layout has version ${version}`);
    const count = this.#header.getUint32(12, true);
    if (count > MAX_SECTIONS) throw unreadable('its table is damaged');
    for (let index = 0; index < count; index++) {
      const at = (index + 1) * ENTRY_BYTES;
      const field = new Uint8Array(this.#headerBuffer, at, NAME_BYTES).slice();
      const name = text.decode(field).replace(/\0+$/, '');
      const offset = this.#header.getFloat64(at + NAME_BYTES, true);
      const length = this.#header.getFloat64(at + NAME_BYTES + 8, true);
      const isSane =
        offset === this.#end &&
        Number.isInteger(length) &&
        length > 0 &&
        length <= MAX_SECTION_BYTES &&
        offset + length <= size &&
        !this.#sections.has(name);
      if (!isSane) throw unreadable('its table is damaged');
      this.#sections.set(name, {name, offset, length});
      this.#end = offset + alignUp(length, PAGE);
    }
  }
}

/** {@link SharedMemory.create} under the name that the process's environment uses. */
export function createSharedMemory(): SharedMemory {
  return SharedMemory.create();
}

function unreadable(reason: string): BlockError {
  return new BlockError('EINVAL', `adopting shared memory: ${reason}`, {op: 'memory'});
}
