/** `regrow wait NAME [--hydrated]`: returns once the store alone is the volume. */
import {localShare} from '../control/status.js';
import {progressText} from './render-status.js';
import {ProgressLine, say} from './terminal.js';
import {withDaemon} from './with-daemon.js';

export async function wait({name}: {name: string}): Promise<number> {
  const line = new ProgressLine();
  let isWarned = false;
  try {
    await withDaemon('wait for', name, (client) =>
      client.call('wait', {until: 'hydrated'}, (status) => {
        if (status.hydration.mode === 'off' && !isWarned) {
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
