import { open } from "node:fs/promises";
import { gunzipSync } from "node:zlib";
import { LabError } from "../../src/index.ts";
import type { GuestArch } from "./machine.ts";

/** What a file is that somebody wants booted. */
export interface KernelImage {
  readonly path: string;
  readonly arch: GuestArch;
  readonly format: "bzImage" | "Image" | "zImage" | "ELF";
  /** What `uname -r` will say, where the file holds it in a known place. */
  readonly release: string | undefined;
}

/** Enough for every header and for the text that a bzImage's header points to. */
const HEAD = 96 * 1024;
const ARCHES: readonly GuestArch[] = ["x86_64", "aarch64", "arm", "riscv64"];
const NAMES: Readonly<Record<string, GuestArch>> = {
  x86_64: "x86_64",
  x86: "x86_64",
  amd64: "x86_64",
  aarch64: "aarch64",
  arm64: "aarch64",
  arm: "arm",
  armv7: "arm",
  armhf: "arm",
  riscv64: "riscv64",
  riscv: "riscv64",
};

/** `arm64` and `amd64` mean what they mean elsewhere. @throws LabError E_USAGE */
export function parseArch(text: string): GuestArch {
  const arch = NAMES[text];
  if (arch === undefined) {
    throw new LabError("E_USAGE", `${JSON.stringify(text)} is no architecture that can be booted`, {
      hint: `one of ${ARCHES.join(", ")}`,
    });
  }
  return arch;
}

/**
 * Reads the head of a kernel image. Pure but for the decompression. Undefined where the bytes are no kernel; a text where
 * they are one that QEMU cannot start, with what to do.
 */
export function inspectKernel(head: Uint8Array): Omit<KernelImage, "path"> | string | undefined {
  const bytes = Buffer.from(head.buffer, head.byteOffset, head.byteLength);
  const at = (offset: number, text: string): boolean =>
    bytes.length >= offset + text.length && bytes.toString("latin1", offset, offset + text.length) === text;
  if (at(0, "MZ") && at(4, "zimg")) {
    return "an EFI zboot image, which only firmware can unpack; take the plain Image of the same build";
  }
  // Documentation/arch/x86/boot.rst: "HdrS" at 0x202; xloadflags (2.12) at 0x236, bit 0: there is a 64-bit entry point.
  if (at(0x202, "HdrS") && bytes.length >= 0x238) {
    const protocol = bytes.readUInt16LE(0x206);
    const wide = protocol >= 0x20c && (bytes.readUInt16LE(0x236) & 1) === 1;
    if (!wide) return "a 32-bit x86 kernel; only x86_64 is served";
    return { arch: "x86_64", format: "bzImage", release: bzImageRelease(bytes) };
  }
  // Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst: magic at 56.
  if (at(56, "ARM\x64")) return { arch: "aarch64", format: "Image", release: undefined };
  if (at(56, "RSC\x05") && at(48, "RISCV")) return { arch: "riscv64", format: "Image", release: undefined };
  // arch/arm/boot/compressed/head.S
  if (bytes.length >= 0x28 && bytes.readUInt32LE(0x24) === 0x016f2818) {
    return { arch: "arm", format: "zImage", release: undefined };
  }
  if (at(0, "\x7fELF") && bytes.length >= 20) {
    const arch = ELF[bytes.readUInt16LE(18)];
    return arch === undefined
      ? "an ELF file of a machine that is not served"
      : { arch, format: "ELF", release: undefined };
  }
  if (bytes.length >= 4 && bytes.readUInt32BE(0) === 0x27051956) {
    return "a U-Boot uImage; take the kernel that it was made of (zImage or Image)";
  }
  if (bytes.length >= 4 && bytes.readUInt32BE(0) === 0xd00dfeed) {
    return "a flattened device tree or FIT image; take the kernel that is inside";
  }
  return undefined;
}

/** ELF e_machine. */
const ELF: Readonly<Record<number, GuestArch>> = { 62: "x86_64", 183: "aarch64", 40: "arm", 243: "riscv64" };

