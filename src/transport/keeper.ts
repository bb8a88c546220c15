/** Keeps the first and the last half of what passes, at most `limit` bytes. */
export class Keeper {
  readonly #limit: number;
  readonly #headLimit: number;
  readonly #head: Buffer[] = [];
  #headSize = 0;
  #tail: Buffer[] = [];
  #tailSize = 0;
  truncated = false;

  constructor(limit: number) {
    this.#limit = Math.max(0, limit);
    this.#headLimit = Math.ceil(this.#limit / 2);
  }

  push(chunk: Buffer): void {
    let rest = chunk;
    if (this.#headSize < this.#headLimit) {
      const part = rest.subarray(0, this.#headLimit - this.#headSize);
      this.#head.push(part);
      this.#headSize += part.length;
      rest = rest.subarray(part.length);
    }
    if (rest.length === 0) return;
    this.#tail.push(rest);
    this.#tailSize += rest.length;
    const room = this.#limit - this.#headLimit;
    let drop = 0;
    while (this.#tailSize > room) {
      this.truncated = true;
      const first = this.#tail[drop];
      if (first === undefined) break;
      const excess = this.#tailSize - room;
      if (first.length <= excess) {
        drop++;
        this.#tailSize -= first.length;
      } else {
        this.#tail[drop] = first.subarray(excess);
        this.#tailSize -= excess;
      }
    }
    if (drop > 0) this.#tail = this.#tail.slice(drop);
  }

  result(): Buffer {
    return Buffer.concat([...this.#head, ...this.#tail]);
  }
}
