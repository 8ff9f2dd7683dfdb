/** Runs a program to its end or to its deadline, and gives its lines as they come. */
import {spawn} from 'node:child_process';
import {createInterface} from 'node:readline';

export interface ChildOptions {
  cwd?: string;
  environment?: Record<string, string>;
  /** Then the program and its children are killed. */
  minutesMax: number;
  /** @default they are dropped */
  onLine?: (line: string) => void;
}

/** Resolves with the exit code; 124 after the deadline, 127 where the program is not there. */
export async function runChild(
  program: string,
  args: readonly string[],
  options: ChildOptions,
): Promise<number> {
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: {...process.env, ...options.environment},
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  });
  let isLate = false;
  const deadline = setTimeout(() => {
    isLate = true;
    if (child.pid !== undefined) process.kill(-child.pid, 'SIGKILL');
  }, options.minutesMax * 60_000);
  for (const stream of [child.stdout, child.stderr]) {
    createInterface({input: stream}).on('line', (line) => options.onLine?.(line));
  }
  try {
    return await new Promise((resolve) => {
      child.once('error', () => resolve(127));
      child.once('close', (code) => resolve(isLate ? 124 : (code ?? 1)));
    });
  } finally {
    clearTimeout(deadline);
  }
}
