/** Any object with read and write becomes a block device of the real kernel. Needs root. */
import {spawn} from 'node:child_process';
import {once} from 'node:events';
import {open, readdir, readFile, stat} from 'node:fs/promises';
import {fileURLToPath} from 'node:url';

import test from 'ava';

import {attachDevice} from '../../src/device/attach-device.js';
import {BlockError} from '../../src/base/errors.js';
import {GiB, MiB, TiB} from '../../src/base/units.js';
import {listLoops} from '../../src/native/loop.js';
import {MemoryDevice} from '../../src/wrap/memory-device.js';
import {
  attachFor,
  contentOf,
  CountingDevice,
  failure,
  run,
  shell,
  sysfs,
} from '../support/kernel-device.js';

for (const sectorSize of [512, 4096] as const) {
  test.serial(`what is written through ${sectorSize}-byte sectors is read back`, async (t) => {
    const memory = new MemoryDevice(8 * MiB);
    const device = await attachFor(t, memory, {sectorSize});
    t.is(await sysfs(device, 'queue/logical_block_size'), String(sectorSize));
    t.is(await sysfs(device, 'loop/dio'), '1');
    await shell(`head -c 3M /dev/urandom | tee /tmp/regrow-random-${sectorSize} |
      dd of=${device.path} bs=64K seek=16 iflag=fullblock oflag=direct status=none`);
    await run(
      'cmp',
      '-n',
      String(3 * MiB),
      `/tmp/regrow-random-${sectorSize}`,
      device.path,
      '0',
      String(MiB),
    );
    const expected = await readFile(`/tmp/regrow-random-${sectorSize}`);
    await run('rm', `/tmp/regrow-random-${sectorSize}`);
    t.true(expected.equals(await contentOf(memory, MiB, 3 * MiB)));
    t.true((await contentOf(memory, 0, MiB)).equals(Buffer.alloc(MiB)));
  });
}

test.serial(
  'a smallest write, a flush, a discard and zeroes arrive as what they are',
  async (t) => {
    const memory = new CountingDevice(8 * MiB);
    const {path} = await attachFor(t, memory);
    memory.calls.length = 0;
    await run(
      'dd',
      'if=/dev/urandom',
      `of=${path}`,
      'bs=512',
      'count=1',
      'seek=3',
      'oflag=direct',
      'status=none',
    );
    t.true(memory.calls.includes('write 1536+512'));
    memory.calls.length = 0;
    await run('sync', path);
    t.true(memory.take('flush') >= 1);
    await run('blkdiscard', '-o', '65536', '-l', '1048576', path);
    t.deepEqual(
      memory.calls.filter((call) => !call.startsWith('read')),
      ['zeroes 65536+1048576'],
    );
    memory.calls.length = 0;
    await run('blkdiscard', '-z', '-o', '0', '-l', '65536', path);
    t.true(memory.calls.includes('zeroes 0+65536'));
    t.deepEqual(await contentOf(memory, 1536, 512), Buffer.alloc(512));
  },
);

test.serial('a large request is cut only by the kernel limit of 128 memory segments', async (t) => {
  const memory = new CountingDevice(8 * MiB);
  const {path} = await attachFor(t, memory);
  memory.calls.length = 0;
  await run('dd', 'if=/dev/zero', `of=${path}`, 'bs=1M', 'count=4', 'oflag=direct', 'status=none');
  const writes = memory.calls.filter((call) => call.startsWith('write'));
  t.true(writes.length >= 4 && writes.length <= 8, writes.join(', '));
});

test.serial('4 GiB are discarded in a handful of requests', async (t) => {
  const memory = new CountingDevice(8 * GiB);
  const {path} = await attachFor(t, memory);
  memory.calls.length = 0;
  await run('blkdiscard', '-l', String(4 * GiB), path);
  const count = memory.take('zeroes');
  t.true(count >= 1 && count <= 4, `${count} requests`);
});