/** kernel_version at 0x20e: where its text lies, less 0x200. */
function bzImageRelease(bytes: Buffer): string | undefined {
  const offset = bytes.readUInt16LE(0x20e) + 0x200;
  const end = bytes.indexOf(0, offset);
  if (offset <= 0x200 || end < 0 || end - offset > 256) return undefined;
  return /^\S+/.exec(bytes.toString("latin1", offset, end))?.[0];
}

/**
 * Looks at a kernel image before anything is started.
 * @throws LabError E_SOURCE_FILE where it cannot be read, E_BOOT_IMAGE where it is no kernel, E_IMAGE_ARCH where it is one of
 * another architecture than `arch`
 */
export async function readKernel(path: string, arch: GuestArch | undefined): Promise<KernelImage> {
  const head = await headOf(path, "kernel");
  const packed = head.length > 2 && head[0] === 0x1f && head[1] === 0x8b;
  const found = inspectKernel(packed ? unpackHead(head) : head);
  if (found === undefined) {
    throw new LabError("E_BOOT_IMAGE", `${path} is not a kernel: ${magicOf(head)}`, {
      hint: "a kernel is a bzImage, an Image (also gzipped), a zImage or an ELF vmlinux; after a build it lies in arch/*/boot/",
    });
  }
  if (typeof found === "string") {
    throw new LabError("E_BOOT_IMAGE", `${path} cannot be booted: it is ${found}`);
  }
  if (packed && found.arch !== "aarch64") {
    throw new LabError("E_BOOT_IMAGE", `${path} is gzipped, which QEMU takes only for aarch64`, {
      hint: `gunzip it first: gunzip -c ${path} > Image`,
    });
  }
  if (arch !== undefined && arch !== found.arch) {
    throw new LabError("E_IMAGE_ARCH", `${path} is a kernel for ${found.arch}, not for ${arch}`, {
      hint: `leave --arch out: it is read from the image`,
    });
  }
  return { path, ...found, release: found.release ?? releaseInName(path) };
}

/** `vmlinuz-6.1.0-9-amd64`: as distributions name them. */
function releaseInName(path: string): string | undefined {
  return /(?:vmlinuz|vmlinux|Image|bzImage)-(\d+\.\d+[^/]*)$/.exec(path)?.[1]?.replace(/\.gz$/, "");
}

/** @throws LabError E_SOURCE_FILE */
export async function headOf(path: string, what: string, size = HEAD): Promise<Buffer> {
  try {
    const file = await open(path, "r");
    try {
      const buffer = Buffer.alloc(size);
      const { bytesRead } = await file.read(buffer, 0, size, 0);
      return buffer.subarray(0, bytesRead);
    } finally {
      await file.close();
    }
  } catch (cause) {
    const why = cause instanceof Error && "code" in cause ? String(cause.code) : "";
    const text =
      why === "ENOENT" ? "is not there" : why === "EISDIR" ? "is a folder" : why === "EACCES" ? "may not be read" : why;
    throw new LabError("E_SOURCE_FILE", `the ${what} ${path} ${text}`, {
      cause,
      ...(why === "EACCES" && { hint: "kernels in /boot are often root's alone: copy it, or change its mode" }),
    });
  }
}

function unpackHead(head: Buffer): Buffer {
  try {
    // A part of a stream ends too early, and gives what there is all the same.
    return gunzipSync(head, { finishFlush: 2 });
  } catch {
    return Buffer.alloc(0);
  }
}

function magicOf(head: Buffer): string {
  if (head.length === 0) return "it is empty";
  if (head.subarray(0, 8).toString("latin1") === "!<arch>\n") return "it is an archive";
  if (head.subarray(0, 2).toString("latin1") === "#!") return "it is a script";
  if (head.every((byte) => byte === 0)) return "it holds only zeroes";
  return `none of the known magic numbers (it begins with ${head.subarray(0, 8).toString("hex")})`;
}
