import { readFileSync } from "node:fs";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { readKernel, requireKernel } from "../../providers/libvirt/model/kernel-image.ts";
import { LabError } from "../../src/index.ts";

/**
 * The first bytes of Debian 12's kernels (linux-image-6.1.0-56-cloud-amd64, -cloud-arm64, linux-image-6.1.0-50-armmp-lpae:armhf) and
 * of OpenSBI from its qemu-system-data; the second arm64 one went through gzip.
 */
const head = (name: string): Buffer => readFileSync(join(import.meta.dirname, "../fixtures/images", name));

/** A header as Documentation/arch/riscv/boot-image-header.rst has it: Debian 12 has no kernel for RISC-V. */
function riscvHeader(): Buffer {
  const bytes = Buffer.alloc(1024);
  bytes.writeUInt32LE(2, 32);
  bytes.write("RISCV\0\0\0", 48, "latin1");
  bytes.write("RSC\x05", 56, "latin1");
  return bytes;
}

/** A PE header (Microsoft's PE format, 4): a program for UEFI. */
function pe(machine: number, start = ""): Buffer {
  const bytes = Buffer.alloc(512);
  bytes.write(`MZ${start}`, 0, "latin1");
  bytes.writeUInt32LE(0x80, 0x3c);
  bytes.write("PE\0\0", 0x80, "latin1");
  bytes.writeUInt16LE(machine, 0x84);
  return bytes;
}

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    return error instanceof LabError ? error.code : String(error);
  }
  return "no error";
}

describe("kernels by their first bytes", () => {
  test.each([
    [
      "Debian's for x86_64",
      head("kernel-x86_64-bzImage.bin"),
      { format: "bzImage", arch: "x86_64", release: "6.1.0-56-cloud-amd64" },
    ],
    ["Debian's for arm64", head("kernel-arm64-Image.bin"), { format: "Image", arch: "arm64" }],
    ["Debian's for armhf", head("kernel-armv7-zImage.bin"), { format: "zImage", arch: "armv7" }],
    [
      "arm64 through gzip, cut off",
      head("kernel-arm64-Image-gz.bin"),
      { format: "Image", arch: "arm64", compressed: "gzip" },
    ],
    ["an ELF program for riscv64", head("program-riscv64.elf.bin"), { format: "ELF", arch: "riscv64" }],
    ["an Image for RISC-V", riscvHeader(), { format: "Image", arch: "riscv64" }],
    ["an EFI program for arm64", pe(0xaa64), { format: "EFI", arch: "arm64" }],
    ["an EFI program of an unknown machine", pe(0x1234), { format: "EFI", arch: "PE machine 0x1234" }],
  ] as const)("%s", (_name, bytes, expected) => {
    expect(readKernel(bytes)).toEqual(expected);
  });

  test("an EFI zboot says how it is compressed", () => {
    const bytes = pe(0xaa64, "\0\0zimg");
    bytes.write("zstd", 24, "latin1");
    expect(readKernel(bytes)).toEqual({ format: "zboot", arch: "arm64", compressed: "zstd" });
  });

  test("a uImage names its architecture by U-Boot's number", () => {
    const bytes = Buffer.alloc(128);
    bytes.writeUInt32BE(0x27051956, 0);
    bytes[29] = 22;
    expect(readKernel(bytes)).toEqual({ format: "uImage", arch: "arm64" });
  });

  test("a 32-bit bzImage is told from a 64-bit one", () => {
    const bytes = Buffer.from(head("kernel-x86_64-bzImage.bin"));
    bytes.writeUInt16LE(bytes.readUInt16LE(0x236) & ~1, 0x236);
    expect(readKernel(bytes).arch).toBe("i386");
  });

  test.each([
    ["nothing", Buffer.alloc(0), "it is empty"],
    ["a few bytes", Buffer.from("MZ"), "it is cut off"],
    ["zeros", Buffer.alloc(4096), "nothing in its first bytes"],
    ["text", Buffer.from("#!/bin/sh\n".repeat(20)), "nothing in its first bytes"],
    ["an initrd", Buffer.from(`070701${"0".repeat(104)}`), "as an initrd is"],
    ["an initrd through gzip", gzipSync(Buffer.from(`070701${"0".repeat(104)}`)), "as an initrd is"],
    ["xz", Buffer.concat([Buffer.from("\xfd7zXZ\0", "latin1"), Buffer.alloc(64)]), "it is compressed (xz)"],
    ["gzip of nothing", Buffer.from([0x1f, 0x8b, 8, 0, 1, 2, 3]), "it is empty"],
  ] as const)("%s is no kernel: E_IMAGE_FORMAT", (_name, bytes, why) => {
    expect(code(() => readKernel(bytes))).toBe("E_IMAGE_FORMAT");
    expect(() => readKernel(bytes)).toThrow(why);
  });

  test("a kernel for another processor than the machine's: E_IMAGE_ARCH, with both named", () => {
    const info = readKernel(head("kernel-arm64-Image.bin"));
    const wanted = { address: "vm.a", path: "./Image" };
    expect(code(() => requireKernel(info, { ...wanted, arch: "x86_64" }))).toBe("E_IMAGE_ARCH");
    expect(() => requireKernel(info, { ...wanted, arch: "x86_64" })).toThrow(/arm64.*x86_64/);
    expect(() => requireKernel(info, { ...wanted, arch: "arm64" })).not.toThrow();
    // A FIT can hold kernels for several; it does not say in its first bytes.
    const fit = Buffer.alloc(128);
    fit.writeUInt32BE(0xd00dfeed, 0);
    expect(() => requireKernel(readKernel(fit), { ...wanted, arch: "armv7" })).not.toThrow();
  });
});
