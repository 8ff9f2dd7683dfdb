/** `regrow wait NAME [--hydrated|--in-sync]`: until the store alone or the backup is the volume. */
import {localShare} from '../control/status.js';
import {progressText} from './render-status.js';
import {ProgressLine, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export interface WaitCall {
  name: string;
  until: 'hydrated' | 'in sync';
}

export async function wait({name, until}: WaitCall): Promise<number> {
  const line = new ProgressLine();
  let isWarned = false;
  try {
    await withDaemon('wait for', name, (client) =>
      client.call('wait', {until}, (status) => {
        if (until === 'hydrated' && status.hydration.mode === 'off' && !isWarned) {
          isWarned = true;
          line.end();
          say(
            `${name} has hydration off and is ${Math.floor(localShare(status) * 100)} % local: ` +
              `it ends only when all has been read; \`regrow hydrate ${name} background\` starts ` +
              'it',
          );
        }
        line.show(progressText(status));
      }),
    );
  } finally {
    line.end();
  }
  return 0;
}
