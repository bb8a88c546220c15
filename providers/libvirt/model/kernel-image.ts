import { constants, gunzipSync } from "node:zlib";
import { LabError } from "../../../src/index.ts";
import type { Arch } from "./arch.ts";
import { compression } from "./image.ts";

/** Bytes from the start of a file that are enough to say what kernel it is, also through gzip. */
export const KERNEL_HEAD = 64 * 1024;

export interface KernelInfo {
  readonly format: "bzImage" | "Image" | "zImage" | "ELF" | "uImage" | "EFI" | "zboot" | "FIT";
  /** `i386` and others are told too: no machine of labctl's has them. Undefined: the format does not say. */
  readonly arch: string | undefined;
  /** Release, where the header has it: `6.1.0-56-cloud-amd64`. */
  readonly release?: string;
  readonly compressed?: string;
}

/** ELF e_machine, and PE's Machine, which has numbers of its own. */
const ELF_MACHINES: Readonly<Record<number, string>> = {
  3: "i386",
  8: "mips",
  20: "powerpc",
  21: "ppc64",
  22: "s390x",
  40: "armv7",
  62: "x86_64",
  183: "arm64",
  243: "riscv64",
  258: "loongarch64",
};
const PE_MACHINES: Readonly<Record<number, string>> = {
  0x014c: "i386",
  0x01c0: "armv7",
  0x01c2: "armv7",
  0x01c4: "armv7",
  0x8664: "x86_64",
  0xaa64: "arm64",
  0x5032: "riscv32",
  0x5064: "riscv64",
  0x6264: "loongarch64",
};
/** include/image.h of U-Boot: IH_ARCH_*. */
const UIMAGE_ARCHES: Readonly<Record<number, string>> = {
  2: "armv7",
  3: "i386",
  5: "mips",
  7: "powerpc",
  22: "arm64",
  24: "x86_64",
  26: "riscv64",
};

/** Says what a kernel is, from its first bytes (see {@link KERNEL_HEAD}). Throws E_IMAGE_FORMAT for what is none. */
export function readKernel(head: Uint8Array): KernelInfo {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  const packed = compression(bytes);
  if (packed?.name === "gzip") {
    let inner: Buffer;
    try {
      // Only the start is here: what there is of it is enough.
      inner = gunzipSync(bytes, { finishFlush: constants.Z_SYNC_FLUSH, maxOutputLength: 64 * KERNEL_HEAD });
    } catch {
      throw none("it is damaged (gzip)");
    }
    return { ...readKernel(inner), compressed: "gzip" };
  }
  if (packed !== undefined) throw none(`it is compressed (${packed.name}) from its first byte on, which nothing boots`);
  return bzImage(bytes) ?? image(bytes) ?? zImage(bytes) ?? elf(bytes) ?? uImage(bytes) ?? efi(bytes) ?? unknown(bytes);
}

function none(why: string): LabError {
  return new LabError("E_IMAGE_FORMAT", `this is no kernel: ${why}`, {
    hint: "a bzImage, Image, zImage, vmlinux or EFI kernel, possibly through gzip",
  });
}

function unknown(bytes: Buffer): never {
  if (bytes.length === 0) throw none("it is empty");
  if (bytes.length < 64) throw none("it is cut off");
  if (bytes.subarray(0, 6).toString("latin1") === "070701") throw none("it is a cpio archive, as an initrd is");
  throw none("nothing in its first bytes says what it is");
}

/** Documentation/arch/x86/boot.rst: "HdrS" at 0x202, the release's text at the offset in 0x20e, 64-bit entry in xloadflags. */
function bzImage(bytes: Buffer): KernelInfo | undefined {
  if (bytes.length < 0x238 || bytes.readUInt32BE(0x202) !== 0x48647253) return undefined;
  const version = bytes.readUInt16LE(0x206);
  const wide = version >= 0x020c && (bytes.readUInt16LE(0x236) & 1) === 1;
  const release = textAt(bytes, bytes.readUInt16LE(0x20e) === 0 ? -1 : bytes.readUInt16LE(0x20e) + 0x200);
  return { format: "bzImage", arch: wide ? "x86_64" : "i386", ...(release !== undefined && { release }) };
}

