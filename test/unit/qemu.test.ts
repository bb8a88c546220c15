import { execFileSync, spawnSync } from "node:child_process";
import { mkdir, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Duplex } from "node:stream";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { commandScript, type GuestPlan, initScript, parseMessage } from "../../providers/qemu/guest-init.ts";
import { inspectKernel, parseArch, readKernel } from "../../providers/qemu/image.ts";
import { type GuestSpec, qemuCommand } from "../../providers/qemu/machine.ts";
import { findDrivers, moduleDepends, moduleName } from "../../providers/qemu/modules.ts";
import { supervise } from "../../providers/qemu/process.ts";
import { QmpClient } from "../../src/qmp/index.ts";
import { isStaticProgram, packFolder } from "../../providers/qemu/userland.ts";

let dir: string;
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), "labctl-qemu-unit-"));
});
afterAll(() => rm(dir, { recursive: true, force: true }));

const SPEC: GuestSpec = {
  arch: "x86_64",
  accel: "tcg",
  cpus: 2,
  memory: 512 * 2 ** 20,
  kernel: "/k",
  append: "console=ttyS0",
  console: "/s/console",
  qmp: "/s/qmp",
  ports: [],
  shares: [],
  disks: [],
  name: "x",
};

/** The values behind a flag. */
function values(args: readonly string[], flag: string): string[] {
  return args.flatMap((word, index) => (args[index - 1] === flag ? [word] : []));
}

describe("QEMU's command line", () => {
  it("has for each architecture its machine, its processor and its program", () => {
    const of = (spec: Partial<GuestSpec>): string[] => {
      const { program, args } = qemuCommand({ ...SPEC, ...spec });
      return [program, values(args, "-machine")[0] ?? "", values(args, "-cpu")[0] ?? ""];
    };
    expect(of({})).toEqual(["qemu-system-x86_64", "q35,usb=off,vmport=off", "max"]);
    expect(of({ machine: "microvm" })).toEqual(["qemu-system-x86_64", "microvm", "max"]);
    expect(of({ arch: "aarch64" })).toEqual(["qemu-system-aarch64", "virt", "cortex-a72"]);
    expect(of({ arch: "arm" })).toEqual(["qemu-system-arm", "virt", "cortex-a15"]);
    expect(of({ arch: "riscv64" })).toEqual(["qemu-system-riscv64", "virt", "rv64"]);
    expect(of({ accel: "kvm" })[2]).toBe("host");
    expect(() => qemuCommand({ ...SPEC, machine: "virt" })).toThrow(RangeError);
    expect(() => qemuCommand({ ...SPEC, arch: "arm", machine: "q35" })).toThrow(RangeError);
  });

  it("doubles commas where QEMU splits, and only there", () => {
    const { args } = qemuCommand({
      ...SPEC,
      kernel: "/a,b/bzImage",
      append: "root=a,b console=ttyS0,115200",
      name: "a,b",
      console: "/s,1",
      shares: [{ tag: "t,ag", writable: false, by: { type: "9p", path: "/p,readonly=off" } }],
      disks: [{ path: "/d,isk", format: "raw", throwaway: true }],
    });
    expect(values(args, "-kernel")).toEqual(["/a,b/bzImage"]);
    expect(values(args, "-append")).toEqual(["root=a,b console=ttyS0,115200"]);
    expect(values(args, "-fsdev")).toEqual([
      "local,id=share1,path=/p,,readonly=off,security_model=none,multidevs=remap,readonly=on",
    ]);
    expect(values(args, "-device")).toContain("virtio-9p-pci,fsdev=share1,mount_tag=t,,ag");
    expect(values(args, "-drive")).toEqual(["if=none,id=disk1,file=/d,,isk,format=raw,snapshot=on"]);
    expect(values(args, "-chardev")).toContain("socket,id=console,path=/s,,1,server=off");
    expect(values(args, "-name")).toEqual(["guest=a,,b"]);
  });

  it("gives virtiofs the shared memory that it needs, and nothing else", () => {
    const plain = qemuCommand(SPEC).args.join(" ");
    expect(plain).not.toContain("memory-backend");
    const { args } = qemuCommand({
      ...SPEC,
      shares: [{ tag: "t", writable: true, by: { type: "virtiofs", socket: "/s/fs" } }],
    });
    expect(values(args, "-object")).toEqual(["memory-backend-memfd,id=memory,size=512M,share=on"]);
    expect(values(args, "-machine")).toEqual(["q35,memory-backend=memory,usb=off,vmport=off"]);
  });

  it("puts devices on the bus that the machine has", () => {
    const devices = (spec: Partial<GuestSpec>): string =>
      values(
        qemuCommand({ ...SPEC, ports: [{ name: "p", socket: "/s/p", kind: "port" }], ...spec }).args,
        "-device",
      ).join(" ");
    expect(devices({})).toContain("virtio-serial-pci");
    expect(devices({ machine: "microvm" })).toContain("virtio-serial-device");
  });
});

