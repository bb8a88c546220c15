/**
 * Parts of machines that only a guest can show, on a real libvirtd, through the CLI: shares, huge pages, UEFI, a watchdog card, a
 * TPM. Two guests with Debian's kernel boot side by side.
 */
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { VIRTIO } from "../support/guest-modules.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";
import { createWorkspace, hostOf, type Workspace } from "../support/workspace.ts";

/** In an order in which each finds what it needs. */
const MODULES = [
  ...VIRTIO,
  "fs/netfs/netfs.ko",
  "fs/fscache/fscache.ko",
  "net/9p/9pnet.ko",
  "net/9p/9pnet_virtio.ko",
  "fs/9p/9p.ko",
  "fs/fuse/fuse.ko",
  "fs/fuse/virtiofs.ko",
  "drivers/watchdog/watchdog.ko",
];

/**
 * Says what it finds, and writes what it can. The watchdog is opened in the first boot only, for 4 s, and never fed: `hang` in a
 * share is a memory that outlives the reset.
 */
const INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do insmod /modules/$module; done
say() { echo "labctl-test: $*"; }
share() { # type, tag
  mkdir -p /mnt/$2
  mount -t $1 $([ $1 = virtiofs ] || echo "-o trans=virtio,version=9p2000.L") $2 /mnt/$2 || return
  say "$2 has $(cat /mnt/$2/from-host)"
  echo "$2 of the guest" >/mnt/$2/from-guest && say "$2 is written" || say "$2 is not written"
}
[ ! -d /sys/firmware/efi ] || say "efi of $(cat /sys/firmware/efi/fw_platform_size) bits"
[ ! -c /dev/tpm0 ] || say "tpm $(cat /sys/class/tpm/tpm0/tpm_version_major) pcr $(cat /sys/class/tpm/tpm0/pcr-sha256/23)"
if grep -q test.shares /proc/cmdline; then
  share 9p nine; share virtiofs fast; share 9p fixed
fi
say "up $(uname -r)"
if grep -q test.shares /proc/cmdline; then
  insmod /modules/drivers/watchdog/i6300esb.ko heartbeat=4
  [ -e /mnt/nine/hung ] || [ ! -c /dev/watchdog ] || { touch /mnt/nine/hung; sync; exec 3>/dev/watchdog; say "starves its watchdog"; }
