import { execFileSync } from "node:child_process";
import { copyFile, mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type CliResult, labctl } from "../support/cli.ts";
import { busyboxInitramfs, busyboxStatic, debianKernel } from "../support/kernels.ts";

/** Emulated, on a machine that does other things too. */
const BOOT = 110_000;

let dir: string;

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-boot-guests-"));
});

afterAll(() => rm(dir, { recursive: true, force: true }));

function boot(args: readonly string[], cwd = dir): Promise<CliResult> {
  return labctl(["boot", ...args], {
    cwd,
    env: { HOME: dir, XDG_CACHE_HOME: join(dir, "cache"), NO_COLOR: "1" },
    timeout: BOOT,
  });
}

describe("arm64", () => {
  it("runs a command with a busybox of its own, in the folder one stands in", { timeout: 240_000 }, async () => {
    const { image, release } = await debianKernel("aarch64");
    await writeFile(join(dir, "given.txt"), "given\n");
    const { code, stdout } = await boot([
      image,
      "--arch",
      "arm64",
      "--busybox",
      await busyboxStatic("aarch64"),
      "--",
      "sh",
      "-c",
      "uname -mr; cat given.txt; echo arm > from-arm.txt; exit 42",
    ]);
    expect(stdout).toBe(`${release} aarch64\ngiven\n`);
    expect(code).toBe(42);
    expect(await readFile(join(dir, "from-arm.txt"), "utf8")).toBe("arm\n");
  });

  it("runs what an initrd brings, and says what is missing where nothing does", { timeout: 240_000 }, async () => {
    const { image } = await debianKernel("aarch64");
    const without = await boot([image, "--", "uname", "-m"]);
    expect(without.stderr).toContain("[E_BOOT_USERLAND]");
    expect(without.code).toBe(3);
    const initrd = await busyboxInitramfs({
      arch: "aarch64",
      files: { "bin/mine": "#!/bin/sh\necho mine $(uname -m)\nexit 3\n" },
    });
    const { code, stdout } = await boot([image, "--initrd", initrd, "--", "mine"]);
    expect(stdout).toBe("mine aarch64\n");
    expect(code).toBe(3);
  });
});

describe("a root of its own", () => {
  it("is a disk image whose changes are thrown away", { timeout: 240_000 }, async () => {
    const { image } = await debianKernel("x86_64");
    const root = join(dir, "root");
    for (const name of ["bin", "proc", "sys", "dev", "tmp", "run", "etc"])
      await mkdir(join(root, name), { recursive: true });
    await copyFile(await busyboxStatic(), join(root, "bin/busybox"));
    for (const name of ["sh", "cat", "sync"]) await symlink("busybox", join(root, "bin", name));
    await writeFile(join(root, "etc/who"), "the disk\n");
    execFileSync("mke2fs", ["-q", "-t", "ext4", "-d", root, join(dir, "root.img"), "32M"], {
      env: { PATH: `${process.env["PATH"] ?? ""}:/usr/sbin:/sbin` },
    });
    const before = await readFile(join(dir, "root.img"));
    const ran = await boot([
      image,
      "--root",
      "root.img",
      "--",
      "sh",
      "-c",
      "cat /etc/who; echo x > /etc/new && cat /etc/new; sync",
    ]);
    expect(ran).toMatchObject({ stdout: "the disk\nx\n", code: 0 });
    expect((await readFile(join(dir, "root.img"))).equals(before)).toBe(true);
  });
});

describe("a kernel with 9p as modules", () => {
  it("shares this machine's programs and folders by it, whatever they are called", { timeout: 300_000 }, async () => {
    const { image, release } = await debianKernel("x86_64", "generic");
    const odd = join(dir, "a,b ro=x 'q'");
    await mkdir(odd);
    await writeFile(join(odd, "in"), "in\n");
    const script = "cat in; echo out > out; touch /usr/labctl-was-here && echo wrote; uname -r";
    const { code, stdout } = await boot([image, "--json", "--", "sh", "-c", script], odd);
    const report = JSON.parse(stdout) as { stdout: string };
    expect(report).toMatchObject({ verdict: "exited", root: "9p", shares: [{ path: odd, how: "9p", writable: true }] });
    expect(report.stdout).toBe(`in\n${release}\n`);
    expect(code).toBe(0);
    expect(await readFile(join(odd, "out"), "utf8")).toBe("out\n");
  });
});
