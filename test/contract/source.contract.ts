/**
 * What every {@link Source} does. A source joins with one line:
 *
 *   sourceContract('file', async (t, image) => …);
 *
 * `make` gives a source whose content is the raw image file at `image.path`, all of it.
 */
import {Buffer} from 'node:buffer';
import {createHash} from 'node:crypto';
import {open} from 'node:fs/promises';
import {join} from 'node:path';
import test, {type ExecutionContext} from 'ava';
import fc from 'fast-check';
import {KiB, MiB} from '../../src/base/units.js';
import type {Source} from '../../src/source/source.js';
import {temporaryDirectory} from '../support/temporary.js';

export interface Image {
  path: string;
  /** What the file holds. */
  bytes: Buffer;
}

export type MakeSource = (t: ExecutionContext, image: Image) => Promise<Source>;

export interface SourceTraits {
  /** Programs without which the source cannot be made; its tests are skipped then. */
  isAvailable?: boolean;
}

const SIZE = 6 * MiB;

/** Data at the start, in the middle and at the end; holes between. */
export async function makeImage(t: ExecutionContext): Promise<Image> {
  const path = join(await temporaryDirectory(t), 'image');
  const bytes = Buffer.alloc(SIZE);
  const file = await open(path, 'w');
  await file.truncate(SIZE);
  for (const [offset, length] of [
    [0, 100 * KiB],
    [2 * MiB, MiB],
    [SIZE - 64 * KiB, 64 * KiB],
  ] as const) {
    const data = pseudoRandom(length, offset);
    bytes.set(data, offset);
    await file.write(data, 0, length, offset);
  }
  await file.close();
  return {path, bytes};
}

/** The same bytes for the same seed, none of them easily mistaken for others. */
function pseudoRandom(length: number, seed: number): Buffer {
  return createHash('shake256', {outputLength: length}).update(String(seed)).digest();
}

const range = fc
  .tuple(fc.nat(SIZE - 1), fc.integer({min: 1, max: 300 * KiB}))
  .map(([offset, length]) => ({offset, length: Math.min(length, SIZE - offset)}));

export function sourceContract(name: string, make: MakeSource, traits: SourceTraits = {}): void {
  const register = traits.isAvailable === false ? test.skip : test;

  register(`${name}: any range has the image's bytes`, async (t) => {
    const image = await makeImage(t);
    const source = await make(t, image);
    t.is(source.size, SIZE);
    await fc.assert(
      fc.asyncProperty(range, async ({offset, length}) => {
        const buffer = Buffer.alloc(length, 0xee);
        await source.read(offset, buffer);
        return buffer.equals(image.bytes.subarray(offset, offset + length));
      }),
      {numRuns: 60},
    );
    await source.close();
  });

  register(`${name}: many reads at once, of both priorities, do not mix up`, async (t) => {
    const image = await makeImage(t);
    const source = await make(t, image);
    const reads = fc.sample(range, 200).map(async ({offset, length}, index) => {
      const buffer = Buffer.alloc(length, 0xee);
      await source.read(offset, buffer, {priority: index % 2 === 0 ? 'foreground' : 'background'});
      return buffer.equals(image.bytes.subarray(offset, offset + length));
    });
    t.true((await Promise.all(reads)).every((equal) => equal));
    await source.close();
  });

  register(`${name}: the whole in one read`, async (t) => {
    const image = await makeImage(t);
    const source = await make(t, image);
    const buffer = Buffer.alloc(SIZE, 0xee);
    await source.read(0, buffer);
    t.true(buffer.equals(image.bytes));
    await source.close();
  });

  register(
    `${name}: extents cover any range exactly and what they call zero is zero`,
    async (t) => {
      const image = await makeImage(t);
      const source = await make(t, image);
      await fc.assert(
        fc.asyncProperty(range, async ({offset, length}) => {
          let at = offset;
          for (const extent of await source.extents(offset, length)) {
            if (extent.offset !== at || extent.length <= 0) return false;
            at += extent.length;
            const bytes = image.bytes.subarray(extent.offset, at);
            if (extent.isZero && bytes.some((byte) => byte !== 0)) return false;
          }
          return at === offset + length;
        }),
        {numRuns: 60},
      );
      t.deepEqual(await source.extents(SIZE, 0), []);
      await source.close();
    },
  );

  register(`${name}: an aborted read rejects with ECANCELED`, async (t) => {
    const source = await make(t, await makeImage(t));
    const signal = AbortSignal.abort();
    await t.throwsAsync(source.read(0, Buffer.alloc(512), {signal}), {code: 'ECANCELED'});
    await source.close();
  });
}
