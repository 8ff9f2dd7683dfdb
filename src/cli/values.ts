/** Values as they are written on the command line: sizes, rates, times, choices. Pure. */
import {parseSize} from '../base/units.js';
import {UserError} from '../base/errors.js';

function refuse(flag: string, text: string, wanted: string): never {
  throw new UserError(`${flag} ${JSON.stringify(text)} makes no sense: it takes ${wanted}`, {
    exitCode: 2,
  });
}

/** Bytes: `64K`, `4M`, `65536`. */
export function sizeValue(flag: string, text: string): number {
  const bytes = parseSize(text);
  if (bytes === undefined || bytes <= 0) refuse(flag, text, 'a size such as 64K or 4M');
  return bytes;
}

/** Bytes a second: `50M`, `50M/s`; null for `none`. */
export function rateValue(flag: string, text: string): number | null {
  if (text === 'none') return null;
  const rate = parseSize(text.replace(/\/s$/, ''));
  if (rate === undefined || rate <= 0) {
    refuse(flag, text, 'bytes a second such as 50M, or `none` for no limit');
  }
  return rate;
}

const DURATION_UNITS_MS: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1000,
  '': 1000,
  m: 60_000,
  min: 60_000,
  h: 3_600_000,
};

/** Milliseconds: `60s`, `5m`, `1h`, a bare number means seconds. At most a week. */
export function durationValue(flag: string, text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*(ms|s|m|min|h|)$/.exec(text.trim());
  const ms = Math.round(Number(match?.[1]) * (DURATION_UNITS_MS[match?.[2] ?? ''] ?? NaN));
  if (!(ms > 0 && ms <= 7 * 24 * 3_600_000)) refuse(flag, text, 'a time such as 60s or 5m');
  return ms;
}

/** One of a few words. */
export function choiceValue<T extends string>(
  flag: string,
  text: string,
  choices: readonly T[],
): T {
  const found = choices.find((choice) => choice === text);
  if (found === undefined) refuse(flag, text, `one of ${choices.join(', ')}`);
  return found;
}
