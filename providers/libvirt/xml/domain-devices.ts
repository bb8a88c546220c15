import { diskName } from "../model/vm-resolve.ts";
import {
  AGENT_PORT,
  type DiskModel,
  hasPci,
  type NicModel,
  SEED_SERIAL,
  type ShareModel,
  type VmModel,
} from "../model/vm.ts";
import { el, find, type XmlElement } from "./tree.ts";

/** Where a device sits in the machine that is defined now, if it is there. */
export type AddressOf = (device: XmlElement) => XmlElement | undefined;

/** What is at a place of its own: the key under which a device of the new definition finds the old one's address. */
export function deviceKey(device: XmlElement): string | undefined {
  switch (device.name) {
    case "disk":
      return `disk ${find(device, "target")?.attrs["bus"]} ${find(device, "target")?.attrs["dev"]}`;
    case "interface":
      return `interface ${find(device, "model")?.attrs["type"]} ${find(device, "mac")?.attrs["address"]?.toLowerCase()}`;
    case "filesystem":
      return `filesystem ${find(device, "driver")?.attrs["type"]} ${find(device, "target")?.attrs["dir"]}`;
    case "controller":
      return `controller ${device.attrs["type"]} ${device.attrs["model"]} ${device.attrs["index"] ?? "0"}`;
    case "watchdog":
    case "memballoon":
    case "rng":
    case "vsock":
      return `${device.name} ${device.attrs["model"]}`;
    default:
      return undefined;
  }
}

/** Devices that no spec speaks of: whoever gave them to a machine keeps them. */
const FOREIGN: ReadonlySet<string> = new Set([
  "audio",
  "crypto",
  "graphics",
  "hostdev",
  "hub",
  "input",
  "iommu",
  "nvram",
  "panic",
  "parallel",
  "redirdev",
  "shmem",
  "smartcard",
  "sound",
  "video",
]);

/** Whether it is another's, and stays where a definition is written anew. */
export function isForeign(device: XmlElement): boolean {
  if (device.name === "channel") return find(device, "target")?.attrs["name"] !== AGENT_PORT;
  return FOREIGN.has(device.name);
}

/** Every device of a machine, in an order that libvirt keeps where it can. */
export function deviceElements(model: VmModel, addressOf: AddressOf): XmlElement[] {
  const placed = placing(model, addressOf);
  if (model.type === "container") {
    return [
      ...(model.container === undefined ? [] : [bindElement(model.container.root, "/", false)]),
      ...model.shares.map((share) => bindElement(share.source, share.target, share.readonly)),
      ...model.networks.map(nicElement),
      el("console", { type: "pty" }),
    ];
  }
  const { log } = model.console;
  return [
    ...model.disks.map((disk) => placed(diskElement(disk))),
    ...(model.cloud_init === undefined ? [] : [placed(diskElement(seedDisk(model, model.cloud_init)))]),
    ...model.shares.map((share) => placed(shareElement(share))),
    ...model.networks.map((nic) => placed(nicElement(nic))),
    el(
      "serial",
      { type: "pty" },
      log !== undefined && el("log", { file: log, append: "off" }),
      el("target", { port: 0 }),
    ),
    el("console", { type: "pty" }, el("target", { type: "serial", port: 0 })),
    ...(model.agent ? [el("channel", { type: "unix" }, el("target", { type: "virtio", name: AGENT_PORT }))] : []),
    ...(model.tpm ? [tpmElement(model)] : []),
    ...(model.watchdog === undefined ? [] : [placed(el("watchdog", { model: "i6300esb", action: model.watchdog }))]),
    // Changes memory while the machine runs, and says how much of it is in use.
    placed(el("memballoon", { model: "virtio" }, el("stats", { period: 10 }))),
    ...(model.rng ? [placed(el("rng", { model: "virtio" }, el("backend", { model: "random" }, "/dev/urandom")))] : []),
    ...(model.vsock === undefined ? [] : [placed(vsockElement(model.vsock))]),
  ];
}

function placing(model: VmModel, addressOf: AddressOf): (device: XmlElement) => XmlElement {
  return (device) => {
    // Without PCI there is one place only, and libvirt looks for a PCI bus where it is not told of it.
    const address = hasPci(model) ? addressOf(device) : el("address", { type: "virtio-mmio" });
    return address === undefined ? device : { ...device, children: [...device.children, address] };
  };
}

/**
 * Controllers that libvirt would leave out or choose badly: no USB nobody asked for, virtio in place of an LSI card of 2001, and
 * PCI Express ports to plug further disks and cards into while the machine runs (libvirt makes only as many as are used at
 * the start).
 */
