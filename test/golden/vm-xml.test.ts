import { join } from "node:path";
import { describe, expect, test } from "vitest";
import type { HostFacts } from "../../providers/libvirt/model/facts.ts";
import { resolveNetwork } from "../../providers/libvirt/model/network.ts";
import type { NetworkDesired } from "../../providers/libvirt/model/network-schema.ts";
import { qemuArgv } from "../../providers/libvirt/model/qemu-argv.ts";
import { resolveVm } from "../../providers/libvirt/model/vm-resolve.ts";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";
import { buildDomain } from "../../providers/libvirt/xml/domain.ts";
import { buildNetwork } from "../../providers/libvirt/xml/network.ts";
import { buildPool, buildVolume } from "../../providers/libvirt/xml/storage.ts";

const file = (name: string): string => join(import.meta.dirname, "expected/libvirt", name);
const guest = (arch: "x86_64" | "arm64", types: string[]) => ({
  arch,
  os: "hvm" as const,
  emulator: `/usr/bin/qemu-${arch}`,
  types,
  machines: [],
});
const facts: HostFacts = {
  host: {
    arch: "x86_64",
    cpus: 8,
    memory: 2 ** 34,
    pages: [],
    guests: [
      guest("x86_64", ["qemu", "kvm"]),
      guest("arm64", ["qemu"]),
      { ...guest("x86_64", ["lxc"]), os: "exe", emulator: "/usr/lib/libvirt/libvirt_lxc" },
    ],
  },
  kvm: false,
  mhz: 2600,
  domains: [],
};

function vm(desired: object, kvm = false) {
  return resolveVm({ name: "scratch-1", ...desired } as VmDesired, {
    lab: "kernel-lab",
    address: "vm.scratch-1",
    instance_id: "01JD0000000000000000000000",
    lineage: "6f0c",
    facts: { ...facts, kvm },
    disks: [
      {
        source: "/var/lib/libvirt/images/kernel-lab-scratch-1-vda.qcow2",
        kind: "file",
        format: "qcow2",
        size: 20 * 2 ** 30,
        backing: "/var/lib/libvirt/images/kernel-lab-base.qcow2",
      },
      { source: "/dev/vg0/data", kind: "block", format: "raw" },
    ],
    placed: (path) => `/var/lib/labctl/artifacts/${path.replace("./", "sha256-")}`,
    network: (name) => `kernel-lab-${name}`,
    seed: "/var/lib/libvirt/images/kernel-lab-scratch-1-seed-0123456789abcdef.iso",
  });
}

const FULL = {
  cpus: { count: 2, max: 4, sockets: 1, cores: 4 },
  memory: { size: "2GiB", max: "4GiB" },
  hugepages: "2MiB",
  disks: [
    { volume: "base", size: "20GiB", cache: "none", io: "native", serial: "root", boot: 1, discard: true },
    { volume: "data", direct: true, bus: "scsi", readonly: true },
  ],
  networks: [
    "test",
    { network: "other", address: "192.168.101.9", mtu: 9000 },
    { user: true, model: "e1000e", link: false },
  ],
  shares: [
    { source: "/srv/src", target: "/mnt/src", type: "virtiofs" },
    { source: '/srv/<&">', target: "/mnt/ro", type: "9p", readonly: true },
  ],
  firmware: { type: "uefi", secure_boot: true },
  cloud_init: { user_data: "#cloud-config\n" },
  watchdog: "poweroff",
  agent: true,
  tpm: true,
  vsock: 42,
  autostart: true,
};

describe("definitions, whole", () => {
  test.each([
    ["domain-full.xml", () => buildDomain(vm(FULL, true))],
    ["domain-least.xml", () => buildDomain(vm({}))],
    [
      "domain-microvm.xml",
      () =>
        buildDomain(
          vm({
            machine: "microvm",
            boot: { kernel: "./bzImage", initrd: "./initrd", cmdline: "console=ttyS0 quiet" },
            networks: ["test"],
            vsock: true,
          }),
        ),
    ],
    [
      "domain-arm64.xml",
      () =>
        buildDomain(
          vm({
            arch: "arm64",
            boot: { kernel: "./Image", dtb: "./virt.dtb" },
            firmware: "uefi",
            console: { log: "/var/log/c.log" },
          }),
        ),
    ],
    [
      "domain-container.xml",
      () =>
        buildDomain(
          vm({
            type: "container",
            container: { root: "/srv/box", args: ["-c", 'echo "<&\n"'] },
            networks: ["test"],
            shares: [{ source: "/srv/src", target: "/mnt/src", readonly: true }],
          }),
        ),
    ],
    [
      "pool.xml",
      () => buildPool({ name: "images", uuid: "00000000-0000-4000-8000-000000000001", path: "/srv/images" }),
    ],
    [
      "volume.xml",
      () =>
        buildVolume({
          name: "a.qcow2",
          format: "qcow2",
          size: 2 ** 30,
          backing: { path: "/srv/images/base.img", format: "raw" },
        }),
    ],
    [
      "qemu-argv.txt",
      () => {
        const model = vm({ ...FULL, networks: [{ bridge: "br0" }, { user: true }], hugepages: true, agent: false });
        const { program, args } = qemuArgv(model, {
          qmp: "/run/a.qmp",
          console: "/run/a.con",
          virtiofs: { "mnt-src": "/run/a.fs" },
          uefi: { code: "/usr/share/OVMF/CODE.fd", vars: "/run/a.vars" },
          tpm: "/run/a.tpm",
        });
        return `${[program, ...args].join("\n")}\n`;
      },
    ],
  ])("%s", async (name, build) => {
    await expect(build()).toMatchFileSnapshot(file(name));
  });

  test("networks", async () => {
    const network = (desired: object) =>
      buildNetwork(
        resolveNetwork({ name: "test", host: "kvm-1", ...desired } as NetworkDesired, {
          lab: "kernel-lab",
          address: "network.test",
          instance_id: "01JD0000000000000000000001",
          lineage: "6f0c",
          reservations: { "52:54:01:02:03:04": "192.168.100.9" },
        }),
      );
    const full = {
      cidr: "192.168.100.0/24",
      ipv6: "fd00:100::/64",
      dns: {
        domain: "lab.test",
        forwarders: ["10.0.0.53"],
        hosts: { mirror: "192.168.100.1", cache: "192.168.100.1" },
      },
      hosts: { board: { mac: "52:54:00:00:00:01", address: "192.168.100.20" } },
      mtu: 9000,
    };
    await expect(network(full)).toMatchFileSnapshot(file("network-full.xml"));
    await expect(network({ cidr: "10.0.0.0/30", isolated: true, dns: false })).toMatchFileSnapshot(
      file("network-isolated.xml"),
    );
    await expect(network({ forward: "bridge", bridge: "br0" })).toMatchFileSnapshot(file("network-bridge.xml"));
  });
});
