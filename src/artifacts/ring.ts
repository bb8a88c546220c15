/** Bytes of one buffer. */
export const RING_BUFFER = 256 * 1024;
/** Buffers in all; allocated as they are needed. */
const COUNT = 32;
/** For a stream that the buffers go through: how much it may hold. */
export const RING_MARK = 4 * RING_BUFFER;

/**
 * Buffers that are used again: at hundreds of MiB a second, new ones cost more in garbage collection than reading does.
 * Each may be overwritten once COUNT more were asked for. What stands between reading and the socket holds far fewer: a
 * Readable up to RING_MARK and one more, a Writable one past its own mark (it is paused then, and everything that it had
 * is written when it asks for more). Were it ever otherwise, the digest of the piece would tell, and it is sent again.
 */
export class Ring {
  readonly #buffers: Buffer[] = [];
  #at = 0;

  /** `length`: at most RING_BUFFER. */
  next(length: number): Buffer {
    this.#at = (this.#at + 1) % COUNT;
    return (this.#buffers[this.#at] ??= Buffer.allocUnsafeSlow(RING_BUFFER)).subarray(0, length);
  }
}
