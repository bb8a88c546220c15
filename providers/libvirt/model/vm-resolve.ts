import { isAbsolute } from "node:path/posix";
import { LabError, parseSize } from "../../../src/index.ts";
import { type Arch, defaultMachine, machineFamily } from "./arch.ts";
import { domainFacts, type HostFacts } from "./facts.ts";
import { macOf, objectName, shareTag, uuidOf } from "./ids.ts";
import { formatIp, parseIp } from "./ip.ts";
import type { DiskModel, NicModel, ShareModel, VmModel } from "./vm.ts";
import type { VmDesired } from "./vm-schema.ts";

/** Where a disk of the spec lies on the host: its layer, its volume, or its own image. */
export interface PlacedDisk {
  readonly source: string;
  readonly kind: "file" | "block";
  readonly format: string;
  /** Bytes, where the spec asks for a size or the image has one. */
  readonly size?: number;
  /** Path of what lies under the layer. */
  readonly backing?: string;
}

/** What a machine that was there before labctl has already; where its spec says nothing else it stays. */
export interface Inherited {
  /** Its definition, to which deleting it goes back. */
  readonly definition: string;
  /** Addresses of its cards, in order. */
  readonly macs: readonly string[];
  /** Its disks, by target. */
  readonly disks: Readonly<Record<string, PlacedDisk>>;
}

/** What a machine's model is made of besides its own properties. */
export interface VmContext {
  readonly lab: string;
  readonly address: string;
  readonly instance_id: string;
  readonly lineage: string;
  /** Digest of what cannot be seen on the domain, for its owner's mark. */
  readonly digest?: string;
  /** Its name in libvirt, where it was imported. */
  readonly name?: string;
  readonly inherited?: Inherited;
  readonly facts: HostFacts;
  /** One for each of `desired.disks`, in order. */
  readonly disks: readonly PlacedDisk[];
  /** Path on the host of a local file of the spec (kernel, initrd, dtb). */
  placed(path: string): string;
  /** libvirt's name of one of `networks:`; undefined: there is none of that name on the host. */
  network(name: string): string | undefined;
  /** Where its console is recorded, unless the spec says. Default: in the folder that libvirt has for that. */
  readonly log?: string;
  /** Path on the host of the cloud-init seed; see cloud-init.ts. Needed where the spec has `cloud_init`. */
  readonly seed?: string;
}

type Disk = NonNullable<VmDesired["disks"]>[number];
type Wrong = (message: string, hint?: string) => LabError;

const MIB = 1024 ** 2;

function wrongOf(address: string): Wrong {
  return (message, hint) => new LabError("E_SPEC_VALUE", message, { address, ...(hint !== undefined && { hint }) });
}

