/** What can be said against a start before anything is opened. Each refusal is one sentence. */
import {UserError} from '../base/errors.js';
import {exists} from '../storage/files.js';

/** Throws unless this computer lets us make devices. */
export function checkHost(doing: string): void {
  if (process.getuid?.() !== 0) {
    throw new UserError(`cannot ${doing}: making a device needs root; run it with sudo`);
  }
  for (const [path, module] of [
    ['/dev/fuse', 'fuse'],
    ['/dev/loop-control', 'loop'],
  ] as const) {
    if (exists(path)) continue;
    throw new UserError(
      `cannot ${doing}: ${path} does not exist; load the module with \`modprobe ${module}\`, or ` +
        'give this container the device',
    );
  }
}
