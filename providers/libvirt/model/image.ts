import { LabError } from "../../../src/index.ts";

/** Bytes from the start of a file that are enough to say what it is: up to the label of an ISO 9660 file system. */
export const IMAGE_HEAD = 36 * 1024;

/** What the first bytes of a disk image say. */
export interface ImageInfo {
  readonly format: "qcow2" | "raw" | "vmdk" | "vdi" | "vhdx" | "qed" | "iso";
  /** Bytes that a machine sees. */
  readonly virtual_size: number;
  /** The image that it holds the differences to, as it is written there. */
  readonly backing?: string;
  readonly backing_format?: string;
  /** What keeps it from being used as it is. */
  readonly defects: readonly string[];
  /** What was found in a raw image, for people: `GPT`, `ext4`, ... */
  readonly content?: string;
}

const SECTOR = 512;

/**
 * Says what a disk image is, from its first bytes (see {@link IMAGE_HEAD}) and its size. Anything that is no known format and
 * is not compressed is a raw disk. Throws E_IMAGE_FORMAT for what no machine can use: compressed, cut off, empty.
 */
export function readImage(head: Uint8Array, fileSize: number): ImageInfo {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  if (fileSize === 0) throw broken("it is empty");
  const packed = compression(bytes);
  if (packed !== undefined) throw broken(`it is compressed (${packed.name})`, `unpack it: ${packed.command}`);
  if (starts(bytes, "QFI\xfb")) return readQcow2(bytes, fileSize);
  if (starts(bytes, "KDMV")) return readVmdk(bytes);
  if (bytes.subarray(0, 21).toString("latin1") === "# Disk DescriptorFile") return readVmdkDescriptor(bytes);
  // "<<< Oracle VM VirtualBox Disk Image >>>", then the signature at 0x40 and the size at 0x170 (VDIHEADER1).
  if (bytes.length >= 0x178 && bytes.readUInt32LE(0x40) === 0xbeda107f) {
    return { format: "vdi", virtual_size: safe(bytes.readBigUInt64LE(0x170)), defects: [] };
  }
  if (starts(bytes, "conectix")) throw broken("it is a VHD", "qemu-img convert -O qcow2 FILE NEW");
  if (starts(bytes, "vhdxfile")) throw broken("it is a VHDX", "qemu-img convert -O qcow2 FILE NEW");
  // docs/specs/qed_spec.txt: cluster_size, table_size, header_size, features (3 * 8), l1_table_offset, image_size.
  if (starts(bytes, "QED\0") && bytes.length >= 56) {
    return { format: "qed", virtual_size: safe(bytes.readBigUInt64LE(48)), defects: [] };
  }
  return readRaw(bytes, fileSize);
}

function starts(bytes: Buffer, magic: string): boolean {
  return bytes.subarray(0, magic.length).equals(Buffer.from(magic, "latin1"));
}

function broken(why: string, hint?: string): LabError {
  return new LabError("E_IMAGE_FORMAT", `no machine can use this image: ${why}`, hint === undefined ? {} : { hint });
}

function safe(value: bigint): number {
  if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw broken("its header is damaged (a size beyond all measure)");
  return Number(value);
}

/** How a file is compressed, by its first bytes, and what unpacks it. */
export function compression(bytes: Uint8Array): { readonly name: string; readonly command: string } | undefined {
  const magic = Buffer.from(bytes.buffer, bytes.byteOffset, Math.min(bytes.byteLength, 6)).toString("latin1");
  const known: readonly [string, string, string][] = [
    ["\x1f\x8b", "gzip", "gunzip FILE.gz"],
    ["\xfd7zXZ\0", "xz", "unxz FILE.xz"],
    ["\x28\xb5\x2f\xfd", "zstd", "unzstd FILE.zst"],
    ["BZh", "bzip2", "bunzip2 FILE.bz2"],
    ["\x04\x22\x4d\x18", "lz4", "unlz4 FILE.lz4"],
    ["PK\x03\x04", "zip", "unzip FILE.zip"],
    ["7z\xbc\xaf\x27\x1c", "7-Zip", "7z x FILE.7z"],
  ];
  const found = known.find(([start]) => magic.startsWith(start));
  return found === undefined ? undefined : { name: found[1], command: found[2] };
}

/** docs/interop/qcow2.txt of QEMU: big-endian; the format of the backing file stands in a header extension. */
function readQcow2(bytes: Buffer, fileSize: number): ImageInfo {
  if (bytes.length < 72) throw broken("it is cut off");
  const version = bytes.readUInt32BE(4);
  if (version !== 2 && version !== 3)
    throw broken(`it is a qcow of version ${version}`, "qemu-img convert -O qcow2 FILE NEW");
  const backingAt = safe(bytes.readBigUInt64BE(8));
  const backingLength = bytes.readUInt32BE(16);
  const encryption = bytes.readUInt32BE(32);
  const incompatible = version === 3 && bytes.length >= 80 ? bytes.readBigUInt64BE(72) : 0n;
  const defects = [
    ...(encryption === 0 ? [] : ["it is encrypted"]),
    ...((incompatible & 1n) === 0n ? [] : ["it was not closed properly: run qemu-img check -r leaks on it"]),
    ...((incompatible & 2n) === 0n ? [] : ["it is marked as corrupt: run qemu-img check -r all on it"]),
    ...((incompatible & 4n) === 0n ? [] : ["its data is in a file of its own"]),
    // Where its tables begin: entries of 8 bytes, the second one counted in clusters.
    ...(safe(bytes.readBigUInt64BE(40)) + bytes.readUInt32BE(36) * 8 <= fileSize &&
    safe(bytes.readBigUInt64BE(48)) < fileSize
      ? []
      : ["it is cut off"]),
  ];
  const base = { format: "qcow2" as const, virtual_size: safe(bytes.readBigUInt64BE(24)), defects };
  if (backingAt === 0 || backingLength === 0) return base;
  if (backingLength > 1023 || backingAt + backingLength > bytes.length)
    throw broken("it is cut off, or its header is damaged");
  const format = qcow2BackingFormat(bytes, version === 3 ? bytes.readUInt32BE(100) : 72, backingAt);
  return {
    ...base,
    backing: bytes.subarray(backingAt, backingAt + backingLength).toString("utf8"),
    ...(format !== undefined && { backing_format: format }),
  };
}

