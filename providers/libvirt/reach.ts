import {
  type Address,
  type ConnectionProperties,
  type ConnectionSpec,
  type Item,
  type KindContext,
  LabError,
  type Machine,
  sh,
} from "../../src/index.ts";
import { connectionTo, type GuestLogin } from "./guest-connection.ts";
import type { GuestType } from "./host-facts.ts";
import { uuidOf } from "./model/ids.ts";
import type { VmDesired } from "./model/vm-schema.ts";
import { libvirtOf, seenUuid, typeThere, whereabouts } from "./on-host.ts";
import { reachPlain } from "./plain/reach.ts";
import { isPlain } from "./plain/vm.ts";
import { AddressSource, type Domain, type GuestInterface, isLibvirtError, type Libvirt, VirErr } from "./rpc/index.ts";
import type { VmObserved } from "./vm-model.ts";
import { observeDomain } from "./xml/domain-observe.ts";

/** A guest whose address is wanted. */
export interface Guest extends Omit<GuestLogin, "context"> {
  readonly address: Address;
  /** Where it may be, the likeliest first. */
  readonly hosts: readonly Address[];
  readonly uuid: string;
  readonly type?: GuestType;
  /** What its spec says, before anybody is asked. */
  readonly fixed?: string;
  /** How to log in, where what is known of that lies on its host; in place of `ssh`. */
  readonly login?: (host: Address) => Promise<GuestLogin["ssh"]>;
}

/** Where its address may be known, in the order in which it is asked: the network's DHCP server, the guest's agent, neighbours. */
const SOURCES = [AddressSource.LEASE, AddressSource.AGENT, AddressSource.ARP];

/** The way to a machine of `vms:`. */
export async function reachVm(ctx: KindContext, item: Item<VmDesired, VmObserved>): Promise<ConnectionSpec> {
  const { desired } = item;
  const plain = whereabouts(item).find((host) => isPlain(ctx, item, host));
  if (plain !== undefined) return await reachPlain(ctx, plain, item);
  const fixed = (desired.networks ?? []).flatMap((one) => (typeof one === "string" ? [] : (one.address ?? [])))[0];
  return reachGuest(ctx, {
    address: item.address,
    hosts: whereabouts(item),
    uuid: seenUuid(item.prior) ?? uuidOf(item.instance_id),
    type: typeThere(item),
    ...(desired.ssh !== undefined && { ssh: desired.ssh as ConnectionProperties["ssh"] }),
    ...(fixed !== undefined && { fixed }),
  });
}

/**
 * The way to a guest of libvirt: through its host, to which a network of the host's own leads and nothing else need. Rejects
 * with E_CONNECT where it is not there, does not run or has no address.
 */
export async function reachGuest(ctx: KindContext, guest: Guest): Promise<ConnectionSpec> {
  const { address } = guest;
  const found = await findGuest(ctx, guest);
  if (found === undefined) {
    throw new LabError("E_CONNECT", `${address} is not there`, {
      address,
      hint: "`labctl apply` makes it; `labctl plan` says what is in the way",
    });
  }
  const { host, libvirt, domain } = found;
  if (!(await libvirt.domains.isActive(domain, { signal: ctx.signal }))) {
    throw new LabError("E_CONNECT", `${address} does not run on ${host}`, {
      address,
      hint: "`labctl apply` starts it, unless its spec says `running: false`",
    });
  }
  const at = guest.fixed ?? (await addressOf(ctx.machine(host), libvirt, domain, ctx.signal));
  if (at === undefined) {
    throw new LabError("E_CONNECT", `${address} runs on ${host} and has no address that anybody there knows`, {
      address,
      hint: "give it a network (`networks:`) with DHCP, a fixed address, or the guest agent; and wait until it is up: its console says how far it is",
    });
  }
  const ssh = guest.login === undefined ? guest.ssh : await guest.login(host);
  return connectionTo({ ...(ssh && { ssh }), context: ctx.around(address) }, at, ctx.machine(host).connection);
}

async function findGuest(
  ctx: KindContext,
  guest: Guest,
): Promise<{ host: Address; libvirt: Libvirt; domain: Domain } | undefined> {
  let why: unknown;
  for (const host of guest.hosts) {
    try {
      const libvirt = await libvirtOf(ctx, host, guest.type);
      return { host, libvirt, domain: await libvirt.domains.lookupByUuid(guest.uuid, { signal: ctx.signal }) };
    } catch (error) {
      if (ctx.signal.aborted) throw error;
      // A host that cannot be asked may have it; the others are asked first.
      if (!isLibvirtError(error, VirErr.NO_DOMAIN)) why ??= error;
    }
  }
  if (why !== undefined) throw why;
  return undefined;
}

/** The address that somebody on its host knows of a guest that runs; undefined: nobody does (yet). */
export async function addressOf(
  machine: Machine,
  libvirt: Libvirt,
  domain: Domain,
  signal: AbortSignal,
): Promise<string | undefined> {
  return (await guestAddress(libvirt, domain, signal)) ?? (await neighbourAddress(machine, libvirt, domain, signal));
}

async function guestAddress(libvirt: Libvirt, domain: Domain, signal: AbortSignal): Promise<string | undefined> {
  for (const source of SOURCES) {
    try {
      const found = bestAddress(await libvirt.domains.interfaceAddresses(domain, source, { signal }));
      if (found !== undefined) return found;
    } catch (error) {
      // No agent in the guest, no libvirt that can ask this way: the next source may know.
      if (!isLibvirtError(error)) throw error;
    }
  }
  return undefined;
}

/**
 * What the host itself has seen of the guest's cards: libvirt 9.0 (Debian 12) fails to read a neighbour table of some kernels ("wrong
 * nlmsg len").
 */
async function neighbourAddress(
  machine: Machine,
  libvirt: Libvirt,
  domain: Domain,
  signal: AbortSignal,
): Promise<string | undefined> {
  const { networks } = observeDomain(await libvirt.domains.xml(domain, { signal }), {
    running: true,
    autostart: false,
  });
  const { stdout } = await machine.exec(sh`cat /proc/net/arp 2>/dev/null || :`, { signal });
  const seen = neighboursIn(stdout.toString("utf8"));
  return networks.flatMap(({ mac }) => seen.get(mac.toLowerCase()) ?? [])[0];
}

/** From MAC to IPv4 address, of /proc/net/arp (proc(5)); entries that nobody has answered are left out. Pure. */
export function neighboursIn(table: string): ReadonlyMap<string, string> {
  const out = new Map<string, string>();
  for (const line of table.split("\n").slice(1)) {
    const [address, , flags, mac] = line.trim().split(/\s+/);
    if (address !== undefined && mac !== undefined && Number(flags) !== 0) out.set(mac.toLowerCase(), address);
  }
  return out;
}

/** Pure. One that can be reached from outside the guest: IPv4 first, never loopback, never link-local. */
export function bestAddress(interfaces: readonly GuestInterface[]): string | undefined {
  const all = interfaces
    .filter((one) => one.name !== "lo")
    .flatMap((one) => one.addresses)
    .filter(({ address }) => !/^(127\.|169\.254\.|::1$|fe[89ab])/i.test(address));
  return (all.find((one) => one.family === "ipv4") ?? all[0])?.address;
}
