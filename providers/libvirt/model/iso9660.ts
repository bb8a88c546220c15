/**
 * Writes small ISO 9660 images (ECMA-119): one folder of small files, with Rock Ridge and Joliet, so that Linux, BSDs and Windows all
 * see the names as they are. The same content gives the same bytes: all dates are the first of January 1980.
 */
export interface IsoFile {
  /** Up to 64 characters of `[A-Za-z0-9._-]`. */
  readonly name: string;
  readonly content: Uint8Array;
}

const SECTOR = 2048;
const DATE = Buffer.from([80, 1, 1, 0, 0, 0, 0]);
const LONG_DATE = Buffer.from("1980010100000000\0", "latin1");
const NO_DATE = Buffer.from("0000000000000000\0", "latin1");
/** Where things lie, in sectors. */
const AT = {
  primary: 16,
  joliet: 17,
  end: 18,
  pathL: 19,
  pathM: 20,
  jolietPathL: 21,
  jolietPathM: 22,
  root: 23,
  jolietRoot: 24,
};
const FIRST_FILE = 25;

/** The image. Throws RangeError for names and numbers of files beyond what this small writer is for. */
export function writeIso(label: string, files: readonly IsoFile[]): Buffer {
  if (!/^[A-Za-z0-9_-]{1,16}$/.test(label)) throw new RangeError(`not a label: ${label}`);
  let next = FIRST_FILE;
  const placed = files.map((file, i) => {
    if (!/^[A-Za-z0-9._-]{1,64}$/.test(file.name)) throw new RangeError(`not a name: ${file.name}`);
    const at = next;
    next += Math.ceil(file.content.byteLength / SECTOR);
    // The plain name is seen only by what knows neither Rock Ridge nor Joliet.
    return { ...file, at, plain: `FILE${String(i).padStart(4, "0")}.;1` };
  });
  const image = Buffer.alloc(next * SECTOR);
  const put = (sector: number, ...parts: readonly Uint8Array[]): void => {
    const data = Buffer.concat(parts);
    if (sector < FIRST_FILE && data.length > SECTOR) throw new RangeError("too many files for a small image");
    data.copy(image, sector * SECTOR);
  };
  put(AT.primary, descriptor(label, next, false));
  put(AT.joliet, descriptor(label, next, true));
  put(AT.end, Buffer.from([255]), Buffer.from("CD001", "latin1"), Buffer.from([1]));
  put(AT.pathL, pathTable(AT.root, "LE"));
  put(AT.pathM, pathTable(AT.root, "BE"));
  put(AT.jolietPathL, pathTable(AT.jolietRoot, "LE"));
  put(AT.jolietPathM, pathTable(AT.jolietRoot, "BE"));
  put(
    AT.root,
    record(Buffer.from([0]), AT.root, SECTOR, true, Buffer.concat([SHARING, posix(true), EXTENSION])),
    record(Buffer.from([1]), AT.root, SECTOR, true, posix(true)),
    ...placed.map((file) =>
      record(
        Buffer.from(file.plain, "latin1"),
        file.at,
        file.content.byteLength,
        false,
        Buffer.concat([posix(false), longName(file.name)]),
      ),
    ),
  );
  const byName = [...placed].sort((a, b) => (a.name < b.name ? -1 : 1));
  put(
    AT.jolietRoot,
    record(Buffer.from([0]), AT.jolietRoot, SECTOR, true),
    record(Buffer.from([1]), AT.jolietRoot, SECTOR, true),
    ...byName.map((file) => record(ucs2(file.name), file.at, file.content.byteLength, false)),
  );
  for (const file of placed) put(file.at, file.content);
  return image;
}

function ucs2(text: string): Buffer {
  return Buffer.from(text, "utf16le").swap16();
}

function both16(value: number): Buffer {
  const out = Buffer.alloc(4);
  out.writeUInt16LE(value, 0);
  out.writeUInt16BE(value, 2);
  return out;
}

function both32(value: number): Buffer {
  const out = Buffer.alloc(8);
  out.writeUInt32LE(value, 0);
  out.writeUInt32BE(value, 4);
  return out;
}