function qcow2BackingFormat(bytes: Buffer, from: number, to: number): string | undefined {
  for (let at = from; at + 8 <= Math.min(to, bytes.length); ) {
    const [type, length] = [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)];
    if (type === 0) return undefined;
    if (type === 0xe2792aca) return bytes.subarray(at + 8, at + 8 + length).toString("latin1");
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return undefined;
}

/** VMware's Virtual Disk Format 1.1, SparseExtentHeader: capacity in sectors at 12, where the descriptor is at 28. */
function readVmdk(bytes: Buffer): ImageInfo {
  if (bytes.length < 44) throw broken("it is cut off");
  const at = safe(bytes.readBigUInt64LE(28)) * SECTOR;
  const descriptor = at > 0 && at < bytes.length ? bytes.subarray(at).toString("latin1") : "";
  const parent = /^parentFileNameHint="([^"]*)"/m.exec(descriptor)?.[1];
  return {
    format: "vmdk",
    virtual_size: safe(bytes.readBigUInt64LE(12)) * SECTOR,
    ...(parent !== undefined && { backing: parent }),
    defects: [],
  };
}

/** A text that names other files, which hold the data. */
function readVmdkDescriptor(bytes: Buffer): ImageInfo {
  const extents = [...bytes.toString("latin1").matchAll(/^(?:RW|RDONLY|NOACCESS) (\d+) /gm)];
  const sectors = extents.reduce((sum, extent) => sum + Number(extent[1]), 0);
  return { format: "vmdk", virtual_size: sectors * SECTOR, defects: ["its data is in files of their own"] };
}

function readRaw(bytes: Buffer, fileSize: number): ImageInfo {
  // ECMA-119: volume descriptors begin at sector 16 of 2048 bytes.
  if (bytes.subarray(0x8001, 0x8006).toString("latin1") === "CD001") {
    return { format: "iso", virtual_size: fileSize, defects: [], content: "ISO 9660" };
  }
  const content = rawContent(bytes);
  return {
    format: "raw",
    virtual_size: Math.ceil(fileSize / SECTOR) * SECTOR,
    defects: [],
    ...(content !== undefined && { content }),
  };
}

function rawContent(bytes: Buffer): string | undefined {
  const at = (offset: number, magic: string): boolean =>
    bytes.subarray(offset, offset + magic.length).equals(Buffer.from(magic, "latin1"));
  if (at(0x200, "EFI PART")) return "GPT";
  if (at(0x438, "\x53\xef")) return "ext2, ext3 or ext4";
  if (at(0, "LUKS\xba\xbe")) return "LUKS";
  if (at(0, "XFSB")) return "XFS";
  if (at(0, "hsqs")) return "SquashFS";
  if (at(0x36, "FAT") || at(0x52, "FAT32")) return "FAT";
  if (at(0x1fe, "\x55\xaa")) return "MBR";
  return undefined;
}

/**
 * Bytes that the ext2, ext3 or ext4 file system needs which a raw image begins with; undefined: it begins with something else. The
 * superblock is at 1024: blocks at 0x04, their size (1024 << n) at 0x18, the magic number at 0x38; blocks past 32 bits (0x150) only with
 * the incompatible feature 0x80 (Documentation/filesystems/ext4/super.rst).
 */
export function fileSystemSize(head: Uint8Array): number | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  if (bytes.length < 2048 || bytes.readUInt16LE(1024 + 0x38) !== 0xef53) return undefined;
  const wide = (bytes.readUInt32LE(1024 + 0x60) & 0x80) !== 0;
  const blocks = bytes.readUInt32LE(1024 + 0x04) + (wide ? bytes.readUInt32LE(1024 + 0x150) * 2 ** 32 : 0);
  return blocks * 1024 * 2 ** bytes.readUInt32LE(1024 + 0x18);
}

/** Throws E_IMAGE_FORMAT where an image is not what its `format:` says, or cannot be used as it is. */
export function requireImage(
  info: ImageInfo,
  wanted: { readonly format: string; readonly address: string; readonly path: string },
): void {
  const found = info.format === "iso" ? "raw" : info.format;
  if (found !== wanted.format) {
    throw new LabError(
      "E_IMAGE_FORMAT",
      `${wanted.path} is ${info.format}${info.content === undefined ? "" : ` (${info.content})`}, and not ${wanted.format}`,
      {
        address: wanted.address,
        hint:
          found === "qcow2" || found === "raw" ? `write \`format: ${found}\`` : "qemu-img convert -O qcow2 FILE NEW",
      },
    );
  }
  const defects = [
    ...info.defects,
    // Another file on this machine is none on the host; and whoever wrote the image could name any file there.
    ...(info.backing === undefined ? [] : [`it holds only the differences to ${info.backing}`]),
  ];
  if (defects.length === 0) return;
  throw new LabError("E_IMAGE_FORMAT", `${wanted.path} cannot be used as it is: ${defects.join("; ")}`, {
    address: wanted.address,
    ...(info.backing !== undefined && { hint: "make it whole: qemu-img convert -O qcow2 FILE NEW" }),
  });
}