test.serial(
  '64 TiB: bytes near the end, and above 2^32 and 2^45, are where they belong',
  async (t) => {
    const memory = new MemoryDevice(64 * TiB);
    const {path} = await attachFor(t, memory);
    t.is((await run('blockdev', '--getsize64', path)).trim(), String(64 * TiB));
    for (const offset of [2 ** 32 + 512, 2 ** 45 + 1536, 64 * TiB - 512]) {
      const text = `at ${offset}`.padEnd(512);
      await shell(`printf %s '${text}' | dd of=${path} bs=512 count=1 seek=${offset / 512} \
      iflag=fullblock oflag=direct conv=notrunc status=none`);
      t.is((await contentOf(memory, offset, 512)).toString(), text);
      t.is(
        await run('dd', `if=${path}`, 'bs=512', `skip=${offset / 512}`, 'count=1', 'status=none'),
        text,
      );
    }
  },
);

test.serial('two devices at once keep their bytes apart', async (t) => {
  const memories = [new MemoryDevice(4 * MiB), new MemoryDevice(4 * MiB)];
  const devices = await Promise.all(memories.map((memory) => attachFor(t, memory)));
  await Promise.all(
    devices.map(({path}, index) =>
      shell(`tr '\\0' '${index}' < /dev/zero | head -c 4M |
      dd of=${path} bs=1M iflag=fullblock oflag=direct status=none`),
    ),
  );
  for (const [index, memory] of memories.entries()) {
    t.true((await contentOf(memory, 0, 4 * MiB)).equals(Buffer.alloc(4 * MiB, String(index))));
  }
});

test.serial('partitions appear where the kernel can read the table', async (t) => {
  const device = await attachFor(t, new MemoryDevice(64 * MiB), {partitionScan: true});
  t.is(await sysfs(device, 'loop/partscan'), '1');
  await shell(
    `printf 'label: gpt\\nsize=16MiB\\nsize=16MiB\\n' | sfdisk -q ${device.path} || true`,
  );
  t.regex(await run('sfdisk', '--dump', device.path), /size=\s*32768/);
  // This kernel may have been built without any partition parser: then the table is read for it.
  await run('partx', '--update', device.path);
  t.is((await run('blockdev', '--getsize64', `${device.path}p2`)).trim(), String(16 * MiB));
});

test.serial('a read-only device refuses writes', async (t) => {
  const memory = new MemoryDevice(MiB);
  const {path} = await attachFor(t, {size: memory.size, read: (...args) => memory.read(...args)});
  t.is((await run('blockdev', '--getro', path)).trim(), '1');
  t.truthy(await failure('dd', 'if=/dev/zero', `of=${path}`, 'bs=4096', 'count=1', 'oflag=direct'));
});

for (const [code, message] of [
  ['ENOSPC', /No space left/],
  ['EIO', /Input\/output error/],
] as const) {
  test.serial(`a handler's ${code} reaches the program that wrote`, async (t) => {
    const memory = new MemoryDevice(MiB);
    const {path} = await attachFor(t, {
      size: memory.size,
      read: (...args) => memory.read(...args),
      write: () => Promise.reject(new BlockError(code, 'as the test wishes', {op: 'write'})),
    });
    const text = await failure(
      'dd',
      'if=/dev/zero',
      `of=${path}`,
      'bs=4096',
      'count=1',
      'oflag=direct',
    );
    t.regex(String(text), message);
  });
}

test.serial('a bug in a handler is reported, answered EIO, and the device lives on', async (t) => {
  const bugs: unknown[] = [];
  const logged: string[] = [];
  const memory = new MemoryDevice(MiB);
  let isBroken = true;
  const {path} = await attachFor(
    t,
    {
      size: memory.size,
      read: (...args) => memory.read(...args),
      write(offset, buffer) {
        if (isBroken) throw new TypeError('a bug');
        return memory.write(offset, buffer);
      },
    },
    {onBug: (error) => bugs.push(error), log: (_level, message) => logged.push(message)},
  );
  const arguments_ = ['if=/dev/zero', `of=${path}`, 'bs=4096', 'count=1', 'oflag=direct'];
  t.regex(String(await failure('dd', ...arguments_)), /Input\/output error/);
  t.true(bugs.length > 0 && bugs.every((bug) => bug instanceof TypeError));
  t.true(logged.some((message) => message.includes('a bug')));
  isBroken = false;
  t.is(await failure('dd', ...arguments_), undefined);
});

