/**
 * The oracle: for each sector of 512 bytes it knows which values may be read now and which after a
 * crash. It is flat: no map, no states, no source beyond "what was there first".
 *
 * A sector is a list of versions, each a value with an interval in which it took effect:
 *
 *   first ├────────┤ last      asked .. answered; last is Infinity while in flight
 *
 *   w precedes w'  ⇔  w.last < w'.first;  otherwise either may be the later one
 *
 * - Live: a read may give any version that no version answered before the read began succeeds.
 * - After a power cut (I3, I9): any version that no *durable* version succeeds. A version becomes
 *   durable when a flush that was asked after its answer is answered, or with its own FUA answer.
 * - `isPerhaps`: failed, or in flight when the daemon died: may be there or not; it succeeds
 *   nothing until somebody has read it.
 * - A read that saw one version while nothing was in flight settles their order: the others cannot
 *   come back (I9: never older than what was read).
 */
import {SECTOR} from '../../src/base/units.js';
import {DAMAGED, describeSector, describeValue, GARBAGE, readStamp} from './stamps.js';

interface Version {
  readonly value: number;
  first: number;
  last: number;
  /** When it was answered; what a flush must be asked after. Infinity while it is not. */
  answered: number;
  isDurable: boolean;
  isPerhaps: boolean;
}

/** A write on its way. */
export interface PendingWrite {
  readonly sector: number;
  readonly versions: readonly Version[];
}

export interface PendingRead {
  readonly offset: number;
  readonly length: number;
  readonly began: number;
}

/** A wrong answer; the message names the invariants it breaks. */
export class OracleError extends Error {
  override readonly name = 'OracleError';
}

export type CrashKind = 'power cut' | 'process death';

export class Oracle {
  /** Bytes. */
  readonly size: number;
  readonly #baseValue: (offset: number) => number;
  /** Sectors not in here hold their base value, durably. */
  readonly #sectors = new Map<number, Version[]>();
  #undurable: {sector: number; version: Version}[] = [];
  /** In the order they began, so the first is the oldest. */
  readonly #reads = new Set<PendingRead>();
  #moment = 1;
  #lastCrash: CrashKind | undefined;

  /** `baseValue`: what a sector holds before the first write, durably. */
  constructor(size: number, baseValue: (offset: number) => number) {
    this.size = size;
    this.#baseValue = baseValue;
  }

  /** The same knowledge, from now on apart; requests on their way stay with the original. */
  fork(): Oracle {
    const copy = new Oracle(this.size, this.#baseValue);
    copy.#moment = this.#moment;
    copy.#lastCrash = this.#lastCrash;
    for (const [sector, versions] of this.#sectors) {
      const copies = versions.map((version) => ({...version}));
      copy.#sectors.set(sector, copies);
      for (const version of copies) if (!version.isDurable) copy.#undurable.push({sector, version});
    }
    return copy;
  }

  beginWrite(offset: number, length: number, value: number): PendingWrite {
    const first = this.#moment++;
    const versions: Version[] = [];
    const start = offset / SECTOR;
    for (let index = 0; index < length / SECTOR; index++) {
      const version = {
        value,
        first,
        last: Infinity,
        answered: Infinity,
        isDurable: false,
        isPerhaps: false,
      };
      versions.push(version);
      this.#versionsOf(start + index).push(version);
    }
    return {sector: start, versions};
  }

  /** The write was answered; with `fua` it is durable, too. */
  acknowledge(write: PendingWrite, fua = false): void {
    const now = this.#moment++;
    for (const [index, version] of write.versions.entries()) {
      version.last = now;
      version.answered = now;
      version.isDurable = fua;
      if (fua) this.#prune(write.sector + index);
      else this.#undurable.push({sector: write.sector + index, version});
    }
  }

  /** The write was answered with an error: its range holds old or new bytes. */
  fail(write: PendingWrite): void {
    const now = this.#moment++;
    for (const version of write.versions) {
      version.last = now;
      version.isPerhaps = true;
    }
  }

  /** Gives the moment that `acknowledgeFlush` wants. */
  beginFlush(): number {
    return this.#moment++;
  }

  acknowledgeFlush(began: number): void {
    const rest: {sector: number; version: Version}[] = [];
    const touched = new Set<number>();
    for (const entry of this.#undurable) {
      const {version, sector} = entry;
      if (version.isPerhaps || version.answered >= began) {
        rest.push(entry);
      } else {
        version.isDurable = true;
        touched.add(sector);
      }
    }
    this.#undurable = rest;
    for (const sector of touched) this.#prune(sector);
  }

  beginRead(offset: number, length: number): PendingRead {
    const read = {offset, length, began: this.#moment++};
    this.#reads.add(read);
    return read;
  }

  /** Checks what a read gave; throws OracleError. Undefined: the read failed and gave nothing. */
  endRead(read: PendingRead, bytes: Uint8Array | undefined): void {
    this.#reads.delete(read);
    if (!bytes) return;
    const now = this.#moment++;
    for (let at = 0; at < read.length; at += SECTOR) {
      this.#checkSector(bytes, at, read.offset + at, {began: read.began, now});
    }
  }

  /** Checks bytes that were read while nothing was in flight (a store looked at from outside). */
  check(offset: number, bytes: Uint8Array): void {
    this.endRead(this.beginRead(offset, bytes.length), bytes);
  }

  /**
   * A crash: requests on their way get no answer any more. After the death of the process what was
   * answered survives if `keepsAnswered`, else it may be there or not, as after a power cut.
   */
  crash(kind: CrashKind, keepsAnswered = false): void {
    const now = this.#moment++;
    this.#lastCrash = kind;
    this.#reads.clear();
    for (const [sector, versions] of this.#sectors) {
      for (const version of versions) {
        if (version.last === Infinity || (!version.isDurable && !keepsAnswered))
          version.isPerhaps = true;
        version.last = Math.min(version.last, now);
      }
      this.#prune(sector);
      if (kind === 'power cut') this.#settleAfterPowerCut(sector, now);
    }
    this.#undurable = this.#undurable.filter(({version}) => !version.isDurable);
  }

  /** After a power cut everything on the disk is durable, whichever it is. */
  #settleAfterPowerCut(sector: number, now: number): void {
    for (const version of this.#sectors.get(sector) ?? []) {
      Object.assign(version, {
        first: now,
        last: now,
        answered: now,
        isDurable: true,
        isPerhaps: false,
      });
    }
  }

  #versionsOf(sector: number): Version[] {
    const present = this.#sectors.get(sector);
    if (present) return present;
    const versions = [
      {
        value: this.#baseValue(sector * SECTOR),
        first: 0,
        last: 0,
        answered: 0,
        isDurable: true,
        isPerhaps: false,
      },
    ];
    this.#sectors.set(sector, versions);
    return versions;
  }

