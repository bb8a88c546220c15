import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { diffVm, type VmChange } from "../../providers/libvirt/model/vm-diff.ts";
import type { VmModel } from "../../providers/libvirt/model/vm.ts";
import { buildDomain } from "../../providers/libvirt/xml/domain.ts";
import { observeDomain } from "../../providers/libvirt/xml/domain-observe.ts";
import { vmArbitrary } from "./vm-arbitrary.ts";
import { liveOf } from "./vm-live.ts";

/** One edit of a machine: undefined where this machine has no such property. */
interface Edit {
  readonly path: string;
  readonly effect: VmChange["effect"];
  edit(model: VmModel): VmModel | undefined;
}

const GIB = 1024 ** 3;
const vm = (model: VmModel): VmModel | undefined => (model.type === "vm" ? model : undefined);
const withPci = (model: VmModel): boolean => model.type === "vm" && model.machine !== "microvm";

function ofDisk(change: (disk: VmModel["disks"][number]) => Partial<VmModel["disks"][number]> | undefined) {
  return (model: VmModel): VmModel | undefined => {
    const [first, ...rest] = model.disks;
    const edited = first === undefined ? undefined : change(first);
    return first === undefined || edited === undefined
      ? undefined
      : { ...model, disks: [{ ...first, ...edited }, ...rest] };
  };
}

function ofNic(change: (nic: VmModel["networks"][number]) => Partial<VmModel["networks"][number]> | undefined) {
  return (model: VmModel): VmModel | undefined => {
    const [first, ...rest] = model.networks;
    const edited = first === undefined ? undefined : change(first);
    return first === undefined || edited === undefined
      ? undefined
      : { ...model, networks: [{ ...first, ...edited }, ...rest] };
  };
}

function ofShare(change: (share: VmModel["shares"][number]) => Partial<VmModel["shares"][number]>) {
  return (model: VmModel): VmModel | undefined => {
    const [first, ...rest] = model.shares;
    return first === undefined ? undefined : { ...model, shares: [{ ...first, ...change(first) }, ...rest] };
  };
}

const without = <T extends object, K extends keyof T>(value: T, key: K): T => {
  const { [key]: _gone, ...rest } = value;
  return rest as T;
};

