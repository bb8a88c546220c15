/**
 * Tar archives as GNU tar, bsdtar and Node's packers write them: ustar (POSIX.1-1988), pax headers (POSIX.1-2001), and GNU's long
 * names and binary sizes.
 */
export interface TarEntry {
  /** As it is written, without `./` before it or a slash behind it. */
  readonly path: string;
  readonly type: "file" | "directory" | "symlink" | "link" | "other";
  /** Permission bits. */
  readonly mode: number;
  /** Of links: what they name, as it is written. */
  readonly target: string;
  /** Bytes of content. */
  readonly size: number;
}

const BLOCK = 512;
const TYPES: Readonly<Record<string, TarEntry["type"]>> = {
  "": "file",
  "0": "file",
  "1": "link",
  "2": "symlink",
  "5": "directory",
  "7": "file",
};
/** Longest name or pax header that is believed. Bytes. */
const MOST_HEADER = 1 << 20;

/**
 * Its entries in order, each with its content where `wants` says so, else with none. Only one content is held at a time. Rejects with a
 * RangeError where it is no tar archive, or is cut off.
 */
export async function* readTar(
  source: AsyncIterable<Uint8Array>,
  wants: (entry: TarEntry) => boolean,
): AsyncGenerator<TarEntry & { readonly data: Buffer }> {
  const bytes = new Bytes(source);
  try {
    yield* entriesOf(bytes, wants);
  } finally {
    await bytes.close();
  }
}

async function* entriesOf(
  bytes: Bytes,
  wants: (entry: TarEntry) => boolean,
): AsyncGenerator<TarEntry & { readonly data: Buffer }> {
  let said: Readonly<Record<string, string>> = {};
  for (;;) {
    const header = await bytes.take(BLOCK);
    // Two blocks of zeros end it; some writers leave them out.
    if (header === undefined || header.every((byte) => byte === 0)) return;
    requireHeader(header);
    const flag = text(header, 156, 1);
    const size = said["size"] === undefined ? number(header, 124, 12) : Number(said["size"]);
    if (!Number.isSafeInteger(size) || size < 0) throw new RangeError("a size that cannot be");
    if ("xgLK".includes(flag) && flag !== "") {
      if (size > MOST_HEADER) throw new RangeError("a header beyond all measure");
      const content = await bytes.content(size, true);
      if (flag === "L") said = { ...said, path: cString(content) };
      else if (flag === "K") said = { ...said, linkpath: cString(content) };
      else if (flag === "x") said = { ...said, ...paxRecords(content) };
      continue;
    }
    const prefix = text(header, 257, 5) === "ustar" && text(header, 262, 1) !== " " ? text(header, 345, 155) : "";
    const name = text(header, 0, 100);
    const entry: TarEntry = {
      path: (said["path"] ?? (prefix === "" ? name : `${prefix}/${name}`))
        .replace(/^(?:\.\/+)+/, "")
        .replace(/\/+$/, ""),
      type: TYPES[flag] ?? "other",
      mode: number(header, 100, 8) & 0o7777,
      target: said["linkpath"] ?? text(header, 157, 100),
      size,
    };
    said = {};
    yield { ...entry, data: await bytes.content(size, wants(entry)) };
  }
}

/** Takes bytes off a stream, in portions of any size. */
class Bytes {
  readonly #source: AsyncIterator<Uint8Array>;
  #rest: Buffer = Buffer.alloc(0);

  constructor(source: AsyncIterable<Uint8Array>) {
    this.#source = source[Symbol.asyncIterator]();
  }

  /** Whoever does not want to see the end lets go of the source. */
  async close(): Promise<void> {
    await this.#source.return?.();
  }

  async #more(): Promise<boolean> {
    const next = await this.#source.next();
    if (next.done === true) return false;
    this.#rest = Buffer.from(next.value.buffer, next.value.byteOffset, next.value.byteLength);
    return true;
  }

  /** Undefined at the end. */
  async take(size: number): Promise<Buffer | undefined> {
    const parts: Buffer[] = [];
    for (let missing = size; missing > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more())) {
        if (missing === size) return undefined;
        throw new RangeError("it is cut off");
      }
      const part = this.#rest.subarray(0, missing);
      this.#rest = this.#rest.subarray(part.length);
      missing -= part.length;
      parts.push(part);
    }
    return Buffer.concat(parts);
  }

  /** What fills whole blocks; empty where it is not kept. */
  async content(size: number, keep: boolean): Promise<Buffer> {
    const whole = Math.ceil(size / BLOCK) * BLOCK;
    if (keep) {
      const bytes = whole === 0 ? Buffer.alloc(0) : await this.take(whole);
      if (bytes === undefined) throw new RangeError("it is cut off");
      return bytes.subarray(0, size);
    }
    for (let missing = whole; missing > 0; ) {
      if (this.#rest.length === 0 && !(await this.#more())) throw new RangeError("it is cut off");
      const gone = Math.min(missing, this.#rest.length);
      this.#rest = this.#rest.subarray(gone);
      missing -= gone;
    }
    return Buffer.alloc(0);
  }
}

/** The sum of its bytes, its own field counted as spaces. */
function requireHeader(header: Buffer): void {
  const sum = header.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 0x20 : byte), 0);
  if (number(header, 148, 8) !== sum) throw new RangeError("it is no tar archive, or is damaged");
}

function text(header: Buffer, at: number, length: number): string {
  return cString(header.subarray(at, at + length));
}

function cString(bytes: Buffer): string {
  const end = bytes.indexOf(0);
  return bytes.toString("utf8", 0, end === -1 ? bytes.length : end);
}

/** Octal digits; GNU writes what is too large for them in binary, marked by the first bit. */
function number(header: Buffer, at: number, length: number): number {
  if (((header[at] ?? 0) & 0x80) !== 0) return Number(header.readBigUInt64BE(at + length - 8));
  const digits = text(header, at, length).trim();
  return digits === "" ? 0 : Number.parseInt(digits, 8);
}

/** Lines of `LENGTH KEY=VALUE\n`, their length counted with all of that. */
function paxRecords(content: Buffer): Record<string, string> {
  const out: Record<string, string> = {};
  for (let at = 0; at < content.length; ) {
    const space = content.indexOf(0x20, at);
    const length = Number.parseInt(content.toString("latin1", at, space), 10);
    if (space === -1 || !(length > space - at)) throw new RangeError("a pax header that cannot be read");
    const record = content.toString("utf8", space + 1, at + length - 1);
    const equals = record.indexOf("=");
    if (equals > 0) out[record.slice(0, equals)] = record.slice(equals + 1);
    at += length;
  }
  return out;
}
