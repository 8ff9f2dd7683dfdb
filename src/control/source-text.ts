/**
 * What was typed as a source or store, made independent of the folder it was typed in. What it
 * means, and whether it is there, is found out by the daemon.
 */
import {resolve} from 'node:path';
import {isNbdUri, parseNbdUri} from '../source/nbd-uri.js';

export function absolutePath(path: string): string {
  return resolve(path);
}

/**
 * Throws a UserError for an NBD URI that makes no sense; other URIs are left to the daemon's
 * refusal.
 */
export function absoluteSource(text: string): string {
  if (isNbdUri(text)) return parseNbdUri(text).text;
  return /^[a-z][a-z0-9+.-]*:\/\//i.test(text) ? text : resolve(text);
}