/** The machine that a spec asks for, on one host. Throws E_SPEC_VALUE where its parts do not go together. */
export function resolveVm(desired: VmDesired, context: VmContext): VmModel {
  const wrong = wrongOf(context.address);
  const container = desired.type === "container";
  const { facts } = context;
  const arch = desired.arch ?? facts.host.arch;
  if (arch === undefined) throw wrong("the host's processor is none that labctl makes machines of; name an `arch`");
  const acceleration = container ? "none" : accelerationOf(desired, arch, facts);
  const machine = container ? "" : (desired.machine ?? defaultMachine(arch));
  const family = machineFamily(machine);
  if (container) refuseForContainer(desired, wrong);
  else if (desired.container !== undefined) throw wrong("`container` goes with `type: container` only");
  if (family === "microvm" && desired.boot === undefined) {
    throw wrong("a microvm has no firmware that boots disks", "give it a kernel under `boot`");
  }
  const name = context.name ?? objectName(context.lab, desired.name);
  const firmware: { readonly type: "bios" | "uefi"; readonly secure_boot?: boolean } =
    typeof desired.firmware === "object" ? desired.firmware : { type: desired.firmware ?? "bios" };
  if (firmware.type === "bios" && firmware.secure_boot === true) throw wrong("only UEFI has secure boot");
  const capabilities = container ? undefined : domainFacts(facts, arch, machine, hypervisorOf(acceleration));
  const emulator = capabilities?.emulator ?? guestEmulator(facts, arch, container);
  const hugepages = hugepagesOf(desired.hugepages);
  const boot = bootOf(desired, context);
  const clock = family === "microvm" && acceleration === "emulated" && arch === "x86_64" ? clockHint(facts) : undefined;
  const root = container ? desired.container : undefined;
  const vsock = desired.vsock === true ? 0 : typeof desired.vsock === "number" ? desired.vsock : undefined;
  if (desired.cloud_init !== undefined && context.seed === undefined) {
    throw new LabError("E_INTERNAL", "a machine with cloud_init needs its seed placed", { address: context.address });
  }
  const log = container ? undefined : logOf(desired.console?.log, context.log ?? libvirtLog(name));
  const model: VmModel = {
    name,
    uuid: uuidOf(context.instance_id),
    owner: {
      lab: context.lab,
      address: context.address,
      instance_id: context.instance_id,
      lineage: context.lineage,
      ...(context.digest !== undefined && { digest: context.digest }),
    },
    type: container ? "container" : "vm",
    acceleration,
    arch,
    machine,
    ...(emulator !== undefined && { emulator }),
    cpus: cpusOf(desired, container, defaultCpu(arch, acceleration), wrong),
    memory: memoryOf(desired.memory, wrong),
    ...(hugepages !== undefined && { hugepages }),
    disks: (desired.disks ?? []).map((disk, i) => diskOf(disk, i, desired.disks ?? [], context, wrong)),
    networks: (desired.networks ?? []).map((nic, i) => nicOf(nic, i, container, context, wrong)),
    shares: (desired.shares ?? []).map((share) => shareOf(share, container, capabilities?.filesystems, wrong)),
    ...(boot !== undefined && { boot: clock === undefined ? boot : withArgument(boot, ...clock) }),
    firmware: { type: firmware.type, secure_boot: firmware.secure_boot ?? false },
    console: log === undefined ? {} : { log },
    ...(root !== undefined && {
      container: { root: root.root, init: root.init ?? "/sbin/init", args: [...(root.args ?? [])] },
    }),
    ...(desired.cloud_init !== undefined && context.seed !== undefined && { cloud_init: context.seed }),
    rng: !container && desired.rng !== false,
    agent: !container && desired.agent === true,
    ...(desired.watchdog !== undefined && { watchdog: desired.watchdog }),
    tpm: desired.tpm === true,
    ...(vsock !== undefined && { vsock }),
    autostart: desired.autostart ?? false,
    running: desired.running ?? true,
  };
  refuseTwins(model, wrong);
  return model;
}

/** What libvirt calls a way of running machines. */
export function hypervisorOf(acceleration: VmModel["acceleration"]): "kvm" | "qemu" | "lxc" {
  return acceleration === "kvm" ? "kvm" : acceleration === "emulated" ? "qemu" : "lxc";
}

function accelerationOf(desired: VmDesired, arch: Arch, facts: HostFacts): "kvm" | "emulated" {
  if (desired.acceleration === "kvm" || desired.acceleration === "emulated") return desired.acceleration;
  const offered = facts.host.guests.some((guest) => guest.arch === arch && guest.types.includes("kvm"));
  return facts.kvm && offered && facts.host.arch === arch ? "kvm" : "emulated";
}

function guestEmulator(facts: HostFacts, arch: Arch, container: boolean): string | undefined {
  const os = container ? "exe" : "hvm";
  return facts.host.guests.find((guest) => guest.arch === arch && guest.os === os)?.emulator;
}

