/** Exact numbers of bytes off a socket, one caller at a time. */
import type {Socket} from 'node:net';

export class ByteReader {
  readonly #socket: Socket;
  #hasEnded = false;
  #wake: (() => void) | undefined;

  constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('readable', () => this.#wake?.());
    const end = (): void => {
      this.#hasEnded = true;
      this.#wake?.();
    };
    socket.on('end', end).on('close', end);
    // A reset connection ends like any other: 'close' follows.
    socket.on('error', () => undefined);
  }

  /** Undefined if the connection ends before. */
  async read(length: number): Promise<Buffer | undefined> {
    if (length === 0) return Buffer.alloc(0);
    for (;;) {
      const bytes = this.#socket.read(length) as Buffer | null;
      if (bytes?.length === length) return bytes;
      if (bytes || this.#hasEnded) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
  }
}