fi
while :; do sleep 60; done
`;

const PAGES = 128;
const NR_HUGEPAGES = "/proc/sys/vm/nr_hugepages";

let virt: TestLibvirtd;
let ws: Workspace;
let boot: { readonly kernel: string; readonly initrd: string; readonly cmdline: string };
let release: string;
let reservedBefore: string;

function lab(vm: object = {}): void {
  const vms = {
    parts: {
      host: "kvm",
      memory: "256MiB",
      hugepages: "2MiB",
      shares: [
        { source: "/srv/nine", target: "/nine", type: "9p" },
        { source: "/srv/fast", target: "/fast", type: "virtiofs" },
        { source: "/srv/fixed", target: "/fixed", readonly: true },
      ],
      tpm: true,
      watchdog: "reset",
      boot: { ...boot, cmdline: `${boot.cmdline} test.shares` },
      ...vm,
    },
    efi: { host: "kvm", memory: "256MiB", firmware: "uefi", boot },
  };
  ws.write("lab.yaml", { labctl: 1, name: "guests", hosts: { kvm: hostOf(virt.host, { qemu_host: {} }) }, vms });
}

const consoleOf = async (name: string): Promise<string> =>
  (await virt.run("cat", `/var/log/libvirt/qemu/guests-${name}-console.log`)).replaceAll("\r", "");
const hugePagesFree = (): number =>
  Number(/HugePages_Free: +([0-9]+)/.exec(readFileSync("/proc/meminfo", "utf8"))?.[1]);
/** What the parts of machines left behind, besides their definitions. */
const remains = (): Promise<string> =>
  virt.run(
    "sh",
    "-c",
    "ls -A /var/lib/libvirt/qemu/nvram /var/lib/libvirt/swtpm 2>/dev/null | grep -v : | tr -d '\\n'; pgrep -l 'swtpm|virtiofsd' || :; find /var/lib/libvirt/qemu /run/libvirt -name '*-fs[0-9].sock' -o -name '*swtpm.sock'",
  );

beforeAll(async () => {
  reservedBefore = readFileSync(NR_HUGEPAGES, "utf8");
  const [started, kernel] = await Promise.all([
    startLibvirtd({
      setup:
        "mkdir -p /dev/hugepages; mount -t hugetlbfs none /dev/hugepages; for one in nine fast fixed; do mkdir -p /srv/$one; echo $one of the host >/srv/$one/from-host; chmod 777 /srv/$one; done",
    }),
    debianKernel("x86_64", "generic"),
  ]);
  virt = started;
  release = kernel.release;
  const files = [...MODULES, "drivers/watchdog/i6300esb.ko"].map(
    (path) => [`modules/${path}`, readFileSync(join(kernel.modules, "kernel", path))] as const,
  );
  const initrd = await busyboxInitramfs({ init: INIT, files: Object.fromEntries(files) });
  boot = { kernel: kernel.image, initrd, cmdline: "console=ttyS0 panic=0 quiet" };
  ws = createWorkspace();
}, 300_000);
afterAll(async () => {
  ws?.remove();
  await virt?.stop();
  if (reservedBefore !== undefined) writeFileSync(NR_HUGEPAGES, reservedBefore);
});

describe("parts that only a guest can show", { timeout: 180_000 }, () => {
  test("a host with too few huge pages refuses the start, and says what to do", async () => {
    writeFileSync(NR_HUGEPAGES, "8");
    lab();
    const run = await ws.run(["apply", "--auto-approve", "--target", "vm.parts"]);
    expect(run.code, run.output).toBe(6);
    expect(run.output).toContain("fewer huge pages free than its memory needs");
    expect(run.output).toContain("vm.nr_hugepages");
  });

  test("two guests boot, and are made once", async () => {
    writeFileSync(NR_HUGEPAGES, String(PAGES));
    lab();
    expect(hugePagesFree(), "this kernel reserves huge pages").toBe(PAGES);
    await ws.apply();
    expect(await ws.pending()).toEqual({});
    for (const name of ["parts", "efi"])
      await expect
        .poll(() => consoleOf(name), { timeout: 100_000, interval: 500 })
        .toContain(`labctl-test: up ${release}`);
  });

  test("shares: the guest reads what the host wrote, and the host what the guest wrote, by 9p and by virtiofs", async () => {
    const text = await consoleOf("parts");
    for (const name of ["nine", "fast"]) {
      expect(text).toContain(`labctl-test: ${name} has ${name} of the host`);
      expect(await virt.run("cat", `/srv/${name}/from-guest`)).toBe(`${name} of the guest`);
    }
    expect(await virt.virsh("dumpxml", "guests-parts")).toContain("<driver type='virtiofs'/>");
  });

  test("shares: one that is read-only is read and not written", async () => {
    const text = await consoleOf("parts");
    expect(text).toContain("labctl-test: fixed has fixed of the host");
    expect(text).toContain("labctl-test: fixed is not written");
    expect(await virt.run("ls", "/srv/fixed")).toBe("from-host");
  });

  test("huge pages: the guest's memory lies in them", async () => {
    const pid = await virt.run("cat", "/run/libvirt/qemu/guests-parts.pid");
    const sizes = await virt.run(
      "awk",
      "/^(Shared|Private)_Hugetlb/ {sum += $2} END {print sum}",
      `/proc/${pid}/smaps`,
    );
    expect(Number(sizes)).toBe(256 * 1024);
    expect(hugePagesFree()).toBe(0);
  });

  test("UEFI: the kernel was started by it, and the machine has variables of its own", async () => {
    expect(await consoleOf("efi")).toContain("labctl-test: efi of 64 bits");
    expect(await consoleOf("parts")).not.toContain("labctl-test: efi");
    expect(await virt.run("ls", "/var/lib/libvirt/qemu/nvram")).toMatch(/^guests-efi_VARS/);
  });

  test("TPM: the guest reads registers of a TPM 2.0", async () => {
    expect(await consoleOf("parts")).toMatch(/labctl-test: tpm 2 pcr 0{64}\n/);
    expect(await virt.run("pgrep", "-c", "-x", "swtpm")).toBe("1");
  });

  test("watchdog: a guest that does not feed it is reset", async () => {
    const boots = async (): Promise<number> => (await consoleOf("parts")).split("labctl-test: up").length - 1;
    await expect.poll(boots, { timeout: 60_000, interval: 500 }).toBe(2);
    expect((await consoleOf("parts")).match(/starves its watchdog/g)).toHaveLength(1);
    expect(await ws.pending()).toEqual({});
  });

  test("a part that somebody took away is missed", async () => {
    await virt.virsh("destroy", "guests-parts");
    const xml = await virt.virsh("dumpxml", "--inactive", "guests-parts");
    const without = xml
      .replace(/<tpm [\s\S]*?<\/tpm>/, "")
      .replace(/<watchdog [\s\S]*?<\/watchdog>/, "")
      .replace(/<hugepages>[\s\S]*?<\/hugepages>/, "")
      .replace(/<readonly\/>/, "");
    writeFileSync(virt.host.root("/root/without.xml"), without);
    await virt.virsh("define", "/root/without.xml");
    expect(await ws.pending()).toEqual({ "vm.parts": "update hugepages, shares.2.readonly, watchdog, tpm, running" });
    writeFileSync(virt.host.root("/root/with.xml"), xml);
    await virt.virsh("define", "/root/with.xml");
    expect(await ws.pending()).toEqual({ "vm.parts": "update running" });
  });

  test("destroy leaves nothing: no variables, no TPM state, no sockets, no huge page", async () => {
    expect(await remains()).not.toBe("");
    // This guest has no ear for a power button, and would be waited for.
    await virt.virsh("destroy", "guests-efi");
    await ws.destroy();
    expect(await virt.virsh("list", "--all", "--name")).toBe("");
    expect(await remains()).toBe("");
    await expect.poll(hugePagesFree).toBe(PAGES);
    expect(await virt.run("ls", "/srv/nine")).toContain("from-host");
  });
});