function refuseForContainer(desired: VmDesired, wrong: Wrong): void {
  const not = [
    ...(["machine", "disks", "boot", "cloud_init", "hugepages", "watchdog", "console", "agent"] as const).filter(
      (key) => desired[key] !== undefined && desired[key] !== false,
    ),
    ...(desired.tpm === true ? ["tpm"] : []),
    ...(desired.vsock !== undefined && desired.vsock !== false ? ["vsock"] : []),
    ...(desired.firmware !== undefined && desired.firmware !== "bios" ? ["firmware"] : []),
  ];
  if (not.length > 0) throw wrong(`a container has no ${not.join(", ")}`, "these are for `type: vm`");
  if (desired.container === undefined) throw wrong("`type: container` needs `container: { root: DIRECTORY }`");
}

/** QEMU's newest arm64 signs return addresses, and emulating that makes every call slow. */
/** Undefined: QEMU's own. For riscv64 libvirt knows no models, not even the largest (libvirt 9.0 with QEMU 7.2). */
function defaultCpu(arch: Arch, acceleration: VmModel["acceleration"]): string | undefined {
  if (acceleration === "kvm") return "host-passthrough";
  if (arch === "riscv64") return undefined;
  return arch === "arm64" ? "cortex-a72" : "max";
}

/** What a machine takes of its host at most: processors, and bytes of memory. @throws LabError E_SPEC_VALUE */
export function roomOf(desired: VmDesired, address: string): { readonly cpus: number; readonly memory: number } {
  const wrong = wrongOf(address);
  return {
    cpus: cpusOf(desired, desired.type === "container", undefined, wrong).max,
    memory: memoryOf(desired.memory, wrong).max,
  };
}

function cpusOf(desired: VmDesired, container: boolean, standard: string | undefined, wrong: Wrong): VmModel["cpus"] {
  const given = typeof desired.cpus === "object" ? desired.cpus : { count: desired.cpus ?? 1 };
  const { count, sockets, cores, threads } = given;
  if (container) return { count, max: count };
  const shaped = sockets !== undefined || cores !== undefined || threads !== undefined;
  const topology = { sockets: sockets ?? 1, cores: cores ?? 1, threads: threads ?? 1 };
  const product = topology.sockets * topology.cores * topology.threads;
  const max = given.max ?? (shaped ? product : count);
  if (shaped && product !== max) {
    throw wrong(
      `${topology.sockets} sockets of ${topology.cores} cores of ${topology.threads} threads are ${product} processors, not ${max}`,
    );
  }
  if (count > max) throw wrong(`${count} processors are more than the ${max} that it can have`);
  const model = given.model ?? standard;
  return { count, max, ...(shaped && { topology }), ...(model !== undefined && { model }) };
}

/** QEMU takes whole MiB only, and libvirt rounds up to them. */
function memoryOf(memory: VmDesired["memory"] | undefined, wrong: Wrong): VmModel["memory"] {
  const given = typeof memory === "object" ? memory : { size: memory ?? "1GiB" };
  const bytes = (text: string): number => {
    const size = parseSize(text);
    if (size === undefined || size < MIB) throw wrong(`${JSON.stringify(text)} is no size of a memory`);
    return Math.ceil(size / MIB) * MIB;
  };
  const size = bytes(given.size);
  const max = given.max === undefined ? size : bytes(given.max);
  if (size > max) throw wrong(`${given.size} of memory are more than the ${given.max} that it can have`);
  return { size, max };
}

function hugepagesOf(given: VmDesired["hugepages"] | undefined): number | undefined {
  if (given === undefined || given === false) return undefined;
  return given === true ? 0 : parseSize(given);
}

function bootOf({ boot }: VmDesired, context: VmContext): VmModel["boot"] {
  if (boot === undefined) return undefined;
  return {
    kernel: context.placed(boot.kernel),
    ...(boot.initrd !== undefined && { initrd: context.placed(boot.initrd) }),
    ...(boot.cmdline !== undefined && boot.cmdline !== "" && { cmdline: boot.cmdline }),
    ...(boot.dtb !== undefined && { dtb: context.placed(boot.dtb) }),
  };
}

