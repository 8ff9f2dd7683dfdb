/** `regrow hydrate NAME off|background|full [--rate R]`. */
import {formatSize} from '../base/units.js';
import type {HydrateParams} from '../control/protocol.js';
import type {HydrateCall} from './call.js';
import {say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export async function hydrate({name, mode, rate}: HydrateCall): Promise<number> {
  const params: HydrateParams = rate === undefined ? {mode} : {mode, rate};
  const status = await withDaemon('hydrate', name, (client) => client.call('hydrate', params));
  const limit = status.options.rate;
  const pace = limit === null ? 'without a limit' : `at most ${formatSize(limit)}/s`;
  say(`${name} hydrates: ${mode}${mode === 'off' ? '' : `, ${pace}`}`);
  return 0;
}