describe("kernel images", () => {
  const at = (offset: number, bytes: readonly number[] | string, size = 1024): Buffer => {
    const file = Buffer.alloc(size);
    file.set(typeof bytes === "string" ? Buffer.from(bytes, "latin1") : bytes, offset);
    return file;
  };
  const bzImage = (flags: number): Buffer => {
    const file = at(0x202, "HdrS", 4096);
    file.writeUInt16LE(0x20f, 0x206);
    file.writeUInt16LE(0x600, 0x20e);
    file.writeUInt16LE(flags, 0x236);
    file.write("6.9.1-lab (me@host) #7\0", 0x800);
    return file;
  };

  it("are told apart by their magic numbers", () => {
    expect(inspectKernel(bzImage(1))).toEqual({ arch: "x86_64", format: "bzImage", release: "6.9.1-lab" });
    expect(inspectKernel(bzImage(0))).toContain("32-bit");
    expect(inspectKernel(at(56, "ARM\x64"))).toMatchObject({ arch: "aarch64", format: "Image" });
    const riscv = at(56, "RSC\x05");
    riscv.write("RISCV", 48);
    expect(inspectKernel(riscv)).toMatchObject({ arch: "riscv64" });
    expect(inspectKernel(at(0x24, [0x18, 0x28, 0x6f, 0x01]))).toMatchObject({ arch: "arm", format: "zImage" });
    const elf = at(0, "\x7fELF\x02\x01");
    elf.writeUInt16LE(183, 18);
    expect(inspectKernel(elf)).toMatchObject({ arch: "aarch64", format: "ELF" });
    expect(inspectKernel(at(0, [0x27, 0x05, 0x19, 0x56]))).toContain("uImage");
    expect(inspectKernel(at(0, [0xd0, 0x0d, 0xfe, 0xed]))).toContain("device tree");
    expect(inspectKernel(Buffer.from("#!/bin/sh\n"))).toBeUndefined();
    for (let size = 0; size < 600; size += 1) inspectKernel(bzImage(1).subarray(0, size));
  });

  it("are refused by name where they cannot be booted", async () => {
    const write = async (name: string, bytes: Buffer): Promise<string> => {
      await writeFile(join(dir, name), bytes);
      return join(dir, name);
    };
    const code = (path: string, arch?: "arm"): Promise<unknown> =>
      readKernel(path, arch).catch((error: unknown) => error);
    expect(await code(join(dir, "nowhere"))).toMatchObject({ code: "E_SOURCE_FILE" });
    expect(await code(dir)).toMatchObject({ code: "E_SOURCE_FILE" });
    expect(await code(await write("empty", Buffer.alloc(0)))).toMatchObject({ code: "E_BOOT_IMAGE" });
    expect(await code(await write("text", Buffer.from("hello")))).toMatchObject({ code: "E_BOOT_IMAGE" });
    expect(await code(await write("bz", bzImage(1)), "arm")).toMatchObject({ code: "E_IMAGE_ARCH" });
    expect(await readKernel(await write("vmlinuz-6.1.0-9-lab", at(56, "ARM\x64")), undefined)).toMatchObject({
      release: "6.1.0-9-lab",
    });
    expect(parseArch("arm64")).toBe("aarch64");
    expect(() => parseArch("vax")).toThrow(/vax/);
  });
});

