/**
 * Loads the native addon. Every file beside this one gives one part of it its TypeScript shape;
 * only storage, source, device and control import from here.
 */
import {createRequire} from 'node:module';
import {fileURLToPath} from 'node:url';

const require = createRequire(import.meta.url);

/** The compiled addon: dist/src/native/ lies three folders below the top of the tree. */
const ADDON_PATH = fileURLToPath(new URL('../../../build/Release/regrow.node', import.meta.url));

/** What the addon exports, not yet typed; each part's file narrows its own share. */
export const addon: unknown = require(ADDON_PATH);
