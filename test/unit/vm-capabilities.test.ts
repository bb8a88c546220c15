import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { parseFacts } from "../../providers/host/facts.ts";
import { kvmWorks } from "../../providers/libvirt/host-facts.ts";
import { type HostFacts, domainFacts } from "../../providers/libvirt/model/facts.ts";
import { resolveVm, type VmContext } from "../../providers/libvirt/model/vm-resolve.ts";
import type { VmDesired } from "../../providers/libvirt/model/vm-schema.ts";
import { requireSupport, unsupported } from "../../providers/libvirt/model/vm-support.ts";
import { parseCapabilities, parseDomainCapabilities } from "../../providers/libvirt/xml/capabilities.ts";
import { observeDomain } from "../../providers/libvirt/xml/domain-observe.ts";
import { observeNetwork } from "../../providers/libvirt/xml/network.ts";
import { parseXml } from "../../providers/libvirt/xml/tree.ts";

const recorded = (name: string): string =>
  readFileSync(join(import.meta.dirname, "../fixtures/libvirt", `${name}.xml`), "utf8");
const facts: HostFacts = {
  host: parseCapabilities(recorded("capabilities-qemu")),
  kvm: false,
  domains: ["domcaps-q35-qemu", "domcaps-q35-kvm", "domcaps-microvm-qemu", "domcaps-virt-arm64"].map((name) =>
    parseDomainCapabilities(recorded(name)),
  ),
};

test("KVM works where the host's facts tried it and say so; before anybody tried, where libvirt offers it", () => {
  const { host } = facts;
  const found = (kvm: string) => parseFacts(["kernel=6.1.0", "machine=x86_64", `kvm=${kvm}`]);
  expect(kvmWorks(found("yes"), host)).toBe(true);
  expect(kvmWorks(found("no"), host)).toBe(false);
  expect(kvmWorks(found("unknown"), host)).toBe(false);
  expect(kvmWorks(undefined, host)).toBe(true);
  const emulated = host.guests.map((guest) => ({ ...guest, types: ["qemu"] }));
  expect(kvmWorks(undefined, { ...host, guests: emulated })).toBe(false);
  // Of another processor: emulated, whatever is offered.
  expect(kvmWorks(undefined, { ...host, arch: "riscv64" })).toBe(false);
});

describe("what libvirt says that a host can do, as it was recorded", () => {
  test("capabilities of QEMU's connection", () => {
    const { host } = facts;
    expect(host).toMatchObject({ arch: "x86_64", cpus: 2, tsc: 2596098000 });
    expect(host.memory).toBe(11102412 * 1024);
    expect(host.pages.map((one) => one.size)).toEqual([4096, 2 * 1024 ** 2, 1024 ** 3]);
    // i686 and armv6l are there, and nothing that labctl makes machines of.
    expect(host.guests.map((guest) => guest.arch)).toEqual(["armv7", "arm64", "x86_64"]);
    const x86 = host.guests.find((guest) => guest.arch === "x86_64");
    expect(x86).toMatchObject({ os: "hvm", emulator: "/usr/bin/qemu-system-x86_64", types: ["qemu", "kvm"] });
    expect(x86?.machines).toContainEqual({ name: "q35", canonical: "pc-q35-7.2", max_cpus: 288 });
    expect(x86?.machines.some((machine) => machine.name === "microvm")).toBe(true);
  });

  test("capabilities of LXC's connection", () => {
    const { guests } = parseCapabilities(recorded("capabilities-lxc"));
    expect(guests).toEqual([
      { arch: "x86_64", os: "exe", emulator: "/usr/lib/libvirt/libvirt_lxc", types: ["lxc"], machines: [] },
    ]);
  });

  test("domain capabilities, found by the alias and by QEMU's own name of a machine type", () => {
    const q35 = domainFacts(facts, "x86_64", "q35", "qemu");
    expect(q35).toMatchObject({
      machine: "pc-q35-7.2",
      max_cpus: 288,
      uefi: true,
      secure_boot: true,
      disk_buses: ["fdc", "scsi", "virtio", "usb", "sata"],
      filesystems: ["path", "handle", "virtiofs"],
      memory_sources: ["file", "anonymous", "memfd"],
      tpm_backends: ["passthrough"],
      rng: true,
      vsock: undefined,
    });
    expect(q35?.cpu_modes).toEqual(["maximum", "host-model", "custom"]);
    expect(q35?.cpu_models).toContain("qemu64");
    // Haswell's features are more than emulation has.
    expect(q35?.cpu_models).not.toContain("Haswell");
    expect(domainFacts(facts, "x86_64", "pc-q35-7.2", "qemu")).toBe(q35);
    expect(domainFacts(facts, "x86_64", "q35", "kvm")?.cpu_modes).toContain("host-passthrough");
    expect(domainFacts(facts, "x86_64", "microvm", "qemu")?.uefi).toBe(false);
    expect(domainFacts(facts, "riscv64", "virt", "qemu")).toBeUndefined();
  });

  test("a running machine, without all that libvirt adds by itself", () => {
    const seen = observeDomain(recorded("domain-running-q35"), { running: true, autostart: false });
    expect(seen).toEqual({
      name: "lab-recorded",
      uuid: "6695eb09-f6a4-5304-89aa-97f2502e193f",
      owner: { lab: "kernel-lab", address: "vm.recorded", instance_id: "i-1", lineage: "l-1" },
      type: "vm",
      acceleration: "emulated",
      arch: "x86_64",
      machine: "pc-q35-7.2",
      emulator: "/usr/bin/qemu-system-x86_64",
      cpus: { count: 1, max: 2, model: "qemu64" },
      // The guest had no time to give any back.
      memory: { size: 256 * 1024 ** 2, max: 256 * 1024 ** 2 },
      disks: [
        {
          target: "vda",
          device: "disk",
          bus: "virtio",
          source: "/srv/lab/layer.qcow2",
          kind: "file",
          format: "qcow2",
          cache: "none",
          discard: false,
          readonly: false,
          boot: 1,
          backing: "/srv/lab/base.qcow2",
        },
        {
          target: "sda",
          device: "cdrom",
          bus: "scsi",
          source: "/srv/lab/cd.iso",
          kind: "file",
          format: "raw",
          discard: false,
          readonly: true,
        },
      ],
      networks: [
        { mac: "52:54:00:11:22:33", network: "default", model: "virtio", link: true },
        { mac: "52:54:00:11:22:34", user: true, model: "e1000e", link: false },
      ],
      shares: [{ source: "/srv/lab/src2", target: "src2", type: "9p", readonly: true }],
      boot: { kernel: "/srv/lab/k", initrd: "/srv/lab/i", cmdline: "console=ttyS0" },
      firmware: { type: "bios", secure_boot: false },
      console: { log: "/var/log/libvirt/qemu/lab-recorded-console.log" },
      rng: true,
      agent: false,
      watchdog: "reset",
      tpm: false,
      autostart: false,
      running: true,
    });
  });

  test("a network that nobody of labctl's made", () => {
    const seen = observeNetwork(recorded("network-running"), { running: true, autostart: false });
    expect(seen.owner).toBeUndefined();
    expect(seen).toMatchObject({
      name: "default",
      forward: "nat",
      bridge: "virbr0",
      ipv4: {
        cidr: "192.168.122.0/24",
        gateway: "192.168.122.1",
        range: { start: "192.168.122.2", end: "192.168.122.254" },
      },
    });
  });

  test.each([
    ["nothing", ""],
    ["no XML", "<html><body>"],
    ["another document", "<pool/>"],
    ["a half of one", "<domain type='qemu'><name>x</name>"],
  ])("%s is E_LIBVIRT_XML", (_name, text) => {
    expect(() => observeDomain(text, { running: false, autostart: false })).toThrow(
      expect.objectContaining({ code: "E_LIBVIRT_XML" }),
    );
    expect(() => parseXml(text, "domain")).toThrow();
  });
});

