/**
 * What every BlockDevice keeps, whatever it is made of. A device joins with one line:
 *
 *   blockDeviceContract('memory', async (size) => new MemoryDevice(size));
 */
import test, {type ExecutionContext} from 'ava';
import {toErrno, ERRNO} from '../../src/base/errors.js';
import {Prng} from '../../src/base/prng.js';
import {KiB, MiB, SECTOR} from '../../src/base/units.js';
import type {BlockDevice} from '../../src/device/block-device.js';

export interface ContractOptions {
  /** Bytes; offsets above 2^32 and 2^45 are tried where the device is that large. */
  size?: number;
}

type Body = (t: ExecutionContext, device: BlockDevice) => Promise<void>;

/** Makes an empty device: it reads zeroes. */
export type MakeDevice = (size: number) => Promise<BlockDevice>;

type Claim = (title: string, body: Body) => void;

export function blockDeviceContract(
  name: string,
  make: MakeDevice,
  options: ContractOptions = {},
): void {
  const size = options.size ?? MiB;
  const claim: Claim = (title, body) => {
    test(`${name}: ${title}`, async (t) => {
      const device = await make(size);
      try {
        await body(t, device);
      } finally {
        await device.close();
      }
    });
  };

  claimContents(claim, size);
  claimConcurrency(claim);
  claimEdges(claim, size);
}

function claimContents(claim: Claim, size: number): void {
  claim('what was never written reads zeroes', async (t, device) => {
    t.deepEqual(await readAt(device, 3 * SECTOR, 8 * KiB), Buffer.alloc(8 * KiB));
  });

  claim(
    'a read gives the last write, byte by byte, at the first and the last sector',
    async (t, device) => {
      for (const offset of [0, 7 * SECTOR, size - 4 * SECTOR]) {
        const bytes = Buffer.from(
          Array.from({length: 4 * SECTOR}, (_, index) => (index * 7 + offset) & 255),
        );
        await device.write(offset, Buffer.from(bytes));
        t.deepEqual(await readAt(device, offset, bytes.length), bytes);
      }
    },
  );

  claim('a written buffer belongs to the caller again', async (t, device) => {
    const buffer = Buffer.alloc(2 * SECTOR, 1);
    await device.write(SECTOR, buffer);
    buffer.fill(2);
    await device.flush();
    t.deepEqual(await readAt(device, SECTOR, 2 * SECTOR), Buffer.alloc(2 * SECTOR, 1));
  });

  claim('zeroes and discards read zeroes and touch nothing beside them', async (t, device) => {
    await device.write(0, Buffer.alloc(16 * SECTOR, 9));
    await device.writeZeroes(2 * SECTOR, 3 * SECTOR, {mayTrim: true});
    await device.writeZeroes(6 * SECTOR, SECTOR, {fua: true});
    await device.discard(8 * SECTOR, 2 * SECTOR);
    const expected = Buffer.alloc(16 * SECTOR, 9);
    expected
      .fill(0, 2 * SECTOR, 5 * SECTOR)
      .fill(0, 6 * SECTOR, 7 * SECTOR)
      .fill(0, 8 * SECTOR, 10 * SECTOR);
    t.deepEqual(await readAt(device, 0, 16 * SECTOR), expected);
  });
}

function claimConcurrency(claim: Claim): void {
  claim('requests to different places at once do not mix', async (t, device) => {
    const places = Array.from({length: 32}, (_, index) => index * 3 * SECTOR);
    await Promise.all(
      places.map((offset, index) => device.write(offset, Buffer.alloc(2 * SECTOR, index + 1))),
    );
    const found = await Promise.all(places.map((offset) => readAt(device, offset, 3 * SECTOR)));
    for (const [index, bytes] of found.entries()) {
      const expected = Buffer.alloc(3 * SECTOR).fill(index + 1, 0, 2 * SECTOR);
      t.deepEqual(bytes, expected);
    }
  });

  claim('random requests give what an array gives', async (t, device) => {
    const prng = new Prng(7);
    const model = Buffer.alloc(64 * KiB);
    for (let step = 0; step < 300; step++) {
      const offset = prng.below(model.length / SECTOR) * SECTOR;
      const length = prng.between(1, Math.min(16, (model.length - offset) / SECTOR)) * SECTOR;
      const action = prng.weighted({write: 4, zeroes: 1, discard: 1, flush: 1, read: 4});
      if (action === 'write') {
        const value = prng.between(1, 255);
        model.fill(value, offset, offset + length);
        await device.write(offset, Buffer.alloc(length, value), {fua: prng.chance(1, 4)});
      } else if (action === 'flush') {
        await device.flush();
      } else if (action === 'read') {
        t.true(
          (await readAt(device, offset, length)).equals(model.subarray(offset, offset + length)),
        );
      } else {
        model.fill(0, offset, offset + length);
        await (action === 'zeroes'
          ? device.writeZeroes(offset, length)
          : device.discard(offset, length));
      }
    }
  });
}

function claimEdges(claim: Claim, size: number): void {
  claim('a request outside the device or inside a sector gets EINVAL', async (t, device) => {
    const wrong = [
      () => device.read(size, Buffer.alloc(SECTOR)),
      () => device.write(size - SECTOR, Buffer.alloc(2 * SECTOR)),
      () => device.write(100, Buffer.alloc(SECTOR)),
      () => device.read(0, Buffer.alloc(100)),
      () => device.writeZeroes(0, size + SECTOR),
      () => device.discard(-SECTOR, SECTOR),
    ];
    for (const request of wrong) {
      const error = await t.throwsAsync(request());
      t.is(toErrno(error), ERRNO.EINVAL);
    }
  });

  for (const power of [31, 32, 45]) {
    if (size <= 2 ** power) continue;
    claim(`an offset around 2^${power} is exact`, async (t, device) => {
      const offset = 2 ** power - SECTOR;
      await device.write(offset, Buffer.alloc(2 * SECTOR, power));
      await device.writeZeroes(offset + SECTOR, SECTOR);
      t.deepEqual(await readAt(device, offset, SECTOR), Buffer.alloc(SECTOR, power));
      t.deepEqual(await readAt(device, offset + SECTOR, SECTOR), Buffer.alloc(SECTOR));
      t.deepEqual(await readAt(device, offset - 2 ** power + SECTOR, SECTOR), Buffer.alloc(SECTOR));
    });
  }
}

async function readAt(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length, 0xee);
  await device.read(offset, buffer);
  return buffer;
}
