/** SSH's `string`: a 32-bit length and so many bytes (RFC 4251, section 5). */
export class SshReader {
  readonly #data: Buffer;
  #at: number;
  constructor(data: Buffer, at = 0) {
    this.#data = data;
    this.#at = at;
  }
  /** Undefined where the data ends too early. */
  string(): Buffer | undefined {
    if (this.#at + 4 > this.#data.length) return undefined;
    const length = this.#data.readUInt32BE(this.#at);
    const end = this.#at + 4 + length;
    if (end > this.#data.length) return undefined;
    const value = this.#data.subarray(this.#at + 4, end);
    this.#at = end;
    return value;
  }
  byte(): number | undefined {
    return this.#data[this.#at++];
  }
  uint64(): bigint | undefined {
    if (this.#at + 8 > this.#data.length) return undefined;
    this.#at += 8;
    return this.#data.readBigUInt64BE(this.#at - 8);
  }
  skip(bytes: number): void {
    this.#at += bytes;
  }
  get offset(): number {
    return this.#at;
  }
}

export function sshString(value: Buffer | string): Buffer {
  const bytes = typeof value === "string" ? Buffer.from(value) : value;
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length);
  return Buffer.concat([length, bytes]);
}
