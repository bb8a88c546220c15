import { libvirtArch, machineFamily } from "../model/arch.ts";
import { hypervisorOf } from "../model/vm-resolve.ts";
import type { DiskModel, NicModel, VmModel } from "../model/vm.ts";
import {
  type AddressOf,
  controllerElements,
  deviceElements,
  deviceKey,
  diskElement,
  isForeign,
  nicElement,
} from "./domain-devices.ts";
import { metadataElement, PREFIXES } from "./owner.ts";
import { all, attrAt, el, find, formatXml, parseXml, type XmlElement } from "./tree.ts";

/**
 * The XML that defines a machine. `current`: the definition that it replaces, so that devices that stay keep their places (a card
 * that moved on the bus is another card to the guest) and the machine its version of the machine type. Devices that no spec speaks of
 * stay with it.
 */
export function buildDomain(model: VmModel, current?: string): string {
  const old = current === undefined ? undefined : parseXml(current, "domain");
  return formatXml(domainElement(model, old), PREFIXES);
}

function domainElement(model: VmModel, old: XmlElement | undefined): XmlElement {
  const container = model.type === "container";
  const machine = machineOf(model, old);
  const kept = old !== undefined && machineOfXml(old) === machine ? find(old, "devices") : undefined;
  const addresses = new Map<string, XmlElement>();
  for (const device of kept?.children ?? []) {
    const [key, address] = [deviceKey(device), find(device, "address")];
    if (key !== undefined && address !== undefined) addresses.set(key, address);
  }
  const addressOf: AddressOf = (device) => addresses.get(deviceKey(device) ?? "");
  const buses = all(kept, "controller").filter((one) => one.attrs["type"] === "pci");
  const MiB = (bytes: number): string => String(Math.round(bytes / 1024 ** 2));
  const { count, max } = model.cpus;
  return el(
    "domain",
    { type: hypervisorOf(model.acceleration) },
    el("name", {}, model.name),
    el("uuid", {}, model.uuid),
    metadataElement(model.owner),
    el("memory", { unit: "MiB" }, MiB(model.memory.max)),
    el("currentMemory", { unit: "MiB" }, MiB(model.memory.size)),
    memoryBacking(model),
    el("vcpu", { placement: "static", current: count < max ? count : undefined }, String(max)),
    container ? containerOs(model) : vmOs(model, machine),
    features(model),
    !container && cpuElement(model.cpus),
    el("clock", { offset: "utc" }),
    el("on_poweroff", {}, "destroy"),
    el("on_reboot", {}, "restart"),
    el("on_crash", {}, "destroy"),
    el(
      "devices",
      {},
      model.emulator !== undefined && el("emulator", {}, model.emulator),
      ...controllerElements(model, buses, addressOf),
      ...deviceElements(model, addressOf),
      ...(kept?.children ?? []).filter(isForeign),
    ),
  );
}

function machineOfXml(root: XmlElement): string {
  return attrAt(root, ["os", "type"], "machine") ?? "";
}

function machineOf(model: VmModel, old: XmlElement | undefined): string {
  const now = old === undefined ? "" : machineOfXml(old);
  return machineFamily(now) === model.machine ? now : model.machine;
}

function memoryBacking({ hugepages, shares }: VmModel): XmlElement | undefined {
  const shared = shares.some((share) => share.type === "virtiofs");
  if (hugepages === undefined && !shared) return undefined;
  return el(
    "memoryBacking",
    {},
    hugepages !== undefined &&
      el("hugepages", {}, hugepages > 0 && el("page", { size: hugepages / 1024, unit: "KiB" })),
    // virtiofsd reads and writes the guest's memory.
    shared && el("source", { type: "memfd" }),
    shared && el("access", { mode: "shared" }),
  );
}

function vmOs(model: VmModel, machine: string): XmlElement {
  const { boot, firmware } = model;
  const uefi = firmware.type === "uefi";
  const enabled = firmware.secure_boot ? "yes" : "no";
  return el(
    "os",
    uefi ? { firmware: "efi" } : {},
    el("type", { arch: libvirtArch(model.arch), machine }, "hvm"),
    uefi &&
      el(
        "firmware",
        {},
        el("feature", { enabled, name: "enrolled-keys" }),
        el("feature", { enabled, name: "secure-boot" }),
      ),
    boot !== undefined && el("kernel", {}, boot.kernel),
    boot?.initrd !== undefined && el("initrd", {}, boot.initrd),
    boot?.cmdline !== undefined && el("cmdline", {}, boot.cmdline),
    boot?.dtb !== undefined && el("dtb", {}, boot.dtb),
  );
}

function containerOs(model: VmModel): XmlElement {
  const { init = "/sbin/init", args = [] } = model.container ?? {};
  return el(
    "os",
    {},
    el("type", { arch: libvirtArch(model.arch) }, "exe"),
    el("init", {}, init),
    ...args.map((arg) => el("initarg", {}, arg)),
  );
}

/** On other processors libvirt has ACPI with UEFI only. */
function features(model: VmModel): XmlElement | undefined {
  if (model.type === "container") return el("features", {}, el("privnet"));
  if (model.arch === "x86_64") {
    return el("features", {}, el("acpi"), el("apic"), model.firmware.secure_boot && el("smm", { state: "on" }));
  }
  return model.firmware.type === "uefi" ? el("features", {}, el("acpi")) : undefined;
}

function cpuElement({ model, topology }: VmModel["cpus"]): XmlElement | undefined {
  const shape =
    topology === undefined
      ? undefined
      : el("topology", { sockets: topology.sockets, dies: 1, cores: topology.cores, threads: topology.threads });
  if (model === "host-passthrough") return el("cpu", { mode: "host-passthrough" }, shape);
  if (model === undefined) return shape && el("cpu", {}, shape);
  if (model === "max") return el("cpu", { mode: "maximum" }, shape);
  return el("cpu", { mode: "custom", match: "exact" }, el("model", { fallback: "forbid" }, model), shape);
}

/** For virDomainAttachDevice and virDomainUpdateDevice: one disk. */
export function buildDisk(disk: DiskModel): string {
  return formatXml(diskElement(disk));
}

/** For virDomainAttachDevice and virDomainUpdateDevice: one network card. */
export function buildNic(nic: NicModel): string {
  return formatXml(nicElement(nic));
}
