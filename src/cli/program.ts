/**
 * The command line's grammar: turns arguments into a {@link Call}, or throws a usage error. Knows
 * nothing of what the commands do, so that starting one loads nothing of the others.
 */
import {resolve} from 'node:path';
import {Command} from 'commander';
import {UserError} from '../base/errors.js';
import type {GivenOptions} from '../control/attach-options.js';
import type {Call} from './call.js';
import {choiceValue, durationValue, rateValue, sizeValue} from './values.js';

const HYDRATION_MODES = ['off', 'background', 'full'] as const;
const WRITE_THROUGH_MODES = ['off', 'sync', 'strict'] as const;

interface AttachFlags {
  store?: string;
  transport?: string;
  blockSize?: string;
  writeThrough?: string;
  backup?: string;
  resyncRate?: string;
  hydrate?: string;
  rate?: string;
  onSourceLoss?: string;
  ioTimeout?: string;
  mount?: string;
  readOnly?: boolean;
  overwriteStore?: boolean;
  sectorSize?: string;
  json?: boolean;
}

/** Builds the program; `take` gets the call once a command line has been understood. */
export function buildProgram(version: string, take: (call: Call) => void): Command {
  const program = new Command('regrow')
    .description('Mount a lost volume at once; it grows back from its backup while it is used.')
    .version(version)
    .configureHelp({helpWidth: 100})
    .showSuggestionAfterError();
  addAttach(program, take);
  addReports(program, take);
  addOrders(program, take);
  return program;
}

function addAttach(program: Command, take: (call: Call) => void): void {
  program
    .command('attach')
    .description('attach a volume and print its device; with NAME alone, resume one')
    .usage('SOURCE NAME --store PATH [options]\n       regrow attach NAME [options]')
    .argument('<source>', 'an NBD URI, a file or a block device')
    .argument('[name]', 'what the volume is called on this computer')
    .option('--store <path>', 'the file or disk that grows; a file is made where there is none')
    .option('--hydrate <mode>', 'off, background or full: fetch unasked (default off)')
    .option('--rate <rate>', 'bytes a second hydration may take: 50M, none (default none)')
    .option('--block-size <size>', '4K to 4M, a power of two (default 64K, more for huge volumes)')
    .option('--sector-size <bytes>', '512 or 4096 (default 512)')
    .option('--read-only', 'the device takes no writes')
    .option('--mount <dir>', 'mount the device there too; detach unmounts it')
    .option('--on-source-loss <what>', 'wait or error, when the source goes away (default wait)')
    .option('--io-timeout <time>', 'how long a request to the source may take (default 60s)')
    .option('--write-through <mode>', 'sync, strict or off (default sync where the backup allows)')
    .option('--backup <place>', 'where writes go through to (default the source)')
    .option('--resync-rate <rate>', 'bytes a second a resync may take: 50M, none (default none)')
    .option('--transport <name>', 'auto or fuse: how the device is made (default auto)')
    .option('--overwrite-store', 'take a store that holds data; what it holds is lost')
    .option('--json', 'print one JSON object instead of the device')
    .action((first: string, second: string | undefined, flags: AttachFlags) => {
      take({
        command: 'attach',
        name: second ?? first,
        source: second === undefined ? undefined : first,
        store: flags.store,
        given: givenOptions(flags),
        overwriteStore: flags.overwriteStore ?? false,
        json: flags.json ?? false,
      });
    });
}

function addReports(program: Command, take: (call: Call) => void): void {
  program
    .command('list')
    .description("this computer's volumes, attached or not")
    .option('--json', 'an array of objects')
    .action((flags: {json?: boolean}) => take({command: 'list', json: flags.json ?? false}));
  program
    .command('status')
    .description('how a volume is doing: its map, rates, time left, source, last errors')
    .argument('[name]', 'which; without it, all that are attached')
    .option('--json', 'everything that is known, as one object (an array without NAME)')
    .option('--watch', 'again every second')
    .action((name: string | undefined, flags: {json?: boolean; watch?: boolean}) => {
      take({command: 'status', name, json: flags.json ?? false, watch: flags.watch ?? false});
    });
  program
    .command('doctor')
    .description('check whether this computer has what regrow needs')
    .option('--json', 'an array of objects')
    .action((flags: {json?: boolean}) => take({command: 'doctor', json: flags.json ?? false}));
}

function addReplaceStore(program: Command, take: (call: Call) => void): void {
  program
    .command('replace-store')
    .description('another store for a volume that is in use: a larger one, or before one dies')
    .argument('<name>')
    .requiredOption('--store <path>', 'the new store: a file, made if need be, or a disk')
    .option('--overwrite-store', 'take a store that holds data; what it holds is lost')
    .option('--force', 'even where blocks can be read nowhere any more: they become zeroes')
    .option('--json', 'one object')
    .action((name: string, flags: ReplaceStoreFlags) => {
      take({
        command: 'replace-store',
        name,
        store: resolve(flags.store),
        overwriteStore: flags.overwriteStore ?? false,
        force: flags.force ?? false,
        json: flags.json ?? false,
      });
    });
}

interface ReplaceStoreFlags {
  store: string;
  overwriteStore?: boolean;
  force?: boolean;
  json?: boolean;
}

