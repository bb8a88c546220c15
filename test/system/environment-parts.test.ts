/**
 * What an environment's machine has besides its kernel: a root file system, modules, network cards, disks. In one machine, on a host
 * that is chosen since it has the network, as the guest itself and others on the host see it.
 */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { copyFileSync, cpSync, mkdirSync, readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { basename, join } from "node:path";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { cpioArchive, padArchive } from "../../src/archives/index.ts";
import { busyboxInitramfs, busyboxStatic, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

const PLACED = "/var/lib/libvirt/labctl/environments";
const CONSOLE = "/var/log/libvirt/qemu/lab-ci-smoke-console.log";
const MIB = 2 ** 20;
const ROOT_SIZE = 8 * MIB;
const DISK = { size: "24MiB" };

/** In Debian's kernel all of virtio is a module: without them there is neither a root nor a network card. */
const MODULES: Readonly<Record<string, readonly string[]>> = {
  "kernel/drivers/virtio/virtio_ring.ko": [],
  "kernel/drivers/virtio/virtio.ko": ["virtio_ring"],
  "kernel/drivers/virtio/virtio_pci_modern_dev.ko": [],
  "kernel/drivers/virtio/virtio_pci_legacy_dev.ko": [],
  "kernel/drivers/virtio/virtio_pci.ko": ["virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci_legacy_dev"],
  "kernel/drivers/block/virtio_blk.ko": ["virtio", "virtio_ring"],
  "kernel/net/core/failover.ko": [],
  "kernel/drivers/net/net_failover.ko": ["failover"],
  "kernel/drivers/net/virtio_net.ko": ["virtio", "virtio_ring", "net_failover", "failover"],
};

const INITRD = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for one in virtio_pci virtio_blk virtio_net; do modprobe $one; done
echo "lab-modules: $(ls /lib/modules) has $(sed -n 's/^\\(virtio_blk\\) .*/\\1/p' /proc/modules)"
echo "lab-lib: $(busybox readlink /lib || echo a folder)"
n=0; while [ ! -b /dev/vda ] && [ $n -lt 50 ]; do sleep 0.1; n=$((n+1)); done
mkdir /new
mount -t ext4 "$(sed -n 's/.*root=\\([^ ]*\\).*/\\1/p' /proc/cmdline)" /new || exit 3
exec switch_root /new /init
`;
const ROOT = `#!/bin/busybox sh
export PATH=/bin
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
if [ -e /etc/written ]; then echo "lab-root: somebody wrote to it"; fi
echo "lab-root: $(cat /etc/marker)"
echo written >/etc/written && sync && echo "lab-root: can be written to"
echo "lab-disks:$(for d in /sys/block/vd*; do echo " \${d##*/} $(cat $d/size)"; done | tr -d '\\n')"
echo "lab-card: $(cat /sys/class/net/eth0/address)"
echo "lab-env: up"
while :; do sleep 1000; done
`;

let virt: TestLibvirtd;
let away: TestLibvirtd;
let kernel: Awaited<ReturnType<typeof debianKernel>>;
let busybox: string;
let ws: Workspace;
let initrd: string;

/** A tar archive with the modules that the guest needs, as `modules: true` makes one. */
function modulesOf(release: string, name: string): string {
  const root = ws.path(`made/${name}`);
  const folder = join(root, "lib/modules", release);
  const paths = new Map(Object.keys(MODULES).map((path) => [basename(path, ".ko"), path]));
  const deps = Object.entries(MODULES).map(
    ([path, needs]) => `${path}:${needs.map((one) => ` ${paths.get(one) ?? ""}`).join("")}\n`,
  );
  for (const path of paths.values()) cpSync(join(kernel.modules, path), join(folder, path), { recursive: true });
  writeFileSync(join(folder, "modules.dep"), deps.join(""));
  execFileSync("tar", ["-C", root, "--sort=name", "-cf", ws.path(`${name}.tar`), "."]);
  return `./${name}.tar`;
}

/** An ext4 file system with busybox and a program to begin with. */
function rootOf(name: string, marker: string, init = ROOT): string {
  const folder = ws.path(`made/${name}`);
  for (const one of ["bin", "etc", "proc", "sys", "dev"]) mkdirSync(join(folder, one), { recursive: true });
  copyFileSync(busybox, join(folder, "bin/busybox"));
  writeFileSync(join(folder, "init"), init, { mode: 0o755 });
  writeFileSync(join(folder, "etc/marker"), `${marker}\n`);
  for (const one of ["sh", "mount", "cat", "ls", "tr", "sync", "sleep"])
    execFileSync("ln", ["-sf", "busybox", join(folder, "bin", one)]);
  execFileSync("mke2fs", ["-q", "-t", "ext4", "-d", folder, ws.path(name), String(ROOT_SIZE / 1024)]);
  return `./${name}`;
}

function qcow2Of(raw: string, name: string): string {
  execFileSync("qemu-img", ["convert", "-f", "raw", "-O", "qcow2", ws.path(raw), ws.path(name)]);
  return `./${name}`;
}

const digest = (name: string): string =>
  createHash("sha256")
    .update(readFileSync(ws.path(name)))
    .digest("hex");

function spec(boot: object = {}, vm: object = {}, more: object = {}): void {
  ws.write("pipeline.yaml", {
    labctl: 1,
    name: "ci",
    environments: {
      smoke: {
        vm: { memory: "256MiB", networks: ["test"], disks: [DISK], ...vm },
        boot: {
          kernel: kernel.image,
          initrd,
          rootfs: "./one.ext4",
          modules: "./modules.tar",
          cmdline: "console=ttyS0 panic=0",
          ready: { marker: "lab-env: up" },
          silence: "40s",
          attempts: 0,
          ...boot,
        },
        ...more,
      },
    },
  });
}

/** The first root file system, up: each test begins there. */
async function up(): Promise<void> {
  spec();
  await ws.apply();
}

const console = (): Promise<string> => virt.run("cat", CONSOLE);
const placed = async (): Promise<string[]> =>
  (await virt.run("find", PLACED, "-type", "f", "-printf", "%f\\n")).split("\n").toSorted();

beforeAll(async () => {
  [virt, away, kernel, busybox] = await Promise.all([
    startLibvirtd({ name: "metal" }),
    startLibvirtd({ name: "away" }),
    debianKernel("x86_64"),
    busyboxStatic(),
  ]);
  initrd = await busyboxInitramfs({ init: INITRD });
  ws = createWorkspace();
  ws.write("lab.yaml", {
    labctl: 1,
    name: "lab",
    hosts: {
      away: hostOf(away.host, { qemu_host: { max_vms: 4 } }),
      metal: hostOf(virt.host, { qemu_host: { max_vms: 4 } }),
    },
    networks: {
      test: { host: "metal", cidr: "192.168.160.0/24" },
      other: { host: "away", cidr: "192.168.161.0/24" },
    },
  });
  modulesOf(kernel.release, "modules");
  rootOf("one.ext4", "the first");
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await Promise.all([virt?.stop(), away?.stop()]);
});

describe("a machine with all its parts", () => {
  test("root file system, modules, network card and disk: as the guest sees them, on the host with the network", {
    timeout: 200_000,
  }, async () => {
    await up();
    const said = await console();
    expect(said).toContain(`lab-modules: ${kernel.release} has virtio_blk`);
    expect(said).toContain("lab-lib: a folder");
    expect(said).toContain("root=/dev/vda rw");
    expect(said).toContain("lab-root: the first");
    expect(said).toContain("lab-root: can be written to");
    expect(said).toContain(`lab-disks: vda ${ROOT_SIZE / 512} vdb ${(24 * MIB) / 512}`);
    const mac = /(?:[0-9a-f]{2}:){5}[0-9a-f]{2}/.exec(await virt.virsh("domiflist", "lab-ci-smoke"))?.[0];
    expect(mac).toBeDefined();
    expect(said).toContain(`lab-card: ${mac ?? ""}`);
    expect(await away.virsh("list", "--all", "--name")).toBe("");
    expect(await ws.pending()).toEqual({});
  });

  test("the image is there once on its host, and stays as it was", { timeout: 60_000 }, async () => {
    await up();
    const sha256 = digest("one.ext4");
    const path = await virt.run("find", PLACED, "-name", `rootfs-${sha256}.raw`);
    expect(await virt.run("sha256sum", path)).toContain(sha256);
    expect(await virt.run("find", "/var/lib/labctl/artifacts", "-samefile", path)).toContain(`/${sha256}`);
    // Whoever breaks out of a machine cannot change what the next one begins with.
    expect(await virt.run("stat", "-c", "%U %a", path)).toBe("root 444");
    const layer = await virt.run("qemu-img", "info", "-U", path.replace(/rootfs-[^/]*$/, "vda.qcow2"));
    expect(layer).toContain(`backing file: ${path}`);
  });
});

describe("what cannot be booted", () => {
  const refused = async (boot: object, vm: object = {}): Promise<string> => {
    spec(boot, vm);
    const plan = await ws.run(["plan"]);
    expect(plan.code, plan.output).toBe(3);
    return plan.output;
  };

  test("is refused by name before anything is touched", { timeout: 120_000 }, async () => {
    await up();
    copyFileSync(ws.path("one.ext4"), ws.path("cut.ext4"));
    truncateSync(ws.path("cut.ext4"), 5 * MIB);
    expect(await refused({ rootfs: "./cut.ext4" })).toMatch(
      /cut\.ext4 cannot be a root file system: it is cut off: its file system has 8\.0 MiB, and the file 5\.0 MiB \[E_IMAGE_FORMAT\]/,
    );
    ws.write("empty.img", "");
    expect(await refused({ rootfs: "./empty.img" })).toMatch(/empty\.img cannot be a root file system: .*it is empty/);
    qcow2Of("one.ext4", "head.qcow2");
    truncateSync(ws.path("head.qcow2"), 100_000);
    expect(await refused({ rootfs: "./head.qcow2" })).toMatch(/head\.qcow2 .*it is cut off \[E_IMAGE_FORMAT\]/);
    modulesOf("9.9.9-lab", "others");
    expect(await refused({ modules: "./others.tar" })).toContain(
      `others.tar holds modules of 9.9.9-lab, and the kernel is ${kernel.release}`,
    );
    expect(await refused({ modules: "./one.ext4" })).toMatch(/one\.ext4 (holds no modules|is no archive of modules)/);
    expect(await refused({ initrd: undefined })).toMatch(/initrd/);
    expect(await refused({}, { networks: ["tset"] })).toMatch(/tset[\s\S]*test/);
    expect(await refused({}, { networks: ["test", "other"] })).toContain(
      "network.test is on metal, and network.other on away",
    );
    expect(await refused({}, { host: "away" })).toContain("network.test is on metal, and the machine is to be on away");
    spec();
    expect(await ws.pending()).toEqual({});
  });

  test("an image whose end is missing is found out on the host, and what runs goes on", {
    timeout: 60_000,
  }, async () => {
    await up();
    qcow2Of("one.ext4", "tail.qcow2");
    truncateSync(ws.path("tail.qcow2"), statSync(ws.path("tail.qcow2")).size - 2 * MIB);
    const before = await virt.virsh("domid", "lab-ci-smoke");
    spec({ rootfs: "./tail.qcow2" });
    const run = await ws.apply([], 3);
    expect(run.summary.problems[0]).toMatchObject({
      code: "E_IMAGE_FORMAT",
      message: expect.stringMatching(/tail\.qcow2 cannot be a root file system: it is cut off or damaged/) as string,
    });
    expect(await virt.virsh("domid", "lab-ci-smoke")).toBe(before);
  });
});

describe("another root file system", () => {
  test("that panics is gone back from, to the one before", { timeout: 200_000 }, async () => {
    await up();
    rootOf("bad.ext4", "the bad", "#!/bin/busybox sh\nexit 3\n");
    spec({ rootfs: "./bad.ext4" }, {}, { on_failure: "rollback" });
    const run = await ws.apply([], 7);
    expect(run.summary.problems[0]?.code).toBe("E_BOOT_CRASHED");
    expect(run.summary.problems[0]?.message).toContain(
      `with the root file system ${digest("one.ext4").slice(0, 12)} on host.metal`,
    );
    const said = await console();
    expect(said).toContain("lab-root: the first");
    expect(said).toContain(`lab-modules: ${kernel.release} has virtio_blk`);
    // A start begins with the image, and not with what the one before wrote.
    expect(said).not.toContain("somebody wrote to it");
    expect(await placed()).toEqual(
      [
        `initrd-${createHash("sha256").update(readFileSync(initrd)).digest("hex")}-modules-${digest("modules.tar")}`,
        `kernel-${createHash("sha256").update(readFileSync(kernel.image)).digest("hex")}`,
        `rootfs-${digest("one.ext4")}.raw`,
        "vda.qcow2",
        "vdb.qcow2",
      ].toSorted(),
    );
    await up();
    expect(await ws.pending()).toEqual({});
  });

  test("what is changed behind labctl's back is named", { timeout: 60_000 }, async () => {
    await up();
    await virt.virsh("destroy", "lab-ci-smoke");
    expect(await ws.pending()).toEqual({ "environment.smoke": "update running, ready" });
    await virt.virsh("detach-interface", "lab-ci-smoke", "network", "--config");
    await virt.virsh("detach-disk", "lab-ci-smoke", "vdb", "--config");
    expect(await ws.pending()).toEqual({ "environment.smoke": "update networks, disks, running, ready" });
    const xml = await virt.virsh("dumpxml", "--inactive", "lab-ci-smoke");
    writeFileSync(
      virt.host.root("/root/other.xml"),
      xml.replace(/\/[^']*\/rootfs-[0-9a-f]{64}\.raw/, "/var/lib/other.raw"),
    );
    await virt.virsh("define", "/root/other.xml");
    expect(Object.values(await ws.pending())[0]).toContain("rootfs_digest");
  });

  test("killed while it boots, it is brought to its end by the next apply", { timeout: 200_000 }, async () => {
    rootOf("two.ext4", "the second");
    // As initial RAM disks of distributions are: /lib is a link.
    const linked = cpioArchive([
      { type: "directory", path: "usr/lib", mode: 0o755 },
      { type: "symlink", path: "lib", mode: 0o777, target: "usr/lib" },
    ]);
    writeFileSync(ws.path("linked.cpio"), Buffer.concat([padArchive(readFileSync(initrd)), linked]));
    spec({ initrd: "./linked.cpio", rootfs: qcow2Of("two.ext4", "two.qcow2"), modules: "./modules.tar.gz" });
    writeFileSync(ws.path("modules.tar.gz"), gzipSync(readFileSync(ws.path("modules.tar"))));
    const child = ws.spawn(["apply", "--auto-approve", "--json"], { timeout: 110_000 });
    await child.event((event) => event.type === "stage.started" && event.stage === "boot");
    child.kill("SIGKILL");
    await child.done;
    await ws.apply();
    const said = await console();
    expect(said).toContain("lab-lib: usr/lib");
    expect(said).toContain("lab-root: the second");
    expect(said).toContain(`lab-modules: ${kernel.release} has virtio_blk`);
    expect(await placed()).toContain(`rootfs-${digest("two.qcow2")}.qcow2`);
    expect(await placed()).toHaveLength(5);
    expect(await ws.pending()).toEqual({});
    spec({ rootfs: undefined, cmdline: "console=ttyS0" });
    expect(Object.values(await ws.pending())[0]).toContain("rootfs_digest");
  });

  test("destroy leaves nothing, and no more of one that was killed", { timeout: 120_000 }, async () => {
    await ws.destroy();
    const left = async (): Promise<string> =>
      (await virt.virsh("list", "--all", "--name")) + (await virt.run("ls", "-A", PLACED));
    expect(await left()).toBe("");
    spec();
    const child = ws.spawn(["apply", "--auto-approve", "--json"], { timeout: 110_000 });
    await child.event((event) => event.type === "stage.started" && event.stage === "verify");
    child.kill("SIGKILL");
    await child.done;
    expect(await left()).not.toBe("");
    await ws.destroy();
    expect(await left()).toBe("");
  });
});
