import { spawn } from "node:child_process";
import { describe, expect, it } from "vitest";
import { busyboxInitramfs, debianKernel, type KernelArch } from "../support/kernels.ts";

/** QEMU started by hand: what this file's own tools make must boot without labctl. */
function boots(arch: KernelArch, image: string, initrd: string): Promise<string> {
  const args =
    arch === "x86_64"
      ? ["-machine", "q35", "-append", "console=ttyS0 panic=-1"]
      : ["-machine", "virt", "-cpu", "cortex-a53", "-append", "console=ttyAMA0 panic=-1"];
  const child = spawn(
    `qemu-system-${arch}`,
    [
      ...args,
      "-accel",
      "tcg",
      "-m",
      "512M",
      "-nographic",
      "-nodefaults",
      "-no-reboot",
      "-serial",
      "stdio",
      "-kernel",
      image,
      "-initrd",
      initrd,
    ],
    { stdio: ["ignore", "pipe", "pipe"], timeout: 90_000, killSignal: "SIGKILL" },
  );
  return new Promise((resolve, reject) => {
    let text = "";
    child.once("error", reject);
    for (const stream of [child.stdout, child.stderr])
      stream.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
    child.once("close", () => resolve(text));
  });
}

describe("Debian's kernels with a busybox initramfs", () => {
  for (const arch of ["x86_64", "aarch64"] as const) {
    it(`reach /init on ${arch}, with QEMU started by hand`, async () => {
      const { image, release } = await debianKernel(arch);
      const text = await boots(arch, image, await busyboxInitramfs({ arch }));
      expect(text).toContain(`labctl-test: up ${release}`);
    });
  }
});