describe("what a host cannot run", () => {
  const context: VmContext = {
    lab: "lab",
    address: "vm.a",
    instance_id: "i",
    lineage: "l",
    facts,
    disks: [{ source: "/d", kind: "file", format: "qcow2" }],
    placed: (path) => path,
    network: (name) => name,
    seed: "/seed.iso",
  };
  const model = (desired: Partial<VmDesired>) => resolveVm({ name: "a", ...desired } as VmDesired, context);
  const disk = (more: object) => [{ size: "1GiB", ...more }] as unknown as NonNullable<VmDesired["disks"]>;
  const boot = { kernel: "/k" };

  test("nothing is said of what it can", () => {
    expect(unsupported(model({}), facts)).toEqual([]);
    expect(unsupported(model({ firmware: { type: "uefi", secure_boot: true } }), facts)).toEqual([]);
    expect(unsupported(model({ machine: "microvm", boot, disks: disk({}) }), facts)).toEqual([]);
    expect(unsupported(model({ arch: "arm64", cpus: { count: 1, model: "cortex-a57" } }), facts)).toEqual([]);
  });

  test.each([
    [{ arch: "riscv64" }, "machines of riscv64 (it has armv7, arm64, x86_64)"],
    [{ type: "container", container: { root: "/r" } }, "containers of x86_64 (it has none at all)"],
    [{ acceleration: "kvm" }, "KVM (libvirt offers it, and it does not work)"],
    [{ arch: "arm64", acceleration: "kvm", cpus: { count: 1, model: "cortex-a57" } }, "kvm for arm64"],
    [{ machine: "virt" }, "the machine type virt (it has microvm, pc, q35)"],
    [{ memory: "64GiB" }, "64.0 GiB of memory (it has 10.6 GiB)"],
    [{ cpus: { count: 300 } }, "300 processors (at most 288)"],
    [{ cpus: { count: 1, model: "Haswell" } }, "processors of the model Haswell (see virsh domcapabilities)"],
    [{ tpm: true }, "an emulated TPM (the packages swtpm and swtpm-tools)"],
    [{ machine: "microvm", boot, disks: disk({ bus: "scsi" }) }, "disks that are not virtio on a microvm"],
    [{ machine: "microvm", boot, watchdog: "reset" }, "a watchdog card on a microvm"],
  ] as const)("%j", (desired, why) => {
    const not = unsupported(model(desired as unknown as Partial<VmDesired>), facts);
    expect(not).toContain(why);
  });

  test("all of it is said at once: E_VM_UNSUPPORTED", () => {
    const bad = model({ tpm: true, memory: "64GiB" });
    expect(() => requireSupport(bad, facts, "vm.a")).toThrow(
      expect.objectContaining({
        code: "E_VM_UNSUPPORTED",
        address: "vm.a",
        message:
          "its host has not what it takes: 64.0 GiB of memory (it has 10.6 GiB); an emulated TPM (the packages swtpm and swtpm-tools)",
      }),
    );
  });

  test("KVM is chosen where it works, and only for the host's own processor", () => {
    const with_kvm = { ...context, facts: { ...facts, kvm: true } };
    expect(resolveVm({ name: "a" } as VmDesired, with_kvm)).toMatchObject({
      acceleration: "kvm",
      cpus: { model: "host-passthrough" },
    });
    expect(resolveVm({ name: "a", arch: "arm64" } as VmDesired, with_kvm)).toMatchObject({ acceleration: "emulated" });
    expect(model({})).toMatchObject({ acceleration: "emulated", cpus: { model: "max" } });
  });
});
