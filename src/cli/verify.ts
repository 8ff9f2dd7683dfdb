/** `regrow verify NAME`: compares what was copied with the source. */
import {formatSize} from '../base/units.js';
import {print, printJson, ProgressLine, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export async function verify({name, json}: {name: string; json: boolean}): Promise<number> {
  const line = new ProgressLine();
  const result = await withDaemon('verify', name, (client) =>
    client.call('verify', undefined, ({checkedBytes, totalBytes}) => {
      line.show(`${name}: ${formatSize(checkedBytes)} of ${formatSize(totalBytes)} compared`);
    }),
  ).finally(() => line.end());
  const {checkedBytes, differingBlocks, differingOffsets, unreadableBlocks} = result;
  if (json) printJson(result);
  else for (const offset of differingOffsets) print(String(offset));
  if (unreadableBlocks > 0) {
    say(
      `${name}: ${unreadableBlocks} blocks could not be read from the store and come from the ` +
        'source again; look after the disk (`regrow replace-store`)',
    );
  }
  if (differingBlocks === 0) {
    say(`${name}: ${formatSize(checkedBytes)} compared, all equal to the source`);
    return 0;
  }
  say(
    `${name}: ${differingBlocks} blocks differ from the source though they were copied from it ` +
      '(their offsets are above, at most 64): the store or the source changed behind the back of ' +
      'regrow',
  );
  return 1;
}