function addOrders(program: Command, take: (call: Call) => void): void {
  program
    .command('hydrate')
    .description('how eagerly the volume grows back; takes effect at once')
    .argument('<name>')
    .argument('<mode>', 'off, background (gives way to requests) or full')
    .option('--rate <rate>', 'bytes a second at most: 50M, none (default: as it was)')
    .action((name: string, mode: string, flags: {rate?: string}) => {
      const rate = flags.rate === undefined ? undefined : rateValue('--rate', flags.rate);
      take({command: 'hydrate', name, mode: choiceValue('hydrate', mode, HYDRATION_MODES), rate});
    });
  program
    .command('write-through')
    .description('whether writes go to the backup too; takes effect at once')
    .argument('<name>')
    .argument('<mode>', 'sync (at once, a flush waits for it), strict (backup first) or off')
    .option('--rate <rate>', 'bytes a second of a resync: 50M, none (default: as it was)')
    .action((name: string, mode: string, flags: {rate?: string}) => {
      const rate = flags.rate === undefined ? undefined : rateValue('--rate', flags.rate);
      const known = choiceValue('write-through', mode, WRITE_THROUGH_MODES);
      take({command: 'write-through', name, mode: known, rate});
    });
  program
    .command('wait')
    .description('return once the store alone is the volume, or the backup is in sync')
    .argument('<name>')
    .option('--hydrated', 'until all is local and durable (default)')
    .option('--in-sync', 'until the backup has every write')
    .action((name: string, flags: {hydrated?: boolean; inSync?: boolean}) => {
      if (flags.hydrated && flags.inSync) {
        throw new UserError('wait for --hydrated or for --in-sync, one at a time', {exitCode: 2});
      }
      take({command: 'wait', name, until: flags.inSync ? 'in sync' : 'hydrated'});
    });
  program
    .command('verify')
    .description('compare what was copied with the source')
    .argument('<name>')
    .option('--json', 'one object')
    .action((name: string, flags: {json?: boolean}) => {
      take({command: 'verify', name, json: flags.json ?? false});
    });
  addReplaceStore(program, take);
  program
    .command('restart')
    .description('replace the daemon under the running device, after an upgrade say')
    .argument('<name>')
    .option('--json', 'one object')
    .action((name: string, flags: {json?: boolean}) => {
      take({command: 'restart', name, json: flags.json ?? false});
    });
  program
    .command('detach')
    .description('take the device away; the state stays, so that attach NAME resumes')
    .argument('<name>')
    .option('--force', 'even while it is in use: its users get I/O errors')
    .option('--json', 'one object')
    .action((name: string, flags: {force?: boolean; json?: boolean}) => {
      take({command: 'detach', name, force: flags.force ?? false, json: flags.json ?? false});
    });
  program
    .command('forget')
    .description('remove the state of a detached volume; the store stays as it is')
    .argument('<name>')
    .option('--force', 'even if the store alone is not the volume yet')
    .action((name: string, flags: {force?: boolean}) => {
      take({command: 'forget', name, force: flags.force ?? false});
    });
}

/** The options that were written, and only those: what was left out stays as the state has it. */
function givenOptions(flags: AttachFlags): GivenOptions {
  const given: GivenOptions = {};
  if (flags.transport !== undefined) {
    given.transport = choiceValue('--transport', flags.transport, ['auto', 'fuse']);
  }
  if (flags.blockSize !== undefined) given.blockSize = sizeValue('--block-size', flags.blockSize);
  if (flags.sectorSize !== undefined) {
    const size = choiceValue('--sector-size', flags.sectorSize, ['512', '4096']);
    given.sectorSize = size === '512' ? 512 : 4096;
  }
  if (flags.readOnly !== undefined) given.readOnly = flags.readOnly;
  if (flags.hydrate !== undefined) {
    given.hydrate = choiceValue('--hydrate', flags.hydrate, HYDRATION_MODES);
  }
  if (flags.rate !== undefined) given.rate = rateValue('--rate', flags.rate);
  if (flags.onSourceLoss !== undefined) {
    given.onSourceLoss = choiceValue('--on-source-loss', flags.onSourceLoss, ['wait', 'error']);
  }
  if (flags.ioTimeout !== undefined) {
    given.ioTimeoutMs = durationValue('--io-timeout', flags.ioTimeout);
  }
  if (flags.mount !== undefined) given.mount = flags.mount;
  if (flags.writeThrough !== undefined) {
    given.writeThrough = choiceValue('--write-through', flags.writeThrough, WRITE_THROUGH_MODES);
  }
  if (flags.backup !== undefined) given.backup = flags.backup;
  if (flags.resyncRate !== undefined) {
    given.resyncRate = rateValue('--resync-rate', flags.resyncRate);
  }
  return given;
}

/**
 * The call that `args` (without program names) mean; undefined where help or the version was
 * printed.
 */
export function parseArguments(version: string, args: string[]): Call | undefined {
  let call: Call | undefined;
  const program = buildProgram(version, (understood) => {
    call = understood;
  });
  for (const command of [program, ...program.commands]) {
    command.exitOverride();
    command.configureOutput({outputError: () => {}});
  }
  try {
    program.parse(args, {from: 'user'});
  } catch (error) {
    throwUnlessHelp(error);
  }
  return call;
}

function throwUnlessHelp(error: unknown): void {
  const {code, message, exitCode} = error as {code?: unknown; message?: string; exitCode?: number};
  if (typeof code !== 'string' || !code.startsWith('commander.')) throw error;
  if (exitCode === 0) return;
  if (code === 'commander.help') {
    throw new UserError('no command was given; `regrow --help` lists them', {exitCode: 2});
  }
  const sentence = (message ?? code).replace(/^error: /, '').replaceAll('\n', ' ');
  throw new UserError(`${sentence}; see \`regrow --help\``, {exitCode: 2, cause: error});
}
