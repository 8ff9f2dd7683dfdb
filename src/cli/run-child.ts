/**
 * Runs a system tool without a shell, its output kept for the sentence that tells of its failure.
 */
import {spawn} from 'node:child_process';

export interface ChildResult {
  /** Null if a signal ended it or it could not be started. */
  exitCode: number | null;
  /** What it wrote on both, trimmed, on one line. */
  output: string;
}

const OUTPUT_BYTES_MAX = 64 * 1024;

export async function runChild(command: string, args: string[]): Promise<ChildResult> {
  const child = spawn(command, args, {stdio: ['ignore', 'pipe', 'pipe']});
  let output = '';
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8');
    stream.on('data', (text: string) => {
      if (output.length < OUTPUT_BYTES_MAX) output += text;
    });
  }
  const exitCode = await new Promise<number | null>((resolve) => {
    child.on('error', (error) => {
      output += error.message;
      resolve(null);
    });
    child.on('close', resolve);
  });
  return {exitCode, output: output.trim().replaceAll(/\s*\n\s*/g, ' ')};
}
