import type { Plain } from "../../../src/index.ts";
import { machineFamily } from "./arch.ts";
import { CLOCK_HINT } from "./vm-resolve.ts";
import { type DiskModel, hasPci, type NicModel, type ShareModel, type VmModel } from "./vm.ts";

/**
 * One property that differs. `live`: it changes while the machine runs (or the machine is off); `restart`: the machine must be
 * stopped for it; `replace`: it must be made anew.
 */
export interface VmChange {
  /** As in the spec: `cpus.count`, `disks.0.cache`. Parts that nobody asked for are counted after those of the spec. */
  readonly path: string;
  readonly before?: Plain;
  readonly after?: Plain;
  readonly effect: "live" | "restart" | "replace";
}

type Effect = VmChange["effect"];
type Data = Readonly<Record<string, Plain>>;

/** What differs between two forms of a machine. Its name, ids, owner and emulator are not compared: they identify it, or follow. */
export function diffVm(desired: VmModel, observed: VmModel): VmChange[] {
  const out: VmChange[] = [];
  // Nothing restarts that does not run.
  const restart: Effect = observed.running ? "restart" : "live";
  const compare = (path: string, after: Plain | undefined, before: Plain | undefined, effect: Effect): void => {
    if (same(before, after)) return;
    out.push({ path, ...(before !== undefined && { before }), ...(after !== undefined && { after }), effect });
  };

  const compareFields = (path: string, after: Data, before: Data, effectOf: (field: string) => Effect): void => {
    for (const field of [...new Set([...Object.keys(after), ...Object.keys(before)])].sort()) {
      compare(`${path}.${field}`, after[field], before[field], effectOf(field));
    }
  };

  compare("type", desired.type, observed.type, "replace");
  compare("arch", desired.arch, observed.arch, "replace");
  if (desired.machine !== machineFamily(observed.machine))
    compare("machine", desired.machine, observed.machine, restart);
  compare("acceleration", desired.acceleration, observed.acceleration, restart);
  const cpus = [desired.cpus, observed.cpus] as const;
  compare("cpus.count", cpus[0].count, cpus[1].count, cpusLive(desired, observed) ? "live" : restart);
  compare("cpus.max", cpus[0].max, cpus[1].max, restart);
  for (const part of ["sockets", "cores", "threads"] as const) {
    compare(`cpus.${part}`, cpus[0].topology?.[part], cpus[1].topology?.[part], restart);
  }
  // QEMU's own is what nobody asked for; newer libvirts write down which that is.
  if (cpus[0].model !== undefined) compare("cpus.model", cpus[0].model, cpus[1].model, restart);
  compare("memory.size", desired.memory.size, observed.memory.size, memoryLive(desired, observed) ? "live" : restart);
  compare("memory.max", desired.memory.max, observed.memory.max, restart);
  compare("hugepages", pagesPlain(desired.hugepages), pagesPlain(observed.hugepages), restart);

  const pluggable = desired.type === "vm" && hasPci(desired) && hasPci({ machine: machineFamily(observed.machine) });
  compareList(desired.disks, observed.disks, DISKS, (at, after, before) => {
    if (after !== undefined && before !== undefined) {
      compareFields(`disks.${at}`, diskFields(after), diskFields(before), (field) =>
        diskEffect(field, after, before, restart),
      );
      return;
    }
    // SATA cannot be plugged while a machine runs.
    const live = pluggable && (after ?? before)?.bus !== "sata" && (after ?? before)?.device === "disk";
    compare(`disks.${at}`, after && diskFields(after), before && diskFields(before), live ? "live" : restart);
  });
  compareList(desired.networks, observed.networks, NICS, (at, after, before) => {
    if (after !== undefined && before !== undefined) {
      compareFields(`networks.${at}`, nicFields(after), nicFields(before), (field) =>
        nicEffect(field, after, before, restart),
      );
      return;
    }
    compare(`networks.${at}`, after && nicFields(after), before && nicFields(before), pluggable ? "live" : restart);
  });
  compareList(desired.shares, observed.shares, SHARES, (at, after, before) => {
    if (after !== undefined && before !== undefined) {
      compareFields(`shares.${at}`, shareFields(after), shareFields(before), () => restart);
      return;
    }
    compare(`shares.${at}`, after && shareFields(after), before && shareFields(before), restart);
  });

  for (const part of ["kernel", "initrd", "dtb"] as const) {
    compare(`boot.${part}`, desired.boot?.[part], observed.boot?.[part], restart);
  }
  if (timeless(desired) !== timeless(observed)) {
    compare("boot.cmdline", desired.boot?.cmdline, observed.boot?.cmdline, restart);
  }
  compare("firmware.type", desired.firmware.type, observed.firmware.type, restart);
  // A machine without UEFI has no secure boot to lose; that is said once.
  if (desired.firmware.type === observed.firmware.type) {
    compare("firmware.secure_boot", desired.firmware.secure_boot, observed.firmware.secure_boot, restart);
  }
  compare("console.log", desired.console.log ?? false, observed.console.log ?? false, restart);
  if (desired.container !== undefined && observed.container !== undefined) {
    compare("container.root", desired.container.root, observed.container.root, restart);
    compare("container.init", desired.container.init, observed.container.init, restart);
    compare("container.args", [...desired.container.args], [...observed.container.args], restart);
  }
  compare("cloud_init", desired.cloud_init, observed.cloud_init, restart);
  compare("rng", desired.rng, observed.rng, restart);
  compare("agent", desired.agent, observed.agent, restart);
  compare("watchdog", desired.watchdog, observed.watchdog, restart);
  compare("tpm", desired.tpm, observed.tpm, restart);
  compare("vsock", vsockPlain(desired.vsock), vsockPlain(observed.vsock), restart);
  compare("autostart", desired.autostart, observed.autostart, "live");
  compare("running", desired.running, observed.running, desired.running ? "live" : "restart");
  return out;
}

