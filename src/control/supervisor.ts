/**
 * The daemon's link to its supervisor (native/supervisor.h): the process that keeps copies of its
 * descriptors and starts the next daemon when this one dies. What that one inherits, and what is
 * known of the death before it, it finds here too.
 */
import {Socket} from 'node:net';
import {closeOnExec, sendRecord} from '../native/host.js';

/** How the last daemon ended. */
export interface Death {
  /** Wall time in ms when it was gone. */
  readonly at: number;
  /** `signal 9`, `exit code 1`. */
  readonly of: string;
  /** 1, or more where daemons after it died before they were ready. */
  readonly attempt: number;
}

export class Supervisor {
  /** Descriptors by name; this process owns them. */
  readonly inherited: ReadonlyMap<string, number>;
  /** Undefined for the first daemon. */
  readonly death: Death | undefined;
  readonly #fd: number;
  readonly #socket: Socket;
  #isAlive = true;
  #hasFinished = false;

  /** The supervisor this process was started by; undefined if there is none. */
  static find(environment: NodeJS.ProcessEnv): Supervisor | undefined {
    const fd = Number(environment['REGROW_SUPERVISOR'] ?? NaN);
    return Number.isInteger(fd) ? new Supervisor(fd, environment) : undefined;
  }

  private constructor(fd: number, environment: NodeJS.ProcessEnv) {
    const {REGROW_HELD: held, REGROW_DIED_AT: at} = environment;
    const entries = (held ?? '').split(',').map((entry) => entry.split('='));
    this.#fd = fd;
    this.inherited = new Map(
      entries.filter(([name]) => name !== '').map(([name = '', number]) => [name, Number(number)]),
    );
    if (held !== undefined) {
      const of = environment['REGROW_DIED_OF'] ?? '';
      this.death = {at: Number(at), of, attempt: Number(environment['REGROW_ATTEMPT'] ?? 1)};
    }
    for (const each of [fd, ...this.inherited.values()]) closeOnExec(each);
    this.#socket = new Socket({fd, readable: true, writable: false});
    this.#socket.resume();
    this.#socket.on('error', () => this.#socket.destroy());
    this.#socket.on('close', () => {
      this.#isAlive = false;
    });
    this.#socket.unref();
  }

  /** False once it has died: then nothing outlives this process any more. */
  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** Called once when it has died, unless it was asked to end. */
  onGone(listener: () => void): void {
    this.#socket.once('close', () => {
      if (!this.#hasFinished) listener();
    });
  }

  /** It keeps a copy of the descriptor. */
  hold(name: string, fd: number): void {
    this.#send(`hold ${name}`, fd);
  }

  /** It lets go of one. */
  drop(name: string): void {
    this.#send(`drop ${name}`);
  }

  /** From now on it starts another daemon when this one dies. */
  ready(volume: string): void {
    this.#send(`ready ${volume}`);
  }

  /** This daemon ends on purpose. Resolves when the supervisor has let go of everything. */
  async finish(): Promise<void> {
    if (this.#hasFinished) return;
    this.#hasFinished = true;
    if (!this.#isAlive) return;
    this.#socket.ref();
    await new Promise<void>((resolve) => {
      this.#socket.once('data', () => resolve());
      this.#socket.once('close', () => resolve());
      this.#send('finish');
    });
    this.#socket.unref();
  }

  /** A supervisor that has just died is noticed by the end of its socket. */
  #send(text: string, fd = -1): void {
    if (!this.#isAlive) return;
    try {
      sendRecord(this.#fd, text, fd);
    } catch {
      this.#socket.destroy();
    }
  }
}