describe("modules", () => {
  it("know what they need from their own .modinfo, as a compiler wrote it", async () => {
    const source = join(dir, "m.c");
    await writeFile(
      source,
      'const char a[] __attribute__((section(".modinfo"), used)) = "license=GPL";\nconst char b[] __attribute__((section(".modinfo"), used)) = "depends=virtio,virtio-ring";\n',
    );
    // Without a compiler here: an ELF file that has no such section.
    const compiled = spawnSync("cc", ["-c", "-o", join(dir, "m.ko"), source]).status === 0;
    const file = compiled ? await import("node:fs").then((fs) => fs.readFileSync(join(dir, "m.ko"))) : undefined;
    if (file !== undefined) expect(moduleDepends(file)).toEqual(["virtio", "virtio_ring"]);
    expect(moduleDepends(Buffer.from("\x7fELF\x02\x01 cut off", "latin1"))).toEqual([]);
    expect(moduleDepends(Buffer.alloc(0))).toEqual([]);
    expect(moduleName("/lib/modules/6.1/kernel/virtio-rng.ko.xz")).toBe("virtio_rng");
  });

  it("are there, built in, missing or unknown, by what lies beside the kernel", async () => {
    const boot = join(dir, "d/boot");
    const modules = join(dir, "d/lib/modules/6.1.0-9-lab");
    await mkdir(join(modules, "kernel/fs"), { recursive: true });
    await mkdir(boot, { recursive: true });
    await writeFile(join(modules, "kernel/fs/9p.ko"), "");
    await writeFile(join(modules, "modules.builtin"), "kernel/drivers/virtio/virtio_pci.ko\n");
    const kernel = {
      path: join(boot, "vmlinuz-6.1.0-9-lab"),
      arch: "x86_64",
      format: "bzImage",
      release: "6.1.0-9-lab",
    } as const;
    const unknown = await findDrivers(kernel, undefined);
    expect([unknown.has("9p"), unknown.has("virtio_pci"), unknown.has("virtiofs")]).toEqual([
      "module",
      "builtin",
      "unknown",
    ]);
    await writeFile(
      join(boot, "config-6.1.0-9-lab"),
      "CONFIG_VIRTIO_FS=y\nCONFIG_VIRTIO_BLK=m\n# CONFIG_NET_9P is not set\n",
    );
    const known = await findDrivers(kernel, undefined);
    expect([known.has("virtiofs"), known.has("virtio_blk"), known.has("9pnet_virtio")]).toEqual([
      "builtin",
      "none",
      "none",
    ]);
  });
});

const PLAN: GuestPlan = {
  command: ["printf", "%s|", "it's", "a b", "$HOME", "*", ""],
  tty: false,
  cwd: "/nowhere at all",
  environment: { TERM: "dumb", "NOT A NAME": "x", QUOTED: "a'b $x" },
  root: "share",
  mounts: [{ tag: "labctl-0", target: "/home/a b/it's", writable: true, packed: false }],
  modules: ["virtio.ko"],
  serials: ["ttyS1", "ttyS2", "ttyS3"],
  console: "ttyS0",
};

describe("the guest's scripts", () => {
  it("are valid for the shells that may run them, in each variant", () => {
    for (const tty of [true, false]) {
      for (const root of ["share", "disk", "own"] as const) {
        for (const serials of [PLAN.serials, []]) {
          const plan: GuestPlan = { ...PLAN, tty, root, serials, ...(tty && { size: { rows: 24, columns: 80 } }) };
          for (const text of [
            initScript(plan, "/.labctl/bin/busybox sh"),
            commandScript(plan),
            commandScript({ ...plan, command: [] }),
          ]) {
            for (const shell of [
              ["dash", "-n"],
              ["busybox", "sh", "-n"],
            ]) {
              const [program = "", ...args] = shell;
              const checked = spawnSync(program, args, { input: text, encoding: "utf8" });
              expect(checked.stderr).toBe("");
              expect(checked.status).toBe(0);
            }
          }
        }
      }
    }
  });

  it("start the command itself with exactly these words, and say where there is none", () => {
    for (const shell of [["dash"], ["busybox", "sh"]]) {
      const [program = "", ...args] = shell;
      const ran = spawnSync(program, [...args, "-c", commandScript(PLAN)], { encoding: "utf8" });
      expect(ran.stdout).toBe("it's|a b|$HOME|*||");
      const env = spawnSync(program, [...args, "-c", commandScript({ ...PLAN, command: ["env"] })], {
        encoding: "utf8",
      });
      expect(env.stdout).toContain("QUOTED=a'b $x\n");
      // The real program, and not the shell's own of that name: `ls --version` is GNU's here.
      const real = spawnSync(program, [...args, "-c", commandScript({ ...PLAN, command: ["ls", "--version"] })], {
        encoding: "utf8",
      });
      expect(real.stdout).toBe(execFileSync("ls", ["--version"], { encoding: "utf8" }));
      const none = spawnSync(program, [...args, "-c", commandScript({ ...PLAN, command: ["no-such-thing"] })], {
        encoding: "utf8",
      });
      expect(none.status).toBe(127);
      expect(none.stderr).toContain("no-such-thing: no such command in the guest");
    }
  });

  it("speak a language of lines, of which nothing else is understood", () => {
    expect(parseMessage("exit 255\r")).toEqual({ type: "exit", code: 255 });
    expect(parseMessage("exit 256")).toBeUndefined();
    expect(parseMessage("exit")).toBeUndefined();
    expect(parseMessage("share labctl-0 9p")).toEqual({ type: "share", tag: "labctl-0", how: "9p" });
    expect(parseMessage("share labctl-0 smb")).toBeUndefined();
    expect(parseMessage("ready port")).toEqual({ type: "ready", streams: "port" });
    expect(parseMessage("")).toBeUndefined();
  });
});

