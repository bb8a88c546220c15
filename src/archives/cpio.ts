/**
 * Archives in the "new ASCII" cpio format, the only one that the kernel unpacks into its first file system
 * (Documentation/driver-api/early-userspace/buffer-format.rst): entries of 110 bytes of hexadecimal header, the name, the
 * data, each padded to four bytes; a trailer; several archives may follow one another.
 */
export type CpioEntry = CpioFile | CpioFolder | CpioLink | CpioDevice;

interface Common {
  /** Relative to the root, without a leading slash. */
  readonly path: string;
  /** Permission bits; the type is the entry's own. */
  readonly mode: number;
}
export interface CpioFile extends Common {
  readonly type: "file";
  readonly data: Uint8Array;
}
export interface CpioFolder extends Common {
  readonly type: "directory";
}
export interface CpioLink extends Common {
  readonly type: "symlink";
  readonly target: string;
}
export interface CpioDevice extends Common {
  readonly type: "device";
  readonly device: "char" | "block";
  readonly major: number;
  readonly minor: number;
}

const MAGIC = "070701";
/** The same with a checksum in its last field; the kernel reads both. */
const MAGIC_CRC = "070702";
const TRAILER = "TRAILER!!!";
const HEADER = 110;
const BLOCK = 512;
const FORMAT = 0o170000;
const FILE = 0o100000;
const FOLDER = 0o040000;
const LINK = 0o120000;
const CHAR = 0o020000;
const BLOCK_DEVICE = 0o060000;
/** The size field has eight hexadecimal digits. */
const MOST = 0xffff_ffff;

/** One archive, padded to 512 bytes. Folders above an entry are not made up: list them. @throws RangeError */
export function cpioArchive(entries: Iterable<CpioEntry>): Buffer {
  const writer = new CpioWriter();
  const parts: Uint8Array[] = [];
  for (const entry of entries) parts.push(...writer.add(entry));
  return Buffer.concat([...parts, ...writer.end()]);
}

/** {@link cpioArchive} in pieces, for what is too large to be held at once. Give nothing more after the end. */
export class CpioWriter {
  #size = 0;
  #inode = 0;

  /** The bytes of one more entry. @throws RangeError */
  add(entry: CpioEntry): readonly Uint8Array[] {
    const mode = entry.mode & 0o7777;
    switch (entry.type) {
      case "file":
        return this.#entry(entry.path, FILE | mode, entry.data, [0, 0]);
      case "directory":
        return this.#entry(entry.path, FOLDER | mode, NOTHING, [0, 0]);
      case "symlink":
        return this.#entry(entry.path, LINK | mode, Buffer.from(entry.target, "utf8"), [0, 0]);
      case "device": {
        const type = entry.device === "char" ? CHAR : BLOCK_DEVICE;
        return this.#entry(entry.path, type | mode, NOTHING, [entry.major, entry.minor]);
      }
    }
  }

  /** What ends the archive. */
  end(): readonly Uint8Array[] {
    return [...this.#entry(TRAILER, 0, NOTHING, [0, 0]), padding(this.#size, BLOCK)];
  }

  #entry(name: string, mode: number, data: Uint8Array, rdev: readonly [number, number]): Uint8Array[] {
    const parts: Uint8Array[] = [];
    const push = (bytes: Uint8Array): void => {
      parts.push(bytes);
      this.#size += bytes.length;
    };
    if (data.length > MOST) throw new RangeError(`${name} is larger than a cpio archive can hold`);
    if (name.includes("\0")) throw new RangeError("a name with a NUL byte");
    const label = Buffer.from(`${name}\0`, "utf8");
    this.#inode += 1;
    const links = (mode & FORMAT) === FOLDER ? 2 : 1;
    const fields = [this.#inode, mode, 0, 0, links, 0, data.length, 0, 0, rdev[0], rdev[1], label.length, 0];
    const header = MAGIC + fields.map((field) => field.toString(16).padStart(8, "0")).join("");
    push(Buffer.concat([Buffer.from(header, "latin1"), label, padding(HEADER + label.length, 4)]));
    if (data.length === 0) return parts;
    push(data);
    push(padding(data.length, 4));
    return parts;
  }
}

/** Where a following archive may begin: the kernel demands four bytes, tools use 512. */
export function padArchive(bytes: Uint8Array): Buffer {
  return Buffer.concat([bytes, padding(bytes.length, BLOCK)]);
}

/** What archives that follow each other hold, in order; a later entry of the same path replaces the earlier one. @throws RangeError */
export function readCpio(bytes: Uint8Array): CpioEntry[] {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const entries: CpioEntry[] = [];
  let at = 0;
  while (at < buffer.length) {
    // Between archives there are zeroes.
    if (buffer[at] === 0) {
      at += 1;
      continue;
    }
    const magic = buffer.toString("latin1", at, at + MAGIC.length);
    if ((magic !== MAGIC && magic !== MAGIC_CRC) || at + HEADER > buffer.length)
      throw new RangeError(`no cpio header at byte ${at}`);
    const start = at;
    const field = (index: number): number =>
      Number.parseInt(buffer.toString("latin1", start + 6 + index * 8, start + 14 + index * 8), 16);
    const mode = field(1);
    const size = field(6);
    const nameSize = field(11);
    const nameEnd = start + HEADER + nameSize;
    const data = start + align(HEADER + nameSize, 4);
    if (!(nameSize > 0) || !(size >= 0) || data + size > buffer.length)
      throw new RangeError(`a cut off cpio entry at byte ${start}`);
    const path = buffer.toString("utf8", start + HEADER, nameEnd - 1);
    at = Math.min(buffer.length, data + align(size, 4));
    if (path === TRAILER) continue;
    const entry = entryOf(path, mode, buffer.subarray(data, data + size), [field(9), field(10)]);
    if (entry !== undefined) entries.push(entry);
  }
  return entries;
}

function entryOf(
  path: string,
  mode: number,
  data: Buffer,
  [major, minor]: readonly [number, number],
): CpioEntry | undefined {
  const common = { path, mode: mode & 0o7777 };
  switch (mode & FORMAT) {
    case FILE:
      return { ...common, type: "file", data };
    case FOLDER:
      return { ...common, type: "directory" };
    case LINK:
      return { ...common, type: "symlink", target: data.toString("utf8") };
    case CHAR:
      return { ...common, type: "device", device: "char", major, minor };
    case BLOCK_DEVICE:
      return { ...common, type: "device", device: "block", major, minor };
    default:
      // Sockets and pipes: nothing that anybody looks for in an archive.
      return undefined;
  }
}

const NOTHING = new Uint8Array(0);

function align(size: number, to: number): number {
  return Math.ceil(size / to) * to;
}

function padding(size: number, to: number): Buffer {
  return Buffer.alloc(align(size, to) - size);
}