/** How a kernel is told the frequency of its time stamp counter. */
export const CLOCK_HINT = "tsc_early_khz";

/**
 * A microvm has no clock but its processor's to tell the time by, and a kernel measures that one's frequency against a timer that is
 * too coarse when the host is busy: emulated, it then stands still for ever. The emulated counter runs as the host's does, whose
 * frequency libvirt knows where there is KVM; elsewhere (on virtual hosts) it is that of the processor.
 */
function clockHint({ host, mhz }: HostFacts): readonly [name: string, value: string] | undefined {
  const megahertz = host.tsc === undefined ? mhz : Math.round(host.tsc / 1e6);
  return megahertz === undefined ? undefined : [CLOCK_HINT, String(megahertz * 1000)];
}

/** The kernel's command line with one more argument, unless it has one of that name. */
function withArgument(boot: NonNullable<VmModel["boot"]>, name: string, value: string): NonNullable<VmModel["boot"]> {
  const words = boot.cmdline?.split(/\s+/) ?? [];
  if (words.some((word) => word.startsWith(`${name}=`))) return boot;
  return { ...boot, cmdline: [...(boot.cmdline === undefined ? [] : [boot.cmdline]), `${name}=${value}`].join(" ") };
}

function logOf(log: string | boolean | undefined, usual: string): string | undefined {
  if (log === false) return undefined;
  return typeof log === "string" ? log : usual;
}

/** In the folder that every libvirt has for QEMU's logs: its log daemon makes none. */
function libvirtLog(name: string): string {
  return `/var/log/libvirt/qemu/${name}-console.log`;
}

function diskOf(disk: Disk, at: number, disks: readonly Disk[], context: VmContext, wrong: Wrong): DiskModel {
  const placed = context.disks[at];
  if (placed === undefined) {
    throw new LabError("E_INTERNAL", "a disk was not placed", { address: context.address });
  }
  if (disk.volume !== undefined && disk.image !== undefined) throw wrong(`disk ${at} has both a volume and an image`);
  if (disk.volume === undefined && disk.image === undefined && disk.size === undefined) {
    throw wrong(`disk ${at} needs a volume, an image, or a size to be empty of`);
  }
  const device = disk.device ?? "disk";
  const bus = disk.bus ?? "virtio";
  if (device === "cdrom" && bus === "virtio")
    throw wrong(`disk ${at} is a cdrom, which virtio has not`, "`bus: sata` or scsi");
  if (disk.io === "native" && disk.cache !== "none" && disk.cache !== "directsync") {
    throw wrong(`disk ${at}: \`io: native\` needs \`cache: none\` or \`cache: directsync\``);
  }
  return {
    target: disk.target ?? targetOf(disks, at),
    device,
    bus,
    source: placed.source,
    kind: placed.kind,
    format: placed.format,
    ...(disk.cache !== undefined && { cache: disk.cache }),
    ...(disk.io !== undefined && { io: disk.io }),
    discard: disk.discard ?? false,
    readonly: device === "cdrom" || (disk.readonly ?? false),
    ...(disk.serial !== undefined && { serial: disk.serial }),
    ...(disk.boot !== undefined && { boot: disk.boot }),
    ...(placed.size !== undefined && { size: placed.size }),
    ...(placed.backing !== undefined && { backing: placed.backing }),
  };
}

const prefixOf = (disk: Disk): string => ((disk.bus ?? "virtio") === "virtio" ? "vd" : "sd");

/** vda, vdb, ... by place among the disks that share the letters; names that the spec gives are passed over. */
export function targetOf(disks: readonly Disk[], at: number): string {
  const prefix = disks[at] === undefined ? "vd" : prefixOf(disks[at]);
  const given = new Set(disks.map((disk) => disk.target));
  const before = disks.slice(0, at).filter((disk) => disk.target === undefined && prefixOf(disk) === prefix).length;
  let free = -1;
  for (let n = 0; ; n += 1) {
    const name = diskName(prefix, n);
    if (!given.has(name)) free += 1;
    if (free === before) return name;
  }
}

