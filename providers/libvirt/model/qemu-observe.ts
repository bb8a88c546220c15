import { basename } from "node:path/posix";
import { LabError } from "../../../src/index.ts";
import { archOf } from "./arch.ts";
import { type DiskModel, type NicModel, SEED_SERIAL, type ShareModel, type VmModel } from "./vm.ts";

/** What a command line says of a machine: all but what lies in files, on networks, or with whoever started it. */
export type ArgvModel = Omit<VmModel, "owner" | "autostart" | "running">;

type Values = Readonly<Record<string, string>>;

const MIB = 1024 ** 2;

/** The value of an option, as QEMU reads it: the inverse of what qemu-argv.ts writes. `head` is what has no `=`. */
export function parseOption(text: string): { readonly head: string; readonly values: Values } {
  let head = "";
  const values: Record<string, string> = {};
  for (const part of splitOption(text)) {
    const at = part.indexOf("=");
    if (at < 0) head = part;
    else values[part.slice(0, at)] = part.slice(at + 1);
  }
  return { head, values };
}

/** At single commas; two are one of the value's. */
function splitOption(text: string): string[] {
  const out = [""];
  for (let at = 0; at < text.length; at += 1) {
    const char = text.charAt(at);
    const doubled = char === "," && text.charAt(at + 1) === ",";
    if (char === "," && !doubled) out.push("");
    else out.push((out.pop() ?? "") + char);
    if (doubled) at += 1;
  }
  return out;
}

/**
 * The machine that a QEMU was started as, from its own command line (/proc/PID/cmdline): the inverse of qemuArgv(). Memory is what
 * it has at most; sizes of disks, and what is under them, QEMU itself knows. Throws E_QEMU for one that labctl did not write.
 */
export function observeArgv(argv: readonly string[]): ArgvModel {
  const [program = "", ...args] = argv;
  const arch = archOf(basename(program).replace(/^qemu-system-/, ""));
  const all = optionsOf(args);
  const one = (flag: string): string | undefined => all.find((each) => each.flag === flag)?.value;
  const parsed = (flag: string) => all.filter((each) => each.flag === flag).map((each) => parseOption(each.value));
  const uuid = one("-uuid");
  const name = parsed("-name")[0]?.values["guest"];
  const [machine] = parsed("-machine");
  const [smp] = parsed("-smp");
  const memory = mebibytes(parsed("-m")[0]?.values["size"]);
  if (arch === undefined || uuid === undefined || name === undefined || machine === undefined || smp === undefined) {
    throw new LabError("E_QEMU", `the command line of ${basename(program)} is none that labctl wrote`);
  }
  const devices = parsed("-device");
  const chardevs = parsed("-chardev");
  const flash = parsed("-drive").some(({ values }) => values["if"] === "pflash");
  const kernel = one("-kernel");
  const disks = disksOf(
    all.filter((each) => each.flag === "-blockdev").map((each) => each.value),
    devices,
  );
  const seed = disks.find((disk) => disk.serial === SEED_SERIAL);
  const huge = hugepagesOf(parsed("-object")[0]?.values);
  const log = chardevs.find(({ values }) => values["id"] === "console")?.values["logfile"];
  const watchdog = devices.some(({ head }) => head === "i6300esb")
    ? parsed("-action")[0]?.values["watchdog"]
    : undefined;
  const vsock = devices.find(({ head }) => head.startsWith("vhost-vsock"))?.values["guest-cid"];
  const cpu = one("-cpu");
  const { sockets, cores, threads } = smp.values;
  const count = Number(smp.head);
  const text = (flag: "initrd" | "append" | "dtb", key: "initrd" | "cmdline" | "dtb"): Values => {
    const value = one(`-${flag}`);
    return value === undefined ? {} : { [key]: value };
  };
  return {
    name,
    uuid,
    type: "vm",
    acceleration: parsed("-accel")[0]?.head === "kvm" ? "kvm" : "emulated",
    arch,
    machine: machine.head,
    emulator: program,
    cpus: {
      count,
      max: Number(smp.values["maxcpus"] ?? count),
      ...(sockets !== undefined && {
        topology: { sockets: Number(sockets), cores: Number(cores), threads: Number(threads) },
      }),
      ...(cpu !== undefined && { model: cpu === "host" ? "host-passthrough" : cpu }),
    },
    memory: { size: memory, max: memory },
    ...(huge !== undefined && { hugepages: huge }),
    disks: disks.filter((disk) => disk !== seed),
    networks: nicsOf(parsed("-netdev"), devices),
    shares: sharesOf(parsed("-fsdev"), devices),
    ...(kernel !== undefined && {
      boot: { kernel, ...text("initrd", "initrd"), ...text("append", "cmdline"), ...text("dtb", "dtb") },
    }),
    firmware: { type: flash ? "uefi" : "bios", secure_boot: machine.values["smm"] === "on" },
    console: log === undefined ? {} : { log },
    ...(seed?.source !== undefined && { cloud_init: seed.source }),
    rng: devices.some(({ head }) => head.startsWith("virtio-rng")),
    agent: false,
    ...(watchdog !== undefined && { watchdog }),
    tpm: chardevs.some(({ values }) => values["id"] === "tpm"),
    ...(vsock !== undefined && { vsock: Number(vsock) }),
  };
}

