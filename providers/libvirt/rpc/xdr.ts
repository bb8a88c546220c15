/**
 * XDR (RFC 4506), as much of it as libvirt's protocol uses. A codec reads and writes one type; codecs are put together as
 * the structures of remote_protocol.x are. Reading never trusts a length: what does not fit into the message is an error.
 */

/** What cannot be written (a value out of range) or read (a message that ends early or breaks a limit). */
export class XdrError extends Error {}

const DECODER = new TextDecoder("utf-8");

export class XdrWriter {
  #buffer = Buffer.allocUnsafe(256);
  #length = 0;

  /** Room for so many bytes, and where it begins. */
  #grow(bytes: number): number {
    const at = this.#length;
    this.#length += bytes;
    if (this.#length > this.#buffer.length) {
      const larger = Buffer.allocUnsafe(Math.max(this.#length, this.#buffer.length * 2));
      this.#buffer.copy(larger, 0, 0, at);
      this.#buffer = larger;
    }
    return at;
  }

  int(value: number): void {
    const at = this.#grow(4);
    this.#buffer.writeInt32BE(value, at);
  }

  uint(value: number): void {
    const at = this.#grow(4);
    this.#buffer.writeUInt32BE(value, at);
  }

  hyper(value: bigint): void {
    const at = this.#grow(8);
    this.#buffer.writeBigInt64BE(value, at);
  }

  uhyper(value: bigint): void {
    const at = this.#grow(8);
    this.#buffer.writeBigUInt64BE(value, at);
  }

  double(value: number): void {
    const at = this.#grow(8);
    this.#buffer.writeDoubleBE(value, at);
  }

  /** Bytes, then zeros up to a multiple of four. */
  opaque(bytes: Uint8Array): void {
    const padded = (bytes.length + 3) & ~3;
    const at = this.#grow(padded);
    this.#buffer.set(bytes, at);
    this.#buffer.fill(0, at + bytes.length, at + padded);
  }

  result(): Buffer {
    return this.#buffer.subarray(0, this.#length);
  }
}

export class XdrReader {
  readonly #buffer: Buffer;
  #at = 0;

  constructor(buffer: Buffer) {
    this.#buffer = buffer;
  }

  get left(): number {
    return this.#buffer.length - this.#at;
  }

  #take(bytes: number): number {
    const at = this.#at;
    if (bytes > this.#buffer.length - at) {
      throw new XdrError(
        `the message ends early: ${bytes} more bytes are expected at ${at}, and ${this.left} are there`,
      );
    }
    this.#at = at + bytes;
    return at;
  }

  int(): number {
    return this.#buffer.readInt32BE(this.#take(4));
  }

  uint(): number {
    return this.#buffer.readUInt32BE(this.#take(4));
  }

  hyper(): bigint {
    return this.#buffer.readBigInt64BE(this.#take(8));
  }

  uhyper(): bigint {
    return this.#buffer.readBigUInt64BE(this.#take(8));
  }

  double(): number {
    return this.#buffer.readDoubleBE(this.#take(8));
  }

  opaque(length: number): Buffer {
    const at = this.#take((length + 3) & ~3);
    return this.#buffer.subarray(at, at + length);
  }

  /** The count of a list or the length of a string: never more than its limit, nor than there is. */
  count(most: number, leastBytesEach: number): number {
    const count = this.uint();
    if (count > most) throw new XdrError(`${count} where at most ${most} are allowed`);
    if (count * leastBytesEach > this.left) throw new XdrError(`the message ends early: ${count} things do not fit`);
    return count;
  }
}

export interface Codec<T> {
  write(writer: XdrWriter, value: T): void;
  read(reader: XdrReader): T;
}

/** The type that a codec carries. */
export type Of<C> = C extends Codec<infer T> ? T : never;

function whole(value: number, least: number, most: number): number {
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new XdrError(`${value} is not a whole number from ${least} to ${most}`);
  }
  return value;
}

export const int: Codec<number> = {
  write: (writer, value) => writer.int(whole(value, -(2 ** 31), 2 ** 31 - 1)),
  read: (reader) => reader.int(),
};

export const uint: Codec<number> = {
  write: (writer, value) => writer.uint(whole(value, 0, 2 ** 32 - 1)),
  read: (reader) => reader.uint(),
};

/** An int that says yes or no. */
export const flag: Codec<boolean> = {
  write: (writer, value) => writer.int(value ? 1 : 0),
  read: (reader) => reader.int() !== 0,
};

export const hyper: Codec<bigint> = {
  write: (writer, value) => {
    if (BigInt.asIntN(64, value) !== value) throw new XdrError(`${value} does not fit into 64 bits`);
    writer.hyper(value);
  },
  read: (reader) => reader.hyper(),
};

