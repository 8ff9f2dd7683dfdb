/** `regrow replace-store NAME --store PATH`: another store for a volume that is in use. */
import {UserError} from '../base/errors.js';
import {formatSize} from '../base/units.js';
import {refuseStoreAsBackup} from '../control/prepare-backup.js';
import {isItsStore, prepareNewStore} from '../control/prepare-store.js';
import {volumePaths} from '../control/paths.js';
import {peekRecord} from '../control/read-record.js';
import {Undo} from '../control/undo.js';
import {holdOpen} from '../storage/files.js';
import type {ReplaceStoreCall} from './call.js';
import {printJson, ProgressLine, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export async function replaceStore(call: ReplaceStoreCall): Promise<number> {
  const {name, store: path, overwriteStore, force, json} = call;
  const doing = `replace the store of ${name}`;
  const line = new ProgressLine();
  const undo = new Undo();
  return withDaemon('replace the store of', name, async (client) => {
    const paths = volumePaths(name);
    const record = await peekRecord(doing, paths);
    if (record === undefined) throw new UserError(`cannot ${doing}: its state is gone`);
    if (await isItsStore(path, record)) {
      throw new UserError(`cannot ${doing}: ${path} is its store already; name another one`);
    }
    refuseStoreAsBackup(doing, path, record.options);
    const held: {close: () => void}[] = [];
    try {
      const prepared = await prepareNewStore({
        ...{doing, paths, path, size: record.size, sourceText: record.source},
        overwrite: overwriteStore,
        context: {undo, link: {note: say}},
      });
      const file = holdOpen(path);
      held.push(file);
      // The daemon takes it exclusively.
      await prepared.storage.close();
      const result = await client.call(
        'replace-store',
        {
          path,
          via: `/proc/${process.pid}/fd/${file.fd}`,
          identity: prepared.identity,
          isForced: force,
        },
        ({copiedBytes, totalBytes}) =>
          line.show(`${name}: ${formatSize(copiedBytes)} of ${formatSize(totalBytes)} copied`),
      );
      undo.drop();
      if (json) printJson(result);
      say(
        `${name} has the store ${path} now: ${formatSize(result.copiedBytes)} copied, ` +
          `${result.absentAgain} blocks grow back; the old one, ${record.store.path}, is free`,
      );
      return 0;
    } catch (error) {
      await undo.run();
      throw error;
    } finally {
      for (const one of held) one.close();
      line.end();
    }
  });
}