/** Flags without a value, of those that labctl writes. */
const BARE = new Set(["-nodefaults", "-no-user-config", "-daemonize", "-S"]);

function optionsOf(args: readonly string[]): { readonly flag: string; readonly value: string }[] {
  const out: { flag: string; value: string }[] = [];
  for (let at = 0; at < args.length; at += 1) {
    const flag = args[at] ?? "";
    if (BARE.has(flag)) continue;
    out.push({ flag, value: args[at + 1] ?? "" });
    at += 1;
  }
  return out;
}

function mebibytes(text: string | undefined): number {
  return Number(/^(\d+)M$/.exec(text ?? "")?.[1] ?? 0) * MIB;
}

function hugepagesOf(values: Values | undefined): number | undefined {
  if (values?.["hugetlb"] !== "on") return undefined;
  return Number(values["hugetlbsize"] ?? 0);
}

type Parsed = ReturnType<typeof parseOption>;

interface BlockNode {
  readonly driver: string;
  readonly "node-name": string;
  readonly "read-only": boolean;
  readonly discard: string;
  readonly cache?: { readonly direct: boolean; readonly "no-flush": boolean };
  readonly file: { readonly driver: string; readonly filename?: string; readonly aio?: NonNullable<DiskModel["io"]> };
}

function disksOf(nodes: readonly string[], devices: readonly Parsed[]): DiskModel[] {
  return nodes.flatMap((json): DiskModel[] => {
    const node = JSON.parse(json) as BlockNode;
    const device = devices.find(({ values }) => values["drive"] === node["node-name"]);
    if (device === undefined) return [];
    const { serial, bootindex } = device.values;
    const cache = cacheOf(node.cache, device.values["write-cache"]);
    const bus = busOf(device.head);
    return [
      {
        target: node["node-name"],
        device: device.head.endsWith("-cd") ? "cdrom" : "disk",
        bus,
        ...(node.file.filename !== undefined && { source: node.file.filename }),
        kind: node.file.driver === "host_device" ? "block" : "file",
        format: node.driver,
        ...(cache !== undefined && { cache }),
        ...(node.file.aio !== undefined && { io: node.file.aio }),
        discard: node.discard === "unmap",
        readonly: node["read-only"],
        ...(serial !== undefined && { serial }),
        ...(bootindex !== undefined && { boot: Number(bootindex) }),
      },
    ];
  });
}

function busOf(device: string): DiskModel["bus"] {
  if (device.startsWith("virtio-blk")) return "virtio";
  if (device.startsWith("scsi-")) return "scsi";
  return device.startsWith("ide-") ? "sata" : "usb";
}

function cacheOf(cache: BlockNode["cache"], writes: string | undefined): DiskModel["cache"] {
  if (cache === undefined) return undefined;
  if (cache["no-flush"]) return "unsafe";
  if (writes === "off") return cache.direct ? "directsync" : "writethrough";
  return cache.direct ? "none" : "writeback";
}

function nicsOf(netdevs: readonly Parsed[], devices: readonly Parsed[]): NicModel[] {
  return netdevs.flatMap(({ head, values }): NicModel[] => {
    const device = devices.find((each) => each.values["netdev"] === values["id"]);
    const mac = device?.values["mac"];
    if (device === undefined || mac === undefined) return [];
    const boot = device.values["bootindex"];
    return [
      {
        mac,
        ...(head === "bridge" && values["br"] !== undefined ? { bridge: values["br"] } : { user: true as const }),
        model: device.head.startsWith("virtio-net") ? "virtio" : device.head,
        link: true,
        ...(boot !== undefined && { boot: Number(boot) }),
      },
    ];
  });
}

function sharesOf(folders: readonly Parsed[], devices: readonly Parsed[]): ShareModel[] {
  return folders.flatMap(({ values }): ShareModel[] => {
    const target = devices.find((each) => each.values["fsdev"] === values["id"])?.values["mount_tag"];
    const source = values["path"];
    if (target === undefined || source === undefined) return [];
    return [{ source, target, type: "9p", readonly: values["readonly"] === "on" }];
  });
}