test.serial('without writeZeroes a discard writes zeroes', async (t) => {
  const memory = new CountingDevice(4 * MiB);
  await memory.write(0, Buffer.alloc(4 * MiB, 1));
  const {path} = await attachFor(t, {
    size: memory.size,
    read: (...args) => memory.read(...args),
    write: (offset, buffer) => memory.write(offset, buffer),
  });
  await run('blkdiscard', '-l', String(3 * MiB), path);
  t.true((await contentOf(memory, 0, 3 * MiB)).equals(Buffer.alloc(3 * MiB)));
  t.deepEqual(await contentOf(memory, 3 * MiB, 512), Buffer.alloc(512, 1));
});

test.serial('status is a file that is fresh each time', async (t) => {
  let count = 0;
  const {mountpoint} = await attachFor(t, new MemoryDevice(MiB), {
    status: () => `look ${++count}\n`,
  });
  t.is(await run('cat', `${mountpoint}/status`), 'look 1\n');
  t.is(await run('cat', `${mountpoint}/status`), 'look 2\n');
});

test.serial('status is answered while every request the disk may have is waiting', async (t) => {
  const waiting: (() => void)[] = [];
  let isStuck = false;
  const tags = 16;
  const {path, mountpoint} = await attachFor(
    t,
    {
      size: MiB,
      read: () => (isStuck ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve()),
    },
    {tags},
  );
  isStuck = true;
  const load = run(
    'fio',
    '--name=load',
    `--filename=${path}`,
    '--rw=randread',
    '--bs=4k',
    '--ioengine=libaio',
    '--iodepth=64',
    '--direct=1',
    '--readonly',
    '--size=1M',
  );
  while (waiting.length < tags) await new Promise(setImmediate);
  t.regex(await run('cat', `${mountpoint}/status`), /readOnly/);
  isStuck = false;
  for (const resume of waiting) resume();
  t.regex(await load, /err= 0/);
});

test.serial(
  'the disk file reads at odd offsets and has the loop device as its only writer',
  async (t) => {
    const memory = new MemoryDevice(MiB);
    await memory.write(512, Buffer.from('0123456789'.padEnd(512)));
    const {mountpoint} = await attachFor(t, memory);
    const odd = await run(
      'dd',
      `if=${mountpoint}/disk`,
      'bs=1',
      'skip=515',
      'count=5',
      'status=none',
    );
    t.is(odd, '34567');
    await t.throwsAsync(open(`${mountpoint}/disk`, 'r+'), {code: 'EBUSY'});
  },
);

test.serial('a device in use is not detached, and works on', async (t) => {
  const memory = new MemoryDevice(MiB);
  const device = await attachDevice(memory);
  t.teardown(() => device.detach({force: true}));
  t.false(await device.isInUse());
  const user = await open(device.path, 'r+');
  t.true(await device.isInUse());
  await t.throwsAsync(device.detach(), {instanceOf: BlockError, code: 'EBUSY', message: /in use/});
  await user.write(Buffer.alloc(4096, 5), 0, 4096, 0);
  await user.sync();
  await user.close();
  t.deepEqual(await contentOf(memory, 0, 512), Buffer.alloc(512, 5));
  await device.detach();
  await device.detach();
  t.false(await device.isInUse());
});

test.serial('a forced detach ends requests that would never have ended', async (t) => {
  const memory = new MemoryDevice(MiB);
  let isStuck = false;
  const device = await attachDevice({
    size: memory.size,
    read: (offset, buffer) =>
      isStuck ? new Promise(() => undefined) : memory.read(offset, buffer),
  });
  t.teardown(() => device.detach({force: true}));
  isStuck = true;
  const reader = failure('dd', `if=${device.path}`, 'of=/dev/null', 'bs=4096', 'iflag=direct');
  while (!(await device.isInUse())) await new Promise(setImmediate);
  await device.detach({force: true});
  t.truthy(await reader);
  await t.throwsAsync(stat(device.mountpoint), {code: 'ENOENT'});
});

test.serial('await using detaches', async (t) => {
  let path;
  {
    await using device = await attachDevice(new MemoryDevice(MiB));
    path = device.mountpoint;
    t.truthy(await stat(path));
  }
  await t.throwsAsync(stat(path), {code: 'ENOENT'});
});

