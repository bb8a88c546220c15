import { type Arch, archOf } from "../model/arch.ts";
import { BUSES, CACHES, IO_MODES } from "../model/vm-parts.ts";
import { AGENT_PORT, type DiskModel, type NicModel, SEED_SERIAL, type ShareModel, type VmModel } from "../model/vm.ts";
import { observeOwner } from "./owner.ts";
import { all, attrAt, bytesAt, bytesOf, find, parseXml, textAt, wholeNumber, type XmlElement } from "./tree.ts";

/** What is true of a machine and not in its XML. */
export interface LiveFacts {
  readonly running: boolean;
  readonly autostart: boolean;
  /** Of its disks, by target: what their volumes say. */
  readonly disks?: Readonly<Record<string, { readonly size?: number; readonly backing?: string }>>;
  /** From MAC to the address that its network reserves for it. */
  readonly addresses?: Readonly<Record<string, string>>;
}

/** What libvirt says of a machine, without all that it adds by itself. `xml` is the live or the persistent definition. */
export function observeDomain(xml: string, live: LiveFacts): VmModel {
  const root = parseXml(xml, "domain");
  const devices = find(root, "devices");
  const type = root.attrs["type"] ?? "";
  const container = type === "lxc";
  const owner = observeOwner(root);
  const disks = all(devices, "disk");
  const seed = disks.find((disk) => textAt(disk, "serial") === SEED_SERIAL);
  const filesystems = all(devices, "filesystem");
  const rootfs = container ? filesystems.find((one) => attrAt(one, ["target"], "dir") === "/") : undefined;
  const emulator = textAt(devices, "emulator");
  const hugepages = hugepagesOf(root);
  const seedPath = seed === undefined ? undefined : attrAt(seed, ["source"], "file");
  const log = attrAt(find(devices, "serial"), ["log"], "file");
  const watchdog = watchdogOf(devices);
  const vsock = vsockOf(devices);
  const boot = container ? undefined : bootOf(root);
  return {
    name: textAt(root, "name") ?? "",
    uuid: textAt(root, "uuid") ?? "",
    ...(owner !== undefined && { owner }),
    type: container ? "container" : "vm",
    acceleration: container ? "none" : type === "kvm" ? "kvm" : "emulated",
    arch: archFrom(attrAt(root, ["os", "type"], "arch")),
    machine: attrAt(root, ["os", "type"], "machine") ?? "",
    ...(emulator !== undefined && { emulator }),
    cpus: cpusOf(root, container),
    memory: memoryOf(root),
    ...(hugepages !== undefined && { hugepages }),
    disks: disks.filter((disk) => disk !== seed).map((disk) => diskOf(disk, live)),
    networks: all(devices, "interface").map((nic) => nicOf(nic, container, live)),
    shares: filesystems.filter((one) => one !== rootfs).map((one) => shareOf(one, container)),
    ...(boot !== undefined && { boot }),
    firmware: firmwareOf(root),
    console: log === undefined ? {} : { log },
    ...(container && { container: containerOf(root, rootfs) }),
    ...(seedPath !== undefined && { cloud_init: seedPath }),
    rng: find(devices, "rng") !== undefined,
    agent: all(devices, "channel").some((one) => find(one, "target")?.attrs["name"] === AGENT_PORT),
    ...(watchdog !== undefined && { watchdog }),
    tpm: find(devices, "tpm") !== undefined,
    ...(vsock !== undefined && { vsock }),
    autostart: live.autostart,
    running: live.running,
  };
}

/** What labctl makes no machines of is shown under its own name, so that a diff can say it. */
function archFrom(name: string | undefined): Arch {
  return archOf(name ?? "") ?? ((name ?? "") as Arch);
}

function cpusOf(root: XmlElement, container: boolean): VmModel["cpus"] {
  const vcpu = find(root, "vcpu");
  const max = wholeNumber(vcpu?.text) ?? 1;
  const count = wholeNumber(vcpu?.attrs["current"]) ?? max;
  if (container) return { count, max };
  const cpu = find(root, "cpu");
  const shape = find(cpu, "topology")?.attrs;
  const part = (name: string): number => wholeNumber(shape?.[name]) ?? 1;
  const model = cpuModelOf(cpu);
  return {
    count,
    max,
    ...(shape !== undefined && {
      // A socket of several dies holds that many times the cores.
      topology: { sockets: part("sockets"), cores: part("dies") * part("cores"), threads: part("threads") },
    }),
    ...(model !== undefined && { model }),
  };
}

function cpuModelOf(cpu: XmlElement | undefined): string | undefined {
  const mode = cpu?.attrs["mode"] ?? "custom";
  if (mode === "maximum") return "max";
  return mode === "custom" ? textAt(cpu, "model") : mode;
}

function memoryOf(root: XmlElement): VmModel["memory"] {
  const max = bytesAt(root, ["memory"]) ?? 0;
  return { size: bytesAt(root, ["currentMemory"]) ?? max, max };
}

function hugepagesOf(root: XmlElement): number | undefined {
  const hugepages = find(root, "memoryBacking", "hugepages");
  if (hugepages === undefined) return undefined;
  const { size, unit } = find(hugepages, "page")?.attrs ?? {};
  return bytesOf(size, unit ?? "KiB") ?? 0;
}

