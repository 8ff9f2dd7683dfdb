/**
 * What the volume says of its backup, held against the truth (I8, BX11): whatever is cut, lost or
 * switched, `status` never says more than is so.
 *
 *   "protected"                     a power cut of the backup now leaves every flushed write there
 *   "consistent as of T, N behind"  it leaves every write flushed by T, and only later ones beside
 *   not behind, nothing under way   the block is the same on store and backup, byte by byte
 *   in sync at the end              cmp of store and backup
 */
import {assert} from '../../../src/base/assert.js';
import {SECTOR} from '../../../src/base/units.js';
import type {Volume} from '../../../src/volume/volume.js';
import type {Oracle} from '../oracle.js';
import {CUT_MODES} from '../../../src/wrap/cut.js';
import {readStamp} from '../stamps.js';
import type {World} from './world.js';

/** A moment at which the volume said that its backup was consistent. */
interface Claim {
  asOf: number;
  oracle: Oracle;
  /** Values written since, by sector. */
  later: Map<number, Set<number>>;
}

export class BackupChecker {
  readonly #world: World;
  #claim: Claim | undefined;
  checks = {protected: 0, behind: 0, same: 0};

  constructor(world: World) {
    this.#world = world;
  }

  /** The guest asks for a write. */
  noteWrite(offset: number, length: number, value: number): void {
    if (!this.#claim) return;
    const {later} = this.#claim;
    for (let sector = offset / SECTOR; sector < (offset + length) / SECTOR; sector++) {
      const values = later.get(sector);
      if (values) values.add(value);
      else later.set(sector, new Set([value]));
    }
  }

  /** A flush of the guest was answered. */
  noteFlush(): void {
    const {volume, prng, oracle} = this.#world;
    const protection = volume?.protection();
    if (protection?.state !== 'protected' || !prng.chance(1, 8)) return;
    const {consistentAsOf: asOf} = protection;
    if (asOf !== undefined) this.#claim = {asOf, oracle: oracle.fork(), later: new Map()};
  }

  /** A crash of the primary: what was in flight may be there, and a claim is made anew. */
  forget(): void {
    this.#claim = undefined;
  }

  check(): void {
    const {volume, prng, backup, oracle} = this.#world;
    if (!volume) return;
    const {state, consistentAsOf} = volume.protection();
    const survivors = backup.survivors(prng.pick(CUT_MODES));
    if (state === 'protected') {
      const truth = oracle.fork();
      truth.crash('power cut');
      this.#each(survivors, (offset, bytes) => truth.check(offset, bytes));
      this.checks.protected++;
    } else if (state === 'behind' && this.#claim && this.#claim.asOf === consistentAsOf) {
      this.#checkClaim(this.#claim, survivors);
      this.checks.behind++;
    }
  }

  /** With no request in flight: what is not behind is the same on both sides. */
  async checkSame(volume: Volume): Promise<void> {
    const {config, store, backup, isBetweenStores} = this.#world;
    const {size, blockSize} = config.geometry;
    if (isBetweenStores) return;
    for (let offset = 0; offset < size; offset += blockSize) {
      if (!volume.isOnBackup(offset)) continue;
      const state = await volume.stateAt(offset);
      if (state === 'absent' || state === 'partial') continue;
      const ours = Buffer.alloc(Math.min(blockSize, size - offset));
      const theirs = Buffer.alloc(ours.length);
      if (state !== 'zeroed') store.peek(offset, ours);
      backup.disk.peek(offset, theirs);
      assert(ours.equals(theirs), `I8: the ${state} block at ${offset} is not what the backup has`);
    }
    this.checks.same++;
  }

  /** In sync and closed: the two are the same, and a power cut of both changes nothing. */
  checkEnd(): void {
    const world = this.#world;
    const {store} = world.branch({kind: 'power cut', storeMode: 'none'}, world.prng);
    const survivors = world.backup.survivors('none');
    this.#each(survivors, (offset, bytes) => {
      const ours = Buffer.alloc(bytes.length);
      store.peek(offset, ours);
      assert(ours.equals(bytes), `I8: in sync, but store and backup differ at ${offset}`);
    });
  }

  #checkClaim({asOf, oracle, later}: Claim, disk: Peekable): void {
    const truth = oracle.fork();
    truth.crash('power cut');
    this.#each(disk, (offset, bytes) => {
      for (let at = 0; at < bytes.length; at += SECTOR) {
        const value = readStamp(bytes, at, offset + at);
        if (later.get((offset + at) / SECTOR)?.has(value)) continue;
        try {
          truth.check(offset + at, bytes.subarray(at, at + SECTOR));
        } catch (error) {
          const what = `I8: the backup is not consistent as of ${asOf}, as status says`;
          throw new Error(`${what}: ${(error as Error).message}`);
        }
      }
    });
  }

  #each(disk: Peekable, look: (offset: number, bytes: Buffer) => void): void {
    const {size} = this.#world.config.geometry;
    const step = 64 * SECTOR;
    for (let offset = 0; offset < size; offset += step) {
      const bytes = Buffer.alloc(Math.min(step, size - offset));
      disk.peek(offset, bytes);
      look(offset, bytes);
    }
  }
}

interface Peekable {
  peek(offset: number, bytes: Uint8Array): void;
}
