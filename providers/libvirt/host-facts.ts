import { type Address, type KindContext, LabError, type Machine, type Plain } from "../../src/index.ts";
import { type Arch, defaultMachine, libvirtArch } from "./model/arch.ts";
import type { HostCapabilities, HostFacts } from "./model/facts.ts";
import { isLibvirtError, type Libvirt, sharedLibvirt, VirErr } from "./rpc/index.ts";
import { parseCapabilities, parseDomainCapabilities } from "./xml/capabilities.ts";

export const DEFAULT_URI = "qemu:///system";
const CONTAINER_URI = "lxc:///system";

/** A host with its libvirt, as it is at this moment. */
export interface QemuHost {
  readonly address: Address;
  readonly machine: Machine;
  readonly libvirt: Libvirt;
  readonly facts: HostFacts;
}

/** Whether machines of that host are libvirt's: `libvirt: false` of its `qemu_host:` says that it has none. */
export function hasLibvirt(ctx: KindContext, host: Address): boolean {
  return ctx.inventory.get(`${host}/qemu_host`)?.desired["libvirt"] !== false;
}

/** The QEMU hosts of the lab that have it. */
export function libvirtHosts(ctx: KindContext): readonly Address[] {
  const all = ctx.inventory.all("qemu_host").flatMap((one) => one.parent ?? []);
  return all.filter((one) => hasLibvirt(ctx, one));
}

/** What libvirt has a driver of its own for. */
export type GuestType = "vm" | "container";

/** The connect URI of a host: what its `qemu_host:` says; containers are another driver's of the same libvirt. */
export function uriOf(ctx: KindContext, host: Address, type: GuestType = "vm"): string {
  const said = ctx.inventory.get(`${host}/qemu_host`)?.desired["uri"];
  const uri = typeof said === "string" ? said : DEFAULT_URI;
  return type === "container" && !uri.startsWith("lxc:") ? CONTAINER_URI : uri;
}

/** The host's libvirt, by the driver for that type. Rejects as sharedLibvirt() does, and with E_VM_UNSUPPORTED where that is missing. */
export async function driverOf(ctx: KindContext, host: Address, type: GuestType): Promise<Libvirt> {
  try {
    return await sharedLibvirt(ctx.machine(host), { uri: uriOf(ctx, host, type), signal: ctx.signal });
  } catch (error) {
    if (type !== "container" || !isLibvirtError(error, VirErr.NO_CONNECT)) throw error;
    throw new LabError("E_VM_UNSUPPORTED", `libvirt on ${host} has no driver for containers`, {
      address: host,
      hint: "install it there (Debian: libvirt-daemon-driver-lxc), and restart libvirtd",
      cause: error,
    });
  }
}

/**
 * Whether KVM works on a host: what its facts found when they tried (host.ts). Before its first apply nobody has tried, and what
 * libvirt offers counts. Pure.
 */
export function kvmWorks(
  seen: Readonly<Record<string, Plain>> | undefined,
  { guests, arch }: HostCapabilities,
): boolean {
  if (seen !== undefined) return seen["kvm"] === "yes";
  return guests.some((one) => one.arch === arch && one.types.includes("kvm"));
}

/**
 * What a host can run. `want`: the machines whose domain capabilities matter. KVM counts only where the host's own facts found it
 * to work. Rejects as openLibvirt does.
 */
export async function qemuHost(
  ctx: KindContext,
  host: Address,
  want: readonly { readonly arch?: Arch; readonly machine?: string }[] = [],
  type: GuestType = "vm",
): Promise<QemuHost> {
  const machine = ctx.machine(host);
  const libvirt = await driverOf(ctx, host, type);
  const options = { signal: ctx.signal };
  const [text, node] = await Promise.all([libvirt.capabilities(options), libvirt.node.info(options)]);
  const capabilities = parseCapabilities(text);
  const kvm = kvmWorks(ctx.inventory.get(host)?.observed, capabilities);
  const asked = new Map<string, { arch: Arch; machine: string; type: string }>();
  for (const one of want) {
    const arch = one.arch ?? capabilities.arch;
    if (arch === undefined) continue;
    const guest = capabilities.guests.find((each) => each.arch === arch && each.os === "hvm");
    const type = kvm && arch === capabilities.arch && guest?.types.includes("kvm") === true ? "kvm" : "qemu";
    const name = one.machine ?? defaultMachine(arch);
    if (guest !== undefined) asked.set(`${arch} ${name} ${type}`, { arch, machine: name, type });
  }
  const domains = await Promise.all(
    [...asked.values()].map(async ({ arch, machine: name, type }) =>
      parseDomainCapabilities(
        await libvirt.domainCapabilities({ arch: libvirtArch(arch), machine: name, virttype: type }, options),
      ),
    ),
  );
  return {
    address: host,
    machine,
    libvirt,
    facts: { host: capabilities, kvm, domains, ...(node.mhz > 0 && { mhz: node.mhz }) },
  };
}
