import { execFileSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { makeSeed } from "../../providers/libvirt/model/cloud-init.ts";
import type { HostFacts } from "../../providers/libvirt/model/facts.ts";
import { diffRunningVm } from "../../providers/libvirt/model/vm-diff.ts";
import { resolveVm } from "../../providers/libvirt/model/vm-resolve.ts";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";
import { unsupported } from "../../providers/libvirt/model/vm-support.ts";
import type { DiskModel, VmModel } from "../../providers/libvirt/model/vm.ts";
import { parseCapabilities, parseDomainCapabilities } from "../../providers/libvirt/xml/capabilities.ts";
import { observeDomain } from "../../providers/libvirt/xml/domain-observe.ts";
import { buildDisk, buildDomain, buildNic } from "../../providers/libvirt/xml/domain.ts";
import { liveOf } from "../property/vm-live.ts";
import { busyboxInitramfs, debianKernel } from "../support/kernels.ts";
import { startLibvirtd, type TestLibvirtd } from "../support/libvirtd.ts";

const IMAGES = "/var/lib/libvirt/images";
const USER_DATA = '#cloud-config\n# from the seed: <é & "quotes">\n';
/** In the order in which they need each other; those that the kernel has built in are not among its files. */
const MODULES = [
  "virtio_ring",
  "virtio",
  "virtio_pci_legacy_dev",
  "virtio_pci_modern_dev",
  "virtio_pci",
  "virtio_mmio",
  "virtio_blk",
  "cdrom",
  "isofs",
];

/** Finds the seed as cloud-init does, by its label, and says what is in it. */
const INIT = `#!/bin/sh
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
for module in ${MODULES.join(" ")}; do [ ! -e /modules/$module.ko ] || insmod /modules/$module.ko; done
sleep 1
mkdir -p /seed
for disk in /dev/vd*; do
  dd if=$disk bs=1 skip=32808 count=6 2>/dev/null | grep -q cidata || continue
  mount -t iso9660 -o ro $disk /seed && echo "seed on $disk: $(ls /seed | tr '\\n' ' ')"
  sed 's/^/seed: /' /seed/user-data
done
for disk in /sys/block/vd*; do echo "disk $(basename $disk) $(cat $disk/size) sectors, serial $(cat $disk/serial), ro $(cat $disk/ro)"; done
echo "machine has $(nproc) cpus, $(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo) MiB"
echo "labctl-test: up"
while :; do sleep 1; done
`;

describe("machines that boot under libvirt", () => {
  let virt: TestLibvirtd;
  let facts: HostFacts;
  let folder: string;
  const virsh = (...args: readonly string[]): string =>
    execFileSync("virsh", ["-q", "-c", virt.uri, ...args], { encoding: "utf8", timeout: 60_000 });
  const fileOf = (text: string): string => {
    const path = join(folder, `${readdirSync(folder).length}.xml`);
    writeFileSync(path, text);
    return path;
  };
  const there = (path: string): string => virt.host.root(path);

  beforeAll(async () => {
    folder = mkdtempSync(join(tmpdir(), "labctl-boot-"));
    const kernel = await debianKernel("x86_64");
    const files = readdirSync(kernel.modules, { recursive: true, encoding: "utf8" });
    const initrd = await busyboxInitramfs({
      init: INIT,
      files: Object.fromEntries(
        MODULES.flatMap((name) => {
          const file = files.find((one) => basename(one) === `${name}.ko`);
          return file === undefined ? [] : [[`modules/${name}.ko`, readFileSync(join(kernel.modules, file))]];
        }),
      ),
    });
    virt = await startLibvirtd({ name: "vmboot" });
    // Debian's package brings this folder; the test machine begins without.
    await virt.run("mkdir", "-p", "/var/log/libvirt/qemu");
    copyFileSync(kernel.image, there(`${IMAGES}/vmlinuz`));
    copyFileSync(initrd, there(`${IMAGES}/initrd`));
    writeFileSync(
      there(`${IMAGES}/seed.iso`),
      makeSeed(
        { user_data: USER_DATA, network_config: "version: 2\n" },
        { address: "vm.a", instance_id: "i", hostname: "a" },
      ).image,
    );
    await virt.run("qemu-img", "create", "-q", "-f", "qcow2", `${IMAGES}/base.qcow2`, "32M");
    facts = {
      host: parseCapabilities(virsh("capabilities")),
      kvm: false,
      mhz: Number(/^CPU frequency: +(\d+) MHz$/m.exec(virsh("nodeinfo"))?.[1]),
      domains: ["q35", "microvm"].map((machine) =>
        parseDomainCapabilities(
          virsh("domcapabilities", "--virttype", "qemu", "--arch", "x86_64", "--machine", machine),
        ),
      ),
    };
  });
  afterAll(async () => {
    rmSync(folder, { recursive: true, force: true });
    await virt.stop();
  });

  async function placed(desired: Partial<VmDesired>, name: string): Promise<VmModel> {
    const layer = `${IMAGES}/${name}-vda.qcow2`;
    await virt.run(
      "qemu-img",
      "create",
      "-q",
      "-f",
      "qcow2",
      "-b",
      `${IMAGES}/base.qcow2`,
      "-F",
      "qcow2",
      layer,
      "64M",
    );
    return resolveVm(
      {
        name,
        memory: "192MiB",
        disks: [{ volume: "base", size: "64MiB", serial: "root & co".replace(" & ", "-") }],
        boot: { kernel: "./vmlinuz", initrd: "./initrd", cmdline: 'console=ttyS0 panic=-1 labctl="a<b>&c"' },
        cloud_init: { user_data: USER_DATA },
        networks: [{ user: true }],
        ...desired,
      } as VmDesired,
      {
        lab: "lab",
        address: `vm.${name}`,
        instance_id: `i-${name}`,
        lineage: "l",
        facts,
        disks: [
          { source: layer, kind: "file", format: "qcow2", size: 64 * 1024 ** 2, backing: `${IMAGES}/base.qcow2` },
        ],
        placed: (path) => join(IMAGES, basename(path)),
        network: (network) => `lab-${network}`,
        seed: `${IMAGES}/seed.iso`,
      },
    );
  }

  /** The console's log once the machine is up. */
  async function booted(model: VmModel): Promise<string> {
    const { log } = model.console;
    if (log === undefined) throw new Error("no log");
    for (let tries = 0; tries < 600; tries += 1) {
      const text = await virt.run("cat", log).catch(() => "");
      if (text.includes("labctl-test: up")) return text.replaceAll("\r", "");
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    throw new Error(`it does not come up: ${await virt.run("tail", "-c", "2000", log)}`);
  }

  test.each(["q35", "microvm"])(
    "a %s boots, finds its disks and its seed, and is as it was asked for",
    async (machine) => {
      const model = await placed(
        { machine, cpus: { count: 1, max: machine === "q35" ? 2 : 1 } as VmDesired["cpus"] },
        machine,
      );
      expect(unsupported(model, facts)).toEqual([]);
      virsh("define", fileOf(buildDomain(model)));
      virsh("start", model.name);
      const log = await booted(model);
      // The console from its first byte: the first line of the kernel is there.
      expect(log).toMatch(/\] Linux version |Probing EDD/);
      expect(log).toMatch(/seed on \/dev\/vd[a-z]: meta-data network-config user-data/);
      expect(log).toContain('seed: # from the seed: <é & "quotes">');
      expect(log).toContain(`disk vda ${64 * 2048} sectors, serial root-co, ro 0`);
      expect(log).toMatch(/disk vdb \d+ sectors, serial labctl-cidata, ro 1/);
      expect(log).toContain('labctl="a<b>&c"');
      expect(log.includes("tsc_early_khz=")).toBe(machine === "microvm");
      expect(log).toMatch(/machine has 1 cpus, 1\d\d MiB/);

      const live = { ...liveOf(model), running: true };
      const [running, config] = [virsh("dumpxml", model.name), virsh("dumpxml", "--inactive", model.name)].map((xml) =>
        observeDomain(xml, live),
      );
      if (running === undefined || config === undefined) throw new Error("?");
      expect(diffRunningVm(model, running, config)).toEqual([]);
      expect(running.owner).toEqual(model.owner);

      // A definition that waits for a restart is told from one that runs.
      const more: VmModel = { ...model, memory: { size: 256 * 1024 ** 2, max: 256 * 1024 ** 2 } };
      virsh("define", fileOf(buildDomain(more, virsh("dumpxml", "--inactive", model.name))));
      const later = observeDomain(virsh("dumpxml", "--inactive", model.name), live);
      expect(diffRunningVm(model, running, later).map((change) => [change.path, change.effect])).toEqual([
        ["memory.size", "live"],
        ["memory.max", "live"],
      ]);
      expect(diffRunningVm(more, running, later).map((change) => [change.path, change.effect])).toEqual([
        ["memory.size", "restart"],
        ["memory.max", "restart"],
      ]);
    },
  );

  test("what changes live does: processors, memory, disks, cards, cables", async () => {
    const model = await placed(
      { cpus: { count: 1, max: 2 } as VmDesired["cpus"], memory: { size: "192MiB", max: "256MiB" } },
      "changes",
    );
    virsh("define", fileOf(buildDomain(model)));
    virsh("start", model.name);
    await booted(model);
    const changes = (wanted: VmModel): string[][] => {
      const [running, config] = [virsh("dumpxml", model.name), virsh("dumpxml", "--inactive", model.name)].map((xml) =>
        observeDomain(xml, { ...liveOf(model), running: true }),
      );
      if (running === undefined || config === undefined) throw new Error("?");
      return diffRunningVm(wanted, running, config).map((change) => [change.path, change.effect]);
    };
    // The guest has no balloon driver, and keeps all the memory that it found: nothing is left to do about that.
    expect(changes(model)).toEqual([]);
    const disk: DiskModel = {
      target: "vdm",
      device: "disk",
      bus: "virtio",
      source: `${IMAGES}/more.img`,
      kind: "file",
      format: "raw",
      discard: true,
      readonly: false,
    };
    await virt.run("qemu-img", "create", "-q", "-f", "raw", `${IMAGES}/more.img`, "1M");
    const nic = { mac: "52:54:00:77:77:77", user: true as const, model: "virtio", link: true };
    const wanted: VmModel = {
      ...model,
      cpus: { ...model.cpus, count: 2 },
      disks: [...model.disks, disk],
      networks: [...model.networks.map((one) => ({ ...one, link: false })), nic],
    };
    expect(changes(wanted)).toEqual([
      ["cpus.count", "live"],
      ["disks.1", "live"],
      ["networks.0.link", "live"],
      ["networks.1", "live"],
    ]);
    virsh("setvcpus", model.name, "2", "--live", "--config");
    virsh("attach-device", model.name, fileOf(buildDisk(disk)), "--live", "--config");
    virsh("attach-device", model.name, fileOf(buildNic(nic)), "--live", "--config");
    for (const one of wanted.networks.slice(0, 1))
      virsh("update-device", model.name, fileOf(buildNic(one)), "--live", "--config");
    expect(changes(wanted)).toEqual([]);
  });
});
