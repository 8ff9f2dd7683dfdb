/** `regrow write-through NAME off|sync|strict [--rate R]`. */
import type {WriteThroughParams} from '../control/protocol.js';
import type {WriteThroughCall} from './call.js';
import {protectionText} from './protection-text.js';
import {say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export async function writeThrough({name, mode, rate}: WriteThroughCall): Promise<number> {
  const params: WriteThroughParams = rate === undefined ? {mode} : {mode, rate};
  const status = await withDaemon('switch write-through of', name, (client) =>
    client.call('write-through', params),
  );
  say(`${name}: ${protectionText(status, Date.now())}`);
  return 0;
}
