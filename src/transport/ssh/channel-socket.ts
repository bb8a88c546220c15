import { Duplex } from "node:stream";
import type { ClientChannel } from "ssh2";

/**
 * A forwarded channel as a stream with the manners of a socket: backpressure both ways, and destroy(error), which a channel
 * of ssh2 does not know.
 */
export class ChannelSocket extends Duplex {
  readonly #channel: ClientChannel;
  readonly #closed: () => void;
  #gone = false;

  constructor(channel: ClientChannel, closed: () => void) {
    super();
    this.#channel = channel;
    this.#closed = closed;
    channel.on("data", (chunk: Buffer) => {
      if (!this.push(chunk)) channel.pause();
    });
    channel.once("end", () => this.push(null));
    channel.on("error", (error: Error) => this.destroy(error));
    channel.once("close", () => {
      this.#gone = true;
      closed();
      // Without "end": the other side is gone as well.
      if (!this.readableEnded) this.push(null);
      this.destroySoon();
    });
  }

  /** Nothing can be written any more; what has arrived may still be read. */
  private destroySoon(): void {
    if (this.readableEnded || this.destroyed) this.destroy();
    else this.once("end", () => this.destroy());
  }

  override _read(): void {
    this.#channel.resume();
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    if (this.#gone) {
      done(new Error("the other side has closed"));
      return;
    }
    this.#channel.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    if (!this.#gone) this.#channel.end();
    done();
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    this.#closed();
    // Reading goes on, or the window stays full and the server's close never comes.
    this.#channel.removeAllListeners("data");
    this.#channel.on("data", () => undefined);
    this.#channel.resume();
    if (!this.#gone) this.#channel.close();
    done(error);
  }
}