function oneOf<const T extends string>(allowed: readonly T[], text: string | undefined): T | undefined {
  return allowed.find((one) => one === text);
}

function diskOf(disk: XmlElement, live: LiveFacts): DiskModel {
  const target = find(disk, "target")?.attrs ?? {};
  const driver = find(disk, "driver")?.attrs ?? {};
  const source = find(disk, "source")?.attrs ?? {};
  const name = target["dev"] ?? "";
  const path = source["file"] ?? source["dev"];
  const facts = live.disks?.[name];
  // A running machine names it too.
  const backing = facts?.backing ?? attrAt(disk, ["backingStore", "source"], "file");
  const cache = oneOf(CACHES, driver["cache"]);
  const io = oneOf(IO_MODES, driver["io"]);
  const serial = textAt(disk, "serial");
  const boot = wholeNumber(attrAt(disk, ["boot"], "order"));
  return {
    target: name,
    device: disk.attrs["device"] === "cdrom" ? "cdrom" : "disk",
    bus: oneOf(BUSES, target["bus"]) ?? ((target["bus"] ?? "") as DiskModel["bus"]),
    ...(path !== undefined && { source: path }),
    kind: disk.attrs["type"] === "block" ? "block" : "file",
    format: driver["type"] ?? "raw",
    ...(cache !== undefined && { cache }),
    ...(io !== undefined && { io }),
    discard: driver["discard"] === "unmap",
    readonly: find(disk, "readonly") !== undefined,
    ...(serial !== undefined && { serial }),
    ...(boot !== undefined && { boot }),
    ...(facts?.size !== undefined && { size: facts.size }),
    ...(backing !== undefined && { backing }),
  };
}

function nicOf(nic: XmlElement, container: boolean, live: LiveFacts): NicModel {
  const source = find(nic, "source")?.attrs ?? {};
  const mac = (attrAt(nic, ["mac"], "address") ?? "").toLowerCase();
  const type = nic.attrs["type"];
  const model = attrAt(nic, ["model"], "type");
  const mtu = wholeNumber(attrAt(nic, ["mtu"], "size"));
  const boot = wholeNumber(attrAt(nic, ["boot"], "order"));
  const address = live.addresses?.[mac];
  return {
    mac,
    // A running card of a network also names the bridge that it ended up on.
    ...(type === "network" && source["network"] !== undefined && { network: source["network"] }),
    ...(type === "bridge" && source["bridge"] !== undefined && { bridge: source["bridge"] }),
    ...(type === "user" && { user: true as const }),
    ...(!container && model !== undefined && { model }),
    link: attrAt(nic, ["link"], "state") !== "down",
    ...(mtu !== undefined && { mtu }),
    ...(boot !== undefined && { boot }),
    ...(address !== undefined && { address }),
  };
}

function shareOf(share: XmlElement, container: boolean): ShareModel {
  const virtiofs = attrAt(share, ["driver"], "type") === "virtiofs";
  return {
    source: attrAt(share, ["source"], "dir") ?? "",
    target: attrAt(share, ["target"], "dir") ?? "",
    type: container ? "bind" : virtiofs ? "virtiofs" : "9p",
    readonly: find(share, "readonly") !== undefined,
  };
}

function bootOf(root: XmlElement): VmModel["boot"] {
  const kernel = textAt(root, "os", "kernel");
  if (kernel === undefined) return undefined;
  const [initrd, cmdline, dtb] = ["initrd", "cmdline", "dtb"].map((name) => textAt(root, "os", name));
  return {
    kernel,
    ...(initrd !== undefined && { initrd }),
    ...(cmdline !== undefined && { cmdline }),
    ...(dtb !== undefined && { dtb }),
  };
}

/** libvirt keeps `firmware='efi'` beside the files that it chose; who wrote the files by hand has a flash loader alone. */
function firmwareOf(root: XmlElement): VmModel["firmware"] {
  const os = find(root, "os");
  const loader = find(os, "loader");
  const uefi = os?.attrs["firmware"] === "efi" || loader?.attrs["type"] === "pflash";
  const feature = all(find(os, "firmware"), "feature").find((one) => one.attrs["name"] === "secure-boot");
  const secure = feature === undefined ? loader?.attrs["secure"] === "yes" : feature.attrs["enabled"] === "yes";
  return { type: uefi ? "uefi" : "bios", secure_boot: uefi && secure };
}

function containerOf(root: XmlElement, rootfs: XmlElement | undefined): NonNullable<VmModel["container"]> {
  return {
    root: attrAt(rootfs, ["source"], "dir") ?? "",
    init: textAt(root, "os", "init") ?? "",
    args: all(find(root, "os"), "initarg").map((one) => one.text),
  };
}

/** libvirt since 9.1 adds the chipset's own watchdog (itco) to every q35: that one nobody asked for. */
function watchdogOf(devices: XmlElement | undefined): string | undefined {
  return all(devices, "watchdog").find((one) => one.attrs["model"] !== "itco")?.attrs["action"];
}

/** A running machine also has the id that was chosen for it. */
function vsockOf(devices: XmlElement | undefined): number | undefined {
  const vsock = find(devices, "vsock");
  if (vsock === undefined || vsock.attrs["model"] === "none") return undefined;
  const cid = find(vsock, "cid")?.attrs ?? {};
  return cid["auto"] === "yes" ? 0 : (wholeNumber(cid["address"]) ?? 0);
}