/** vda is 0, vdz 25, vdaa 26. */
export function diskName(prefix: string, n: number): string {
  const letter = (i: number): string => String.fromCodePoint(97 + i);
  return prefix + (n < 26 ? letter(n) : letter(Math.floor(n / 26) - 1) + letter(n % 26));
}

function nicOf(
  given: NonNullable<VmDesired["networks"]>[number],
  at: number,
  container: boolean,
  context: VmContext,
  wrong: Wrong,
): NicModel {
  const nic: Partial<Exclude<typeof given, string>> = typeof given === "string" ? { network: given } : given;
  const plugs = [nic.network, nic.bridge, nic.user === true ? true : undefined].filter((one) => one !== undefined);
  if (plugs.length !== 1) throw wrong(`network card ${at} needs one of \`network\`, \`bridge\` and \`user: true\``);
  const network = nic.network === undefined ? undefined : context.network(nic.network);
  if (nic.network !== undefined && network === undefined) throw wrong(`there is no network ${nic.network} on its host`);
  const ip = nic.address === undefined ? undefined : parseIp(nic.address);
  if (nic.address !== undefined && (ip?.family !== 4 || network === undefined)) {
    throw wrong(`${nic.address}: a card's address is one of IPv4, and one of \`networks:\` gives it`);
  }
  if (nic.user === true && nic.mtu !== undefined)
    throw wrong(`network card ${at}: QEMU's own network has no \`mtu\` to set`);
  return {
    mac: nic.mac?.toLowerCase() ?? context.inherited?.macs[at] ?? macOf(context.instance_id, at),
    ...(network !== undefined && { network }),
    ...(nic.bridge !== undefined && { bridge: nic.bridge }),
    ...(nic.user === true && { user: true as const }),
    ...(!container && { model: nic.model ?? "virtio" }),
    link: nic.link ?? true,
    ...(nic.mtu !== undefined && { mtu: nic.mtu }),
    ...(nic.boot !== undefined && { boot: nic.boot }),
    ...(ip !== undefined && { address: formatIp(ip) }),
  };
}

function shareOf(
  share: NonNullable<VmDesired["shares"]>[number],
  container: boolean,
  filesystems: readonly string[] | undefined,
  wrong: Wrong,
): ShareModel {
  if (!isAbsolute(share.source)) throw wrong(`the share ${share.source} is no absolute path on the host`);
  const readonly = share.readonly ?? false;
  const base = { source: share.source, readonly };
  if (container) return { ...base, target: share.target, type: "bind" };
  // virtiofsd of libvirt before 11 has no read-only mode, and libvirt refuses what it cannot do.
  const best = filesystems?.includes("virtiofs") === true && !readonly ? "virtiofs" : "9p";
  const type = share.type === "virtiofs" || share.type === "9p" ? share.type : best;
  return { ...base, target: shareTag(share.target), type };
}

/** Two of what tells things apart would make one of them disappear. */
function refuseTwins(model: VmModel, wrong: Wrong): void {
  const lists: readonly [string, readonly (string | number)[]][] = [
    ["disk", model.disks.map((one) => one.target)],
    ["disk on", model.disks.flatMap((one) => (one.readonly || one.source === undefined ? [] : [one.source]))],
    ["network card", model.networks.map((one) => one.mac)],
    ["share", model.shares.map((one) => one.target)],
    ["place in the order of booting", [...model.disks, ...model.networks].flatMap((one) => one.boot ?? [])],
  ];
  for (const [what, keys] of lists) {
    const twin = keys.find((key, i) => keys.indexOf(key) !== i);
    if (twin !== undefined) throw wrong(`there are two of the ${what} ${twin}`);
  }
}