/**
 * What differs where a machine runs with one definition and will start with another: `config` is the persistent one. What only the
 * persistent one has wrong is put right without touching the machine; what only the running one has wrong waits for a restart.
 */
export function diffRunningVm(desired: VmModel, running: VmModel, config: VmModel): VmChange[] {
  // Memory is given back by the guest's balloon driver, when it has one and gets round to it: that libvirt asks for it is enough.
  const balloon = desired.type === "vm" && desired.memory.size <= running.memory.max;
  const asked = balloon && desired.memory.size === config.memory.size;
  const now = diffVm(desired, running).filter((change) => !(asked && change.path === "memory.size"));
  const seen = new Set(now.map((change) => change.path));
  const later = diffVm(desired, { ...config, running: running.running, autostart: running.autostart })
    .filter((change) => !seen.has(change.path))
    .map((change): VmChange => (change.effect === "restart" ? { ...change, effect: "live" } : change));
  return [...now, ...later];
}

/** The command line without the frequency that labctl measured for a microvm: a slightly different one restarts nothing. */
function timeless({ machine, boot }: VmModel): string | undefined {
  if (hasPci({ machine })) return boot?.cmdline;
  return boot?.cmdline?.replace(new RegExp(String.raw`\b${CLOCK_HINT}=\d+`), CLOCK_HINT);
}

function same(a: Plain | undefined, b: Plain | undefined): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Adding processors is live where the machine has room; taking them away needs the guest's consent, and PC machines. */
function cpusLive(desired: VmModel, observed: VmModel): boolean {
  const more = desired.cpus.count > observed.cpus.count && desired.cpus.count <= observed.cpus.max;
  return (
    more && observed.arch === "x86_64" && hasPci({ machine: machineFamily(observed.machine) }) && observed.type === "vm"
  );
}

/** Up to what the machine has at most. A container's is a limit that can be moved at any time. */
function memoryLive(desired: VmModel, observed: VmModel): boolean {
  return desired.memory.size <= observed.memory.max || observed.type === "container";
}

function diskEffect(field: string, after: DiskModel, before: DiskModel, restart: Effect): Effect {
  switch (field) {
    case "size":
      return (after.size ?? 0) >= (before.size ?? 0) ? "live" : "replace";
    case "volume":
      return "replace";
    case "source":
      // A CD is changed at any time; another disk in its place is another machine's data to the guest.
      return after.device === "cdrom" ? "live" : restart;
    default:
      return restart;
  }
}

function nicEffect(field: string, after: NicModel, before: NicModel, restart: Effect): Effect {
  if (field === "link" || field === "address") return "live";
  // A cable goes from one bridge to another while the machine runs, but not from or to QEMU's own network.
  const cable = field === "network" || field === "bridge";
  return cable && after.user !== true && before.user !== true ? "live" : restart;
}

function pagesPlain(pages: number | undefined): Plain {
  return pages === undefined ? false : pages === 0 ? true : pages;
}

function vsockPlain(vsock: number | undefined): Plain {
  return vsock === undefined ? false : vsock === 0 ? true : vsock;
}

/** Fields under the names that the spec has for them. */
function diskFields({ backing, kind: _followsFromPath, ...disk }: DiskModel): Data {
  return { ...disk, ...(backing !== undefined && { volume: backing }) };
}

function nicFields(nic: NicModel): Data {
  return { ...nic };
}

function shareFields(share: ShareModel): Data {
  return { ...share };
}

interface Matching<T> {
  /** What tells items apart. */
  key(item: T): string;
  /** Whether two with different keys are one whose key changed, rather than two. */
  alike(a: T, b: T): boolean;
}

const DISKS: Matching<DiskModel> = {
  key: (disk) => disk.target,
  alike: (a, b) => a.source === b.source && a.kind === b.kind,
};
const NICS: Matching<NicModel> = {
  key: (nic) => nic.mac,
  alike: (a, b) => a.network === b.network && a.bridge === b.bridge && a.user === b.user,
};
const SHARES: Matching<ShareModel> = {
  key: (share) => share.target,
  alike: (a, b) => a.source === b.source,
};

/** Pairs the items of two lists by their keys, and what is left by likeness: libvirt keeps lists in an order of its own. */
function compareList<T>(
  desired: readonly T[],
  observed: readonly T[],
  matching: Matching<T>,
  visit: (at: number, after: T | undefined, before: T | undefined) => void,
): void {
  const left = new Map(observed.map((item) => [matching.key(item), item]));
  const pairs = desired.map((item) => {
    const before = left.get(matching.key(item));
    left.delete(matching.key(item));
    return { after: item, before };
  });
  for (const pair of pairs) {
    if (pair.before !== undefined) continue;
    const item = [...left.values()].find((one) => matching.alike(pair.after, one));
    if (item === undefined) continue;
    pair.before = item;
    left.delete(matching.key(item));
  }
  for (const [at, pair] of pairs.entries()) visit(at, pair.after, pair.before);
  for (const [i, item] of [...left.values()].entries()) visit(desired.length + i, undefined, item);
}
