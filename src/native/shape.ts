/**
 * What every typed face of an addon part needs: a look at the part's shape when it is loaded, and
 * one form of error for its calls.
 */
import {BlockError, errnoCode} from '../base/errors.js';
import {assert} from '../base/assert.js';

/**
 * The part of the addon called `name`, once each of `members` is there. An addon of another build
 * must fail here, at load, and not in the middle of a request.
 */
export function addonPart<Part extends object>(
  addon: unknown,
  name: string,
  members: readonly (keyof Part & string)[],
): Part {
  const parts: unknown = isRecord(addon) ? addon[name] : undefined;
  assert(hasMembers<Part>(parts, members), `the addon offers ${name} as this build expects it`);
  return parts;
}

/** Settles as `call` does; its failure becomes a BlockError that says what was being done. */
export async function nativeCall<Value>(doing: string, call: Promise<Value>): Promise<Value> {
  try {
    return await call;
  } catch (error) {
    throw toBlockError(doing, error);
  }
}

function toBlockError(doing: string, error: unknown): unknown {
  if (!(error instanceof Error) || !isRecord(error)) return error;
  const {errno, syscall} = error;
  if (typeof errno !== 'number' || typeof syscall !== 'string') return error;
  const message = `${doing}: ${error.message}`;
  return new BlockError(errnoCode(Math.abs(errno)), message, {op: syscall, cause: error});
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null;
}

function hasMembers<Part extends object>(
  value: unknown,
  members: readonly (keyof Part & string)[],
): value is Part {
  return isRecord(value) && members.every((member) => value[member] !== undefined);
}