  /** Forgets versions that a durable one succeeds and that no read on its way may still give. */
  #prune(sector: number): void {
    const versions = this.#sectors.get(sector);
    if (!versions || versions.length < 2) return;
    const [oldest] = this.#reads;
    const before = oldest?.began ?? Infinity;
    const from = latestFirst(versions, (one) => one.isDurable && one.last < before);
    const kept = versions.filter((one) => one.last >= from);
    if (kept.length < versions.length) this.#sectors.set(sector, kept);
  }

  #checkSector(
    bytes: Uint8Array,
    at: number,
    offset: number,
    {began, now}: {began: number; now: number},
  ): void {
    const value = readStamp(bytes, at, offset);
    const versions = this.#sectors.get(offset / SECTOR);
    if (!versions) {
      const base = this.#baseValue(offset);
      if (value !== base) this.#refuse(bytes, at, offset, [describeValue(base)]);
      return;
    }
    const from = latestFirst(versions, (one) => !one.isPerhaps && one.last < began);
    const allowed = versions.filter((one) => one.first < now && one.last >= from);
    const matching = allowed.filter((one) => one.value === value);
    if (matching.length === 0) {
      this.#refuse(
        bytes,
        at,
        offset,
        allowed.map((one) => describeValue(one.value)),
      );
    }
    const [seen] = matching;
    if (!seen || matching.length > 1 || versions.length === 1) return;
    if (versions.some((one) => one.last >= began)) return;
    this.#settleOrder(seen, offset / SECTOR, {began, now});
  }

  /** The read that began then saw `seen` with nothing in flight: it comes after all others. */
  #settleOrder(seen: Version, sector: number, {began, now}: {began: number; now: number}): void {
    seen.first = began;
    seen.last = began;
    if (seen.isPerhaps) {
      seen.isPerhaps = false;
      seen.answered = now;
      if (!this.#undurable.some(({version}) => version === seen)) {
        this.#undurable.push({sector, version: seen});
      }
    }
    this.#prune(sector);
  }

  #refuse(bytes: Uint8Array, at: number, offset: number, allowed: string[]): never {
    const value = readStamp(bytes, at, offset);
    const found = describeSector(bytes, at, offset);
    const broken =
      value === GARBAGE
        ? 'I2, I9: bytes nobody wrote'
        : value === DAMAGED
          ? 'I5, I9: bytes of no write'
          : this.#lastCrash
            ? 'I3, I9: lost or older bytes'
            : 'I4, I5, I6: wrong bytes';
    const since = this.#lastCrash ? `, last crash: ${this.#lastCrash}` : '';
    const options = [...new Set(allowed)].join(' or ');
    throw new OracleError(`${broken} at ${offset}: found ${found}, expected ${options}${since}`);
  }
}

/** The latest beginning among the versions that `counts`; what ended before it is succeeded. */
function latestFirst(versions: readonly Version[], counts: (version: Version) => boolean): number {
  let latest = -1;
  for (const version of versions)
    if (version.first > latest && counts(version)) latest = version.first;
  return latest;
}
