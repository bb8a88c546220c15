import { execFileSync } from "node:child_process";
import { closeSync, mkdtempSync, openSync, readFileSync, readSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { IMAGE_HEAD, readImage, requireImage } from "../../providers/libvirt/model/image.ts";
import { KERNEL_HEAD, readKernel } from "../../providers/libvirt/model/kernel-image.ts";
import { debianKernel } from "../support/kernels.ts";

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "labctl-image-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function headOf(path: string, length: number): Buffer {
  const file = openSync(path, "r");
  try {
    const bytes = Buffer.alloc(length);
    return bytes.subarray(0, readSync(file, bytes, 0, length, 0));
  } finally {
    closeSync(file);
  }
}

const img = (...args: readonly string[]): string =>
  execFileSync("qemu-img", args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
const read = (name: string) => readImage(headOf(join(folder, name), IMAGE_HEAD), statSync(join(folder, name)).size);
/** What qemu-img says of the same file. */
function told(name: string): {
  format: string;
  size: number;
  backing: string | undefined;
  backingFormat: string | undefined;
} {
  const info = JSON.parse(img("info", "-U", "--output=json", name)) as Record<string, unknown>;
  return {
    format: String(info["format"]),
    size: Number(info["virtual-size"]),
    backing: info["backing-filename"] as string | undefined,
    backingFormat: info["backing-filename-format"] as string | undefined,
  };
}

describe("disk images, against qemu-img", () => {
  test.each([
    ["plain.qcow2", ["-f", "qcow2", "plain.qcow2", "10G"]],
    ["old.qcow2", ["-f", "qcow2", "-o", "compat=0.10", "old.qcow2", "3G"]],
    ["layer.qcow2", ["-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "layer.qcow2"]],
    ["bigger.qcow2", ["-f", "qcow2", "-b", "plain.qcow2", "-F", "qcow2", "bigger.qcow2", "20G"]],
    ["raw-below.qcow2", ["-f", "qcow2", "-b", "plain.raw", "-F", "raw", "raw-below.qcow2"]],
    ["odd.qcow2", ["-f", "qcow2", "odd.qcow2", "1000000"]],
    ["disk.vmdk", ["-f", "vmdk", "disk.vmdk", "5G"]],
    ["flat.vmdk", ["-f", "vmdk", "-o", "subformat=monolithicFlat", "flat.vmdk", "100M"]],
    ["disk.vdi", ["-f", "vdi", "disk.vdi", "4G"]],
    ["disk.qed", ["-f", "qed", "disk.qed", "2G"]],
    ["plain.raw", ["-f", "raw", "plain.raw", "7M"]],
  ])("%s", (name, args) => {
    if (name.startsWith("raw-below")) img("create", "-q", "-f", "raw", "plain.raw", "7M");
    img("create", "-q", ...args);
    const [ours, theirs] = [read(name), told(name)];
    expect(ours.format).toBe(theirs.format);
    expect(ours.virtual_size).toBe(theirs.size);
    expect(ours.backing).toBe(theirs.backing);
    expect(ours.backing_format).toBe(theirs.backingFormat);
  });

  test("what cannot be used as it is says why", () => {
    img("create", "-q", "-f", "qcow2", "-o", "data_file=data.raw", "external.qcow2", "1M");
    expect(read("external.qcow2").defects).toEqual(["its data is in a file of its own"]);
    img(
      "create",
      "-q",
      "-f",
      "qcow2",
      "--object",
      "secret,id=s,data=x",
      "-o",
      // Not LUKS: qemu-img measures the processor for its key, and refuses to on a busy machine.
      "encrypt.format=aes,encrypt.key-secret=s",
      "secret.qcow2",
      "1M",
    );
    expect(read("secret.qcow2").defects).toEqual(["it is encrypted"]);
    const wanted = { address: "volume.a", path: "x" };
    expect(() => requireImage(read("secret.qcow2"), { ...wanted, format: "qcow2" })).toThrow(/encrypted/);
    img("create", "-q", "-f", "qcow2", "whole.qcow2", "1M");
    img("create", "-q", "-f", "qcow2", "-b", "whole.qcow2", "-F", "qcow2", "upper.qcow2");
    expect(() => requireImage(read("upper.qcow2"), { ...wanted, format: "qcow2" })).toThrow(
      /only the differences to whole.qcow2/,
    );
    expect(() => requireImage(read("whole.qcow2"), { ...wanted, format: "raw" })).toThrow(/is qcow2, and not raw/);
    expect(() => requireImage(read("whole.qcow2"), { ...wanted, format: "qcow2" })).not.toThrow();
    for (const format of ["vpc", "vhdx"]) {
      img("create", "-q", "-f", format, `disk.${format}`, "64M");
      expect(() => read(`disk.${format}`)).toThrow(/no machine can use this image: it is a VHD/);
    }
    writeFileSync(join(folder, "a.qcow2.gz"), gzipSync(readFileSync(join(folder, "whole.qcow2"))));
    expect(() => read("a.qcow2.gz")).toThrow(/it is compressed \(gzip\)/);
    writeFileSync(join(folder, "cut.qcow2"), readFileSync(join(folder, "whole.qcow2")).subarray(0, 40));
    expect(() => read("cut.qcow2")).toThrow(/cut off/);
    writeFileSync(join(folder, "empty"), "");
    expect(() => read("empty")).toThrow(/empty/);
  });

  test("a file system without a partition table is a raw disk that says what it holds", () => {
    img("create", "-q", "-f", "raw", "fs.raw", "8M");
    execFileSync("mkfs.ext4", ["-q", join(folder, "fs.raw")], {
      stdio: "ignore",
      env: { ...process.env, PATH: `${process.env["PATH"]}:/sbin:/usr/sbin` },
    });
    expect(read("fs.raw")).toMatchObject({ format: "raw", content: "ext2, ext3 or ext4", virtual_size: 8 * 1024 ** 2 });
  });
});

describe("kernels, against Debian's own packages", () => {
  test("what is read of a whole kernel is what the package says", async () => {
    const [x86, arm] = await Promise.all([debianKernel("x86_64"), debianKernel("aarch64")]);
    expect(readKernel(headOf(x86.image, KERNEL_HEAD))).toEqual({
      format: "bzImage",
      arch: "x86_64",
      release: x86.release,
    });
    expect(readKernel(headOf(arm.image, KERNEL_HEAD))).toEqual({ format: "Image", arch: "arm64" });
    const packed = gzipSync(readFileSync(arm.image)).subarray(0, KERNEL_HEAD);
    expect(readKernel(packed)).toEqual({ format: "Image", arch: "arm64", compressed: "gzip" });
  });
});