export function controllerElements(model: VmModel, keep: readonly XmlElement[], addressOf: AddressOf): XmlElement[] {
  if (model.type === "container") return [];
  const placed = placing(model, addressOf);
  const buses = new Set(model.disks.map((disk) => disk.bus));
  return [
    ...(keep.length > 0 ? keep : pciControllers(model)),
    buses.has("usb")
      ? placed(el("controller", { type: "usb", index: 0, model: "qemu-xhci" }))
      : el("controller", { type: "usb", index: 0, model: "none" }),
    ...(buses.has("scsi") ? [placed(el("controller", { type: "scsi", index: 0, model: "virtio-scsi" }))] : []),
    ...(model.agent ? [placed(el("controller", { type: "virtio-serial", index: 0 }))] : []),
  ];
}

/** PCI Express ports beyond those that are used at the start. */
export const SPARE_PORTS = 4;

function pciControllers(model: VmModel): XmlElement[] {
  if (!hasPci(model) || !/^(q35|virt|pc-q35-.*|virt-.*)$/.test(model.machine)) return [];
  const used =
    model.disks.filter((disk) => disk.bus === "virtio").length +
    model.networks.length +
    model.shares.length +
    [model.cloud_init, model.watchdog, model.vsock, model.rng || undefined, model.agent || undefined].filter(
      (one) => one !== undefined,
    ).length +
    new Set(model.disks.map((disk) => disk.bus).filter((bus) => bus === "usb" || bus === "scsi")).size +
    1;
  return [
    el("controller", { type: "pci", model: "pcie-root" }),
    ...Array.from({ length: used + SPARE_PORTS }, () => el("controller", { type: "pci", model: "pcie-root-port" })),
  ];
}

/** One disk; for virDomainAttachDevice too. */
export function diskElement(disk: DiskModel): XmlElement {
  const { kind, source } = disk;
  return el(
    "disk",
    { type: kind, device: disk.device },
    el("driver", {
      name: "qemu",
      type: disk.format,
      cache: disk.cache,
      io: disk.io,
      discard: disk.discard ? "unmap" : undefined,
    }),
    source !== undefined && el("source", kind === "file" ? { file: source } : { dev: source }),
    disk.shared !== undefined &&
      disk.backing !== undefined &&
      el(
        "backingStore",
        { type: "file" },
        el("format", { type: disk.shared }),
        el("source", { file: disk.backing }, el("seclabel", { model: "dac", relabel: "no" })),
        el("backingStore"),
      ),
    el("target", { dev: disk.target, bus: disk.bus }),
    disk.readonly && el("readonly"),
    disk.serial !== undefined && el("serial", {}, disk.serial),
    disk.boot !== undefined && el("boot", { order: disk.boot }),
  );
}

/** A virtio disk and no CD-ROM: Debian's cloud kernels have no driver for SATA, and cloud-init looks at every disk's label. */
function seedDisk(model: VmModel, source: string): DiskModel {
  const taken = new Set(model.disks.map((disk) => disk.target));
  let n = 25;
  while (taken.has(diskName("vd", n))) n += 1;
  return {
    target: diskName("vd", n),
    device: "disk",
    bus: "virtio",
    source,
    kind: "file",
    format: "raw",
    discard: false,
    readonly: true,
    serial: SEED_SERIAL,
  };
}

/** One network card; for virDomainAttachDevice too. */
export function nicElement(nic: NicModel): XmlElement {
  const type = nic.network !== undefined ? "network" : nic.bridge !== undefined ? "bridge" : "user";
  const source = nic.network !== undefined ? { network: nic.network } : { bridge: nic.bridge };
  return el(
    "interface",
    { type },
    el("mac", { address: nic.mac }),
    type !== "user" && el("source", source),
    nic.model !== undefined && el("model", { type: nic.model }),
    nic.mtu !== undefined && el("mtu", { size: nic.mtu }),
    !nic.link && el("link", { state: "down" }),
    nic.boot !== undefined && el("boot", { order: nic.boot }),
  );
}

function shareElement(share: ShareModel): XmlElement {
  const virtiofs = share.type === "virtiofs";
  return el(
    "filesystem",
    // mapped: files that the guest makes belong to QEMU's user, with the guest's owners beside them, so no root is needed.
    { type: "mount", accessmode: virtiofs ? "passthrough" : "mapped" },
    virtiofs && el("driver", { type: "virtiofs" }),
    el("source", { dir: share.source }),
    el("target", { dir: share.target }),
    share.readonly && el("readonly"),
  );
}

function bindElement(source: string, target: string, readonly: boolean): XmlElement {
  return el(
    "filesystem",
    { type: "mount", accessmode: "passthrough" },
    el("source", { dir: source }),
    el("target", { dir: target }),
    readonly && el("readonly"),
  );
}

function tpmElement(model: VmModel): XmlElement {
  const tpm = model.arch === "x86_64" ? "tpm-crb" : "tpm-tis";
  return el("tpm", { model: tpm }, el("backend", { type: "emulator", version: "2.0" }));
}

function vsockElement(cid: number): XmlElement {
  return el(
    "vsock",
    { model: "virtio" },
    cid === 0 ? el("cid", { auto: "yes" }) : el("cid", { auto: "no", address: cid }),
  );
}