export const uhyper: Codec<bigint> = {
  write: (writer, value) => {
    if (BigInt.asUintN(64, value) !== value) throw new XdrError(`${value} does not fit into 64 bits without a sign`);
    writer.uhyper(value);
  },
  read: (reader) => reader.uhyper(),
};

/**
 * An unsigned hyper that counts something (bytes, KiB, nanoseconds), as a number: exact up to 2^53 (8 PiB, 104 days), rounded to
 * 53 bits above, which only counters and "no limit" reach. Written only where it is exact.
 */
export const quantity: Codec<number> = {
  write: (writer, value) => writer.uhyper(BigInt(whole(value, 0, Number.MAX_SAFE_INTEGER))),
  read: (reader) => Number(reader.uhyper()),
};

export const double: Codec<number> = {
  write: (writer, value) => writer.double(value),
  read: (reader) => reader.double(),
};

/** UTF-8 without zero bytes, which would end it early in libvirt. Bytes that are no UTF-8 are read as U+FFFD. */
export function text(most: number): Codec<string> {
  return {
    write(writer, value) {
      if (value.includes("\0")) throw new XdrError("a text with a zero byte");
      const bytes = Buffer.from(value, "utf8");
      if (bytes.length > most) throw new XdrError(`a text of ${bytes.length} bytes where at most ${most} are allowed`);
      writer.uint(bytes.length);
      writer.opaque(bytes);
    },
    read: (reader) => DECODER.decode(reader.opaque(reader.count(most, 1))),
  };
}

export function opaque(length: number): Codec<Buffer> {
  return {
    write(writer, value) {
      if (value.length !== length) throw new XdrError(`${value.length} bytes where there must be ${length}`);
      writer.opaque(value);
    },
    read: (reader) => reader.opaque(length),
  };
}

export function optional<T>(codec: Codec<T>): Codec<T | undefined> {
  return {
    write(writer, value) {
      writer.uint(value === undefined ? 0 : 1);
      if (value !== undefined) codec.write(writer, value);
    },
    read: (reader) => (reader.uint() === 0 ? undefined : codec.read(reader)),
  };
}

export function list<T>(codec: Codec<T>, most: number): Codec<readonly T[]> {
  return {
    write(writer, values) {
      if (values.length > most) throw new XdrError(`${values.length} where at most ${most} are allowed`);
      writer.uint(values.length);
      for (const value of values) codec.write(writer, value);
    },
    read(reader) {
      // Nothing in the protocol is shorter than four bytes: a count that lies costs no memory.
      const count = reader.count(most, 4);
      const values: T[] = [];
      for (let i = 0; i < count; i++) values.push(codec.read(reader));
      return values;
    },
  };
}

/** A C string in an array of so many `char`, each of which travels as an int of its own. */
export function chars(length: number): Codec<string> {
  return {
    write(writer, value) {
      const bytes = Buffer.from(value, "utf8");
      if (bytes.length >= length || bytes.includes(0)) throw new XdrError(`a text that does not fit ${length} chars`);
      for (let i = 0; i < length; i++) writer.int(bytes[i] ?? 0);
    },
    read(reader) {
      const bytes = Buffer.alloc(length);
      for (let i = 0; i < length; i++) bytes[i] = reader.int() & 0xff;
      const end = bytes.indexOf(0);
      return DECODER.decode(end < 0 ? bytes : bytes.subarray(0, end));
    },
  };
}

type Fields = Readonly<Record<string, Codec<never>>>;
export type Struct<F> = { readonly [K in keyof F]: Of<F[K]> };

/** Fields one after the other, in the order in which they are written here. */
export function struct<const F extends Record<string, Codec<never> | Codec<unknown>>>(fields: F): Codec<Struct<F>> {
  const entries = Object.entries(fields as unknown as Fields);
  return {
    write(writer, value) {
      for (const [name, codec] of entries) codec.write(writer, (value as Record<string, never>)[name] as never);
    },
    read(reader) {
      const value: Record<string, unknown> = {};
      for (const [name, codec] of entries) value[name] = codec.read(reader);
      return value as Struct<F>;
    },
  };
}

/** Nothing at all. */
export const nothing: Codec<void> = {
  write: () => undefined,
  read: () => undefined,
};

export function encode<T>(codec: Codec<T>, value: T): Buffer {
  const writer = new XdrWriter();
  codec.write(writer, value);
  return writer.result();
}

/** Reads a whole message: bytes that are left over are ignored, since newer servers may say more. */
export function decode<T>(codec: Codec<T>, bytes: Buffer): T {
  return codec.read(new XdrReader(bytes));
}