describe("what is packed", () => {
  it("is a folder's content, or the reason why not", async () => {
    const folder = join(dir, "pack");
    await mkdir(join(folder, "sub"), { recursive: true });
    await writeFile(join(folder, "sub/file"), "12345", { mode: 0o755 });
    const entries = await packFolder(folder, "p", { bytes: 5, files: 10 });
    expect(entries).toEqual([
      { type: "directory", path: "p", mode: 0o755 },
      { type: "directory", path: "p/sub", mode: 0o755 },
      { type: "file", path: "p/sub/file", mode: 0o755, data: Buffer.from("12345") },
    ]);
    expect(await packFolder(folder, "p", { bytes: 4, files: 10 })).toContain("more than 4 B");
    expect(await packFolder(folder, "p", { bytes: 100, files: 2 })).toContain("more than 2 files");
  });

  it("is a busybox only where it needs no shared library and fits the guest", () => {
    const node = execFileSync("head", ["-c", "4096", process.execPath]);
    const arch = process.arch === "arm64" ? "aarch64" : "x86_64";
    expect(isStaticProgram(node, arch)).toBe(false);
    expect(isStaticProgram(Buffer.from("not a program"), arch)).toBe(false);
  });
});

function alive(group: number): boolean {
  try {
    return process.kill(-group, 0);
  } catch {
    return false;
  }
}

describe("supervised programs", () => {
  it("end with an exit code, their last words, and all that they started", async () => {
    const failed = supervise("sh", ["-c", "echo last words >&2; exit 3"]);
    expect(await failed.ended).toMatchObject({ code: 3, stderr: "last words" });
    const long = supervise("sh", ["-c", "sleep 1000 & sleep 1000"]);
    await long.stop();
    // They are dead at once; whoever reaps orphans here may take a moment.
    await expect.poll(() => alive(long.pid), { timeout: 10_000 }).toBe(false);
    expect(await supervise("/nowhere/program", []).ended).toMatchObject({ code: 127 });
  });
});

describe("the QMP client", () => {
  it("fails each call that is under way when QEMU goes, and does not take what is no QMP", async () => {
    const end = (): Duplex => {
      const stream: Duplex = new Duplex({
        read: () => undefined,
        write: (chunk: Buffer, _encoding, done) => {
          if (chunk.includes("qmp_capabilities")) stream.push('{"return": {}, "id": 1}\r\n');
          done();
        },
      });
      return stream;
    };
    const one = end();
    const connecting = QmpClient.connect(one);
    one.push('{"QMP": {"version": {}, "capabilities": []}}\r\n');
    const client = await connecting;
    const call = client.execute("query-status");
    one.destroy();
    await expect(call).rejects.toMatchObject({ code: "E_QEMU" });
    await expect(client.execute("cont")).rejects.toMatchObject({ code: "E_QEMU" });
    const other = end();
    const refused = QmpClient.connect(other);
    other.push("SSH-2.0-OpenSSH\r\n");
    await expect(refused).rejects.toMatchObject({ code: "E_QEMU" });
  });
});
