/**
 * Kernels for other processors than the build server's, with clang, with modules and with device trees: built over SSH from
 * Debian's source, looked at with tools that know nothing of labctl, and booted as environments under libvirt and QEMU.
 * `npm run test:kernel`; LABCTL_LINUX_SOURCE names a linux-source-*.tar.xz that is there already.
 */
import { execFileSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { sha256File } from "../../providers/build/source-directory.ts";
import { type TestLibvirtd, startLibvirtd } from "../support/libvirtd.ts";
import { linuxSource } from "../support/linux-source.ts";
import { createWorkspace, type Workspace } from "../support/workspace.ts";

const MINUTE = 60_000;
const INIT = `#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>
int main(void)
{
	struct utsname name;
	uname(&name);
	printf("lab-env: up on %s %s\\n", name.release, name.machine);
	fflush(stdout);
	for (;;)
		pause();
}
`;
const COMMON = {
  PRINTK: "y",
  TTY: "y",
  BLK_DEV_INITRD: "y",
  RD_GZIP: "y",
  BINFMT_ELF: "y",
  SERIAL_EARLYCON: "y",
  MULTIUSER: "y",
};
const PL011 = { SERIAL_AMBA_PL011: "y", SERIAL_AMBA_PL011_CONSOLE: "y" };
const UART = { SERIAL_8250: "y", SERIAL_8250_CONSOLE: "y", SERIAL_OF_PLATFORM: "y" };

interface Port {
  readonly arch: string;
  readonly kernel: Record<string, unknown>;
  /** What compiles its user space. */
  readonly gcc: string;
  /** What `file` says of the kernel's image, and `uname -m` in the machine. */
  readonly image: RegExp;
  readonly machine: string;
  readonly toolchain?: string;
}

const PORTS: Readonly<Record<string, Port>> = {
  arm64: {
    arch: "arm64",
    // A device tree by name: only its own is compiled, whatever else the platform has.
    kernel: { config: { ...COMMON, ...PL011, ARCH_VEXPRESS: "y" }, dtbs: ["arm/foundation-v8.dtb"] },
    gcc: "aarch64-linux-gnu-gcc",
    image: /Linux kernel ARM64 boot executable Image/,
    machine: "aarch64",
  },
  armv7: {
    arch: "armv7",
    kernel: {
      config: {
        ...COMMON,
        ...PL011,
        MMU: "y",
        ARCH_MULTI_V7: "y",
        ARCH_VIRT: "y",
        AEABI: "y",
        VFP: "y",
        ARCH_VEXPRESS: "y",
      },
      dtbs: true,
    },
    gcc: "arm-linux-gnueabihf-gcc",
    image: /Linux kernel ARM boot executable zImage/,
    machine: "armv7l",
  },
  riscv64: {
    arch: "riscv64",
    kernel: { config: { ...COMMON, ...UART, SOC_VIRT: "y", FPU: "y", MODULES: "y", CRC7: "m" }, modules: true },
    gcc: "riscv64-linux-gnu-gcc",
    // Its EFI stub makes it one.
    image: /PE32\+ executable \(EFI application\) RISC-V 64-bit/,
    machine: "riscv64",
  },
  clang: {
    arch: "x86_64",
    kernel: {
      config: { ...COMMON, SERIAL_8250: "y", SERIAL_8250_CONSOLE: "y", "64BIT": "y", ACPI: "y", PCI: "y" },
    },
    toolchain: "clang",
    gcc: "gcc",
    image: /Linux kernel x86 boot executable bzImage/,
    machine: "x86_64",
  },
};

let folder: string;
let virt: TestLibvirtd;
let ws: Workspace;
let source: object;

function pipeline(names: readonly string[], config: object = {}): void {
  const ports = names.map((name) => [name, PORTS[name]] as const);
  ws.write("pipeline.yaml", {
    labctl: 1,
    name: "ports",
    builds: Object.fromEntries(
      ports.flatMap(([name, port]) => [
        [
          name,
          {
            source,
            arch: port?.arch,
            ...(port?.toolchain !== undefined && { toolchain: port.toolchain }),
            kernel: {
              defconfig: "tinyconfig",
              ...port?.kernel,
              config: { ...(port?.kernel["config"] as object), ...config },
            },
            timeout: "1h",
          },
        ],
        [
          `init-${name}`,
          {
            source: { path: "./init" },
            arch: port?.arch,
            run: `${port?.gcc} -static -O1 -o init init.c && echo init | cpio -o -H newc --quiet | gzip -n >initrd`,
            outputs: { initrd: { path: "initrd", type: "initrd" } },
          },
        ],
      ]),
    ),
    environments: Object.fromEntries(
      ports.map(([name, port]) => [
        `on-${name}`,
        {
          vm: { arch: port?.arch, memory: "256MiB" },
          boot: {
            kernel: `\${build.${name}.kernel_image}`,
            initrd: `\${build.init-${name}.initrd}`,
            release: `\${build.${name}.release}`,
            ready: { marker: "lab-env: up" },
          },
        },
      ]),
    ),
  });
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "labctl-cross-"));
  const tarball = linuxSource(folder);
  source = { tarball, sha256: await sha256File(tarball) };
  virt = await startLibvirtd();
  ws = createWorkspace();
  const { host } = virt;
  ws.write("init/init.c", INIT);
  ws.write("lab.yaml", {
    labctl: 1,
    name: "cross",
    hosts: {
      metal: {
        address: host.address,
        sudo: true,
        ssh: { user: "lab", key: host.keyPath, known_hosts: host.knownHostsPath, port: host.port },
        build_server: { workdir: "/srv/build", min_free_disk: "1MB" },
        qemu_host: { max_vms: 8 },
      },
    },
  });
}, 10 * MINUTE);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe("kernels for other machines", () => {
  const run = async (args: readonly string[], code: number): Promise<string> => {
    const ended = await ws.spawn(args, { timeout: 40 * MINUTE }).done;
    expect(ended.code, ended.output.slice(-6000)).toBe(code);
    return ended.stdout;
  };
  /** What the last build of a name made, as a file of its own, and as a file name. */
  const fetched = async (build: string, artifact: string): Promise<string> => {
    const path = join(folder, `${build}-${artifact.replaceAll("/", "-")}`);
    await run(["artifact", "get", artifact, "--name", build, "--latest", "-o", path], 0);
    return path;
  };
  const namesOf = async (build: string, type: string): Promise<string[]> => {
    const listed = await run(["artifact", "list", "--name", build, "--json"], 0);
    const { builds } = JSON.parse(listed) as { builds: { artifacts: Record<string, { type: string }> }[] };
    return builds.flatMap(({ artifacts }) =>
      Object.entries(artifacts).flatMap(([name, one]) => (one.type === type ? [name] : [])),
    );
  };

  test.each(Object.keys(PORTS))(
    "%s: built, looked at, booted; again: nothing to do",
    { timeout: 40 * MINUTE },
    async (name) => {
      const port = PORTS[name];
      pipeline([name]);
      await run(["apply", "--auto-approve"], 0);
      const built = JSON.parse(await run(["show", `build.${name}`, "--json"], 0)) as {
        observed: Record<string, string>;
      };
      expect(execFileSync("file", ["-b", await fetched(name, "kernel_image")], { encoding: "utf8" })).toMatch(
        port?.image ?? /never/,
      );
      const log = await virt.run("cat", `/var/log/libvirt/qemu/cross-ports-on-${name}-console.log`);
      const release = built.observed["release"] ?? "never";
      expect(log).toContain(`Linux version ${release}`);
      expect(log).toContain(`lab-env: up on ${release} ${port?.machine}`);
      if (name === "clang") expect(log).toMatch(/Linux version .*clang version \d+.*LLD \d+/);
      await run(["plan", "--detailed-exitcode"], 0);
    },
  );

  test("device trees are those asked for, and whole", { timeout: 10 * MINUTE }, async () => {
    const source = (dtb: string): string =>
      execFileSync("dtc", ["-q", "-I", "dtb", "-O", "dts", dtb], { encoding: "utf8" });
    const named = await namesOf("arm64", "device_tree");
    expect(named).toEqual(["foundation-v8.dtb"]);
    expect(source(await fetched("arm64", named[0] ?? ""))).toContain("/dts-v1/;");
    // All of a configuration come together.
    const [all = ""] = await namesOf("armv7", "device_trees");
    const inside = join(folder, "dtbs");
    mkdirSync(inside);
    execFileSync("tar", ["-xf", await fetched("armv7", all), "-C", inside]);
    const trees = readdirSync(inside, { recursive: true }).map(String);
    expect(trees.filter((name) => name.endsWith(".dtb")).map((name) => basename(name))).toEqual(
      expect.arrayContaining(["vexpress-v2p-ca9.dtb", "vexpress-v2p-ca15-tc1.dtb"]),
    );
    for (const name of trees.filter((one) => one.endsWith(".dtb"))) {
      expect(source(join(inside, name))).toContain("/dts-v1/;");
    }
  });

  test("modules are for the processor that they were asked for", { timeout: 10 * MINUTE }, async () => {
    const [name = ""] = await namesOf("riscv64", "kernel_modules");
    const inside = join(folder, "modules");
    mkdirSync(inside);
    execFileSync("tar", ["-xf", await fetched("riscv64", name), "-C", inside]);
    const found = execFileSync("find", [inside, "-name", "crc7.ko", "-exec", "file", "-b", "{}", "+"], {
      encoding: "utf8",
    });
    expect(found).toMatch(/ELF 64-bit LSB relocatable, UCB RISC-V/);
  });

  test("a symbol more is another build; destroy leaves nothing", { timeout: 40 * MINUTE }, async () => {
    pipeline(["riscv64"], { IKCONFIG: "y" });
    const plan = await run(["plan", "--detailed-exitcode"], 2);
    expect(plan).toContain("build.riscv64");
    await run(["destroy", "--auto-approve"], 0);
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
  });
});
