/**
 * Helper of take-over tests: writes files into the folder given until standard input ends, each
 * synced, and prints a line for each that is: its name, a blank and its SHA-256.
 *
 *   node file-writer.js FOLDER
 */
import {randomBytes, randomInt} from 'node:crypto';
import {closeSync, fsyncSync, mkdirSync, openSync, writeSync} from 'node:fs';
import {setImmediate as nextTurn} from 'node:timers/promises';
import {hashOf} from './ext4-image.js';

/** Files are overwritten in turn, so that the folder stays small. */
const FILES = 200;

const [folder = ''] = process.argv.slice(2);
let isOver = false;
process.stdin.on('end', () => (isOver = true)).resume();
for (let count = 0; !isOver; count++) {
  const below = `d${count % 7}`;
  mkdirSync(`${folder}/${below}`, {recursive: true});
  const name = `${below}/f${count % FILES}`;
  const bytes = randomBytes(randomInt(1, 200_000));
  const file = openSync(`${folder}/${name}`, 'w');
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at);
  fsyncSync(file);
  closeSync(file);
  process.stdout.write(`${name} ${hashOf(bytes)}\n`);
  await nextTurn();
}