function textAt(bytes: Buffer, at: number): string | undefined {
  if (at < 0 || at >= bytes.length) return undefined;
  const end = bytes.indexOf(0, at);
  const text = bytes.subarray(at, end < 0 ? at + 128 : end).toString("latin1");
  return /^\d+\.\d+\S*/.exec(text)?.[0];
}

/** Documentation/arch/arm64/booting.rst and riscv/boot-image-header.rst: the same header, with a magic at 56. */
function image(bytes: Buffer): KernelInfo | undefined {
  if (bytes.length < 64) return undefined;
  const magic = bytes.subarray(56, 60).toString("latin1");
  if (magic === "ARM\x64") return { format: "Image", arch: "arm64" };
  // The width of RISC-V is not in the header; a kernel for EFI says it in its PE header.
  if (magic === "RSC\x05" || bytes.subarray(48, 53).toString("latin1") === "RISCV") {
    return { format: "Image", arch: peMachine(bytes) ?? "riscv64" };
  }
  return undefined;
}

/** arch/arm/boot/compressed/head.S: a magic at 0x24, in the byte order of the kernel. */
function zImage(bytes: Buffer): KernelInfo | undefined {
  if (bytes.length < 0x30) return undefined;
  const [little, big] = [bytes.readUInt32LE(0x24), bytes.readUInt32BE(0x24)];
  if (little === 0x016f2818) return { format: "zImage", arch: "armv7" };
  return big === 0x016f2818 ? { format: "zImage", arch: "armv7 (big-endian)" } : undefined;
}

function elf(bytes: Buffer): KernelInfo | undefined {
  if (bytes.length < 20 || bytes.readUInt32BE(0) !== 0x7f454c46) return undefined;
  const little = bytes[5] !== 2;
  const machine = little ? bytes.readUInt16LE(18) : bytes.readUInt16BE(18);
  const name = ELF_MACHINES[machine] ?? `ELF machine ${machine}`;
  const narrow = name === "riscv64" && bytes[4] === 1;
  return { format: "ELF", arch: narrow ? "riscv32" : little ? name : `${name} (big-endian)` };
}

function uImage(bytes: Buffer): KernelInfo | undefined {
  if (bytes.length < 64) return undefined;
  const magic = bytes.readUInt32BE(0);
  if (magic === 0x27051956) {
    const type = bytes[29] ?? 0;
    return { format: "uImage", arch: UIMAGE_ARCHES[type] ?? `U-Boot architecture ${type}` };
  }
  return magic === 0xd00dfeed ? { format: "FIT", arch: undefined } : undefined;
}

/** A program for UEFI. drivers/firmware/efi/libstub/zboot-header.S: "zimg" at 4, how it is compressed at 24. */
function efi(bytes: Buffer): KernelInfo | undefined {
  const arch = peMachine(bytes);
  if (arch === undefined) return undefined;
  if (bytes.subarray(4, 8).toString("latin1") !== "zimg") return { format: "EFI", arch };
  const compressed = bytes.subarray(24, 32).toString("latin1").replaceAll("\0", "");
  return { format: "zboot", arch, compressed };
}

function peMachine(bytes: Buffer): string | undefined {
  if (bytes.length < 64 || bytes.subarray(0, 2).toString("latin1") !== "MZ") return undefined;
  const at = bytes.readUInt32LE(0x3c);
  if (at + 6 > bytes.length || bytes.readUInt32BE(at) !== 0x50450000) return undefined;
  const machine = bytes.readUInt16LE(at + 4);
  return PE_MACHINES[machine] ?? `PE machine 0x${machine.toString(16)}`;
}

/** Throws E_IMAGE_ARCH where a kernel is for another processor than the machine has. A FIT says nothing, and passes. */
export function requireKernel(
  info: KernelInfo,
  wanted: { readonly arch: Arch; readonly address: string; readonly path: string },
): void {
  if (info.arch === undefined || info.arch === wanted.arch) return;
  throw new LabError(
    "E_IMAGE_ARCH",
    `${wanted.path} is a kernel for ${info.arch} (${info.format}${info.release === undefined ? "" : ` ${info.release}`}), and the machine is ${wanted.arch}`,
    { address: wanted.address, hint: `build it for ${wanted.arch}, or set \`arch: ${info.arch}\` on the machine` },
  );
}