const EDITS: readonly Edit[] = [
  {
    path: "acceleration",
    effect: "restart",
    edit: (model) => vm(model) && { ...model, acceleration: model.acceleration === "kvm" ? "emulated" : "kvm" },
  },
  {
    path: "machine",
    effect: "restart",
    edit: (model) => (model.machine === "q35" ? { ...model, machine: "pc" } : undefined),
  },
  {
    path: "arch",
    effect: "replace",
    edit: (model) => ({ ...model, arch: model.arch === "x86_64" ? "arm64" : "x86_64" }),
  },
  {
    path: "cpus.max",
    effect: "restart",
    edit: (model) => vm(model) && { ...model, cpus: { ...model.cpus, max: model.cpus.max + 1 } },
  },
  {
    path: "cpus.cores",
    effect: "restart",
    edit: (model) =>
      model.cpus.topology && {
        ...model,
        cpus: { ...model.cpus, topology: { ...model.cpus.topology, cores: model.cpus.topology.cores + 1 } },
      },
  },
  {
    path: "cpus.model",
    effect: "restart",
    edit: (model) => vm(model) && { ...model, cpus: { ...model.cpus, model: "Haswell" } },
  },
  {
    path: "memory.max",
    effect: "restart",
    edit: (model) => ({ ...model, memory: { ...model.memory, max: model.memory.max + GIB } }),
  },
  {
    path: "memory.size",
    effect: "live",
    edit: (model) => ({ ...model, memory: { ...model.memory, size: model.memory.size - 1024 ** 2 } }),
  },
  {
    path: "hugepages",
    effect: "restart",
    edit: (model) =>
      vm(model) && (model.hugepages === undefined ? { ...model, hugepages: 0 } : without(model, "hugepages")),
  },
  {
    path: "disks.0.source",
    effect: "restart",
    edit: ofDisk((disk) => (disk.device === "disk" ? { source: "/elsewhere" } : undefined)),
  },
  {
    path: "disks.0.source",
    effect: "live",
    edit: ofDisk((disk) => (disk.device === "cdrom" ? { source: "/elsewhere" } : undefined)),
  },
  {
    path: "disks.0.format",
    effect: "restart",
    edit: ofDisk((disk) => ({ format: disk.format === "raw" ? "qcow2" : "raw" })),
  },
  { path: "disks.0.target", effect: "restart", edit: ofDisk((disk) => ({ target: `${disk.target.slice(0, 2)}q` })) },
  {
    path: "disks.0.cache",
    effect: "restart",
    edit: ofDisk((disk) => ({ cache: disk.cache === "none" ? "directsync" : "none" })),
  },
  {
    path: "disks.0.io",
    effect: "restart",
    edit: ofDisk((disk) => ({ io: disk.io === "threads" ? "io_uring" : "threads" })),
  },
  { path: "disks.0.discard", effect: "restart", edit: ofDisk((disk) => ({ discard: !disk.discard })) },
  { path: "disks.0.readonly", effect: "restart", edit: ofDisk((disk) => ({ readonly: !disk.readonly })) },
  { path: "disks.0.serial", effect: "restart", edit: ofDisk(() => ({ serial: "another serial" })) },
  { path: "disks.0.boot", effect: "restart", edit: ofDisk(() => ({ boot: 9 })) },
  {
    path: "disks.0.size",
    effect: "live",
    edit: ofDisk((disk) => (disk.size !== undefined ? { size: disk.size + GIB } : undefined)),
  },
  {
    path: "disks.0.size",
    effect: "replace",
    edit: ofDisk((disk) => (disk.size !== undefined ? { size: disk.size - 1 } : undefined)),
  },
  { path: "disks.0.volume", effect: "replace", edit: ofDisk(() => ({ backing: "/another/base" })) },
  {
    path: "networks.0.network",
    effect: "live",
    edit: ofNic((nic) => (nic.network !== undefined ? { network: "another" } : undefined)),
  },
  {
    path: "networks.0.bridge",
    effect: "live",
    edit: ofNic((nic) => (nic.bridge !== undefined ? { bridge: "another" } : undefined)),
  },
  { path: "networks.0.mac", effect: "restart", edit: ofNic(() => ({ mac: "52:54:ff:ff:ff:ff" })) },
  { path: "networks.0.link", effect: "live", edit: ofNic((nic) => ({ link: !nic.link })) },
  { path: "networks.0.mtu", effect: "restart", edit: ofNic(() => ({ mtu: 100 })) },
  { path: "networks.0.boot", effect: "restart", edit: ofNic(() => ({ boot: 9 })) },
  {
    path: "networks.0.address",
    effect: "live",
    edit: ofNic((nic) => (nic.network !== undefined ? { address: "192.168.100.1" } : undefined)),
  },
  { path: "shares.0.source", effect: "restart", edit: ofShare(() => ({ source: "/another" })) },
  { path: "shares.0.target", effect: "restart", edit: ofShare(() => ({ target: "another-tag" })) },
  { path: "shares.0.readonly", effect: "restart", edit: ofShare((share) => ({ readonly: !share.readonly })) },
  {
    path: "boot.kernel",
    effect: "restart",
    edit: (model) => model.boot && { ...model, boot: { ...model.boot, kernel: "/another" } },
  },
  {
    path: "boot.initrd",
    effect: "restart",
    edit: (model) => model.boot && { ...model, boot: { ...model.boot, initrd: "/another" } },
  },
  {
    path: "boot.cmdline",
    effect: "restart",
    edit: (model) => model.boot && { ...model, boot: { ...model.boot, cmdline: "another" } },
  },
  {
    path: "boot.dtb",
    effect: "restart",
    edit: (model) => model.boot && { ...model, boot: { ...model.boot, dtb: "/another" } },
  },
  {
    path: "firmware.type",
    effect: "restart",
    edit: (model) =>
      vm(model) && {
        ...model,
        firmware: { type: model.firmware.type === "bios" ? "uefi" : "bios", secure_boot: false },
      },
  },
  {
    path: "firmware.secure_boot",
    effect: "restart",
    edit: (model) =>
      model.firmware.type === "uefi"
        ? { ...model, firmware: { type: "uefi", secure_boot: !model.firmware.secure_boot } }
        : undefined,
  },
  {
    path: "console.log",
    effect: "restart",
    edit: (model) => vm(model) && { ...model, console: { log: "/another.log" } },
  },
  {
    path: "container.root",
    effect: "restart",
    edit: (model) => model.container && { ...model, container: { ...model.container, root: "/another" } },
  },
  {
    path: "container.init",
    effect: "restart",
    edit: (model) => model.container && { ...model, container: { ...model.container, init: "/another" } },
  },
  {
    path: "container.args",
    effect: "restart",
    edit: (model) =>
      model.container && { ...model, container: { ...model.container, args: [...model.container.args, "x"] } },
  },
  { path: "cloud_init", effect: "restart", edit: (model) => vm(model) && { ...model, cloud_init: "/another.iso" } },
  { path: "rng", effect: "restart", edit: (model) => vm(model) && { ...model, rng: !model.rng } },
  { path: "agent", effect: "restart", edit: (model) => vm(model) && { ...model, agent: !model.agent } },
  {
    path: "watchdog",
    effect: "restart",
    edit: (model) => (withPci(model) ? { ...model, watchdog: "dump" } : undefined),
  },
  { path: "tpm", effect: "restart", edit: (model) => (withPci(model) ? { ...model, tpm: !model.tpm } : undefined) },
  { path: "vsock", effect: "restart", edit: (model) => vm(model) && { ...model, vsock: 77 } },
  { path: "autostart", effect: "live", edit: (model) => ({ ...model, autostart: !model.autostart }) },
];

describe("machines as models and as XML", () => {
  test("property: VM Round Trip: what is read back of a definition is what was defined, for all machines", () => {
    fc.assert(
      fc.property(vmArbitrary(), (model) => {
        const observed = observeDomain(buildDomain(model), liveOf(model));
        expect(observed).toEqual(model);
        expect(diffVm(model, observed)).toEqual([]);
      }),
      { numRuns: 300 },
    );
  });

  test("property: VM Change Exactness: one edit is one change, named as in the spec, with its effect, both ways", () => {
    const hit = new Set<string>();
    fc.assert(
      fc.property(vmArbitrary(), (model) => {
        const running = { ...model, running: true };
        const observed = observeDomain(buildDomain(running), liveOf(running));
        for (const one of EDITS) {
          const { path, effect } = one;
          const wanted = one.edit(running);
          if (wanted === undefined) continue;
          hit.add(`${path} ${effect}`);
          expect(diffVm(wanted, observed).map((change) => [change.path, change.effect])).toEqual([[path, effect]]);
          const back = observeDomain(buildDomain(wanted), liveOf(wanted));
          expect(diffVm(running, back).map((change) => change.path)).toEqual([path]);
          // Nothing restarts that does not run.
          const off = diffVm({ ...wanted, running: false }, { ...observed, running: false });
          expect(off.map((change) => change.effect)).toEqual([effect === "replace" ? "replace" : "live"]);
        }
      }),
      { numRuns: 120 },
    );
    expect([...hit].sort()).toEqual([...new Set(EDITS.map((one) => `${one.path} ${one.effect}`))].sort());
  });
});