test.serial(
  'a connection that someone else ends is noticed, and detach still cleans up',
  async (t) => {
    const device = await attachFor(t, new MemoryDevice(MiB), {log: () => undefined});
    await run('umount', '--force', '--lazy', device.mountpoint);
    t.false(await device.ended);
    await device.detach({force: true});
    await t.throwsAsync(stat(device.mountpoint), {code: 'ENOENT'});
  },
);

test.serial('a start that fails half-way leaves nothing', async (t) => {
  const before = await footprint();
  const memory = new MemoryDevice(MiB);
  const name = 'half-way';
  await t.throwsAsync(attachDevice(memory, {name, hostNamespace: 99_999}), {
    instanceOf: BlockError,
  });
  const first = await attachDevice(memory, {name});
  await t.throwsAsync(attachDevice(memory, {name}), {instanceOf: BlockError, code: 'EBUSY'});
  await first.detach();
  t.deepEqual(await footprint(), before);
});

test.serial(
  'fifty attaches and detaches leave no descriptor, thread, mount or device',
  async (t) => {
    await (await attachDevice(new MemoryDevice(MiB))).detach();
    const before = await footprint();
    for (let round = 0; round < 50; round++) {
      await (await attachDevice(new MemoryDevice(MiB))).detach();
    }
    t.deepEqual(await footprint(), before);
  },
);

test.serial('wrong arguments are named and nothing is started', async (t) => {
  const memory = new MemoryDevice(MiB);
  const refuses = async (handlers: object, options: object, message: RegExp): Promise<void> => {
    await t.throwsAsync(Reflect.apply(attachDevice, undefined, [handlers, options]), {message});
  };
  const read = async (): Promise<void> => undefined;
  await refuses({size: 1000, read}, {}, /multiple of 512, not 1000/);
  await refuses({size: 512, read}, {sectorSize: 4096}, /multiple of 4096, not 512/);
  await refuses({size: 512}, {}, /needs a read function/);
  await refuses({size: 512, read, flush: 3}, {}, /flush is a function/);
  await refuses({size: 512, read}, {readOnly: false}, /only be read-only/);
  await refuses(memory, {sectorSize: 1024}, /512 or 4096, not 1024/);
  await refuses(memory, {name: 'Grüße'}, /a-z 0-9/);
  await refuses(memory, {mountDirectory: 'relative'}, /absolute path/);
  await refuses(memory, {threads: 0}, /from 1 to 16, not 0/);
  await refuses(memory, {tags: 2.5}, /from 1 to 1024, not 2.5/);
});

test.serial('the example of ten lines works', async (t) => {
  const example = fileURLToPath(new URL('ten-lines-example.js', import.meta.url));
  const child = spawn(process.execPath, [example], {stdio: ['pipe', 'pipe', 'inherit']});
  t.teardown(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  await run('mkfs.ext4', '-q', String(line).trim());
  await run('fsck.ext4', '-fn', String(line).trim());
  child.stdin.write('\n');
  t.deepEqual(await once(child, 'exit'), [0, null]);
});

/** What a leak would change: descriptors by target, threads of ours, mounts and loop devices. */
async function footprint(): Promise<object> {
  const descriptors = await shell(
    `ls -l /proc/${process.pid}/fd | grep -cE 'fuse|loop|mnt:' || true`,
  );
  const threads: string[] = [];
  for (const thread of await readdir('/proc/self/task')) {
    const name = await readFile(`/proc/self/task/${thread}/comm`, 'utf8').catch(() => '');
    if (name.startsWith('regrow-fuse')) threads.push(name);
  }
  const mounts = await readFile('/proc/self/mountinfo', 'utf8');
  return {
    descriptors: descriptors.trim(),
    threads,
    mounts: mounts.split('\n').filter((line) => line.includes(' /run/regrow/')),
    loops: (await listLoops()).filter(({backing}) => backing.startsWith('/run/regrow/')),
    runDirectory: await shell('ls /run/regrow 2>/dev/null || true'),
    listeners: process.listenerCount('exit'),
  };
}