/** ECMA-119 8.4 and 8.5: the two differ in how text is written. */
function descriptor(label: string, sectors: number, joliet: boolean): Buffer {
  const text = (value: string, length: number): Buffer => {
    const out = joliet ? ucs2(" ".repeat(length / 2)) : Buffer.alloc(length, " ");
    const field = Buffer.alloc(length);
    out.copy(field);
    (joliet ? ucs2(value) : Buffer.from(value, "latin1")).copy(field, 0, 0, length);
    return field;
  };
  const pathLength = 10;
  const [l, m, root] = joliet ? [AT.jolietPathL, AT.jolietPathM, AT.jolietRoot] : [AT.pathL, AT.pathM, AT.root];
  const [low, high] = [Buffer.alloc(4), Buffer.alloc(4)];
  low.writeUInt32LE(l);
  high.writeUInt32BE(m);
  // Joliet says by this that names are UCS-2, level 3.
  const escapes = Buffer.alloc(32);
  if (joliet) escapes.write("%/E", "latin1");
  return Buffer.concat([
    Buffer.from([joliet ? 2 : 1]),
    Buffer.from("CD001", "latin1"),
    Buffer.from([1, 0]),
    text("", 32),
    text(label, 32),
    Buffer.alloc(8),
    both32(sectors),
    escapes,
    both16(1),
    both16(1),
    both16(SECTOR),
    both32(pathLength),
    low,
    Buffer.alloc(4),
    high,
    Buffer.alloc(4),
    record(Buffer.from([0]), root, SECTOR, true),
    ...[128, 128, 128, 128].map((length) => text("", length)),
    ...[37, 37, 37].map((length) => text("", length)),
    LONG_DATE,
    LONG_DATE,
    NO_DATE,
    LONG_DATE,
    Buffer.from([1, 0]),
  ]);
}

/** ECMA-119 9.4: the root alone. */
function pathTable(root: number, order: "LE" | "BE"): Buffer {
  const out = Buffer.alloc(10);
  out[0] = 1;
  if (order === "LE") {
    out.writeUInt32LE(root, 2);
    out.writeUInt16LE(1, 6);
  } else {
    out.writeUInt32BE(root, 2);
    out.writeUInt16BE(1, 6);
  }
  return out;
}

/** ECMA-119 9.1: a directory record, with what Rock Ridge adds. */
function record(id: Buffer, at: number, size: number, folder: boolean, extra: Buffer = Buffer.alloc(0)): Buffer {
  const padded = Buffer.concat([id, Buffer.alloc((id.length + 1) % 2)]);
  const tail = Buffer.concat([padded, extra, Buffer.alloc(extra.length % 2)]);
  const length = 33 + tail.length;
  if (length > 254) throw new RangeError("a name too long for a directory record");
  return Buffer.concat([
    Buffer.from([length, 0]),
    both32(at),
    both32(size),
    DATE,
    Buffer.from([folder ? 2 : 0, 0, 0]),
    both16(1),
    Buffer.from([id.length]),
    tail,
  ]);
}

/** SUSP 5.3 (SP): the system use area is shared. */
const SHARING = Buffer.from([0x53, 0x50, 7, 1, 0xbe, 0xef, 0]);

/** SUSP 5.5 (ER): which extension it is. */
const EXTENSION = Buffer.concat([Buffer.from([0x45, 0x52, 18, 1, 10, 0, 0, 1]), Buffer.from("RRIP_1991A", "latin1")]);

/** RRIP 4.1.1 (PX): mode, links, owner, group. A seed can hold passwords: none but root reads it in the guest. */
function posix(folder: boolean): Buffer {
  return Buffer.concat([
    Buffer.from([0x50, 0x58, 36, 1]),
    both32(folder ? 0o040500 : 0o100400),
    both32(folder ? 2 : 1),
    both32(0),
    both32(0),
  ]);
}

/** RRIP 4.1.4 (NM): the name as it is. */
function longName(name: string): Buffer {
  return Buffer.concat([Buffer.from([0x4e, 0x4d, 5 + name.length, 1, 0]), Buffer.from(name, "latin1")]);
}
